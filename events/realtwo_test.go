package events_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// run runs a script in the mount.
func (w *world) run(script string) {
	w.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = w.mnt
	if b, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, b)
	}
}

// TestRealTwoDaemons: two guests on one tree, each with a helper, hear of each other's changes and of the host's
// as of their own, once: what a helper does is no change for the other.
func TestRealTwoDaemons(t *testing.T) {
	one := newWorld(t, "rw")
	one.host("mkdir d; echo old >d/f; echo old >d/g; : >d/gone; : >d/moved")
	two := newWorldOn(t, strings.TrimSuffix(one.share, "/share"), "rw")
	worlds := []*world{one, two}
	for _, w := range worlds {
		w.help()
		w.walk()
		w.listen()
		defer unix.Close(w.inotify)
		w.watch(w.mnt, "d")
	}
	one.run("echo one >d/f; sleep 0.1; mkdir d/new; sleep 0.1; rm d/gone; sleep 0.1; : >d/end1")
	heard := make([][]string, 2)
	hear := func(end string) {
		t.Helper()
		for i, w := range worlds {
			for _, e := range w.events(end) {
				if !strings.Contains(e, "d/end") { // of which the first event ends the list
					heard[i] = append(heard[i], e)
				}
			}
		}
	}
	hear("end1")
	two.run("echo two >d/g; sleep 0.1; mv d/moved d/there; sleep 0.1; rmdir d/new; sleep 0.1; : >d/end2")
	hear("end2")
	one.host("echo host >d/f; sleep 0.1; : >d/born; sleep 0.1; chmod 600 d/g; sleep 0.1; : >d/end3")
	hear("end3")
	if !slices.Equal(heard[0], heard[1]) {
		t.Errorf("the guests heard\n%q\n%q", heard[0], heard[1])
	}
	all := strings.Join(heard[0], "; ")
	for _, e := range []string{"CREATE,ISDIR d/new", "DELETE d/gone", "MOVED_FROM d/moved #1", "MOVED_TO d/there #1", "DELETE,ISDIR d/new",
		"CREATE d/born", "ATTRIB d/g"} {
		if strings.Count(all, e) != 1 {
			t.Errorf("%d times %q in %q", strings.Count(all, e), e, all)
		}
	}
	// If one fed the other, something would come behind the last change. Another round trip through both.
	for i, w := range worlds {
		w.host(": >d/last" + string(rune('0'+i)))
	}
	for _, w := range worlds {
		rest := w.events("last1")
		for _, e := range rest {
			if !strings.Contains(e, "d/end3") && !strings.Contains(e, "d/last0") {
				t.Errorf("afterwards: %q", rest)
				break
			}
		}
		w.same()
	}
}
