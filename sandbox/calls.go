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

// call is a system call that the daemon can do without, or of which it can say what to do
// when it is forbidden.
type call struct {
	name   string
	number uintptr
	args   [5]uintptr // which the kernel refuses, whatever the privileges
}

const (
	none = ^uintptr(0) // as a descriptor, or an operation that there is not
	null = 0           // as a pointer
)

// unusual are the calls that filters of service managers leave out: all of these are
// missing in SystemCallFilter=@system-service of systemd 252.
var unusual = []call{
	{"landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, [5]uintptr{null, 0, none}},
	{"landlock_add_rule", unix.SYS_LANDLOCK_ADD_RULE, [5]uintptr{none, 0, null, none}},
	{"landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, [5]uintptr{none, none}},
	{"seccomp", unix.SYS_SECCOMP, [5]uintptr{none, none, null}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [5]uintptr{none, null, 0}},
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

// deadly are the numbers of the calls that end this process. That is a fact of the
// process: filters are never taken off again.
var deadly map[uintptr]bool

// isDeadly reports whether one of the calls would end the process.
func isDeadly(numbers ...uintptr) bool {
	for _, n := range numbers {
		if deadly[n] {
			return true
		}
	}
	return false
}

// FileHandlesForbidden reports whether open_by_handle_at would end the process, as ProbeCalls
// has found out.
func FileHandlesForbidden() bool { return isDeadly(unix.SYS_OPEN_BY_HANDLE_AT) }

// probeEnv tells a process that it is to make the calls from this one on.
const probeEnv = "GOVIRTIOFSD_PROBE"

// probeTime is how long the process may take. A filter can also end one thread only, and
// then the process hangs.
const probeTime = 10 * time.Second

// ProbeCalls finds out which of the unusual calls a filter punishes with the end of the
// process, and returns their names. From then on this package goes without them, if that is
// possible. Calls that fail with an error are not among them.
//
// The calls are made by the same program in a process of its own, so main has to call
// RunProbe before anything else. Without a filter, which is what /proc says, no process is
// started. ProbeCalls must be called before the process is confined, by one goroutine.
func ProbeCalls() ([]string, error) {
	if !filtered() {
		return nil, nil
	}
	found, names := map[uintptr]bool{}, []string(nil)
	for i := 0; i < len(unusual); {
		last, err := probeFrom(i)
		if err != nil {
			return nil, fmt.Errorf("try system calls: %w", err)
		}
		if last < 0 {
			break
		}
		found[unusual[last].number] = true
		names = append(names, unusual[last].name)
		i = last + 1
	}
	deadly = found
	return names, nil
}

// filtered reports whether a filter is in force. /proc/self is the main thread, which
// has the filters that were there at the start.
func filtered() bool {
	b, err := os.ReadFile("/proc/self/status")
	return err == nil && strings.Contains(string(b), "\nSeccomp:\t2\n")
}

// probeFrom makes the calls from number i on in another process. It returns the one that
// ended the process, or -1.
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
		return -1, err // not by a call of ours
	}
	if last := int(said[len(said)-1]); last >= i && last < len(unusual) {
		return last, nil
	}
	return -1, err
}

// RunProbe does what ProbeCalls has started this process for, and reports whether it was
// started for that: then the process should end.
func RunProbe() bool {
	s, ok := os.LookupEnv(probeEnv)
	if !ok {
		return false
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	for i, _ := strconv.Atoi(s); i >= 0 && i < len(unusual); i++ {
		if _, err := os.Stdout.Write([]byte{byte(i)}); err != nil {
			break
		}
		c := unusual[i]
		_, _, _ = unix.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
	}
	return true
}

// errFilter says that a filter of another program's is in the way.
var errFilter = errors.New("a system call filter is in force that ends the process at a call which this takes")

// CheckCalls returns an error if a filter forbids what the sandbox m takes, as ProbeCalls has
// found out.
func (m Mode) CheckCalls() error {
	needs := map[Mode][]uintptr{
		ModeNamespace: {
			unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_PIVOT_ROOT,
			unix.SYS_MOUNT_SETATTR, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_CHROOT,
		},
		ModeChroot: {unix.SYS_CHROOT},
	}
	if isDeadly(needs[m]...) {
		return fmt.Errorf("%v: %w: %w", m, ErrNotPermitted, errFilter)
	}
	return nil
}
