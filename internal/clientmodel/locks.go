package clientmodel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Locks of files, if the share has them on the host: those for which all users and a process on
// the host contend, of which one has each at a time, and ranges of a file of the user's own,
// which two owners lock. A model knows what they have.

// Locks that are contended for: bytes of one file, and the flock lock of it.
const (
	lockedBytes = 3
	flockLock   = lockedBytes
	numLocks    = lockedBytes + 1

	lockedName = "locked" // the file, in the shared directory
)

// sharedLocks are what is known by all of the locks that are contended for.
type sharedLocks struct {
	mu    sync.Mutex
	locks [numLocks]sharedLock
}

type sharedLock struct {
	holder   string // "" is nobody
	underWay int    // requests that take or drop it
	ended    uint64 // such requests
}

// begin is called before a lock is taken or dropped.
func (s *sharedLocks) begin(i int) (before sharedLock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.locks[i]
	s.locks[i].underWay++
	return before
}

// got is called when a lock was taken. The error says that somebody else has it.
func (s *sharedLocks) got(i int, who string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.locks[i]
	at.underWay--
	at.ended++
	if at.holder != "" {
		return fmt.Errorf("%s has got lock %d, which %s has", who, i, at.holder)
	}
	at.holder = who
	return nil
}

// failed is called when a lock could not be taken. The error says that nobody has had it meanwhile.
func (s *sharedLocks) failed(i int, before sharedLock) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.locks[i]
	at.underWay--
	at.ended++
	if before.holder == "" && before.underWay == 0 && at.underWay == 0 && at.ended == before.ended+1 {
		return fmt.Errorf("lock %d is not to be had, and nobody has it", i)
	}
	return nil
}

// leave is called before a lock is dropped, and left after it.
func (s *sharedLocks) leave(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks[i].holder = ""
	s.locks[i].underWay++
}

func (s *sharedLocks) left(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks[i].underWay--
	s.locks[i].ended++
}

// ContendFromHost takes and drops the locks as a process on the host, where the share is the directory
// path, until stop says so. It returns an error if it gets what a user has.
func (s *Shared) ContendFromHost(path string, stop func() bool) error {
	f, err := os.OpenFile(filepath.Join(path, "shared", lockedName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	set := func(i int, typ int16) error {
		if i == flockLock {
			return unix.Flock(int(f.Fd()), map[int16]int{unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[typ]|unix.LOCK_NB)
		}
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Start: int64(i), Len: 1})
	}
	for i := 0; !stop(); i = (i + 1) % numLocks {
		before := s.locks.begin(i)
		switch err := set(i, unix.F_WRLCK); {
		case err == nil:
			if err := s.locks.got(i, "the host"); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
			s.locks.leave(i)
			if err := set(i, unix.F_UNLCK); err != nil {
				return err
			}
			s.locks.left(i)
		case !errors.Is(err, unix.EAGAIN):
			return err
		default:
			if err := s.locks.failed(i, before); err != nil {
				return err
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
	return nil
}

// locker is what a user has of locks.
type locker struct {
	pid    uint32
	node   uint64 // what all contend for
	fh     uint64
	holds  int // a lock of it; -1 is none
	ranges ranges
}

// ranges is a file of the user's own, open twice, on which two owners lock bytes.
type ranges struct {
	node   uint64
	fhs    [2]uint64
	owners [2]owner
}

// owner has locks that came by one open file, or by several.
type owner struct {
	known bool
	by    [2]bool             // open files
	held  [rangeBytes + 1]int // types, and one more that is never locked
}

const rangeBytes = 24

func (o *owner) drop() { *o = owner{held: unlocked} }

var unlocked = func() (list [rangeBytes + 1]int) {
	for i := range list {
		list[i] = unix.F_UNLCK
	}
	return list
}()

// newLocker opens what the user locks.
func (u *User) newLocker(shared *Shared, number int) error {
	l := &locker{pid: uint32(5000 + number), holds: -1}
	e, err := u.c.Lookup(shared.id, lockedName)
	if err != nil {
		return err
	}
	l.node = e.NodeID
	if l.fh, err = u.c.Open(l.node, unix.O_RDWR); err != nil {
		return err
	}
	out, err := u.c.Create(shared.id, "ranges-"+u.name, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	r := &l.ranges
	r.node, r.fhs[0] = out.Entry.NodeID, out.Open.Fh
	r.fhs[1], err = u.c.Open(r.node, unix.O_RDWR)
	for i := range r.owners {
		r.owners[i].drop()
	}
	u.locker = l
	return err
}

// setlk sends a request for a lock.
func (u *User) setlk(op fp.Opcode, node, fh, owner uint64, typ, flags uint32, start, end uint64) error {
	in := fp.LkIn{Fh: fh, Owner: owner, LkFlags: flags, Lk: fp.FileLock{Type: typ, Start: start, End: end, PID: u.locker.pid}}
	_, err := u.do(&frontend.Request{Op: op, NodeID: node}, fmt.Sprintf("by %d of owner %d, type %d, %d to %d", fh, owner, typ, start, end), wire(in))
	return err
}

// getlk asks for what is in the way of an exclusive lock.
func (u *User) getlk(node, fh, owner uint64, start, end uint64) (lk fp.FileLock, ok bool) {
	in := fp.LkIn{Fh: fh, Owner: owner, Lk: fp.FileLock{Type: unix.F_WRLCK, Start: start, End: end}}
	b, err := u.do(&frontend.Request{Op: fp.OpGetlk, NodeID: node, Reply: fp.Size[fp.LkOut]()}, fmt.Sprintf("of owner %d, %d to %d", owner, start, end), wire(in))
	if !u.want(err, 0) {
		return lk, false
	}
	return take[fp.LkOut](u, b).Lk, u.err == nil
}

// owner is the user's number for locks that are contended for.
func (l *locker) owner() uint64 { return uint64(l.pid) << 32 }

// lock takes a lock that is contended for, or drops the one that the user has.
func (u *User) lock() {
	l, all := u.locker, &u.others.locks
	if l.holds >= 0 {
		u.unlock()
		return
	}
	i, op, wanted := u.r.IntN(numLocks), fp.OpSetlk, unix.EAGAIN
	if u.r.IntN(3) == 0 {
		op, wanted = fp.OpSetlkw, 0
	}
	before := all.begin(i)
	var err error
	if i == flockLock {
		err = u.setlk(op, l.node, l.fh, l.owner(), unix.F_WRLCK, fp.LkFlock, 0, 0)
	} else {
		err = u.setlk(op, l.node, l.fh, l.owner(), unix.F_WRLCK, 0, uint64(i), uint64(i))
	}
	if err == nil {
		l.holds = i
		if err := all.got(i, u.name); err != nil {
			u.fail("%v", err)
		}
		return
	}
	if u.want(err, wanted); u.err == nil {
		if err := all.failed(i, before); err != nil {
			u.fail("%v", err)
		}
	}
}

// unlock drops the lock that the user has, if it has one, in one of three ways.
func (u *User) unlock() {
	l, all := u.locker, &u.others.locks
	i := l.holds
	if i < 0 {
		return
	}
	if i != flockLock && u.r.IntN(2) == 0 {
		lk, ok := u.getlk(l.node, l.fh, l.owner()+1, uint64(i), uint64(i))
		if want := (fp.FileLock{Start: uint64(i), End: uint64(i), Type: unix.F_WRLCK, PID: l.pid}); ok && lk != want {
			u.fail("the lock is %+v, want %+v", lk, want)
		}
	}
	all.leave(i)
	l.holds = -1
	switch how := u.r.IntN(3); {
	case how == 0:
		_, err := u.do(&frontend.Request{Op: fp.OpRelease, NodeID: l.node}, "", wire(fp.ReleaseIn{Fh: l.fh}))
		u.want(err, 0)
		all.left(i)
		b, err := u.do(&frontend.Request{Op: fp.OpOpen, NodeID: l.node, Reply: fp.Size[fp.OpenOut]()}, "", wire(fp.OpenIn{Flags: unix.O_RDWR}))
		if u.want(err, 0) {
			l.fh = take[fp.OpenOut](u, b).Fh
		}
		return
	case how == 1 && i != flockLock:
		_, err := u.do(&frontend.Request{Op: fp.OpFlush, NodeID: l.node}, "", wire(fp.FlushIn{Fh: l.fh, LockOwner: l.owner()}))
		u.want(err, 0)
	case i == flockLock:
		u.want(u.setlk(fp.OpSetlk, l.node, l.fh, l.owner(), unix.F_UNLCK, fp.LkFlock, 0, 0), 0)
	default:
		u.want(u.setlk(fp.OpSetlk, l.node, l.fh, l.owner(), unix.F_UNLCK, 0, 0, 1<<63-1), 0)
	}
	all.left(i)
}

// lockRange locks or unlocks a range of the user's own file, asks for one, or closes it.
func (u *User) lockRange() {
	r := &u.locker.ranges
	i, by := u.r.IntN(2), u.r.IntN(2)
	o, other := &r.owners[i], &r.owners[1-i]
	start := u.r.IntN(rangeBytes)
	last := min(start+u.r.IntN(rangeBytes), rangeBytes-1)
	switch u.r.IntN(12) {
	case 0:
		_, err := u.do(&frontend.Request{Op: fp.OpFlush, NodeID: r.node}, "", wire(fp.FlushIn{Fh: r.fhs[by], LockOwner: uint64(i + 1)}))
		if u.want(err, 0) {
			o.drop()
		}
	case 1:
		u.reopenRanges(by)
	case 2, 3:
		if lk, ok := u.getlk(r.node, r.fhs[by], uint64(i+1), uint64(start), uint64(last)); ok {
			u.sameLock(lk, other, start, last)
		}
	default:
		typ := []int{unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK}[u.r.IntN(3)]
		u.setRange(i, by, typ, start, last)
	}
}

// setRange locks or unlocks a range.
func (u *User) setRange(i, by, typ, start, last int) {
	r := &u.locker.ranges
	o, other, want := &r.owners[i], &r.owners[1-i], unix.Errno(0)
	for at := start; at <= last; at++ {
		if has := other.held[at]; typ == unix.F_WRLCK && has != unix.F_UNLCK || typ == unix.F_RDLCK && has == unix.F_WRLCK {
			want = unix.EAGAIN
		}
	}
	err := u.setlk(fp.OpSetlk, r.node, r.fhs[by], uint64(i+1), uint32(typ), 0, uint64(start), uint64(last))
	if typ != unix.F_UNLCK || o.known {
		o.known, o.by[by] = true, true
	}
	if u.want(err, want) && o.known {
		for at := start; at <= last; at++ {
			o.held[at] = typ
		}
	}
}

// sameLock compares what is in the way with what the other owner has.
func (u *User) sameLock(lk fp.FileLock, other *owner, start, last int) {
	at := start
	for at <= last && other.held[at] == unix.F_UNLCK {
		at++
	}
	want := fp.FileLock{Type: unix.F_UNLCK}
	if at <= last {
		want = fp.FileLock{Type: uint32(other.held[at]), PID: u.locker.pid}
		from, to := at, at
		for from > 0 && other.held[from-1] == other.held[at] {
			from--
		}
		for other.held[to+1] == other.held[at] {
			to++
		}
		want.Start, want.End = uint64(from), uint64(to)
	}
	if lk != want {
		u.fail("the lock is %+v, want %+v", lk, want)
	}
}

// reopenRanges closes one of the two open files and opens another one. What came by it alone ends.
func (u *User) reopenRanges(by int) {
	r := &u.locker.ranges
	_, err := u.do(&frontend.Request{Op: fp.OpRelease, NodeID: r.node}, "", wire(fp.ReleaseIn{Fh: r.fhs[by]}))
	if !u.want(err, 0) {
		return
	}
	for i := range r.owners {
		if o := &r.owners[i]; o.by[by] && !o.by[1-by] {
			o.drop()
		}
	}
	b, err := u.do(&frontend.Request{Op: fp.OpOpen, NodeID: r.node, Reply: fp.Size[fp.OpenOut]()}, "", wire(fp.OpenIn{Flags: unix.O_RDWR}))
	if u.want(err, 0) {
		r.fhs[by] = take[fp.OpenOut](u, b).Fh
	}
}

// checkLocks compares all bytes of the user's own file, closes what was locked, and sees that the host can lock it,
// where the share is the directory path.
func (u *User) checkLocks(path string) {
	u.unlock()
	l := u.locker
	r := &l.ranges
	for at := range rangeBytes {
		for i := range r.owners {
			if lk, ok := u.getlk(r.node, r.fhs[0], uint64(i+1), uint64(at), uint64(at)); ok {
				u.sameLock(lk, &r.owners[1-i], at, at)
			}
		}
	}
	for _, fh := range r.fhs {
		u.want(u.c.Release(r.node, fh), 0)
	}
	u.want(u.c.Release(l.node, l.fh), 0)
	f, err := os.OpenFile(filepath.Join(path, "shared", "ranges-"+u.name), os.O_RDWR, 0)
	if err != nil {
		u.fail("%v", err)
		return
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		u.fail("the host can't lock a file that is closed: %v", err)
	}
}
