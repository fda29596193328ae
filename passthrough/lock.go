package passthrough

import (
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// POSIX locks of the guest become open-file-description locks: an owner (a process or an
// open file of the guest) has one description a file, which only holds its locks, so that
// two owners exclude each other although one process of the host acts for both. flock
// locks are taken on the open file's own description, of which each OPEN makes one.
//
// The locks are the host's: other guests, other daemons and processes of the host see
// them, and they end with this process. doc/locks.md is the user's view.
//
// No thread waits in a system call. Otherwise a client could hold as many threads as
// it likes, and nothing could end their wait; see lockwait.go.

// lockAsk is a request about a lock.
type lockAsk struct {
	owner uint64        // of POSIX locks; of flock locks it is the open file's number
	pid   uint32        // the process in the guest
	lk    *unix.Flock_t // of flock locks it covers the whole file
}

// table is the table of the locks that a request is about. n.mu is held.
func (l *fileLocks) table(in *fp.LkIn) *lockTable {
	if in.LkFlags&fp.LkFlock != 0 {
		return &l.flock
	}
	return &l.posix
}

// locks are the node's, which is open. n.mu is held.
func (n *inode) locks() *fileLocks {
	if n.openFiles.locks == nil {
		n.openFiles.locks = &fileLocks{flock: lockTable{flock: true}}
	}
	return n.openFiles.locks
}

// Getlk implements server.Locks. The process that holds the lock is named if it is one of
// this guest; the number of another one would mean nothing to it.
func (fs *FS) Getlk(r *server.Request, in *fp.LkIn, out *fp.LkOut) unix.Errno {
	if in.Lk.Type == unix.F_UNLCK || in.LkFlags&fp.LkFlock != 0 {
		return unix.EINVAL
	}
	f, ask, errno := fs.lockArgs(r, in)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	n, lk := f.node, ask.lk
	n.Lock()
	defer n.Unlock()
	fd := f.fd // no lock is held by the open file's description: any is another owner's
	posix := &lockTable{}
	if l := n.fileLocks(); l != nil {
		posix = &l.posix
	}
	if o := posix.owners[ask.owner]; o != nil {
		fd = o.fd
	}
	if errno := sysFcntlLock(fd, unix.F_OFD_GETLK, lk); errno != 0 {
		return errno
	}
	out.Lk = fp.FileLock{Type: uint32(uint16(lk.Type))}
	if lk.Type == unix.F_UNLCK {
		return 0
	}
	held := rangeOf(lk)
	out.Lk.Start, out.Lk.End = uint64(held.start), uint64(held.end)
	out.Lk.PID = posix.pidOf(held, ask.owner)
	return 0
}

// Setlk implements server.Locks.
func (fs *FS) Setlk(r *server.Request, in *fp.LkIn, wait bool) unix.Errno {
	f, ask, errno := fs.lockArgs(r, in)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	n := f.node
	if errno = fs.locks.beforeLock(f, in); errno != 0 {
		return errno
	}
	n.Lock()
	t := n.locks().table(in)
	errno, blocker := fs.locks.setLock(threadOf(r), f, t, &ask)
	if errno != unix.EAGAIN || !wait {
		n.Unlock()
		return errno
	}
	w := &lockWaiter{lockAsk: ask, f: f, o: t.owners[ask.owner], blocker: blocker}
	if !r.MayWait {
		errno := fs.locks.graph.wouldDeadlock(t, w)
		n.Unlock()
		if errno == 0 {
			errno = server.WouldBlock
		}
		return errno
	}
	errno = fs.locks.park(n, t, w)
	n.Unlock()
	if errno != 0 {
		return errno
	}
	return fs.locks.await(n, t, w, r.Canceled)
}

// lockArgs checks a request about a lock and finds its open file, which the caller
// releases. The guest's kernel checks that the file is open for writing when it shall
// be locked for it; that is checked again where the lock is taken.
func (fs *FS) lockArgs(r *server.Request, in *fp.LkIn) (f *openFile, ask lockAsk, errno unix.Errno) {
	lk := &unix.Flock_t{Type: int16(in.Lk.Type), Whence: unix.SEEK_SET}
	ask = lockAsk{owner: in.Owner, pid: in.Lk.PID, lk: lk}
	switch in.Lk.Type {
	case unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK:
	default:
		return nil, ask, unix.EINVAL
	}
	if in.LkFlags&fp.LkFlock == 0 {
		if !fs.cfg.PosixLocks {
			return nil, ask, unix.ENOSYS
		}
		if in.Lk.Start > math.MaxInt64 || in.Lk.End < in.Lk.Start {
			return nil, ask, unix.EINVAL
		}
		lk.Start = int64(in.Lk.Start)
		if in.Lk.End < math.MaxInt64 { // else to the end of the file: length 0
			lk.Len = int64(in.Lk.End-in.Lk.Start) + 1
		}
	} else if !fs.cfg.Flocks {
		return nil, ask, unix.ENOSYS
	}
	f, errno = fs.enterFile(r, in.Fh, intentLock)
	if errno == 0 && in.LkFlags&fp.LkFlock != 0 {
		ask.owner = f.ID()
	}
	return f, ask, errno
}

// setLock takes or drops a lock, and does not wait. With EAGAIN blocker is the owner in the
// way, or nil if it is a process on the host. The node's mu is held.
func (s *shareLocks) setLock(ts *threadState, f *openFile, t *lockTable, ask *lockAsk) (errno unix.Errno, blocker *lockOwner) {
	o := t.owners[ask.owner]
	if o == nil {
		if ask.lk.Type == unix.F_UNLCK {
			return 0, nil
		}
		if o, errno = s.newLockOwner(ts, f, t, ask.owner); errno != 0 {
			return errno, nil
		}
	}
	s.cameBy(o, f)
	// An open file locks exclusively with flock whatever it was opened for, but a guest that
	// may only read has no business to keep the host's writers out.
	if ask.lk.Type == unix.F_WRLCK && (!o.writable || s.cfg.ReadOnly) {
		return unix.EBADF, nil
	}
	if blocker = t.inWay(o, ask.lk); blocker != nil && !t.flock {
		return unix.EAGAIN, blocker // flock asks all the same, as that drops the lock that is to be changed
	}
	if errno = s.change(f.node, t, o, ask); errno == unix.EAGAIN {
		return errno, t.inWay(o, ask.lk)
	}
	return errno, nil
}

// change makes the kernel take or drop a lock for an owner, and tells the waiting requests.
// n.mu is held.
func (s *shareLocks) change(n *inode, t *lockTable, o *lockOwner, ask *lockAsk) unix.Errno {
	errno, frees := s.take(t, o, ask)
	if frees {
		s.passOn(n, t, o)
	}
	return errno
}

// take has the kernel take or drop a lock for an owner. n.mu is held.
func (s *shareLocks) take(t *lockTable, o *lockOwner, ask *lockAsk) (errno unix.Errno, frees bool) {
	c := o.held.change(ask.lk)
	if ask.lk.Type == unix.F_UNLCK && !c.frees && !o.resumed {
		return 0, false // there is nothing to unlock
	}
	if !s.room(t, c.growth()) || !s.makeRecords(o, &c) && ask.lk.Type != unix.F_UNLCK {
		return unix.ENOLCK, false
	}
	switch errno = t.set(o, ask.lk); errno {
	case 0:
		if ask.lk.Type != unix.F_UNLCK {
			o.pid = ask.pid
			s.noteOwnerChange(o)
		}
		s.noteChange(o, &c)
		s.hold(t, o, o.held.apply(&c))
		return 0, c.frees
	case unix.EACCES:
		errno = unix.EAGAIN
	}
	s.unnote(c.with[:c.n])
	if errno == unix.EAGAIN && t.flock && len(o.held) > 0 {
		s.hold(t, o, nil) // the host drops the lock that was to be changed, see flock(2)
		return errno, true
	}
	return errno, false
}
