package passthrough

import (
	"sync"
	"sync/atomic"
	"time"
)

// What a client merely remembers keeps nothing on the host from being freed or unmounted.
// A sweep closes the descriptors of nodes that were not used since the last one, and what
// else is only kept to be quicker the next time. It runs as long as there is something for
// the next one to look at: where nothing happens, nothing wakes up. Left alone are open
// files and directories, and pins.
const sweepEvery = 2 * time.Second

// sweeper says when the next sweep is.
type sweeper struct {
	mu     sync.Mutex // held during a sweep, outside of all others
	closed bool       // guarded by mu

	armed atomic.Bool
	after func(time.Duration, func()) // time.AfterFunc, but in tests
}

func afterFunc(d time.Duration, f func()) { time.AfterFunc(d, f) }

// armSweep is called when there is something new to sweep.
func (fs *FS) armSweep() {
	if !fs.sweeper.armed.Load() && fs.sweeper.armed.CompareAndSwap(false, true) {
		fs.sweeper.after(sweepEvery, fs.sweep)
	}
}

// sweep is one round. What is opened meanwhile arms the next one by itself.
func (fs *FS) sweep() {
	fs.sweeper.mu.Lock()
	defer fs.sweeper.mu.Unlock()
	if fs.sweeper.closed {
		return
	}
	fs.sweeper.armed.Store(false)
	more := fs.sweepShared()
	more = fs.sweepNodes() || more
	more = fs.sweepMounts() || more
	if more {
		fs.armSweep()
	}
}

// sweepLook is how many descriptors are looked at before others may make room.
const sweepLook = 256

// sweepNodes closes descriptors of nodes, and reports whether some are left that may be
// closed the next time.
func (fs *FS) sweepNodes() (more bool) {
	for from := uint32(0); from < fs.owners.end(); from += sweepLook {
		fs.evictor.mu.Lock()
		for fd := from; fd < min(from+sweepLook, fs.owners.end()); fd++ {
			if n := fs.owners.at(fd); n != nil && fs.evictOne(n, false) == evictedInUse {
				more = true
			}
		}
		fs.evictor.mu.Unlock()
	}
	return more
}

// letGo closes the descriptor of a node without a name when nothing of it is open any
// more: the client has only to forget it, and the file's space is free.
func (fs *FS) letGo(n *inode) {
	if n.fd.Load() < 0 {
		return
	}
	fs.evictor.mu.Lock()
	defer fs.evictor.mu.Unlock()
	fs.evictOne(n, true)
}
