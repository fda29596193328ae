package ledger

import (
	"math"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Locks of files are held by the host's kernel, on descriptors that outlive the process. What is here
// says whose they are.

// Limits of locks in a ledger. Record 0 of each kind is not used.
const (
	MaxLockOwners = 1 << 16
	MaxLocks      = 1 << 17
)

// lockOwnerRecord is an owner of locks on a file.
type lockOwnerRecord struct {
	node   uint64 // 0 is none; written last, and cleared first
	number uint64
	open   uint64
	pid    uint32
	_      uint32
}

// lockRecord is a range that an owner has locked.
type lockRecord struct {
	owner      uint64 // record of the owner, and lockExclusive; 0 is none; written last, and cleared first
	start, end int64
	_          uint64
}

const (
	lockExclusive = 1 << 32

	lockOwnerSize = int64(unsafe.Sizeof(lockOwnerRecord{}))
	lockSize      = int64(unsafe.Sizeof(lockRecord{}))
	lockBits      = 7
)

var (
	_ = [1]struct{}{}[(lockOwnerSize<<lockBits)-pageSize]
	_ = [1]struct{}{}[(lockSize<<lockBits)-pageSize]
)

// LockOwner is an owner of locks on a file.
type LockOwner struct {
	Node   uint64 // id of a node that is in the ledger, too; not 0
	Number uint64 // the client's
	Open   uint64 // id of the open file that all its locks came by; 0: there were several
	PID    uint32 // the client's process that took the latest lock
}

// Lock is a range of a file that an owner has locked.
type Lock struct {
	Owner      uint32 // record of the owner
	Exclusive  bool
	Start, End int64 // both included
}

// lockStore is the locks of a store.
type lockStore struct {
	mu            sync.Mutex // guards which records are in use; a leaf
	owners, locks pool
}

// pool is records that are in use or free.
type pool struct {
	section
	free []uint32
	end  uint32 // all that were ever in use are below it
}

func newPool(l *Ledger, at, size int64, count uint32) pool {
	return pool{section: section{ledger: l, at: at, size: size, bits: lockBits, count: count}, end: 1}
}

// take is a free record, with memory; false if there is none.
func (p *pool) take() (uint32, bool) {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		return i, true
	}
	if p.end >= p.count {
		return 0, false
	}
	if _, err := p.need(p.end); err != nil {
		return 0, false
	}
	p.end++
	return p.end - 1, true
}

// load finds out which records are in use. use reports it of one.
func (p *pool) load(use func(i uint32) bool) error {
	var used []bool
	err := p.scan(func(first uint32) {
		for i := first; i < first+1<<lockBits; i++ {
			if i == 0 || !use(i) {
				continue
			}
			for uint32(len(used)) <= i {
				used = append(used, false)
			}
			used[i] = true
			p.end = max(p.end, i+1)
		}
	})
	for i := uint32(1); i < p.end; i++ {
		if !used[i] && p.has(i) {
			p.free = append(p.free, i)
		}
	}
	return err
}

func (s *Store) lockOwner(i uint32) *lockOwnerRecord {
	return (*lockOwnerRecord)(s.locks.owners.record(i))
}
func (s *Store) lock(i uint32) *lockRecord { return (*lockRecord)(s.locks.locks.record(i)) }

// loadLocks removes what makes no sense. It comes after the nodes.
func (s *Store) loadLocks() error {
	err := s.locks.owners.load(func(i uint32) bool {
		r := s.lockOwner(i)
		if r.node != 0 && s.knownNode(r.node) == nil {
			store(&r.node, 0)
		}
		return r.node != 0
	})
	if err != nil {
		return err
	}
	return s.locks.locks.load(func(i uint32) bool {
		r := s.lock(i)
		if r.owner != 0 && !s.goodLock(r) {
			store(&r.owner, 0)
		}
		return r.owner != 0
	})
}

func (s *Store) goodLock(r *lockRecord) bool {
	owner := uint32(r.owner)
	return r.owner&^(lockExclusive|math.MaxUint32) == 0 && r.start >= 0 && r.end >= r.start &&
		owner != 0 && s.locks.owners.has(owner) && s.lockOwner(owner).node != 0
}

// AddLockOwner records an owner of locks, which has none yet. The result is its record; false if there is
// no room.
func (s *Store) AddLockOwner(o *LockOwner) (uint32, bool) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	i, ok := s.locks.owners.take()
	if !ok {
		return 0, false
	}
	r := s.lockOwner(i)
	r.number, r.open, r.pid = o.Number, o.Open, o.PID
	store(&r.node, o.Node)
	return i, true
}

// SetLockOwner changes what may change of an owner. Calls about one come one after the other.
func (s *Store) SetLockOwner(i uint32, open uint64, pid uint32) {
	r := s.lockOwner(i)
	atomic.StoreUint32(&r.pid, pid)
	if r.open != open {
		store(&r.open, open)
	}
}

// RemoveLockOwner removes an owner, which has no locks any more.
func (s *Store) RemoveLockOwner(i uint32) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	store(&s.lockOwner(i).node, 0)
	s.locks.owners.free = append(s.locks.owners.free, i)
}

// NewLock makes room for a lock, which SetLock records; false if there is none.
func (s *Store) NewLock() (uint32, bool) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	return s.locks.locks.take()
}

// SetLock records a lock in the room that NewLock has made.
func (s *Store) SetLock(i uint32, l *Lock) {
	r, owner := s.lock(i), uint64(l.Owner)
	if l.Exclusive {
		owner |= lockExclusive
	}
	r.start, r.end = l.Start, l.End
	store(&r.owner, owner)
}

// RemoveLock removes a lock, or gives back the room for one.
func (s *Store) RemoveLock(i uint32) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	if r := s.lock(i); r.owner != 0 {
		store(&r.owner, 0)
	}
	s.locks.locks.free = append(s.locks.locks.free, i)
}

// LockOwners yields the owners of locks, with their records. What is yielded is valid until yield
// returns.
func (s *Store) LockOwners(yield func(i uint32, o *LockOwner) bool) {
	var o LockOwner
	s.locks.owners.records(func(i uint32) bool {
		r := s.lockOwner(i)
		o = LockOwner{Node: r.node, Number: r.number, Open: r.open, PID: r.pid}
		return i == 0 || o.Node == 0 || s.knownNode(o.Node) == nil || yield(i, &o)
	})
}

// Locks yields the locks of these owners, with their records. What is yielded is valid until yield
// returns. Several of an owner may overlap, if the process has died while it changed them.
func (s *Store) Locks(yield func(i uint32, l *Lock) bool) {
	var l Lock
	s.locks.locks.records(func(i uint32) bool {
		r := *s.lock(i)
		if i == 0 || r.owner == 0 || !s.goodLock(&r) {
			return true
		}
		l = Lock{Owner: uint32(r.owner), Exclusive: r.owner&lockExclusive != 0, Start: r.start, End: r.end}
		return yield(i, &l)
	})
}
