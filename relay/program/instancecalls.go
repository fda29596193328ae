package program

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/relay"
)

// serve answers the system calls that the filter passes on.
func (i *instance) serve(l *listener) {
	defer l.file.Close()
	for {
		n, err := l.next()
		if err != nil {
			return // nobody is left, or nobody can be answered
		}
		switch uintptr(n.number) {
		case unix.SYS_MOUNT:
			i.mount(l, &n)
		case unix.SYS_UMOUNT2:
			i.unmount(l, &n)
		case unix.SYS_CLONE:
			i.fork(l, &n)
		default:
			_ = l.answer(n.id, unix.ENOSYS)
		}
	}
}

// mount answers a mount(2).
func (i *instance) mount(l *listener, n *notification) {
	r, err := readRequest(n)
	if !l.waits(n.id) {
		return
	}
	if err != nil {
		i.log.Warn(i.name+": can't read what it mounts", "err", err)
		_ = l.answer(n.id, unix.EFAULT)
		return
	}
	if !r.isFUSE() {
		i.leave(l, n, unix.EPERM)
		return
	}
	fd, err := r.device()
	var flags int
	if err == nil {
		flags, err = fdFlags(n.pid, fd)
	}
	if err != nil {
		i.log.Warn(i.name+": a mount is refused", "err", err)
		_ = l.answer(n.id, unix.EINVAL)
		return
	}
	i.mu.Lock()
	theirs, again := i.theirs, i.isSettled
	i.mu.Unlock()
	if again {
		_ = l.answer(n.id, unix.EPERM)
		i.fail(fmt.Errorf("%w, on %s: a share can be one mount only; start the program so that it mounts once", ErrTwice, printable([]byte(r.target))), true)
		return
	}
	m := &relay.Mounted{Type: r.kind, Source: r.source, Flags: r.flags, Options: r.data}
	if i.self {
		if m.Process, err = ownNumber(n.pid); err != nil {
			_ = l.answer(n.id, unix.EPERM)
			i.fail(fmt.Errorf("find the number of the process that mounts: %w", err), true)
			return
		}
	}
	if err := i.hand(l, n, theirs, fd, flags); err != nil {
		return // a signal has ended the call; the program makes it again
	}
	i.hasMounted(m)
}

// fork lets a process make a child. If the child is to mount what its parent has opened, as with glusterfs, mount(2) can give
// the socket to the child only: so the parent gets it now.
func (i *instance) fork(l *listener, n *notification) {
	i.mu.Lock()
	theirs, mounted := i.theirs, i.isSettled
	i.mu.Unlock()
	if !mounted {
		for _, fd := range fuseDevices(n.pid) {
			flags, err := fdFlags(n.pid, fd)
			if err == nil {
				err = i.replace(l, n, theirs, fd, flags)
			}
			if err != nil && l.waits(n.id) {
				i.log.Warn(i.name+": its device can't be replaced before it forks", "err", err)
			}
		}
	}
	_ = l.pass(n.id)
}

// epollHack is a file that programs with go-fuse of some years ago open in their mount point right after mounting.
const epollHack = ".go-fuse-epoll-hack"

// replace puts the socket in place of a descriptor.
func (i *instance) replace(l *listener, n *notification, theirs *os.File, fd, flags int) error {
	if flags&unix.O_NONBLOCK != 0 {
		raw, err := theirs.SyscallConn()
		if err == nil {
			err = raw.Control(func(own uintptr) { _ = unix.SetNonblock(int(own), true) })
		}
		if err != nil {
			return err
		}
	}
	return l.give(n.id, theirs, fd, uint32(flags)&unix.O_CLOEXEC)
}

// hand gives the program the socket, and lets mount return 0.
func (i *instance) hand(l *listener, n *notification, theirs *os.File, fd, flags int) error {
	if err := i.replace(l, n, theirs, fd, flags); err != nil {
		return err
	}
	if f, err := i.point.OpenFile(epollHack, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err == nil {
		_ = f.Close()
	}
	return l.answer(n.id, 0)
}

// unmount answers umount2(2).
func (i *instance) unmount(l *listener, n *notification) {
	i.mu.Lock()
	ours := i.mounted != nil && !i.unmounted
	i.mu.Unlock()
	if target, err := readString(int(n.pid), uintptr(n.args[0]), maxPath); i.admin && (err != nil || filepath.Clean(target) != i.mountPoint) {
		ours = false
	}
	if !ours {
		i.leave(l, n, unix.EINVAL) // not a mount point
		return
	}
	i.mu.Lock()
	i.unmounted = true
	i.mu.Unlock()
	_ = l.answer(n.id, 0)
}

// leave leaves a call to the kernel if the program may mount in its namespace. Otherwise it fails. The program could
// change the call's arguments meanwhile: what it may do there is up to its capabilities alone.
func (i *instance) leave(l *listener, n *notification, errno unix.Errno) {
	if i.admin {
		_ = l.pass(n.id)
		return
	}
	_ = l.answer(n.id, errno)
}
