package events_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRealOwn: what a guest changes itself its watchers hear of as those of a local directory do, and not once more by the
// helper, whatever watches the host; what the host changes in the same files meanwhile is seen.
func TestRealOwn(t *testing.T) {
	for name, mode := range watchers {
		t.Run(name, func(t *testing.T) { testRealOwn(t, mode) })
	}
}

const ownScript = `mkdir a/d; echo x >a/f; echo y >>a/f; chmod 600 a/f; mv a/f b/f; mv b/f b/g; ln b/g a/hard; ln -s x a/l; rm a/hard b/g a/l
	rmdir a/d; echo 1 >a/tmp; mv a/tmp a/file; truncate -s 3 a/file; touch -d 2001-01-01 a/file; : >a/gone; rm a/gone; chmod 700 b`

func testRealOwn(t *testing.T, mode string) {
	w := newWorld(t, mode)
	w.host("mkdir a b; echo old >a/file")
	w.help()
	w.walk()
	local := &world{t: t, mnt: t.TempDir()}
	local.run("mkdir a b; echo old >a/file")
	var heard [2][]string
	for i, x := range []*world{local, w} {
		x.listen()
		defer unix.Close(x.inotify)
		for _, dir := range []string{"a", "b"} {
			x.watch(x.mnt, dir)
		}
		x.run(ownScript)
		if x == w { // what the host tells of comes behind what there was to tell of the guest's changes
			w.host(": >a/the-end")
		} else {
			x.run(": >a/the-end")
		}
		heard[i] = x.events("the-end")
	}
	if !slices.Equal(heard[0], heard[1]) {
		t.Errorf("a guest that changes files hears\n%q\nand of a local directory\n%q", heard[1], heard[0])
	}
	w.same()
	for range 3 {
		w.run("echo guest >a/file; echo guest >b/new; mv b/new b/newer")
		w.host("echo the host >a/file; echo the host >b/newer; mv a/file a/moved; echo anew >a/file; mkdir b/dir; rm a/moved")
		w.same()
		w.host("rmdir b/dir; rm b/newer")
		w.same()
	}
	w.host("echo 1 >a/.govirtiofs-1; echo 2 >a/2") // the first is a name as daemons make for a moment
	first, second := filepath.Join(w.mnt, "a/.govirtiofs-1"), filepath.Join(w.mnt, "a/2")
	eventually(t, "both", func() bool { return has(first, "1\n")() && has(second, "2\n")() })
	w.host("echo other >a/.govirtiofs-1; mv a/2 a/.govirtiofs-2")
	eventually(t, "the change of one", has(first, "other\n"))
	eventually(t, "the end of a name", func() bool { _, err := os.Lstat(second); return os.IsNotExist(err) })
	if said := w.daemon.said.String(); mode == "inotify" && !strings.Contains(said, "by=\"inotify") {
		t.Error(said)
	}
}
