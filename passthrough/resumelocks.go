package passthrough

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A flock lock is on the description of an open file, which is pinned before the first of its locks:
// it lives on in the keeper's copy. The ledger says which kind it is. fcntl locks are on descriptions
// of their owners' own, and end with the process: a client that had some on a file must not go on
// with it as if it were alone, and gets EIO.

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
	switch {
	case s.recovery.store == nil || in.Lk.Type == unix.F_UNLCK:
		return 0
	case in.LkFlags&fp.LkFlock != 0:
		if s.pins.file(f) != 0 {
			return unix.ENOLCK
		}
		return 0
	}
	f.node.Lock()
	defer f.node.Unlock()
	s.recovery.setBits(f, openPosix, openPosix)
	return 0
}

// noteLocks notes that a node has no fcntl locks any more, if that is so. n is locked.
func (r *recovery) noteLocks(n *inode) {
	if r.store == nil {
		return
	}
	if l := n.fileLocks(); l != nil && (l.posix.ranges > 0 || len(l.posix.waiters) > 0) {
		return
	}
	for f := n.openFiles; f != nil; f = f.next {
		r.setBits(f, openPosix, 0)
	}
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

// locks makes the locks of a predecessor. Open files that have lost theirs are lost.
func (r *resumer) locks() {
	for rec := range r.store.Opens {
		if rec.Bits&(openFlock|openPosix) == 0 {
			continue
		}
		f := r.fs.openFiles.Acquire(rec.ID)
		if f == nil {
			continue
		}
		f.node.Lock()
		switch {
		case f.dir != nil:
		case rec.Bits&openPosix != 0 || !f.pinned.Load():
			f.lost.Store(true)
			if !f.lazy.Swap(true) {
				r.fs.fds.close(f.fd)
				f.fd = -1
			}
			r.lost.add(fmt.Sprintf("open file %d, whose locks are lost", rec.ID))
		default:
			r.flock(f, rec.Bits)
		}
		f.node.Unlock()
		r.fs.openFiles.release(f)
	}
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
	r.fs.locks.hold(t, o, lockRanges{{0, math.MaxInt64, bits&openExclusive != 0}})
}
