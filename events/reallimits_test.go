package events_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// walk has the guest look up all there is.
func (w *world) walk() (n int) {
	w.t.Helper()
	err := filepath.WalkDir(w.mnt, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			_, err = d.Info()
		}
		n++
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// same waits until the share and its mount are.
func (w *world) same() {
	w.t.Helper()
	var out []byte
	if !within(func() (ok bool) {
		var err error
		out, err = exec.Command("diff", "-r", w.share, w.mnt).CombinedOutput()
		return err == nil
	}) {
		w.t.Errorf("%.2000s", out)
	}
}

// TestRealManyDirectories: the host's changes in any of 10,000 directories are seen.
func TestRealManyDirectories(t *testing.T) {
	const tops, subs = 100, 100
	w := newWorld(t, "rw")
	w.host(fmt.Sprintf("for d in $(seq %d); do mkdir d$d; (cd d$d; seq %d | xargs mkdir); done; for d in $(seq %d); do echo old >d$d/7/f; done", tops, subs, tops))
	w.help()
	if n := w.walk(); n < tops*subs {
		t.Fatalf("%d files", n)
	}
	for i := 1; i <= tops; i += 33 {
		w.host(fmt.Sprintf("echo new >d%d/7/f; echo born >d%d/8/g; rmdir d%d/9", i, i, i))
		eventually(t, "content", has(fmt.Sprintf("%s/d%d/7/f", w.mnt, i), "new\n"))
		eventually(t, "a new name", has(fmt.Sprintf("%s/d%d/8/g", w.mnt, i), "born\n"))
		eventually(t, "a removed one", func() bool { _, err := os.Lstat(fmt.Sprintf("%s/d%d/9", w.mnt, i)); return os.IsNotExist(err) })
	}
	if said := w.daemon.said.String(); strings.Contains(said, "Not all directories") || strings.Contains(said, "were missed") {
		t.Error(said)
	}
	w.same()
}

// TestRealDirectoryLimit: what is in directories beyond the limit is good for a second, and the log says so.
func TestRealDirectoryLimit(t *testing.T) {
	const dirs = 40
	w := newWorld(t, "10")
	w.host(fmt.Sprintf("for d in $(seq %d); do mkdir d$d; echo old >d$d/f; done", dirs))
	w.help()
	for range 3 {
		w.walk()
		w.same()
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(w.daemon.said.String(), "Not all directories") })
	w.host(fmt.Sprintf("for d in $(seq %d); do echo new >d$d/f; echo born >d$d/g; done", dirs))
	for i := range dirs {
		eventually(t, "content", has(fmt.Sprintf("%s/d%d/f", w.mnt, i+1), "new\n"))
		eventually(t, "a new name", has(fmt.Sprintf("%s/d%d/g", w.mnt, i+1), "born\n"))
	}
	w.same()
}

// TestRealOverflow: more changes than the kernel keeps, while the daemon gets no processor. They are
// found out, and the log says so.
func TestRealOverflow(t *testing.T) {
	w := newWorld(t, "rw")
	most, err := os.ReadFile("/proc/sys/fs/fanotify/max_queued_events")
	if err != nil {
		t.Skip(err)
	}
	var n int
	if _, err := fmt.Sscan(string(most), &n); err != nil || n > 50_000 {
		t.Skipf("a queue of %d events: %v", n, err)
	}
	w.host("mkdir d e; for i in $(seq 20); do echo old >d/f$i; done; mkdir d/gone; : >d/gone/x; mkdir d/moved")
	w.help()
	w.walk()
	w.same()
	if err := w.daemon.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.host(fmt.Sprintf(`cd e; seq -f 'f%%.0f' %d | xargs touch; cd ../d
		for i in $(seq 10); do echo newer >f$i; done; for i in $(seq 11 15); do rm f$i; done; chmod 600 f16; mv f17 g17
		rm -r gone; mv moved ../e/moved; echo born >born; echo x >tmp; mv tmp f18; find ../e -name 'f*' -delete`, n+500))
	if err := w.daemon.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(w.daemon.said.String(), "were missed") })
	eventually(t, "content", has(filepath.Join(w.mnt, "d/f10"), "newer\n"))
	eventually(t, "a saved file", has(filepath.Join(w.mnt, "d/f18"), "x\n"))
	// Not before: if the guest uses a file that was renamed, the daemon has its new name from then on, see doc/events.md.
	for range 4 {
		if within(func() bool { return w.helper.said.Count("record=\"{Op:11 ") > 1 }) {
			break
		}
	}
	for _, name := range []string{"d/f11", "d/f17", "d/gone", "d/moved"} {
		eventually(t, name+" is gone", func() bool { _, err := os.Lstat(filepath.Join(w.mnt, name)); return os.IsNotExist(err) })
	}
	for _, name := range []string{"d/born", "d/g17", "e/moved"} {
		eventually(t, name+" is there", func() bool { _, err := os.Lstat(filepath.Join(w.mnt, name)); return err == nil })
	}
	eventually(t, "a mode", func() bool {
		st, err := os.Lstat(filepath.Join(w.mnt, "d/f16"))
		return err == nil && st.Mode() == 0o600
	})
	w.same()
}
