package events_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
)

// within waits for a condition.
func within(ok func() bool) bool {
	for range 3000 {
		if ok() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// eventually is within for what must come.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(ok) {
		t.Fatalf("never: %s", what)
	}
}

func has(path, text string) func() bool {
	return func() bool {
		b, err := os.ReadFile(path)
		return err == nil && string(b) == text
	}
}

// counts are how many LOOKUP and GETATTR the daemon has served.
func (w *world) counts() (lookups, getattrs int) {
	w.t.Helper()
	_ = w.daemon.cmd.Process.Signal(unix.SIGUSR1)
	if _, err := fmt.Sscan(w.daemon.hears(w.t), &lookups, &getattrs); err != nil {
		w.t.Fatal(err)
	}
	return lookups, getattrs
}

// TestRealCaches: with the policy always, and no watcher in the guest at all, the guest's caches follow
// the host, and a second walk over many files asks nothing.
func TestRealCaches(t *testing.T) {
	for name, mode := range watchers {
		t.Run(name, func(t *testing.T) { testRealCaches(t, mode) })
	}
}

func testRealCaches(t *testing.T, mode string) {
	w := newWorld(t, mode)
	const dirs, files = 100, 100
	w.host(fmt.Sprintf("for d in $(seq %d); do mkdir d$d; (cd d$d; seq -f 'f%%.0f' %d | xargs touch); done; echo one >d1/f1", dirs, files))
	w.help()
	walk := func() {
		w.t.Helper()
		for d := range dirs {
			for f := range files {
				var st unix.Stat_t
				if err := unix.Lstat(fmt.Sprintf("%s/d%d/f%d", w.mnt, d+1, f+1), &st); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// What was looked up before the helper's first report is good for a second only.
	w.host(": >d1/settled")
	eventually(t, "the first change", has(filepath.Join(w.mnt, "d1/settled"), ""))
	var lookups, getattrs int
	for range 3 {
		walk()
		l, g := w.counts()
		walk()
		lookups, getattrs = w.counts()
		if lookups, getattrs = lookups-l, getattrs-g; lookups+getattrs == 0 {
			break
		}
	}
	if lookups+getattrs != 0 {
		t.Errorf("the second walk over %d files sent %d LOOKUP and %d GETATTR", dirs*files, lookups, getattrs)
	}
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	if !has(in("d1/f1"), "one\n")() {
		t.Fatal("d1/f1 can't be read")
	}
	w.host("echo two >d1/f1; rm d1/f2; mv d1/f3 d2/new; chmod 600 d1/f4; mkdir d1/dir; rm -r d3; echo three >tmp; mv tmp d1/f5; ln -s f1 d1/link")
	eventually(t, "content", has(in("d1/f1"), "two\n"))
	eventually(t, "a removed name", func() bool { _, err := os.Lstat(in("d1/f2")); return os.IsNotExist(err) })
	eventually(t, "a renamed one", func() bool { _, err := os.Lstat(in("d1/f3")); return os.IsNotExist(err) })
	eventually(t, "its new name", has(in("d2/new"), ""))
	eventually(t, "a mode", func() bool { st, err := os.Lstat(in("d1/f4")); return err == nil && st.Mode() == 0o600 })
	eventually(t, "a directory", func() bool { st, err := os.Lstat(in("d1/dir")); return err == nil && st.IsDir() })
	eventually(t, "a tree that is gone", func() bool { _, err := os.Lstat(in("d3")); return os.IsNotExist(err) })
	eventually(t, "a saved file", has(in("d1/f5"), "three\n"))
	eventually(t, "a link", func() bool { l, err := os.Readlink(in("d1/link")); return err == nil && l == "f1" })
	var most time.Duration
	for i := range 20 {
		want := fmt.Sprintf("change %d\n", i)
		if err := os.WriteFile(filepath.Join(w.share, "d1/f1"), []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if !within(has(in("d1/f1"), want)) {
			b, err := os.ReadFile(in("d1/f1"))
			var here, there unix.Stat_t
			_, _ = unix.Stat(in("d1/f1"), &here), unix.Stat(filepath.Join(w.share, "d1/f1"), &there)
			t.Fatalf("never %q: %q, %v; size %d and %d, time %v and %v", want, b, err, here.Size, there.Size, here.Mtim, there.Mtim)
		}
		most = max(most, time.Since(start))
	}
	t.Logf("a change is seen after at most %v", most)
	out, err := exec.Command("diff", "-r", w.share, w.mnt).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRealHostSilent: telling the guest changes nothing on the host: nobody is told there, a running program
// can be told of, and one that the guest removes is removed.
func TestRealHostSilent(t *testing.T) {
	w := newWorld(t, "rw")
	w.host("mkdir d; cp /bin/sleep d/program; echo x >d/victim; echo y >d/stays")
	w.help()
	if _, err := os.ReadFile(filepath.Join(w.mnt, "d/victim")); err != nil {
		t.Fatal(err)
	}
	program := exec.Command(filepath.Join(w.share, "d/program"), "60")
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Process.Kill(); _ = program.Wait() }()
	host := &world{t: t, share: w.share, helper: w.helper}
	host.listen()
	defer unix.Close(host.inotify)
	host.watch(w.share, "d")
	w.listen()
	defer unix.Close(w.inotify)
	w.watch(w.mnt, "d")
	w.host("mkdir a; mv a d/a; chmod 700 d/program; touch -d 2001-01-01 d/program; rmdir d/a; : >d/the-end")
	w.events("the-end")
	eventually(t, "all is performed", func() bool { return w.helper.said.Count("Op:6 Type:8 Seq:") > 0 })
	w.host(": >d/host-end")
	// touch can't open a running program for writing. The kernel puts equal events together.
	want := []string{"MOVED_TO,ISDIR d/a #1", "ATTRIB d/program", "DELETE,ISDIR d/a", "CREATE d/the-end", "CLOSE_WRITE d/the-end"}
	if heard := slices.Compact(host.events("host-end")); !slices.Equal(heard, want) {
		t.Errorf("on the host:\n got %q\nwant %q", heard, want)
	}
	if err := os.Remove(filepath.Join(w.mnt, "d/victim")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(w.share, "d/victim")); !os.IsNotExist(err) {
		t.Errorf("the guest's own unlink: %v", err)
	}
}

// TestRealChannel: only root gets at the channel, one helper at a time; nobody sees it in a listing, and users learn nothing of
// the helper's descriptors.
func TestRealChannel(t *testing.T) {
	w := newWorld(t, "rw")
	control := filepath.Join(w.mnt, wire.Dir, wire.File)
	for _, path := range []string{control, filepath.Join(w.mnt, wire.Dir), filepath.Join(w.mnt, wire.Dir, "x")} {
		cmd := exec.Command("/bin/cat", path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		if b, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(b, []byte("Permission denied")) {
			t.Errorf("%s for a user: %v, %s", path, err, b)
		}
	}
	if list, err := os.ReadDir(w.mnt); err != nil || len(list) != 0 {
		t.Errorf("the root has %v, %v", list, err)
	}
	w.help()
	for _, name := range []string{"fd", "fdinfo"} {
		cmd := exec.Command("/bin/ls", fmt.Sprintf("/proc/%d/%s", w.helper.cmd.Process.Pid, name))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		if b, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(b, []byte("Permission denied")) {
			t.Errorf("%s of the helper for a user: %v, %s", name, err, b)
		}
	}
	if f, err := os.Open(control); err == nil {
		_ = f.Close()
		t.Error("there are two helpers")
	}
	for _, f := range []func() error{
		func() error { return os.Mkdir(filepath.Join(w.mnt, wire.Dir), 0o777) },
		func() error { return os.WriteFile(filepath.Join(w.mnt, wire.Dir, "x"), nil, 0o666) },
		func() error { return os.Remove(control) },
		func() error { return os.Chmod(control, 0o666) },
		func() error { return os.Rename(control, filepath.Join(w.mnt, "x")) },
		func() error { return os.WriteFile(control, []byte("x"), 0) },
	} {
		if err := f(); err == nil {
			t.Error("the channel was changed")
		}
	}
}

// TestRealHelperKilled: what a guest keeps after that is good for a second, and the next helper tells what
// has happened in between.
func TestRealHelperKilled(t *testing.T) {
	w := newWorld(t, "rw")
	w.host("mkdir d; for i in 1 2 3; do echo old >d/$i; done; sleep 0.1") // the clock of files is a coarse one
	w.help()
	for i := range 3 {
		if _, err := os.ReadFile(fmt.Sprintf("%s/d/%d", w.mnt, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	w.listen()
	defer unix.Close(w.inotify)
	w.watch(w.mnt, "d")
	w.helper.end(unix.SIGKILL)
	eventually(t, "the daemon has noticed", func() bool { return strings.Contains(w.daemon.said.String(), "has gone") })
	time.Sleep(50 * time.Millisecond) // the clock of files
	w.host("echo new >d/1; rm d/2; echo born >d/4; chmod 600 d/3")
	w.help()
	w.host(": >d/the-end")
	got := strings.Join(w.events("the-end"), "; ")
	for _, e := range []string{"MODIFY d/1", "CLOSE_WRITE d/1", "DELETE d/2", "CREATE d/4", "ATTRIB d/3"} {
		if strings.Count(got, e) != 1 {
			t.Errorf("%d times %q in %q", strings.Count(got, e), e, got)
		}
	}
	if !has(filepath.Join(w.mnt, "d/1"), "new\n")() {
		t.Error("d/1 is stale")
	}
	out, err := exec.Command("diff", "-r", w.share, w.mnt).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRealReadOnly: nothing can be told, but what the guest keeps is made right.
func TestRealReadOnly(t *testing.T) {
	w := newWorld(t, "ro")
	w.host("mkdir d; echo one >d/f; echo x >d/gone; echo y >d/moved")
	w.help()
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	if out, err := exec.Command("diff", "-r", w.share, w.mnt).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.host("echo two >d/f; rm d/gone; mv d/moved d/there; mkdir d/new")
	eventually(t, "content", has(in("d/f"), "two\n"))
	eventually(t, "a removed name", func() bool { _, err := os.Lstat(in("d/gone")); return os.IsNotExist(err) })
	eventually(t, "a renamed one", func() bool { _, err := os.Lstat(in("d/moved")); return os.IsNotExist(err) })
	eventually(t, "its new name", has(in("d/there"), "y\n"))
}

// TestRealBurst: many changes at once. All names and contents are right afterwards; events may be lost
// where the kernel's queue has overflowed, and what was missed is found out.
func TestRealBurst(t *testing.T) {
	n := 5000
	if os.Getenv("GOVIRTIOFS_LONG") != "" {
		n = 100_000
	}
	w := newWorld(t, "rw")
	w.host("mkdir d e")
	w.help()
	for _, d := range []string{"d", "e"} {
		if _, err := os.ReadDir(filepath.Join(w.mnt, d)); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	w.host(fmt.Sprintf("cd d; seq -f 'f%%.0f' %d | xargs touch; cd ..; mkdir e/x; echo end >e/x/y", n))
	made := time.Since(start)
	eventually5 := func(what string, ok func() bool) {
		t.Helper()
		for range 60_000 {
			if ok() {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("never: %s", what)
	}
	eventually5("the last change", has(filepath.Join(w.mnt, "e/x/y"), "end\n"))
	w.host("rm -r d; : >e/last")
	eventually5("the last removal", has(filepath.Join(w.mnt, "e/last"), ""))
	eventually5("the directory is gone", func() bool { _, err := os.Lstat(filepath.Join(w.mnt, "d")); return os.IsNotExist(err) })
	t.Logf("%d files: made in %v, told and removed after %v; missed: %v", n, made, time.Since(start),
		strings.Contains(w.daemon.said.String(), "were missed"))
}
