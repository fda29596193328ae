package passthrough

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// A lock is on a description, which is pinned before the first of its locks, and lives on in the keeper's
// copy: that of an open file (flock), or that of an owner (fcntl). The ledger says what is locked; the
// kernel has no call that does. It is written after the kernel has changed the lock. If a process dies
// between the two, the request is served again, and to take or drop a lock once more changes nothing.
//
// Where the keeper has no copy the locks are lost. A client must not continue with a file as if it
// were alone, and gets EIO.

// setBits changes some bits of an open file in the ledger. Its node is locked.
func (r *recovery) setBits(f *openFile, which, bits uint32) {
	if r.store == nil || f.bits&which == bits {
		return
	}
	f.bits = f.bits&^which | bits
	r.store.SetOpenBits(f.ID(), f.bits)
}

// beforeLock is called before a lock is taken by an open file.
func (s *shareLocks) beforeLock(f *openFile, in *fp.LkIn) unix.Errno {
	if s.recovery.store == nil || in.Lk.Type == unix.F_UNLCK || in.LkFlags&fp.LkFlock == 0 {
		return 0
	}
	if s.pins.file(f) != 0 {
		return unix.ENOLCK
	}
	return 0
}

// noteFlock notes the flock lock of an owner. Its node is locked.
func (r *recovery) noteFlock(o *lockOwner) {
	bits := uint32(0)
	if len(o.held) > 0 {
		bits = openFlock
		if o.held[0].exclusive {
			bits |= openExclusive
		}
	}
	r.setBits(o.f, openFlock|openExclusive, bits)
}

// noteOwner notes a new owner of fcntl locks, and pins its description. n is locked.
func (s *shareLocks) noteOwner(n *inode, o *lockOwner) unix.Errno {
	if s.recovery.store == nil {
		return 0
	}
	rec := ledger.LockOwner{Node: n.ID(), Number: o.number, Open: o.f.ID()}
	i, ok := s.recovery.store.AddLockOwner(&rec)
	if !ok {
		return unix.ENOLCK
	}
	if s.cfg.Keeper != nil && s.cfg.Keeper.Keep(keeper.Lock(n.ID(), o.number), o.fd) != nil {
		s.recovery.store.RemoveLockOwner(i)
		return unix.ENOLCK
	}
	o.record = i
	return 0
}

// noteOwnerChange notes which process an owner is, and by which file its locks came.
func (s *shareLocks) noteOwnerChange(o *lockOwner) {
	if o.record == 0 {
		return
	}
	open := uint64(0)
	if o.f != nil {
		open = o.f.ID()
	}
	s.recovery.store.SetLockOwner(o.record, open, o.pid)
}

// unnoteOwner is the reverse of noteOwner, of an owner that holds nothing.
func (s *shareLocks) unnoteOwner(n *inode, o *lockOwner) {
	if o.record == 0 {
		return
	}
	s.recovery.store.RemoveLockOwner(o.record)
	o.record = 0
	if s.cfg.Keeper != nil {
		s.cfg.Keeper.Drop(keeper.Lock(n.ID(), o.number))
	}
}

// makeRecords makes room in the ledger for the ranges that a change brings; false if there is none.
func (s *shareLocks) makeRecords(o *lockOwner, c *lockChange) bool {
	for i := range c.n {
		r := &c.with[i]
		if r.record = 0; o.record == 0 {
			continue
		}
		var ok bool
		if r.record, ok = s.recovery.store.NewLock(); !ok {
			s.unnote(c.with[:i])
			for j := range c.n {
				c.with[j].record = 0
			}
			return false
		}
	}
	return true
}

// noteChange notes what an owner holds after a change. The new ranges are noted before the
// old ones are removed: beside the range that the request is about, none is missing at any time.
func (s *shareLocks) noteChange(o *lockOwner, c *lockChange) {
	for i := range c.n {
		s.noteRange(o, &c.with[i])
	}
	s.unnote(o.held[c.first:c.last])
}

func (s *shareLocks) noteRange(o *lockOwner, r *lockRange) {
	if r.record != 0 {
		s.recovery.store.SetLock(r.record, &ledger.Lock{Owner: o.record, Exclusive: r.exclusive, Start: r.start, End: r.end})
	}
}

// unnote removes ranges from the ledger.
func (s *shareLocks) unnote(list []lockRange) {
	for _, r := range list {
		if r.record != 0 {
			s.recovery.store.RemoveLock(r.record)
		}
	}
}

// leftOwner is an owner of fcntl locks that a predecessor has left.
type leftOwner struct {
	record uint32
	ledger.LockOwner
	locks []lockRange
	taken bool
}

// findOwners reads the owners of fcntl locks from the ledger. What belongs to no owner is removed.
func (r *resumer) findOwners() {
	r.owners = map[keeper.Key]*leftOwner{}
	byRecord := map[uint32]*leftOwner{}
	for i, o := range r.store.LockOwners {
		k := keeper.Lock(o.Node, o.Number)
		if r.owners[k] != nil {
			r.store.RemoveLockOwner(i)
			continue
		}
		r.owners[k] = &leftOwner{record: i, LockOwner: *o}
		byRecord[i] = r.owners[k]
	}
	for i, l := range r.store.Locks {
		if o := byRecord[l.Owner]; o != nil {
			o.locks = append(o.locks, lockRange{l.Start, l.End, l.Exclusive, i})
		} else {
			r.store.RemoveLock(i)
		}
	}
}

// files are the open file by which an owner's locks came, and its node; ok is false if it is closed, with
// which the locks end.
func (r *resumer) files(o *leftOwner) (n *inode, f *openFile, ok bool) {
	n = r.fs.nodes.Restored(uint32(o.Node))
	if n == nil || n.ID() != o.Node || !n.isReg() || n.openFiles == nil {
		return nil, nil, false
	}
	if o.Open == 0 {
		return n, nil, true
	}
	for f = n.openFiles; f != nil && f.ID() != o.Open; {
		f = f.next
	}
	return n, f, f != nil
}

// pinnedOwner makes an owner that the keeper has a description of.
func (r *resumer) pinnedOwner(k keeper.Key) bool {
	left := r.owners[k]
	if left == nil || !r.fs.cfg.PosixLocks {
		return false
	}
	n, f, ok := r.files(left)
	if !ok {
		return false
	}
	fd, ok := r.takePin(k, n)
	if !ok {
		return false
	}
	mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || r.fs.fds.keep() != 0 {
		r.fs.fds.close(fd)
		return false
	}
	o := &lockOwner{number: left.Number, pid: left.PID, f: f, fd: fd, writable: mode&unix.O_ACCMODE != unix.O_RDONLY,
		record: left.record, resumed: true}
	n.Lock()
	defer n.Unlock()
	t := &n.locks().posix
	if t.owners == nil {
		t.owners = map[uint64]*lockOwner{}
	}
	t.owners[o.number] = o
	if f != nil {
		f.lockOwners++
	}
	left.taken = true
	r.ranges(t, o, left.locks)
	return true
}

// ranges has an owner hold what the ledger says. If its records overlap, they are replaced.
func (r *resumer) ranges(t *lockTable, o *lockOwner, list []lockRange) {
	var held lockRanges
	same := true
	for _, l := range list {
		c := held.change(l.flock())
		if !r.fs.locks.room(t, len(held)+c.growth()) {
			break
		}
		if same = same && c.n == 1 && c.first == c.last; same {
			c.with[0].record = l.record
		}
		held = held.apply(&c)
	}
	if same = same && len(held) == len(list); !same {
		c := lockChange{}
		for i := range held {
			c.with[0], c.n = held[i], 1
			if r.fs.locks.makeRecords(o, &c) {
				r.fs.locks.noteRange(o, &c.with[0])
			}
			held[i].record = c.with[0].record
		}
		r.fs.locks.unnote(list)
	}
	r.fs.locks.hold(t, o, held)
}

// locks makes the flock locks of a predecessor. Open files that have lost their locks are lost.
func (r *resumer) locks() {
	for _, o := range r.owners {
		if o.taken {
			continue
		}
		if n, f, ok := r.files(o); ok && len(o.locks) > 0 {
			r.loseFiles(n, f)
		}
		r.fs.locks.unnote(o.locks)
		r.store.RemoveLockOwner(o.record)
	}
	for rec := range r.store.Opens {
		if rec.Bits&openFlock == 0 {
			continue
		}
		f := r.fs.openFiles.Acquire(rec.ID)
		if f == nil {
			continue
		}
		f.node.Lock()
		switch {
		case f.dir != nil:
		case !f.pinned.Load():
			r.lose(f)
		default:
			r.flock(f, rec.Bits)
		}
		f.node.Unlock()
		r.fs.openFiles.release(f)
	}
}

// loseFiles is lose for an open file of a node, or all.
func (r *resumer) loseFiles(n *inode, only *openFile) {
	n.Lock()
	defer n.Unlock()
	for f := n.openFiles; f != nil; f = f.next {
		if (only == nil || f == only) && f.dir == nil {
			r.lose(f)
		}
	}
}

// lose has requests for an open file get EIO. Its node is locked.
func (r *resumer) lose(f *openFile) {
	f.lost.Store(true)
	if !f.lazy.Swap(true) {
		r.fs.fds.close(f.fd)
		f.fd = -1
	}
	r.lost.add(fmt.Sprintf("open file %d, whose locks are lost", f.ID()))
}

// flock makes the lock that an open file has. Its node is locked.
func (r *resumer) flock(f *openFile, bits uint32) {
	t := &f.node.locks().flock
	o := &lockOwner{number: f.ID(), f: f, fd: f.fd, writable: true}
	if t.owners == nil {
		t.owners = map[uint64]*lockOwner{}
	}
	t.owners[o.number] = o
	f.bits = bits
	r.fs.locks.hold(t, o, lockRanges{{start: 0, end: math.MaxInt64, exclusive: bits&openExclusive != 0}})
}
