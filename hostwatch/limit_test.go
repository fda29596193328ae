package hostwatch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernelLimit: the kernel's limit of marks, which root has, too, is ErrFull, and a directory that is removed by
// its descriptor makes room. Of those that were removed without one the Watcher says that they are too many.
func TestKernelLimit(t *testing.T) {
	const limit = 6
	if os.Getenv("HOSTWATCH_LIMITED") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernelLimit$", "-test.v")
		cmd.Env = append(os.Environ(), "HOSTWATCH_LIMITED=1")
		ids := []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids,
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		b, err := cmd.CombinedOutput()
		if errors.Is(err, unix.EPERM) {
			t.Skip("no user namespaces: ", err)
		}
		if err != nil {
			t.Errorf("%v\n%s", err, b)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_fanotify_marks", []byte(strconv.Itoa(limit)), 0o644); err != nil {
		t.Skip(err) // a kernel before 5.13
	}
	w := newWatcher(t, Options{})
	root := t.TempDir()
	var fds []int
	for i := range limit + 3 {
		d := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, open(t, d))
		want := error(nil)
		if i >= limit {
			want = ErrFull
		}
		if err := w.Add(fds[i], uint64(i+1)); !errors.Is(err, want) {
			t.Fatalf("directory %d: %v", i, err)
		}
	}
	if w.Len() != limit || w.Stale() {
		t.Errorf("%d directories of %d, stale: %v", w.Len(), limit, w.Stale())
	}
	w.Remove(fds[0], 1)
	if err := w.Add(fds[limit], limit+1); err != nil {
		t.Error(err)
	}
	w.Remove(-1, 2)
	if err := w.Add(fds[0], 1); !errors.Is(err, ErrFull) || !w.Stale() {
		t.Errorf("in the place of one that the kernel keeps: %v, stale: %v", err, w.Stale())
	}
}
