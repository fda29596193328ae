// Package eventfd wraps eventfd(2) for kicks and calls.
package eventfd

import (
	"sync"

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

// Notifier holds an eventfd of another process that may be exchanged while
// goroutines notify it. The zero Notifier has none, and Notify does nothing.
type Notifier struct {
	mu  sync.RWMutex
	fd  int // valid if set
	set bool
	hit func() // see OnNotify
}

// Set makes fd the one to notify and closes the one before. The Notifier owns fd;
// -1 is none.
func (n *Notifier) Set(fd int) {
	if fd >= 0 {
		// A write must not block, even if the other side has filled the counter or
		// passed something that is no eventfd. The reader of a call waits with poll
		// or in the kernel, so the shared flag does not change anything for it.
		_ = unix.SetNonblock(fd, true)
	}
	n.mu.Lock()
	old, had := n.fd, n.set
	n.fd, n.set = fd, fd >= 0
	n.mu.Unlock()
	if had {
		_ = unix.Close(old)
	}
}

// Notify signals the eventfd; it never blocks.
func (n *Notifier) Notify() {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.set {
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
