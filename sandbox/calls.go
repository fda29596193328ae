package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// call is a system call that a filter may forbid. The daemon can do without it, or can tell
// the user what to do.
type call struct {
	name   string
	number uintptr
	args   [5]uintptr // arguments that the kernel refuses with any privileges
}

const (
	none = ^uintptr(0) // a descriptor or an operation that does not exist
	null = 0           // a null pointer
)

// probedCalls are calls that filters of service managers forbid. All of them are missing in
// SystemCallFilter=@system-service of systemd 252.
var probedCalls = []call{
	{"landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, [5]uintptr{null, 0, none}},
	{"landlock_add_rule", unix.SYS_LANDLOCK_ADD_RULE, [5]uintptr{none, 0, null, none}},
	{"landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, [5]uintptr{none, none}},
	{"seccomp", unix.SYS_SECCOMP, [5]uintptr{none, none, null}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [5]uintptr{none, null, 0}},
	{"fanotify_init", unix.SYS_FANOTIFY_INIT, [5]uintptr{none, none}},
	{"fanotify_mark", unix.SYS_FANOTIFY_MARK, [5]uintptr{none, none, none, none, null}},
	{"open_tree", unix.SYS_OPEN_TREE, [5]uintptr{none, null, none}},
	{"chroot", unix.SYS_CHROOT, [5]uintptr{null}},
	{"mount", unix.SYS_MOUNT, [5]uintptr{null, null, null, 0, null}},
	{"umount2", unix.SYS_UMOUNT2, [5]uintptr{null, none}},
	{"move_mount", unix.SYS_MOVE_MOUNT, [5]uintptr{none, null, none, null, none}},
	{"pivot_root", unix.SYS_PIVOT_ROOT, [5]uintptr{null, null}},
	{"mount_setattr", unix.SYS_MOUNT_SETATTR, [5]uintptr{none, null, none, null, 0}},
	{"fsopen", unix.SYS_FSOPEN, [5]uintptr{null, none}},
	{"fsconfig", unix.SYS_FSCONFIG, [5]uintptr{none, none, null, null, 0}},
	{"fsmount", unix.SYS_FSMOUNT, [5]uintptr{none, none, none}},
}

// fatalCalls are the numbers of the calls that end this process. A process can't remove a
// filter, so this never changes.
var fatalCalls map[uintptr]bool

// endsProcess reports whether one of the calls would end the process.
func endsProcess(numbers ...uintptr) bool {
	for _, n := range numbers {
		if fatalCalls[n] {
			return true
		}
	}
	return false
}

// FileHandlesForbidden reports whether open_by_handle_at would end the process, by the result
// of ProbeCalls.
func FileHandlesForbidden() bool { return endsProcess(unix.SYS_OPEN_BY_HANDLE_AT) }

// FanotifyForbidden reports whether one of fanotify's calls would end the process, by the result of ProbeCalls.
func FanotifyForbidden() bool { return endsProcess(unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK) }

// probeEnv tells a process to make the probed calls, from the given one on.
const probeEnv = "GOVIRTIOFSD_PROBE"

// probeTime is the time limit of this process. A filter can also end a single thread, and the
// process then hangs.
const probeTime = 10 * time.Second

// ProbeCalls finds out at which of the probed calls a filter ends the process, and returns
// their names. After that this package does without them if possible. A call that fails with
// an error is not among them.
//
// The same program makes the calls in another process, so main has to call RunProbe before
// anything else. If /proc says that there is no filter, no process is started. One goroutine
// must call ProbeCalls before the process is confined.
func ProbeCalls() ([]string, error) {
	if !filtered() {
		return nil, nil
	}
	found, names := map[uintptr]bool{}, []string(nil)
	for i := 0; i < len(probedCalls); {
		last, err := probeFrom(i)
		if err != nil {
			return nil, fmt.Errorf("try system calls: %w", err)
		}
		if last < 0 {
			break
		}
		found[probedCalls[last].number] = true
		names = append(names, probedCalls[last].name)
		i = last + 1
	}
	fatalCalls = found
	return names, nil
}

// filtered reports whether a filter is in force. /proc/self shows the main thread, which has
// the filters that were in force at the start.
func filtered() bool {
	b, err := os.ReadFile("/proc/self/status")
	return err == nil && strings.Contains(string(b), "\nSeccomp:\t2\n")
}

// probeFrom makes the probed calls from number i on in another process. It returns the number
// of the call that ended the process, or -1.
func probeFrom(i int) (int, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{probeEnv + "=" + strconv.Itoa(i)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return -1, err
	}
	if err := cmd.Start(); err != nil {
		return -1, err
	}
	timeout := time.AfterFunc(probeTime, func() { _ = cmd.Process.Kill() })
	defer timeout.Stop()
	said, _ := io.ReadAll(out)
	err = cmd.Wait()
	if err == nil {
		return -1, nil
	}
	var exit *exec.ExitError
	if len(said) == 0 || !errors.As(err, &exit) || exit.Exited() {
		return -1, err // the process did not end by a probed call
	}
	if last := int(said[len(said)-1]); last >= i && last < len(probedCalls) {
		return last, nil
	}
	return -1, err
}

// RunProbe makes the probed calls if ProbeCalls has started this process. It then returns
// true, and the process should end.
func RunProbe() bool {
	s, ok := os.LookupEnv(probeEnv)
	if !ok {
		return false
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	for i, _ := strconv.Atoi(s); i >= 0 && i < len(probedCalls); i++ {
		if _, err := os.Stdout.Write([]byte{byte(i)}); err != nil {
			break
		}
		c := probedCalls[i]
		_, _, _ = unix.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
	}
	return true
}

// errFilter says that a filter of another program forbids a call.
var errFilter = errors.New("a system call filter is in force that ends the process at a call which this takes")

// CheckCalls returns an error if a filter forbids calls that the sandbox m needs, by the
// result of ProbeCalls.
func (m Mode) CheckCalls() error {
	needs := map[Mode][]uintptr{
		ModeNamespace: {
			unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_PIVOT_ROOT,
			unix.SYS_MOUNT_SETATTR, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_CHROOT,
		},
		ModeChroot: {unix.SYS_CHROOT},
	}
	if endsProcess(needs[m]...) {
		return fmt.Errorf("%v: %w: %w", m, ErrNotPermitted, errFilter)
	}
	return nil
}
