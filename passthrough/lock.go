package passthrough

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// POSIX locks of the guest become open-file-description locks: an owner (a process
// of the guest) has one description a file, which only holds its locks, so that two
// owners exclude each other although one process of the host acts for both. flock
// locks go on the handle's own description, of which there is one an open.
//
// The locks are the host's: other guests, other daemons and processes of the host see
// them, and they end with this process. A circle of waiting owners is not found
// (EDEADLK): the host's kernel does not look for one among open file descriptions.
//
// Nobody waits in a system call. A client could otherwise hold as many threads as it
// likes, and nothing could end their wait.

// lockOwner is the description that holds an owner's locks on a file. It is made with
// the first lock and closed, which ends all of them, with the FLUSH that each close in
// the guest brings, or with the file's last handle.
type lockOwner struct {
	owner    uint64 // the guest's number of a process
	fd       int
	writable bool // open for writing, which an exclusive lock needs
	held     lockRanges
}

// fileLocks is what is known about locks on a file. It is made with the first lock and
// kept with the first handle of the file's node, which there is while it matters.
type fileLocks struct {
	owners  []lockOwner
	unlocks chan struct{} // closed when a lock on the file is dropped
}

// locks are the node's, which has an open handle. n.mu is held.
func (n *inode) locks() *fileLocks {
	if n.handles.locks == nil {
		n.handles.locks = &fileLocks{}
	}
	return n.handles.locks
}

// Getlk implements server.Locks. It names no process that holds the lock: its number
// would be another guest's or the host's.
func (fs *FS) Getlk(r *server.Request, in *fp.LkIn, out *fp.LkOut) unix.Errno {
	if in.Lk.Type == unix.F_UNLCK || in.LkFlags&fp.LkFlock != 0 {
		return unix.EINVAL
	}
	h, lk, errno := fs.lockArgs(r, in)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	n := h.node
	n.mu.Lock()
	defer n.mu.Unlock()
	fd := h.fd // no lock is held by the handle's description: any is another owner's
	if o := n.lockOwner(in.Owner); o != nil {
		fd = o.fd
	}
	if errno := sysFcntlLock(fd, unix.F_OFD_GETLK, lk); errno != 0 {
		return errno
	}
	out.Lk = fp.FileLock{Type: uint32(uint16(lk.Type))}
	if lk.Type != unix.F_UNLCK {
		// Length 0 of the host is up to the largest offset in the protocol.
		out.Lk.Start, out.Lk.End = uint64(lk.Start), math.MaxInt64
		if lk.Len > 0 {
			out.Lk.End = uint64(lk.Start + lk.Len - 1)
		}
	}
	return 0
}

// Setlk implements server.Locks.
func (fs *FS) Setlk(r *server.Request, in *fp.LkIn, wait bool) unix.Errno {
	h, lk, errno := fs.lockArgs(r, in)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	ts := threadOf(r)
	// Each try is made anew: the owner may have lost its description meanwhile.
	try := func() unix.Errno { return fs.posixLock(ts, h, in.Owner, lk) }
	ours := func() bool { return h.node.locksExclude(in.Owner, lk) }
	if in.LkFlags&fp.LkFlock != 0 {
		try = func() unix.Errno { return h.flock(in.Lk.Type) }
		ours = func() bool { return h.flocksExclude(in.Lk.Type) }
	}
	errno = try()
	switch {
	case errno == 0:
		if lk.Type != unix.F_WRLCK {
			h.node.unlocked() // a lock less, or one that others can share now
		}
		return 0
	case errno != unix.EAGAIN || !wait:
		return errno
	case !r.MayWait:
		return server.WouldBlock
	}
	return fs.waitForLock(h.node, r.Canceled, try, ours)
}

// lockArgs checks a request about a lock and finds its handle, which the caller
// releases. The guest's kernel checks that the file is open for writing when it shall
// be locked for it; that is checked again where the lock is taken.
func (fs *FS) lockArgs(r *server.Request, in *fp.LkIn) (*handle, *unix.Flock_t, unix.Errno) {
	lk := &unix.Flock_t{Type: int16(in.Lk.Type), Whence: unix.SEEK_SET}
	switch in.Lk.Type {
	case unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK:
	default:
		return nil, nil, unix.EINVAL
	}
	if in.LkFlags&fp.LkFlock == 0 {
		if !fs.cfg.PosixLocks {
			return nil, nil, unix.ENOSYS
		}
		if in.Lk.Start > math.MaxInt64 || in.Lk.End < in.Lk.Start {
			return nil, nil, unix.EINVAL
		}
		lk.Start = int64(in.Lk.Start)
		if in.Lk.End < math.MaxInt64 { // else to the end of the file: length 0
			lk.Len = int64(in.Lk.End-in.Lk.Start) + 1
		}
	} else if !fs.cfg.Flocks {
		return nil, nil, unix.ENOSYS
	}
	h, errno := fs.fileHandle(r, in.Fh)
	return h, lk, errno
}

// lockOwner finds an owner's description, of a node with an open handle. n.mu is held.
func (n *inode) lockOwner(owner uint64) *lockOwner {
	if n.handles.locks == nil {
		return nil
	}
	list := n.handles.locks.owners
	for i := range list {
		if list[i].owner == owner {
			return &list[i]
		}
	}
	return nil
}

// posixLock takes or drops a lock, and does not wait.
func (fs *FS) posixLock(ts *threadState, h *handle, owner uint64, lk *unix.Flock_t) unix.Errno {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	return fs.posixLockLocked(ts, h, owner, lk)
}

// posixLockLocked is posixLock with the node's mu held.
func (fs *FS) posixLockLocked(ts *threadState, h *handle, owner uint64, lk *unix.Flock_t) unix.Errno {
	n := h.node
	o := n.lockOwner(owner)
	if o == nil {
		if lk.Type == unix.F_UNLCK {
			return 0
		}
		fd, writable, errno := fs.openForLocks(ts, h)
		if errno != 0 {
			return errno
		}
		l := n.locks()
		l.owners = append(l.owners, lockOwner{owner: owner, fd: fd, writable: writable})
		o = &l.owners[len(l.owners)-1]
	}
	if lk.Type == unix.F_WRLCK && !o.writable {
		return unix.EBADF
	}
	errno := sysFcntlLock(o.fd, unix.F_OFD_SETLK, lk)
	switch errno {
	case 0:
		o.held = o.held.set(lk)
	case unix.EACCES:
		errno = unix.EAGAIN
	}
	return errno
}

// openForLocks opens the file again for an owner, for reading and writing if that is
// possible. n.mu is held, so that the handle's descriptor is good.
func (fs *FS) openForLocks(ts *threadState, h *handle) (fd int, writable bool, errno unix.Errno) {
	if fs.keepFD() != 0 {
		return -1, false, unix.ENOLCK
	}
	modes := [...]int{unix.O_RDWR, int(h.flags) & unix.O_ACCMODE, unix.O_RDONLY}
	for i, mode := range modes {
		if fs.cfg.ReadOnly && mode != unix.O_RDONLY {
			continue
		}
		fd, errno = fs.open(fs.cfg.ProcFD, procName(&ts.num, h.fd), mode|unix.O_NONBLOCK, 0)
		if errno == 0 {
			return fd, mode != unix.O_RDONLY, 0
		}
		if errno == unix.ENFILE || i == len(modes)-1 {
			break
		}
	}
	fs.io.opens.Add(-1)
	if errno == unix.ENFILE {
		errno = unix.ENOLCK
	}
	return -1, false, errno
}

// Kinds of flock locks.
const (
	flockNone = iota
	flockShared
	flockExclusive
)

// flock takes or drops a flock lock, and does not wait.
func (h *handle) flock(typ uint32) unix.Errno {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	switch typ {
	case unix.F_RDLCK:
		return h.flockLocked(flockShared)
	case unix.F_WRLCK:
		return h.flockLocked(flockExclusive)
	}
	return h.flockLocked(flockNone)
}

// flockLocked is flock with the node's mu held.
func (h *handle) flockLocked(kind uint8) unix.Errno {
	errno := sysFlock(h.fd, [...]int{unix.LOCK_UN, unix.LOCK_SH, unix.LOCK_EX}[kind]|unix.LOCK_NB)
	switch {
	case errno == 0:
		h.flocked = kind
	case errno == unix.EAGAIN && h.flocked != kind:
		h.flocked = flockNone // the host drops the lock that was to be changed, see flock(2)
		h.node.unlockedLocked()
	}
	return errno
}

// dropOwner ends all locks of an owner on the file.
func (fs *FS) dropOwner(n *inode, owner uint64) {
	n.mu.Lock()
	var gone []lockOwner
	if n.handles != nil && n.handles.locks != nil {
		l := n.handles.locks
		if i := slices.IndexFunc(l.owners, func(o lockOwner) bool { return o.owner == owner }); i >= 0 {
			gone = append(gone, l.owners[i])
			l.owners = slices.Delete(l.owners, i, i+1)
		}
	}
	n.mu.Unlock()
	fs.dropOwners(n, gone)
}

// dropOwners closes descriptions that hold locks, and so ends the locks.
func (fs *FS) dropOwners(n *inode, owners []lockOwner) {
	for i := range owners {
		fs.closeFD(owners[i].fd)
		fs.io.opens.Add(-1)
	}
	if len(owners) > 0 {
		n.unlocked()
	}
}
