// Package dormant lets a process that only waits do so with next to no memory: it starts
// its program anew, which waits before the Go runtime starts, and goes on from main when
// a process has ended or a signal has come. It stays the same process, with its number,
// parent, children and descriptors.
//
// This takes a program whose entry point is the one of this package:
//
//	go build -ldflags "-E govirtiofs_entry"
//
// In any other Sleep is an error. A Go program that waits has half a MiB of its own at
// least, which counts where there is one beside each of many daemons.
//
// The same entry point has the Go runtime start with one processor; see Processors.
package dormant

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// env carries the state through the new start, after a byte that is "1" when a signal has
// come, and the child was sent SIGTERM, or SIGQUIT for SIGQUIT. The files entry_*.s know it, too.
const env = "GOVIRTIOFSD_DORMANT"

// held are the signals that Sleep knows to hold back, as a mask: SIGHUP, SIGINT, SIGQUIT and
// SIGTERM.
const held = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGINT-1) | 1<<(unix.SIGQUIT-1) | 1<<(unix.SIGTERM-1)

// urgent is SIGURG, which no thread of a Go program blocks for long: the runtime uses it.
const urgent = 1 << (unix.SIGURG - 1)

// Descriptors on which the new start waits, which entry_*.s know, too. Low numbers are
// whatever the process has open.
const (
	signalFD = 200
	childFD  = 201
)

// entered says that the process has come through the entry point of this package, and
// that this one can wait.
var entered bool

// Awake is the state that Sleep was given, if this process has slept and woken up, and
// whether a signal has come, for which the child was sent SIGTERM. It says so once.
func Awake() (state string, signalled, ok bool) {
	state, ok = os.LookupEnv(env)
	_ = os.Unsetenv(env)
	if !ok || state == "" || !entered || privileged() {
		return "", false, false
	}
	_ = unix.Close(signalFD)
	_ = unix.Close(childFD)
	return state[1:], state[0] == '1', true
}

// Sleep starts the program anew, with the same arguments and environment and with files
// open under the same numbers. The new start waits until the child has ended, and sends it
// SIGTERM when one of the signals, which are of SIGTERM, SIGINT, SIGHUP and SIGQUIT, has come,
// for SIGQUIT that. When
// the child has ended, or has not a second after that, it calls Awake. Sleep returns if that
// is not possible, or if a signal was caught, which still is in caught then. The caller is
// locked to the main thread, and caught is notified of the signals and of nothing else.
//
// No signal is lost, however many come at a time. But a SIGTERM that comes in the 2 ms in
// which the next runtime starts ends the process: the runtime lets it through.
func Sleep(state string, child int, files []int, caught chan os.Signal, signals []os.Signal) error {
	if !entered || privileged() {
		return errors.ErrUnsupported
	}
	var set unix.Sigset_t
	for _, s := range signals {
		n := uint(s.(syscall.Signal)) - 1
		if held>>n&1 == 0 {
			return fmt.Errorf("%v: %w", s, errors.ErrUnsupported)
		}
		word := uint(8 * unsafe.Sizeof(set.Val[0]))
		set.Val[n/word] |= 1 << (n % word)
	}
	if err := openAt(signalFD, func() (int, error) { return unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK) }); err != nil {
		return fmt.Errorf("signalfd: %w", err)
	}
	defer unix.Close(signalFD)
	if err := openAt(childFD, func() (int, error) { return unix.PidfdOpen(child, 0) }); err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	defer unix.Close(childFD)
	var old unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return err
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	return replace(state, files, caught, signals)
}

// replace starts the program anew. The main thread blocks the signals; other threads, whose
// masks are the runtime's, are made to by a handler of our own, see hold. So signals stay
// pending, over the start, and what the runtime has caught before can be waited for.
func replace(state string, files []int, caught chan os.Signal, signals []os.Signal) error {
	const onStack, restart, siginfo, restorer = 0x08000000, 0x10000000, 4, 0x04000000
	act := sigaction{flags: onStack | restart | siginfo | restorer, mask: [2]uint64{held | urgent}}
	act.handler, act.restorer = handlers()
	was := make([]sigaction, len(signals))
	for i, s := range signals {
		if err := setAction(s.(syscall.Signal), &act, &was[i]); err != nil {
			return err
		}
	}
	defer func() {
		signal.Notify(caught, signals...)
		for i, s := range signals {
			_ = setAction(s.(syscall.Signal), &was[i], nil)
		}
	}()
	// Whoever holds them is not in the runtime's handler any more.
	if err := hold(); err != nil {
		return err
	}
	signal.Stop(caught)
	if len(caught) > 0 {
		return errors.New("a signal has come")
	}
	for _, fd := range append(files, signalFD, childFD) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
		defer unix.CloseOnExec(fd)
	}
	environ := append(os.Environ(), env+"=0"+state)
	if err := hold(); err != nil { // threads that there were not before
		return err
	}
	return os.NewSyscallError("exec", unix.Exec("/proc/self/exe", os.Args, environ))
}

// holdTime is how long threads may take, all of them: they may be many, and without a
// processor.
const holdTime = 5 * time.Second

// hold makes all threads but this one, the main thread, block the signals. The handler does
// so in the midst of whatever they do; they go on afterwards.
func hold() error {
	pid, end := os.Getpid(), time.Now().Add(holdTime)
	for asked := true; asked; {
		asked = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || tid == pid || holds(tid) {
				continue
			}
			asked = true
			_ = unix.Tgkill(pid, tid, unix.SIGTERM)
			for !holds(tid) {
				if time.Now().After(end) {
					return errors.New("a thread does not answer")
				}
				_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			}
		}
	}
	return nil
}

// holds reports whether a thread blocks the signals, or has ended. One that is in a handler
// blocks more: Go's handlers block everything, ours SIGURG.
func holds(tid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(b), "\nSigBlk:\t")
	value, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(value, 16, 64)
	return err == nil && mask&(held|urgent) == held
}

// privileged reports whether the program has more rights than who has started it, who
// made its environment up.
func privileged() bool {
	const atSecure = 23
	list, err := unix.Auxv()
	if err != nil {
		return true
	}
	for _, v := range list {
		if v[0] == atSecure {
			return v[1] != 0
		}
	}
	return false
}

// openAt opens a descriptor that is to have a certain number.
func openAt(want int, open func() (int, error)) error {
	fd, err := open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	got, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, want)
	if err == nil && got != want {
		_ = unix.Close(got)
		err = unix.EBUSY
	}
	return err
}

// sigaction is the kernel's struct sigaction.
type sigaction struct {
	handler, flags, restorer uintptr // some architectures have no restorer
	mask                     [2]uint64
}

func setAction(s syscall.Signal, act, was *sigaction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(was)), 8, 0, 0)
	runtime.KeepAlive(act)
	runtime.KeepAlive(was)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}
