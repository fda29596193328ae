package passthrough

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
)

// Locks move with the guest. Two daemons on one file system exclude each other. So the old
// one drops its locks when the state is written (Leave), and the new one takes them while
// it loads: it reads the end of the state after that. If the guest continues at the old
// one, that one takes them again (Return). In between the guest does not run, and another
// process may take a lock first: no file system hands locks over. Then the guest would
// believe in a lock that it does not have. This must be reported, and prevented if the
// migration can be stopped.

// locks writes the locks of an open file: its own, and with the node's first open file
// those of owners, which are the node's.
func (s *saver) locks(f *openFile) {
	f.node.Lock()
	defer f.node.Unlock()
	l := f.node.fileLocks()
	if l == nil {
		return
	}
	if o := l.flock.owners[f.ID()]; o != nil && len(o.held) > 0 {
		s.w.Uint(stateFlock, f.ID(), kindOf(o.held))
		s.locked++
	}
	if f != f.node.openFiles {
		return
	}
	for _, number := range slices.Sorted(maps.Keys(l.posix.owners)) {
		o := l.posix.owners[number]
		if len(o.held) == 0 {
			continue
		}
		fh := uint64(0)
		if o.f != nil {
			fh = o.f.ID()
		}
		s.w.Uint(stateOwner, number, fh, uint64(o.pid))
		for _, r := range o.held {
			exclusive := uint64(0)
			if r.exclusive {
				exclusive = 1
			}
			s.w.Uint(stateLock, s.index[f.node], number, exclusive, uint64(r.start), uint64(r.end))
			s.locked++
		}
	}
}

// Kinds of flock locks in a state.
const (
	flockShared    = 1
	flockExclusive = 2
)

// kindOf is the kind of a flock lock.
func kindOf(held lockRanges) uint64 {
	if held[0].exclusive {
		return flockExclusive
	}
	return flockShared
}

// savedOwner is what is known about an owner beside its locks.
type savedOwner struct {
	number, fh uint64
	pid        uint32
}

// owner reads an owner, whose locks follow.
func (l *loader) owner() error {
	l.locker = savedOwner{number: l.r.Uint(), fh: l.r.Uint(), pid: uint32(l.r.Max(math.MaxUint32))}
	return l.r.Err()
}

// lostLock is a lock that can't be taken again.
type lostLock struct {
	node  *inode
	fh    uint64 // of a flock lock; 0: the owner's
	errno unix.Errno
}

// countLock counts a record of a lock that has been read.
func (l *loader) countLock() error {
	if l.lockRecords++; l.lockRecords > l.limits.locks {
		return fmt.Errorf("more than %d locks", l.limits.locks)
	}
	return l.r.Err()
}

// lock reads a lock of an owner and takes it.
func (l *loader) lock() error {
	n, owner, exclusive := l.listed[l.r.Max(uint64(len(l.listed)-1))], l.r.Uint(), l.r.Max(1) == 1
	start, end := l.r.Max(math.MaxInt64), l.r.Max(math.MaxInt64)
	switch err := l.countLock(); {
	case err != nil:
		return err
	case end < start || !l.cfg.PosixLocks:
		return errors.New("an impossible lock")
	case n == nil:
		return nil // its file is not here, and nobody can use it
	}
	r := lockRange{start: int64(start), end: int64(end), exclusive: exclusive}
	if l.locker.number != owner {
		l.locker = savedOwner{number: owner}
	}
	n.Lock()
	errno := l.lockFor(n, &lockAsk{owner: owner, pid: l.locker.pid, lk: r.flock()})
	n.Unlock()
	if errno != 0 {
		l.lost = append(l.lost, lostLock{node: n, errno: errno})
	}
	return nil
}

// maxOpenFilesToLock bounds how many open files of a node are checked for each of its locks.
const maxOpenFilesToLock = 1000

// lockFor takes a lock of the owner that was read. n.mu is held.
func (l *loader) lockFor(n *inode, ask *lockAsk) unix.Errno {
	f := l.openFiles.Acquire(l.locker.fh)
	if f != nil {
		defer l.openFiles.release(f)
	}
	if f == nil || f.node != n {
		f = n.openFiles
		// Another one only has to be open for what is to be locked, if there is such a one.
		for o, i := f, 0; o != nil && i < maxOpenFilesToLock && ask.lk.Type == unix.F_WRLCK; o, i = o.next, i+1 {
			if o.flags&unix.O_ACCMODE != unix.O_RDONLY {
				f = o
			}
		}
	}
	if f == nil || f.dir != nil {
		return unix.EBADF
	}
	t := &n.locks().posix
	errno, _ := l.locks.setLock(l.ts, f, t, ask)
	if o := t.owners[ask.owner]; o != nil && f.ID() != l.locker.fh {
		l.locks.cameBy(o, nil)
	}
	return errno
}

// flock reads an open file's lock and takes it.
func (l *loader) flock() error {
	number, kind := l.r.Uint(), l.r.Max(flockExclusive)
	f := l.openFiles.Acquire(number)
	if f != nil {
		defer l.openFiles.release(f)
	}
	switch err := l.countLock(); {
	case err != nil:
		return err
	case kind == 0 || !l.cfg.Flocks || f != nil && f.dir != nil:
		return errors.New("an impossible lock")
	case f == nil:
		return nil // its file is not here
	}
	r := lockRange{start: 0, end: math.MaxInt64, exclusive: kind == flockExclusive}
	f.node.Lock()
	errno, _ := l.locks.setLock(l.ts, f, &f.node.locks().flock, &lockAsk{owner: number, lk: r.flock()})
	f.node.Unlock()
	if errno != 0 {
		l.lost = append(l.lost, lostLock{f.node, number, errno})
	}
	return nil
}

// settleLost decides on locks that could not be taken. A guest that is let in without them
// loses the files: it must not write where it believes to be alone.
func (l *loader) settleLost() error {
	if len(l.lost) == 0 {
		return nil
	}
	l.lostNames = l.find.lostNames(l.ts, l.lost)
	if !l.cfg.Migration.GuestErrors {
		return fmt.Errorf("locks of the guest can't be taken here: %s; "+
			"with --migration-on-error=guest-error the guest gets an error when it uses these open files", l.lostNames)
	}
	for _, lost := range l.lost {
		l.openFiles.closeLost(lost)
	}
	return nil
}

// closeLost closes the open files that a lost lock was to protect. No request runs.
func (t *openTable) closeLost(lost lostLock) {
	if lost.fh != 0 {
		if f := t.Acquire(lost.fh); f != nil {
			t.close(f)
			t.release(f)
		}
		return
	}
	for f := lost.node.openFiles; f != nil; {
		next := f.next
		if f.Acquire() {
			t.close(f)
			t.release(f)
		}
		f = next
	}
}

// lostNames are the files of locks for a message.
func (l *locator) lostNames(ts *threadState, list []lostLock) string {
	var names missing
	for _, lost := range list {
		if names.count >= maxNames {
			names.add("")
			continue
		}
		kind, why := "fcntl", lost.errno.Error()
		if lost.fh != 0 {
			kind = "flock"
		}
		switch lost.errno {
		case unix.EAGAIN:
			why = "somebody else holds it"
		case unix.EBADF:
			why = "the file is not open for it"
		}
		names.add(fmt.Sprintf("%s on %s (%s)", kind, l.describe(ts, lost.node), why))
	}
	return names.String()
}

// describe names a file for the log: by its path, which may be anything, as the kernel has it.
func (l *locator) describe(ts *threadState, n *inode) string {
	if fd, errno := l.fdOf(ts, n); errno == 0 {
		if path := l.pathOf(ts, fd); path != "" {
			return fmt.Sprintf("%q", path)
		}
	}
	return fmt.Sprintf("node %d", n.ID())
}

// eachOwner calls visit with all owners that hold something, their tables and nodes, with the
// node's mu held. No request runs.
func (s *shareLocks) eachOwner(visit func(n *inode, t *lockTable, o *lockOwner)) {
	if !s.agreed(hostLocks) {
		return
	}
	for f := range s.openFiles.All {
		n := f.node
		n.Lock()
		if l := n.fileLocks(); l != nil && f == n.openFiles {
			for _, t := range []*lockTable{&l.posix, &l.flock} {
				for _, o := range slices.Clone(t.holders) {
					visit(n, t, o)
				}
			}
		}
		n.Unlock()
	}
}

// Leave implements server.State.
func (fs *FS) Leave(*server.Thread) {
	fs.locks.eachOwner(func(_ *inode, t *lockTable, o *lockOwner) {
		_ = t.set(o, &unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET})
	})
}

// returnGrace is how long Return waits for locks: the daemon that the guest did not come to
// may be about to end.
const returnGrace = time.Second

// Return implements server.State.
func (fs *FS) Return(t *server.Thread) (warning string) {
	var lost []lostLock
	end := time.Now().Add(returnGrace)
	fs.locks.eachOwner(func(n *inode, t *lockTable, o *lockOwner) {
		if errno := fs.locks.takeAgain(t, o, end); errno != 0 {
			l := lostLock{node: n, errno: errno}
			if t.flock {
				l.fh = o.number
			}
			lost = append(lost, l)
		}
	})
	if len(lost) == 0 {
		return ""
	}
	// The guest may be in the middle of anything: it keeps the files.
	return "the guest continues here, but locks that it holds are lost: " + fs.find.lostNames(t.Local.(*threadState), lost)
}

// takeAgain takes an owner's locks again. What can't be taken is forgotten.
func (s *shareLocks) takeAgain(t *lockTable, o *lockOwner, end time.Time) (failed unix.Errno) {
	var got lockRanges
	for _, r := range o.held {
		lk := r.flock()
		if errno := insist(end, func() unix.Errno { return t.set(o, lk) }); errno != 0 {
			failed = errno
			s.unnote([]lockRange{r})
			continue
		}
		got = append(got, r)
	}
	s.hold(t, o, got)
	return failed
}

// insist tries to get a lock until its holder has dropped it, or until end.
func insist(end time.Time, try func() unix.Errno) unix.Errno {
	for {
		errno := try()
		if errno != unix.EAGAIN && errno != unix.EACCES || time.Now().After(end) {
			return errno
		}
		time.Sleep(lockProbeMin)
	}
}
