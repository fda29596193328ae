package passthrough

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Locks that another process on the host holds are tried now and then. There is a call that
// waits for one (F_OFD_SETLKW), but it can't be ended: a signal restarts it, because of the
// way Go installs its handlers. It would hold threads for as long as the host likes, and
// would take the lock for a guest that has given up, or gone.
//
// Asking costs the same however many wait: there is one timer, and at each time so many
// calls at most, for all files of the share in turn.
const (
	lockProbeMin  = time.Millisecond
	lockProbeMax  = 50 * time.Millisecond
	lockProbeMost = 16 // calls at a time
)

// lockProbe is the list of files on which requests wait for a process on the host.
type lockProbe struct {
	mu      sync.Mutex // guards the following; a leaf
	files   []*inode
	listed  map[*inode]struct{} // that are in files, or checked by probeLocks; changed with their mu held
	timer   *time.Timer
	pause   time.Duration
	running bool // the timer is set, or its function runs
}

// probeSoon puts a file on the list. n.mu is held.
func (s *shareLocks) probeSoon(n *inode) {
	p := &s.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	// The file's locks end with its last open file, and its place in the list does not: a
	// client may open, wait and close faster than the list is gone through.
	if _, ok := p.listed[n]; ok {
		return
	}
	if p.listed == nil {
		p.listed = make(map[*inode]struct{})
	}
	p.listed[n] = struct{}{}
	p.files = append(p.files, n)
	if p.running {
		return
	}
	p.running, p.pause = true, lockProbeMin
	if p.timer == nil {
		p.timer = time.AfterFunc(p.pause, s.probeLocks)
	} else {
		p.timer.Reset(p.pause)
	}
}

// probeLocks runs when it is time to ask.
func (s *shareLocks) probeLocks() {
	p := &s.probe
	p.mu.Lock()
	files := slices.Clone(p.files)
	p.mu.Unlock()
	calls, done := lockProbeMost, 0
	var waiting []*inode
	for _, n := range files {
		if calls <= 0 {
			break
		}
		done++
		if s.probeFile(n, &calls) {
			waiting = append(waiting, n)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Those that it was not the turn of come first the next time; some were added meanwhile.
	p.files = append(slices.Clone(p.files[done:]), waiting...)
	if p.running = len(p.files) > 0; p.running {
		p.pause = min(2*p.pause, lockProbeMax)
		p.timer.Reset(p.pause)
	}
}

// probeFile tries to get the locks of a file, with so many calls at most. It reports
// whether a request still waits for the host.
func (s *shareLocks) probeFile(n *inode, calls *int) (waits bool) {
	n.Lock()
	defer n.Unlock()
	if l := n.fileLocks(); l != nil {
		for _, t := range []*lockTable{&l.posix, &l.flock} {
			s.probeTable(n, t, calls)
			waits = waits || slices.ContainsFunc(t.waiters, func(w *lockWaiter) bool { return w.blocker == nil })
		}
	}
	if !waits {
		p := &s.probe
		p.mu.Lock()
		delete(p.listed, n)
		p.mu.Unlock()
	}
	return waits
}

// probeTable is probeFile for one kind of locks. It continues where it has
// stopped.
func (s *shareLocks) probeTable(n *inode, t *lockTable, calls *int) {
	var busy []lockRange // what the host is known to hold
	for left := len(t.waiters); left > 0 && *calls > 0; left-- {
		if t.next >= len(t.waiters) {
			t.next = 0
			if len(t.waiters) == 0 {
				return
			}
		}
		w := t.waiters[t.next]
		want := rangeOf(w.lk)
		if w.blocker != nil || slices.ContainsFunc(busy, want.excludes) {
			t.next++
			continue
		}
		if ended := s.probeOne(n, t, w, &busy, calls); !ended {
			t.next++
		}
	}
}

// probeOne asks for a waiter, and adds what is in the way to busy.
func (s *shareLocks) probeOne(n *inode, t *lockTable, w *lockWaiter, busy *[]lockRange, calls *int) (ended bool) {
	if w.blocker = t.inWay(w.o, w.lk); w.blocker == nil && !t.flock {
		lk := *w.lk
		*calls--
		if errno := sysFcntlLock(w.o.fd, unix.F_OFD_GETLK, &lk); errno == 0 && lk.Type != unix.F_UNLCK {
			*busy = append(*busy, rangeOf(&lk))
			return false
		}
	}
	*calls--
	ended, frees := s.tryAgain(n, t, w)
	if frees {
		s.passOn(n, t, w.o)
	}
	if !ended && w.blocker == nil && t.flock {
		*busy = append(*busy, lockRange{start: 0, end: rangeOf(w.lk).end, exclusive: w.lk.Type == unix.F_RDLCK})
	}
	return ended
}
