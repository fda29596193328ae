package passthrough

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A lock that is in the way is one of this share's, whose end wakes those who wait, or
// one of somebody else on the host. There is no call that waits for such a lock and can be
// ended: it is tried again, sooner at first.
const (
	lockPollMin = time.Millisecond
	lockPollMax = 50 * time.Millisecond
)

// waitForLock tries until it gets the lock, fails otherwise or is canceled. ours reports
// whether a lock of this share is in the way.
func (fs *FS) waitForLock(n *inode, canceled <-chan struct{}, try func() unix.Errno, ours func() bool) unix.Errno {
	pause := lockPollMin
	for {
		// First the channel, then the try: an unlock in between is not missed.
		unlocked := n.nextUnlock()
		if errno := try(); errno != unix.EAGAIN {
			return errno
		}
		var tick <-chan struct{}
		if !ours() {
			tick = fs.lockTicks.after(pause)
		}
		select {
		case <-canceled:
			return unix.EINTR
		case <-unlocked:
			pause = lockPollMin
		case <-tick:
			pause = min(2*pause, lockPollMax)
		}
	}
}

// locksExclude reports whether another owner of this share holds a lock that excludes lk.
func (n *inode) locksExclude(owner uint64, lk *unix.Flock_t) bool {
	want := rangeOf(lk)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handles == nil || n.handles.locks == nil {
		return false
	}
	for _, o := range n.handles.locks.owners {
		if o.owner == owner {
			continue
		}
		for _, r := range o.held {
			if r.start <= want.end && want.start <= r.end && (r.exclusive || want.exclusive) {
				return true
			}
		}
	}
	return false
}

// flocksExclude reports whether another handle of this share holds a flock lock that
// excludes one of this type.
func (h *handle) flocksExclude(typ uint32) bool {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	for o := h.node.handles; o != nil; o = o.next {
		if o != h && (o.flocked == flockExclusive || o.flocked == flockShared && typ == unix.F_WRLCK) {
			return true
		}
	}
	return false
}

// unlocked wakes those of this share that wait for a lock on the file.
func (n *inode) unlocked() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unlockedLocked()
}

// unlockedLocked is unlocked with n.mu held.
func (n *inode) unlockedLocked() {
	if n.handles == nil || n.handles.locks == nil {
		return
	}
	if l := n.handles.locks; l.unlocks != nil {
		close(l.unlocks)
		l.unlocks = nil
	}
}

// nextUnlock is closed when a lock on the file is dropped through this share. The caller
// has a handle.
func (n *inode) nextUnlock() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.locks()
	if l.unlocks == nil {
		l.unlocks = make(chan struct{})
	}
	return l.unlocks
}

// ticks wakes any number of waiters with one timer: those who wait for as long are woken
// at the same time. The zero ticks is ready.
type ticks struct {
	mu    sync.Mutex // guards the following; a leaf
	timer *time.Timer
	begin time.Time
	next  []tick // in no order; as many as there are different pauses, or two times that
}

type tick struct {
	at time.Duration // after begin
	c  chan struct{}
}

// after returns a channel that is closed after a pause, or sooner: at the next multiple
// of it.
func (t *ticks) after(pause time.Duration) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		t.begin = time.Now()
		t.timer = time.AfterFunc(time.Hour, t.wake)
		t.timer.Stop()
	}
	at := (time.Since(t.begin)/pause + 1) * pause
	for _, n := range t.next {
		if n.at == at {
			return n.c
		}
	}
	n := tick{at, make(chan struct{})}
	t.next = append(t.next, n)
	t.set()
	return n.c
}

// wake wakes those whose time has come.
func (t *ticks) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, later := time.Since(t.begin), t.next[:0]
	for _, n := range t.next {
		if n.at <= now {
			close(n.c)
		} else {
			later = append(later, n)
		}
	}
	clear(t.next[len(later):])
	t.next = later
	t.set()
}

// set sets the timer for the first of the next, if there is one.
func (t *ticks) set() {
	if len(t.next) == 0 {
		return
	}
	first := t.next[0].at
	for _, n := range t.next {
		first = min(first, n.at)
	}
	t.timer.Reset(max(0, first-time.Since(t.begin)))
}
