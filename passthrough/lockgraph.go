package passthrough

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// lockGraph knows which owners of POSIX locks wait for which, on all files of a share, so
// that a circle of them is found (EDEADLK) as in Linux (fs/locks.c: posix_locks_deadlock).
// Like there, an owner that waits is taken to stand still, and what is found depends on the
// one owner that each of them was told to wait for. Locks of flock have no such thing.
//
// Linux does not look for circles of open files (F_OFD_SETLKW), whose locks another thread may
// drop. Requests do not tell them from processes. But two owners with one process id are
// two open files: a circle with these is none.
type lockGraph struct {
	mu    sync.Mutex // guards the following and lockWaiter.waitsFor; a leaf
	waits map[uint64][]*lockWaiter
}

// A circle is looked for among so many requests at most, and it has no more owners.
const (
	maxDeadlockLooks = 64
	maxDeadlockDepth = 16
)

// wouldDeadlock reports EDEADLK if w may not wait for its blocker.
func (g *lockGraph) wouldDeadlock(t *lockTable, w *lockWaiter) unix.Errno {
	if t.flock || w.blocker == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.look(w)
}

// enter adds a request that is about to wait for its blocker, unless that is a deadlock.
func (g *lockGraph) enter(t *lockTable, w *lockWaiter) unix.Errno {
	if t.flock {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if errno := g.look(w); errno != 0 {
		return errno
	}
	w.waitsFor = w.blocker
	if g.waits == nil {
		g.waits = make(map[uint64][]*lockWaiter)
	}
	g.waits[w.owner] = append(g.waits[w.owner], w)
	return 0
}

// block notes that a request waits for another owner than before, unless that is a deadlock.
func (g *lockGraph) block(t *lockTable, w *lockWaiter) unix.Errno {
	if t.flock {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	w.waitsFor = w.blocker
	return g.look(w)
}

// leave takes a request out that waits no longer.
func (g *lockGraph) leave(t *lockTable, w *lockWaiter) {
	if t.flock {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	list := g.waits[w.owner]
	if i := slices.Index(list, w); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(g.waits, w.owner)
	} else {
		g.waits[w.owner] = list
	}
}

// look looks for a circle from w's blocker to w's owner. mu is held.
func (g *lockGraph) look(w *lockWaiter) unix.Errno {
	if w.blocker == nil {
		return 0
	}
	looks := 0
	var found func(owner uint64, pids []uint32) bool
	found = func(owner uint64, pids []uint32) bool {
		if owner == w.owner {
			return true
		}
		for _, next := range g.waits[owner] {
			if looks++; looks > maxDeadlockLooks || len(pids) > maxDeadlockDepth {
				return false
			}
			if next.waitsFor == nil || next.pid != 0 && slices.Contains(pids, next.pid) {
				continue
			}
			if found(next.waitsFor.number, append(pids, next.pid)) {
				return true
			}
		}
		return false
	}
	if found(w.blocker.number, []uint32{w.pid}) {
		return unix.EDEADLK
	}
	return 0
}
