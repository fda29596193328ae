package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// forbidden are system calls that somebody who has taken over the daemon would like.
var forbidden = map[string]func() error{
	"ptrace":        func() error { _, _, e := unix.RawSyscall(unix.SYS_PTRACE, 0, 0, 0); return e },
	"socket":        func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
	"execve":        func() error { return unix.Exec("/bin/true", nil, nil) },
	"mount":         func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE, "") },
	"unshare user":  func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"unshare mount": func() error { return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS) },
	"mmap exec": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"bpf":      func() error { _, _, e := unix.RawSyscall(unix.SYS_BPF, 0, 0, 0); return e },
	"io_uring": func() error { _, _, e := unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); return e },
	"process_vm_readv": func() error {
		_, _, e := unix.RawSyscall6(unix.SYS_PROCESS_VM_READV, 1, 0, 0, 0, 0, 0)
		return e
	},
	"setns": func() error { _, _, e := unix.RawSyscall(unix.SYS_SETNS, 0, 0, 0); return e },
	"clone namespace": func() error {
		_, _, e := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		return e
	},
}

// refused are calls that fail without harm.
var refused = map[string]func() error{
	"tty ioctl ENOTTY": func() error {
		_, _, e := unix.RawSyscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, 0)
		return e
	},
	"prctl EINVAL":  func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"clone3 ENOSYS": func() error { _, _, e := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); return e },
}

// helpFilter makes one system call after the filter was set: on a thread that was
// there before, or with "new", on one that was started since.
func helpFilter(arg string) error {
	action, arg, _ := strings.Cut(arg, ":")
	call, where, _ := strings.Cut(arg, ":")
	result := make(chan error, 1)
	do := func() { result <- forbidden[call]() }
	old := func() {}
	if where == "old" {
		old = manyThreads(1, do)
	}
	o := FilterOptions{Action: map[string]FilterAction{"kill": FilterKill, "log": FilterLog, "trap": FilterTrap, "none": FilterNone}[action]}
	if err := Filter(o); err != nil {
		return err
	}
	switch {
	case call == "":
		return stillWorks()
	case where == "old":
		old()
	default:
		go func() { runtime.LockOSThread(); do() }()
	}
	err := <-result
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return err
	}
	fmt.Println("survived", errnoOf(err))
	return nil
}

// stillWorks does what the daemon does after the filter was set.
func stillWorks() error {
	defer manyThreads(8, func() {})()
	runtime.GC()
	for name, f := range refused {
		if _, want, _ := strings.Cut(name, " "); !strings.HasSuffix(want, errnoOf(f())) {
			return fmt.Errorf("%s: got %v", name, f())
		}
	}
	dir, err := os.MkdirTemp("", "filter")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(dir+"/f", make([]byte, 1<<20), 0o600); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
		}
		_, _, e1 := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 1000, ^uintptr(0))
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
		done <- errors.Join(nonZero(e1), nonZero(e2))
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	fmt.Println("works")
	return nil
}

func nonZero(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func killedBy(err error) syscall.Signal {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return s.Signal()
		}
	}
	return 0
}

func TestIntegrationFilterKills(t *testing.T) {
	for name := range forbidden {
		for _, where := range []string{"old", "new"} {
			t.Run(name+" on "+where+" thread", func(t *testing.T) {
				t.Parallel()
				out, err := helper(t, "filter", "kill:"+name+":"+where, 0)
				if killedBy(err) != unix.SIGSYS {
					t.Errorf("got %v, want to be killed\n%s", err, out)
				}
			})
		}
	}
}

func TestIntegrationFilterAllows(t *testing.T) {
	guest.NeedRoot(t)
	expect(t, mustHelper(t, "filter", "kill", 0), "works")
}

func TestIntegrationFilterLog(t *testing.T) {
	expect(t, mustHelper(t, "filter", "log:socket:old", 0), "survived <nil>")
	expect(t, mustHelper(t, "filter", "none:socket:old", 0), "survived <nil>")
}

func TestIntegrationFilterTrap(t *testing.T) {
	out, err := helper(t, "filter", "trap:socket:old", 0)
	if err == nil || strings.Contains(out, "survived") {
		t.Errorf("got %v\n%s", err, out)
	}
}

// The kernel takes at most 4096 instructions, and jumps of at most 255.
func TestProgramSize(t *testing.T) {
	p := program(FilterOptions{Action: FilterKill, Accept: true})
	if len(p) > unix.BPF_MAXINSNS {
		t.Errorf("%d instructions", len(p))
	}
	seen := map[uintptr]bool{}
	for _, nr := range allowed(FilterOptions{}) {
		if seen[nr] {
			t.Errorf("system call %d is twice on the list", nr)
		}
		seen[nr] = true
	}
	for _, r := range argRules(FilterOptions{}) {
		if seen[r.number] {
			t.Errorf("system call %d has a rule and is allowed anyway", r.number)
		}
	}
}
