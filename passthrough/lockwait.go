package passthrough

import (
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// hostLocks are the features of INIT without which no lock comes here.
const hostLocks = fp.InitPosixLocks | fp.InitFlockLocks

// maxLockWaiters is how many requests of a share may wait for locks. Transports have limits
// of their own, see fuse.Hooks.
const maxLockWaiters = 4096

// lockWaiter is a request that waits for a lock. The blocker is known: it is an owner of
// this share, which looks for waiters when it drops a lock, or a process on the host, whose
// lock is tried now and then (lockprobe.go). The goroutine that drops the lock takes it for
// the waiter, so that only requests wake up that can continue. The node's mu guards it.
type lockWaiter struct {
	lockAsk
	f       *openFile
	o       *lockOwner
	blocker *lockOwner // in the way; nil: a process on the host
	ended   bool       // answer has, or had, the answer
	answer  chan unix.Errno

	waitsFor *lockOwner // blocker, for lockGraph; guarded by its mu
}

// park adds a request to the waiting ones. n.mu is held.
func (s *shareLocks) park(n *inode, t *lockTable, w *lockWaiter) unix.Errno {
	if !s.openFiles.Has(w.f) {
		return unix.EBADF // closed meanwhile: nothing would end the wait
	}
	if errno := s.enter(t, w); errno != 0 {
		return errno
	}
	w.answer = make(chan unix.Errno, 1)
	w.o.waiting++
	t.waiters = append(t.waiters, w)
	if w.blocker == nil {
		s.probeSoon(n)
	}
	return 0
}

// enter adds w to those who wait, of which there is a limit; leave takes it out.
func (s *shareLocks) enter(t *lockTable, w *lockWaiter) unix.Errno {
	errno := unix.ENOLCK
	if s.waiters.Add(1) <= maxLockWaiters {
		errno = s.graph.enter(t, w)
	}
	if errno != 0 {
		s.waiters.Add(-1)
	}
	return errno
}

func (s *shareLocks) leave(t *lockTable, w *lockWaiter) {
	s.graph.leave(t, w)
	s.waiters.Add(-1)
}

// await waits for the answer to a request that is parked.
func (s *shareLocks) await(n *inode, t *lockTable, w *lockWaiter, canceled <-chan struct{}) unix.Errno {
	select {
	case errno := <-w.answer:
		return errno
	case <-canceled:
	}
	n.Lock()
	defer n.Unlock()
	if !w.ended {
		s.finish(t, w, unix.EINTR)
	}
	return <-w.answer // it may have the lock already
}

// finish ends a wait. n.mu is held.
func (s *shareLocks) finish(t *lockTable, w *lockWaiter, errno unix.Errno) {
	i := slices.Index(t.waiters, w)
	t.waiters = slices.Delete(t.waiters, i, i+1)
	if i < t.next {
		t.next--
	}
	s.leave(t, w)
	w.o.waiting--
	w.ended = true
	w.answer <- errno
}

// passOn takes locks for requests that waited for an owner that holds less than before.
// n.mu is held.
func (s *shareLocks) passOn(n *inode, t *lockTable, o *lockOwner) {
	for less := []*lockOwner{o}; len(less) > 0 && len(t.waiters) > 0; less = less[1:] {
		for i := 0; i < len(t.waiters); {
			w := t.waiters[i]
			if w.blocker != less[0] || len(w.blocker.held) > 0 && w.blocker.held.exclude(rangeOf(w.lk)) {
				i++
				continue
			}
			ended, frees := s.tryAgain(n, t, w)
			if frees {
				less = append(less, w.o)
			}
			if !ended {
				i++
			}
		}
	}
}

// tryAgain takes the lock for a waiter if nothing is in the way any more. ended reports
// whether its wait is over, frees whether its owner has dropped something by that. n.mu is
// held.
func (s *shareLocks) tryAgain(n *inode, t *lockTable, w *lockWaiter) (ended, frees bool) {
	errno := unix.EAGAIN
	if w.blocker = t.inWay(w.o, w.lk); w.blocker == nil {
		errno, frees = s.take(t, w.o, &w.lockAsk)
	}
	if errno == unix.EAGAIN {
		errno = s.graph.block(t, w)
		if errno == 0 {
			if w.blocker == nil {
				s.probeSoon(n)
			}
			return false, frees
		}
	}
	s.finish(t, w, errno)
	return true, frees
}
