package program

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// Variables that tell a process of this executable what it is. Their value is a setup.
const (
	initEnv = "GOVIRTIOFS_RELAY_INIT"
	execEnv = "GOVIRTIOFS_RELAY_EXEC"
)

// Descriptors of both processes.
const (
	controlFD = 3 // a SOCK_SEQPACKET socket to the caller's process, one event or order each packet
	deviceFD  = 4 // what the program inherits as its /dev/fuse, if it does
)

// setup is what the two processes have to know. Their arguments are the program's.
type setup struct {
	Namespace    bool
	Inherit      bool // there is a deviceFD
	Mount        string
	Admin        bool // see rules
	Capabilities []uintptr
	Hidden       []string // see Program.Hide
	Proc         bool     // the program needs a /proc of its namespace
}

// event is what they report.
type event struct {
	Kind   string
	Error  string `json:",omitempty"`
	Status int    `json:",omitempty"` // a wait status
}

// Kinds of events.
const (
	eventFilter = "filter" // comes with the filter's descriptor
	eventFailed = "failed" // the program could not be started
	eventExit   = "exit"   // the first process of the program has ended
	eventEmpty  = "empty"  // no process of the program is left
)

// Orders to init.
const (
	orderTerm = "term"
	orderKill = "kill"
)

// RunChild does the work of a process that Mount has started, and does not return there. In others it returns false at
// once. A program that uses this package calls it at the very beginning of main.
func RunChild() bool {
	if s, ok := os.LookupEnv(initEnv); ok {
		_ = os.Unsetenv(initEnv)
		runInit(s)
	}
	if s, ok := os.LookupEnv(execEnv); ok {
		_ = os.Unsetenv(execEnv)
		runExec(s)
	}
	return false
}

// report sends an event, with a descriptor if fd is not negative.
func report(e event, fd int) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_ = unix.Sendmsg(controlFD, b, rights, nil, unix.MSG_NOSIGNAL)
}

// fail reports why the program could not be started, and ends the process.
func fail(err error) {
	report(event{Kind: eventFailed, Error: err.Error()}, -1)
	os.Exit(1)
}

// runInit is the first process: it starts the program and waits for all that becomes of it.
func runInit(s string) {
	unix.CloseOnExec(controlFD)
	var o setup
	if err := json.Unmarshal([]byte(s), &o); err != nil {
		fail(err)
	}
	// A terminal or a service manager sends these to the program as well. This process ends last. Notify, because
	// ignored signals would be ignored in the program, too.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fail(os.NewSyscallError("prctl", err))
	}
	if o.Namespace {
		if err := enterNamespace(o.Hidden, o.Proc); err != nil {
			fail(err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		fail(os.NewSyscallError("setrlimit", err))
	}
	first, err := startExec(s, o.Inherit)
	if err != nil {
		fail(err)
	}
	t := tree{namespace: o.Namespace}
	go t.obey()
	t.reap(first)
	report(event{Kind: eventEmpty}, -1)
	os.Exit(0)
}

// startExec starts the second process, which becomes the program.
func startExec(s string, inherit bool) (pid int, err error) {
	files := []uintptr{0, 1, 2, controlFD}
	if inherit {
		files = append(files, deviceFD)
	}
	pid, err = syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: append(os.Environ(), execEnv+"="+s), Files: files})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", os.Args[1], err)
	}
	if inherit {
		_ = unix.Close(deviceFD)
	}
	return pid, nil
}

// tree is the processes below init.
type tree struct{ namespace bool }

// reap returns when there is no process left.
func (t tree) reap(first int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		case pid == first:
			report(event{Kind: eventExit, Status: int(status)}, -1)
		}
	}
}

// orphanGrace is how long the program gets to end when the caller's process has ended.
const orphanGrace = 5 * time.Second

// obey does what the caller's process says. When that has ended, it ends the program.
func (t tree) obey() {
	b := make([]byte, 64)
	for {
		n, err := unix.Read(controlFD, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			t.signal(unix.SIGTERM)
			time.Sleep(orphanGrace)
			t.kill()
			return
		case string(b[:n]) == orderTerm:
			t.signal(unix.SIGTERM)
		case string(b[:n]) == orderKill:
			t.kill()
		}
	}
}

// killPause is how long kill waits for processes to end before it looks for more.
const killPause = 10 * time.Millisecond

// kill ends all processes. Some may be starting others meanwhile. It ends with this process.
func (t tree) kill() {
	for {
		t.signal(unix.SIGKILL)
		time.Sleep(killPause)
	}
}

// signal sends a signal to all processes below this one.
func (t tree) signal(sig unix.Signal) {
	if t.namespace {
		_ = unix.Kill(-1, sig) // all of the namespace but this one
		return
	}
	for _, pid := range tasks.Descendants(os.Getpid()) {
		_ = unix.Kill(pid, sig)
	}
}
