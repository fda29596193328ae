// Package eventfd wraps eventfd(2) for kicks and calls.
package eventfd

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// New makes an eventfd that never blocks; the caller owns it.
func New() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }

// Signal adds one to fd's counter. It reports nothing: a counter that is full
// wakes its reader anyway, and a descriptor that the other side broke is the
// other side's loss.
func Signal(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}

func signalRaw(fd int) {
	one := [8]byte{1}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
}

func nonblocking(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK != 0
}

// Notifier holds an eventfd of another process that may be exchanged while
// goroutines notify it. The zero Notifier has none, and Notify does nothing.
type Notifier struct {
	mu  sync.RWMutex
	fd  int // valid if set
	set bool
	raw bool   // a write can't wait, so the scheduler need not know of it
	hit func() // see OnNotify
}

// Set makes fd the one to notify and closes the one before. The Notifier owns fd;
// -1 is none.
func (n *Notifier) Set(fd int) {
	if fd >= 0 && !isEventfd(fd) {
		// It may be anything; a write to it must not block.
		_ = unix.SetNonblock(fd, true)
	}
	n.Unblock()
	n.mu.Lock()
	old, had := n.fd, n.set
	n.fd, n.set, n.raw = fd, fd >= 0, fd >= 0 && nonblocking(fd)
	n.mu.Unlock()
	if had {
		_ = unix.Close(old)
	}
}

// isEventfd reports whether fd can be an eventfd: those files, and their like, have no
// type. The flags of an eventfd stay as the front-end made them. They belong to the
// description which both sides share, and a front-end that sleeps in a blocking read
// would be told that there is nothing, over and over.
func isEventfd(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == 0
}

// Unblock lets a Notify go on that waits because the other side has filled the counter
// up. Whoever waits for a goroutine that may be in Notify calls it first.
func (n *Notifier) Unblock() {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.set || !full(n.fd) {
		return
	}
	var b [8]byte
	iov := [][]byte{b[:]}
	if _, err := unix.Preadv2(n.fd, iov, -1, unix.RWF_NOWAIT); err == nil {
		Signal(n.fd) // what was read was a signal too
	}
}

// full reports whether a write would wait.
func full(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

// Notify signals the eventfd. It waits only for a counter that the other side has
// filled up; see Unblock.
func (n *Notifier) Notify() {
	n.mu.RLock()
	defer n.mu.RUnlock()
	switch {
	case n.raw:
		signalRaw(n.fd)
	case n.set:
		Signal(n.fd)
	}
	if n.hit != nil {
		n.hit()
	}
}

// OnNotify has f called at each Notify as well; for front-ends that get calls as
// messages. Set it before the Notifier is shared.
func (n *Notifier) OnNotify(f func()) { n.hit = f }

// Close closes the eventfd; later Notify calls do nothing.
func (n *Notifier) Close() { n.Set(-1) }
