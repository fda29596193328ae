package passthrough

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockProbeList has a guest open a file that the host has locked, wait for the lock and
// close the file, many times between two looks at the lock: the file is in the list once.
func TestLockProbeList(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	host := s.hostLocked("f", 0, 0)
	defer func() { _ = host.Close() }()
	canceled := make(chan struct{})
	wait := func(fh uint64) <-chan unix.Errno {
		done := s.waitLock(node, lkIn(fh, 1, unix.F_WRLCK, 0, math.MaxInt64), canceled)
		s.parked(1)
		return done
	}
	done := wait(fh)
	for range 500 {
		g.release(node, fh)
		got(t, "wait for a lock on a closed file", done, unix.EBADF)
		fh = g.open(node, unix.O_RDWR)
		done = wait(fh)
	}
	p := &s.fs.locks.probe
	p.mu.Lock()
	files := len(p.files)
	p.mu.Unlock()
	if files > 1 {
		t.Errorf("the list of files with waiters has %d entries for one file", files)
	}
	close(canceled)
	got(t, "wait that is given up", done, unix.EINTR)
}
