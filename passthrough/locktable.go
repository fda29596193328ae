package passthrough

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Limits of what a guest may hold. The host's kernel walks all locks of a file, one after
// the other, at each request: 4096 cost it some tens of microseconds.
const (
	maxFileLocks  = 4096    // ranges of a file, and owners of locks on it
	maxShareLocks = 1 << 16 // ranges of a share
)

// fileLocks is what is known about locks on a file. It is made with the first lock and
// kept with the first open file of the file's node, which there is while it matters. The two
// kinds do not exclude each other.
type fileLocks struct {
	posix, flock lockTable
}

// lockTable has the locks of one kind on a file, and the requests that wait for them.
// The node's mu guards it.
type lockTable struct {
	flock   bool
	owners  map[uint64]*lockOwner // by the client's number; nil while there are none
	holders []*lockOwner          // those that hold something
	waiters []*lockWaiter         // the longest first
	ranges  int                   // held by all
	next    int                   // waiter with which lockProbe continues
}

// lockOwner holds an owner's locks on a file. Of POSIX locks it is made with the first lock
// and has a description of its own, which is closed with the FLUSH that each close in the
// guest brings, or with the file that the locks came by.
type lockOwner struct {
	number   uint64    // the guest's, of a process or an open file; of flock the open file's
	pid      uint32    // the guest's process that took the latest lock
	f        *openFile // the open file that all its locks came by; nil: there were several
	fd       int
	writable bool // open for writing, which an exclusive POSIX lock needs
	held     lockRanges
	place    int // in holders, while it holds something
	waiting  int // requests of its that wait

	record uint32 // in the ledger; 0 is none
	// A predecessor may have changed the owner's locks in the kernel, and died before it noted that.
	resumed bool
}

// inWay is an owner that excludes o from a lock; nil when no owner of this share does.
func (t *lockTable) inWay(o *lockOwner, lk *unix.Flock_t) *lockOwner {
	if lk.Type == unix.F_UNLCK {
		return nil
	}
	// The latest comes first: it is what those wait for who were passed over.
	want := rangeOf(lk)
	for _, other := range slices.Backward(t.holders) {
		if other != o && other.held.exclude(want) {
			return other
		}
	}
	return nil
}

// pidOf is the process that holds a range; 0 when no owner of this share but o does.
func (t *lockTable) pidOf(r lockRange, o uint64) uint32 {
	for _, other := range t.holders {
		i := other.held.from(r.start)
		if other.number == o || i == len(other.held) {
			continue
		}
		if has := other.held[i]; has.start == r.start && has.end == r.end && has.exclusive == r.exclusive {
			return other.pid
		}
	}
	return 0
}

// set has the kernel take or drop a lock, without waiting.
func (t *lockTable) set(o *lockOwner, lk *unix.Flock_t) unix.Errno {
	if !t.flock {
		return sysFcntlLock(o.fd, unix.F_OFD_SETLK, lk)
	}
	switch lk.Type {
	case unix.F_RDLCK:
		return sysFlock(o.fd, unix.LOCK_SH|unix.LOCK_NB)
	case unix.F_WRLCK:
		return sysFlock(o.fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	return sysFlock(o.fd, unix.LOCK_UN)
}

// shareLocks is what concerns the locks of all files of a share.
type shareLocks struct {
	cfg *Config
	*features
	fds       *descriptors
	openFiles *openTable
	pins      *pinner
	recovery  *recovery

	graph   lockGraph    // who waits for whom, of POSIX locks
	probe   lockProbe    // of locks that somebody on the host holds
	ranges  atomic.Int64 // that are locked
	waiters atomic.Int32 // requests that wait
}

// room reports whether there may be so many ranges more in a table.
func (s *shareLocks) room(t *lockTable, more int) bool {
	return more <= 0 || t.ranges+more <= maxFileLocks && s.ranges.Load()+int64(more) <= maxShareLocks
}

// hold notes what an owner holds now.
func (s *shareLocks) hold(t *lockTable, o *lockOwner, held lockRanges) {
	had, has := len(o.held), len(held)
	o.held = held
	if t.flock {
		s.recovery.noteFlock(o)
	}
	t.ranges += has - had
	s.ranges.Add(int64(has - had))
	switch {
	case had == 0 && has > 0:
		o.place = len(t.holders)
		t.holders = append(t.holders, o)
	case had > 0 && has == 0:
		last := t.holders[len(t.holders)-1]
		t.holders[o.place], last.place = last, o.place
		t.holders[len(t.holders)-1] = nil
		t.holders = t.holders[:len(t.holders)-1]
	}
}

// newLockOwner makes an owner, which holds nothing yet.
func (s *shareLocks) newLockOwner(ts *threadState, f *openFile, t *lockTable, number uint64) (*lockOwner, unix.Errno) {
	o := &lockOwner{number: number, f: f, fd: f.fd, writable: true}
	if !t.flock {
		if len(t.owners) >= maxFileLocks && !s.dropIdle(f.node, t) {
			return nil, unix.ENOLCK
		}
		var errno unix.Errno
		if o.fd, o.writable, errno = s.openForLocks(ts, f); errno != 0 {
			return nil, errno
		}
		if errno = s.noteOwner(f.node, o); errno != 0 {
			s.closeOwners([]*lockOwner{o})
			return nil, errno
		}
		f.lockOwners++
	}
	if t.owners == nil {
		t.owners = make(map[uint64]*lockOwner)
	}
	t.owners[number] = o
	return o, 0
}

// dropIdle removes an owner that holds nothing and does not wait. A process is such an
// owner until it closes the file. The owner is made again when it is needed.
func (s *shareLocks) dropIdle(n *inode, t *lockTable) bool {
	for _, o := range t.owners {
		if len(o.held) == 0 && o.waiting == 0 {
			s.closeOwners([]*lockOwner{s.removeOwner(n, t, o)})
			return true
		}
	}
	return false
}

// cameBy notes by which open file a request of o's came. If it is another one than before, o is
// a process, whose locks end with FLUSH, and not an open file.
func (s *shareLocks) cameBy(o *lockOwner, f *openFile) {
	if o.f != nil && o.f != f {
		o.f.lockOwners--
		o.f = nil
		s.noteOwnerChange(o)
	}
}

// openForLocks opens the file again for an owner, for reading and writing if that is
// possible. n.mu is held, so that the open file's descriptor is good.
func (s *shareLocks) openForLocks(ts *threadState, f *openFile) (fd int, writable bool, errno unix.Errno) {
	if s.fds.keep() != 0 {
		return -1, false, unix.ENOLCK
	}
	modes := [...]int{unix.O_RDWR, int(f.flags) & unix.O_ACCMODE, unix.O_RDONLY}
	for i, mode := range modes {
		if s.cfg.ReadOnly && mode != unix.O_RDONLY {
			continue
		}
		fd, errno = s.fds.open(s.cfg.ProcFD, procName(&ts.num, f.fd), mode|unix.O_NONBLOCK, 0)
		if errno == 0 {
			return fd, mode != unix.O_RDONLY, 0
		}
		if errno == unix.ENFILE || i == len(modes)-1 {
			break
		}
	}
	s.fds.unkeep(1)
	if errno == unix.ENFILE {
		errno = unix.ENOLCK
	}
	return -1, false, errno
}

// dropOwner ends all POSIX locks of an owner on the file.
func (s *shareLocks) dropOwner(n *inode, number uint64) {
	if !s.agreed(hostLocks) {
		return
	}
	n.Lock()
	var gone []*lockOwner
	if l := n.fileLocks(); l != nil {
		if o := l.posix.owners[number]; o != nil {
			gone = s.unlockAll(n, &l.posix, o, gone)
		}
	}
	n.Unlock()
	s.closeOwners(gone)
}

// dropOpenFileLocks ends the locks of an open file that is closed, and of its owners. A
// request that waits for a lock on it gets EBADF. n.mu is held. The caller closes the removed
// owners after releasing it.
func (s *shareLocks) dropOpenFileLocks(n *inode, f *openFile) (gone []*lockOwner) {
	l := n.fileLocks()
	if l == nil {
		return nil
	}
	for _, t := range []*lockTable{&l.posix, &l.flock} {
		for i := 0; i < len(t.waiters); {
			if w := t.waiters[i]; w.f == f {
				s.finish(t, w, unix.EBADF)
			} else {
				i++
			}
		}
	}
	if o := l.flock.owners[f.ID()]; o != nil {
		gone = s.unlockAll(n, &l.flock, o, gone)
	}
	if f.lockOwners == 0 {
		return gone
	}
	for _, o := range l.posix.owners {
		if o.f == f {
			gone = s.unlockAll(n, &l.posix, o, gone)
		}
	}
	return gone
}

// unlockAll drops all locks of an owner, and the owner unless it waits for more. Requests
// that wait for it continue. n.mu is held; removed owners are appended to the list.
func (s *shareLocks) unlockAll(n *inode, t *lockTable, o *lockOwner, gone []*lockOwner) []*lockOwner {
	if len(o.held) > 0 || o.resumed {
		_ = t.set(o, &unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET})
		s.unnote(o.held)
		s.hold(t, o, nil)
		s.passOn(n, t, o)
	}
	if o.waiting > 0 {
		return gone
	}
	return append(gone, s.removeOwner(n, t, o))
}

// removeOwner takes an owner that holds nothing out of the table. n.mu is held.
func (s *shareLocks) removeOwner(n *inode, t *lockTable, o *lockOwner) *lockOwner {
	delete(t.owners, o.number)
	switch {
	case t.flock:
		o.fd = -1 // it is the open file's
	case o.f != nil:
		o.f.lockOwners--
	}
	s.unnoteOwner(n, o)
	return o
}

// closeOwners closes the descriptions of owners that are in no table.
func (s *shareLocks) closeOwners(list []*lockOwner) {
	for _, o := range list {
		if o.fd >= 0 {
			s.fds.close(o.fd)
			s.fds.unkeep(1)
		}
	}
}

// fileLocks is what is known about locks on the file, or nil. n.mu is held.
func (n *inode) fileLocks() *fileLocks {
	if n.openFiles == nil {
		return nil
	}
	return n.openFiles.locks
}
