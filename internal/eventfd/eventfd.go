// Package eventfd wraps eventfd(2) for kicks and calls.
package eventfd

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// New makes an eventfd that never blocks; the caller owns it.
func New() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }

// Signal adds one to fd's counter. It returns no error: a full counter wakes its reader
// anyway, and a broken descriptor only harms the other side, which has sent it.
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

// Notifier holds an eventfd of another process. The eventfd may be replaced while goroutines
// call Notify. The zero Notifier has no eventfd, and Notify does nothing.
type Notifier struct {
	mu          sync.RWMutex
	fd          int // valid if set
	set         bool
	neverBlocks bool // a write can not block, so it may bypass the Go scheduler
}

// Set makes fd the eventfd to notify and closes the previous one. The Notifier owns fd. With
// -1 there is no eventfd.
func (n *Notifier) Set(fd int) {
	if fd >= 0 && !isEventfd(fd) {
		// It may be a descriptor of another kind. A write to it must not block.
		_ = unix.SetNonblock(fd, true)
	}
	n.Unblock()
	n.mu.Lock()
	old, had := n.fd, n.set
	n.fd, n.set, n.neverBlocks = fd, fd >= 0, fd >= 0 && nonblocking(fd)
	n.mu.Unlock()
	if had {
		_ = unix.Close(old)
	}
}

// isEventfd reports whether fd can be an eventfd: an eventfd and similar files have no file
// type. The flags of an eventfd are not changed, because both sides share the open file
// description. With O_NONBLOCK, a front-end that sleeps in a blocking read would get EAGAIN
// again and again.
func isEventfd(fd int) bool {
	info, err := fdstat.Stat(fd)
	return err == nil && info.Kind() == 0
}

// Unblock ends the wait of a Notify whose counter the other side has filled. Call it before
// waiting for a goroutine that may be in Notify.
func (n *Notifier) Unblock() {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.set || !full(n.fd) {
		return
	}
	var b [8]byte
	iov := [][]byte{b[:]}
	if _, err := unix.Preadv2(n.fd, iov, -1, unix.RWF_NOWAIT); err == nil {
		Signal(n.fd) // the value that was read may have been a notification
	}
}

// full reports whether a write would wait.
func full(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

// Notify signals the eventfd. It waits only if the other side has filled the counter; see
// Unblock.
func (n *Notifier) Notify() {
	n.mu.RLock()
	defer n.mu.RUnlock()
	switch {
	case n.neverBlocks:
		signalRaw(n.fd)
	case n.set:
		Signal(n.fd)
	}
}

// Close closes the eventfd; later Notify calls do nothing.
func (n *Notifier) Close() { n.Set(-1) }
