package events_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRealExchange: two names that the host exchanges are exchanged for the guest, too, and watchers of their
// directories hear what those of a local one hear. Of a directory that is exchanged for a file they hear it without
// the ISDIR of the second half.
func TestRealExchange(t *testing.T) {
	w := newWorld(t, "rw")
	setup := "mkdir a b a/dir b/other; echo one >a/file; echo two >b/file; echo x >a/dir/x; echo y >b/other/y"
	w.host(setup)
	w.help()
	w.walk()
	w.same()
	local := &world{t: t, share: t.TempDir(), helper: w.helper}
	local.mnt = local.share
	local.host(setup)
	var heard [2][]string
	for i, x := range []*world{local, w} {
		x.listen()
		defer unix.Close(x.inotify)
		x.watch(x.mnt, "a")
		x.watch(x.mnt, "b")
		exchange := func(one, two string) {
			t.Helper()
			err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(x.share, one), unix.AT_FDCWD, filepath.Join(x.share, two), unix.RENAME_EXCHANGE)
			if err != nil {
				t.Skip(err) // not all file systems can
			}
			x.host("sleep 0.1")
		}
		exchange("a/file", "b/file")
		exchange("a/dir", "b/other")
		x.host(": >a/the-end")
		heard[i] = x.events("the-end")
		exchange("a/file", "b/other")
	}
	if !slices.Equal(heard[0], heard[1]) {
		t.Errorf("the guest hears\n%q\nand of a local directory\n%q", heard[1], heard[0])
	}
	w.same()
	for name, want := range map[string]string{"b/file": "one\n", "b/other": "two\n", "a/dir/y": "y\n", "a/file/x": "x\n"} {
		if b, err := os.ReadFile(filepath.Join(w.mnt, name)); string(b) != want {
			t.Errorf("%s has %q, %v", name, b, err)
		}
	}
}
