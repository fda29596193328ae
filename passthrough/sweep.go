package passthrough

import (
	"sync"
	"sync/atomic"
	"time"
)

// A file that a client only remembers must not stay in use on the host: its space could not be
// freed, nor its mount be unmounted. A sweep closes the descriptors of nodes that were not used
// since the last one, and other things that only make the next request faster. The next sweep is
// planned only if there is something for it to check, so an idle share has no timer. Open files
// and directories stay as they are, and so do descriptors of nodes that could not be found again.
const sweepEvery = 2 * time.Second

// sweeper says when the next sweep is.
type sweeper struct {
	mu     sync.Mutex // held during a sweep, outside of all others
	closed bool       // guarded by mu

	rounds []func() (more bool) // what a sweep does
	armed  atomic.Bool
	after  func(time.Duration, func()) // time.AfterFunc, but in tests
}

func afterFunc(d time.Duration, f func()) { time.AfterFunc(d, f) }

// arm is called when there is something new to sweep.
func (s *sweeper) arm() {
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.after(sweepEvery, s.sweep)
	}
}

// sweep is one round. What is opened meanwhile arms the next one by itself.
func (s *sweeper) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.armed.Store(false)
	more := false
	for _, round := range s.rounds {
		more = round() || more
	}
	if more {
		s.arm()
	}
}

// sweepLook is how many descriptors are checked before others may make room.
const sweepLook = 256

// sweep closes descriptors of nodes, and reports whether some are left that may be
// closed the next time.
func (d *descriptors) sweep() (more bool) {
	for from := uint32(0); from < d.owners.end(); from += sweepLook {
		d.evictor.mu.Lock()
		for fd := from; fd < min(from+sweepLook, d.owners.end()); fd++ {
			if n := d.owners.at(fd); n != nil && d.find.evictOne(n, false) == evictedInUse {
				more = true
			}
		}
		d.evictor.mu.Unlock()
	}
	return more
}

// letGo closes the descriptor of a node without a name when nothing of it is open any
// more: the client has only to forget it, and the file's space is free.
func (d *descriptors) letGo(n *inode) {
	if n.fd.Load() < 0 {
		return
	}
	d.evictor.mu.Lock()
	defer d.evictor.mu.Unlock()
	d.find.evictOne(n, true)
}
