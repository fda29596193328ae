package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/relay"
)

// instance is a program that runs.
type instance struct {
	name, mountPoint string
	point            *os.Root // the mount point
	inherits, admin  bool
	self             bool // Options.Self
	log              *slog.Logger
	cmd              *exec.Cmd // init
	control          *net.UnixConn
	out              *output

	settled chan struct{} // closed when it has mounted, or can't any more
	done    chan struct{} // closed when no process is left

	mu           sync.Mutex
	isSettled    bool
	ours, theirs *os.File
	mounted      *relay.Mounted
	unmounted    bool
	exit         *unix.WaitStatus // of the program's first process
	ended        bool
	stopping     bool
	err          error // the first thing that went wrong
	isFatal      bool
}

// start starts init, with namespaces if it can.
func (p *Program) start() (*instance, error) {
	if p.o.Sandbox == SandboxNone {
		return p.startIn(false)
	}
	i, err := p.startIn(true)
	if err == nil || p.o.Sandbox == SandboxNamespace || p.o.NoNetwork {
		return i, err
	}
	p.o.Log.Warn("the program runs without namespaces of its own: this system does not allow them", "err", err)
	return p.startIn(false)
}

func (p *Program) startIn(namespace bool) (i *instance, err error) {
	if !namespace {
		if err := deviceOpens(); err != nil {
			return nil, fmt.Errorf("/dev/fuse: %w: without namespaces the user must be able to open it (modprobe fuse; chmod 666 /dev/fuse)", err)
		}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	i = &instance{name: p.o.name(), mountPoint: p.MountPoint(), point: p.point, inherits: p.o.inherits(), self: p.o.Self, log: p.o.Log, ours: ours, theirs: theirs,
		settled: make(chan struct{}), done: make(chan struct{})}
	if err := i.launch(&p.o, namespace, p.hidden); err != nil {
		_ = ours.Close()
		_ = theirs.Close()
		return nil, err
	}
	go i.listen()
	return i, nil
}

// namespaces are those of the program.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC

// launch starts init.
func (i *instance) launch(o *Options, namespace bool, hidden []string) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	control, its := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer control.Close()
	defer its.Close()
	conn, err := net.FileConn(control)
	if err != nil {
		return err
	}
	i.control = conn.(*net.UnixConn)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	keep := o.Capabilities
	if i.admin = o.admin(namespace); !i.admin {
		keep = slices.DeleteFunc(slices.Clone(keep), func(c uintptr) bool { return c == unix.CAP_SYS_ADMIN })
	}
	words, err := json.Marshal(setup{Namespace: namespace, Inherit: i.inherits, Mount: i.mountPoint, Admin: i.admin, Capabilities: keep, Hidden: hidden, Proc: o.Self})
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"govirtiofs-relay: " + i.name}, o.Args...)
	cmd.Env = append(o.Env[:len(o.Env):len(o.Env)], initEnv+"="+string(words))
	cmd.ExtraFiles = []*os.File{its}
	if i.inherits {
		cmd.ExtraFiles = append(cmd.ExtraFiles, i.theirs)
	}
	if o.Stdin != nil {
		cmd.Stdin = o.Stdin
	}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if namespace {
		confine(cmd.SysProcAttr, o.NoNetwork)
	}
	if err := spawn.Start(cmd); err != nil {
		_ = r.Close()
		_ = i.control.Close()
		if namespace {
			return fmt.Errorf("make namespaces: %w", err)
		}
		return err
	}
	i.cmd = cmd
	i.out = newOutput(i.name, o.Log, r)
	return nil
}

// confine has a process start in new namespaces.
func confine(attr *syscall.SysProcAttr, noNetwork bool) {
	attr.Cloneflags = namespaces
	if noNetwork {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	if os.Geteuid() == 0 {
		return
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	// Only ambient capabilities survive exec. The program gets none of them.
	attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
}

// listen receives the messages of init until init has ended.
func (i *instance) listen() {
	b, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	for {
		n, nr, _, _, err := i.control.ReadMsgUnix(b, rights)
		if err != nil || n == 0 {
			break
		}
		var e event
		if json.Unmarshal(b[:n], &e) == nil {
			i.take(e, rights[:nr])
		}
	}
	_ = i.control.Close()
	_ = i.cmd.Wait()
	said := i.out.said()
	i.mu.Lock()
	i.ended = true
	if i.err == nil && !i.stopping {
		i.err = i.endError(said)
	}
	i.settleLocked()
	i.mu.Unlock()
	close(i.done)
}

// take acts on an event of init.
func (i *instance) take(e event, rights []byte) {
	switch e.Kind {
	case eventFilter:
		fd, err := oneFD(rights)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err != nil {
			i.fail(fmt.Errorf("take over its system calls: %w", err), false)
			return
		}
		l := &listener{os.NewFile(uintptr(fd), "seccomp listener")}
		if i.inherits {
			i.hasMounted(&relay.Mounted{})
		}
		go i.serve(l)
	case eventFailed:
		i.fail(errors.New(e.Error), false)
	case eventExit:
		status := unix.WaitStatus(e.Status)
		i.mu.Lock()
		i.exit = &status
		i.mu.Unlock()
		// With 0 it has gone into the background. Otherwise what it has left is of no use.
		if status != 0 {
			i.fail(nil, false)
		}
	}
}

func oneFD(rights []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("no descriptor has come")
}

// fail ends the program. A nil error is how its first process has ended, which is known when all have.
func (i *instance) fail(err error, fatal bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil && i.err == nil {
		i.err, i.isFatal = err, fatal
	}
	i.order(orderKill)
}

// order tells init something.
func (i *instance) order(what string) { _, _ = i.control.Write([]byte(what)) }

// settleLocked says that it has mounted, or can't any more.
func (i *instance) settleLocked() {
	if i.isSettled {
		return
	}
	i.isSettled = true
	close(i.settled)
	if i.theirs != nil {
		_ = i.theirs.Close()
		i.theirs = nil
	}
	if i.mounted == nil {
		_ = i.ours.Close()
	}
}

// hasMounted fills in what the caller gets.
func (i *instance) hasMounted(m *relay.Mounted) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.isSettled {
		return
	}
	m.Socket, m.Done = i.ours, i.done
	m.Err = func() error {
		if err := i.reason(); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		return nil
	}
	i.mounted = m
	i.settleLocked()
}

// endError is how the program has ended.
func (i *instance) endError(said string) error {
	how := "has ended"
	switch {
	case i.exit == nil:
		how = "was ended from outside"
	case i.exit.Exited() && i.exit.ExitStatus() != 0:
		how = fmt.Sprintf("has ended with status %d", i.exit.ExitStatus())
	case i.exit.Signaled():
		how = fmt.Sprintf("was ended by a signal (%v)", i.exit.Signal())
	}
	if i.mounted == nil {
		return fmt.Errorf("the program %s and has mounted nothing; %s", how, said)
	}
	if said == saidNothing { // most that have mounted print nothing
		return fmt.Errorf("the program %s", how)
	}
	return fmt.Errorf("the program %s; %s", how, said)
}

// wait waits until it has mounted.
func (i *instance) wait(ctx context.Context, limit time.Duration) (*relay.Mounted, error) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-i.settled:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timeout.C:
		return nil, fmt.Errorf("the program has mounted nothing in %v; %s", limit, i.out.said())
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mounted == nil {
		return nil, i.err
	}
	return i.mounted, nil
}

// discard closes the socket that nobody has asked for in time.
func (i *instance) discard() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mounted != nil {
		_ = i.mounted.Socket.Close()
	}
}

// reason is why it has ended or is going to, or nil.
func (i *instance) reason() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// fatal is the reason if it is no use to start the program again.
func (i *instance) fatal() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.isFatal {
		return i.err
	}
	return nil
}

// killPatience is how long processes may take to end after SIGKILL.
const killPatience = 10 * time.Second

// termPatience is how long a program that has not ended without its socket may take after SIGTERM at least: some, such as
// davfs2, notice only that, and write their data then.
const termPatience = 2 * time.Second

// stop ends all processes. A program without its socket ends by itself, as after an unmount: some write their data then, and
// SIGTERM would end that.
func (i *instance) stop(grace time.Duration) {
	i.mu.Lock()
	i.stopping = true
	mounted := i.mounted != nil
	i.mu.Unlock()
	ended := false
	if mounted {
		if isClosed(i.ours) { // by the caller
			ended = i.within(grace)
			grace = max(grace, termPatience)
		}
		if !ended {
			i.order(orderTerm)
			ended = i.within(grace)
		}
		if !ended {
			i.log.Warn(i.name + " does not end: it is killed")
		}
	}
	if ended {
		return
	}
	i.order(orderKill)
	if i.within(killPatience) {
		return
	}
	_ = i.cmd.Process.Kill() // with a namespace this ends all that the kernel can end
	if !i.within(killPatience) {
		i.log.Error(i.name + " hangs in the kernel: one of its processes is left running")
	}
}

func isClosed(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) {})
	}
	return err != nil
}

// within waits for the end, for a time.
func (i *instance) within(limit time.Duration) bool {
	select {
	case <-i.done:
		return true
	case <-time.After(limit):
		return false
	}
}
