package examples_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// needResend skips the test on kernels that do not send requests again.
func needResend(t *testing.T) {
	t.Helper()
	guest.NeedFUSE(t)
	guest.NeedLinux(t, 6, 9, "FUSE_NOTIFY_RESEND")
}

// worker is the child of a process; 0 if there is none.
func worker(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	child, _ := strconv.Atoi(strings.Fields(string(b) + " 0")[0])
	return child
}

// TestRecover kills the process that serves a mount again and again, while programs change the tree. No request
// fails or is done twice, and files that were open stay open.
func TestRecover(t *testing.T) {
	needResend(t)
	source, dir := t.TempDir(), t.TempDir()
	write(t, source, "kept")
	cmd := exec.Command(program("recoverfs"), dir, source)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := spawn.Start(cmd); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := mounttest.Unmount(dir); err != nil {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			_ = cmd.Process.Kill()
		}
		if err := <-ended; err != nil {
			t.Errorf("recoverfs: %v", err)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "kept")); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("it does not mount: %v", err)
		}
	}
	kept, err := os.OpenFile(filepath.Join(dir, "kept"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()

	var stop atomic.Bool
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 3 {
		wg.Go(func() {
			top := filepath.Join(dir, fmt.Sprint("d", i))
			for n := 0; !stop.Load(); n++ {
				if err := change(top, n); err != nil {
					t.Errorf("round %d: %v", n, err)
					return
				}
				done.Add(1)
			}
		})
	}
	const deaths = 10
	last := 0
	for range deaths {
		before := done.Load()
		for end := time.Now().Add(60 * time.Second); ; time.Sleep(3 * time.Millisecond) {
			pid := worker(cmd.Process.Pid)
			if pid != 0 && pid != last && done.Load() > before {
				last = pid
				break
			}
			if time.Now().After(end) || t.Failed() {
				stop.Store(true)
				wg.Wait()
				t.Fatalf("worker %d does not go on (after %d changes)", pid, done.Load())
			}
		}
		if err := unix.Kill(last, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d rounds of changes, %d deaths", done.Load(), deaths)
	if _, err := kept.WriteAt([]byte("still open"), 0); err != nil {
		t.Errorf("a file that was open all the time: %v", err)
	}
	content(t, filepath.Join(source, "kept"), "still open")
}

// change makes and removes a tree, by requests of which none may be done twice or not at all.
func change(top string, n int) error {
	path := func(name string) string { return filepath.Join(top, name) }
	if err := os.Mkdir(top, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path("a"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	want := bytes.Repeat([]byte{byte('a' + n%26)}, 10_000)
	_, err = f.WriteAt(want, 0)
	err = errors.Join(err, os.Symlink("a", path("s")), os.Link(path("a"), path("l")), os.Rename(path("l"), path("m")),
		unix.Renameat2(unix.AT_FDCWD, path("m"), unix.AT_FDCWD, path("n"), unix.RENAME_NOREPLACE), os.Chmod(path("n"), 0o600))
	if err != nil {
		return err
	}
	got, err := os.ReadFile(path("s"))
	if err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes, %w", len(got), err)
	}
	for _, name := range []string{"a", "n", "s"} {
		if err := os.Remove(path(name)); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(top); err != nil {
		return &os.PathError{Op: "rmdir", Path: top, Err: err}
	}
	return nil
}
