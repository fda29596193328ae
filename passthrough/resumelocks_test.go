package passthrough

import (
	"errors"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// contender is a process on the host that tries to lock a range of a file as often as it can.
type contender struct {
	stop, done chan struct{}
	got        atomic.Int64
}

func contend(t *testing.T, path string, start, length int64) *contender {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &contender{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer f.Close()
		for {
			select {
			case <-c.stop:
				return
			default:
			}
			lk := unix.Flock_t{Type: unix.F_RDLCK, Start: start, Len: length}
			if unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk) == nil {
				c.got.Add(1)
				lk.Type = unix.F_UNLCK
				_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
			}
		}
	}()
	return c
}

func (c *contender) end(t *testing.T) {
	t.Helper()
	close(c.stop)
	<-c.done
	if n := c.got.Load(); n > 0 {
		t.Errorf("a process on the host got %d times what the guest has locked", n)
	}
}

// dies closes the descriptors of g that have locks, as a death does.
func (g *guest) dies() {
	for f := range g.fs.openFiles.All {
		for _, o := range f.node.locks().posix.owners {
			if o.fd >= 0 {
				_ = unix.Close(o.fd)
				o.fd = -1
			}
		}
		if !f.lazy.Swap(true) {
			_ = unix.Close(f.fd)
		}
	}
}

// TestResumeLocks has owners on two files go on with a second and a third process, while a process on the host
// tries to get what they have.
func TestResumeLocks(t *testing.T) {
	l := newLine(t, nil, allLocks)
	g := l.first(t)
	g.write("a", "")
	g.write("b", "")
	a, b := g.lookup(fp.RootID, "a"), g.lookup(fp.RootID, "b")
	a1, a2, b1 := g.open(a, unix.O_RDWR), g.open(a, unix.O_RDONLY), g.open(b, unix.O_RDWR)
	set := func(node, fh, owner uint64, typ uint32, start, end uint64) unix.Errno {
		in := lkIn(fh, owner, typ, start, end)
		in.Lk.PID = uint32(owner) + 1000
		return g.fs.Setlk(g.on(node), in, false)
	}
	wantErrno(t, "1 locks a", set(a, a1, 1, unix.F_WRLCK, 0, 9), 0)
	wantErrno(t, "1 shares a part", set(a, a1, 1, unix.F_RDLCK, 4, 5), 0)
	wantErrno(t, "2 shares it, too", set(a, a2, 2, unix.F_RDLCK, 5, 5), 0)
	wantErrno(t, "1 locks b", set(b, b1, 1, unix.F_WRLCK, 100, math.MaxInt64), 0)
	wantErrno(t, "3 has nothing", set(b, b1, 3, unix.F_WRLCK, 0, 0), 0)
	wantErrno(t, "3 has nothing", set(b, b1, 3, unix.F_UNLCK, 0, math.MaxInt64), 0)
	host := []*contender{contend(t, g.path("a"), 0, 1), contend(t, g.path("a"), 9, 1), contend(t, g.path("b"), 0, 0)}
	descriptors := len(l.safe.held)
	for range 2 {
		before := g
		g = l.next(t, g)
		before.dies()
		for what, c := range map[string]struct {
			node, fh   uint64
			start, end uint64
			want       fp.FileLock
		}{
			"1 on a":          {a, a2, 0, 1, fp.FileLock{Type: unix.F_WRLCK, Start: 0, End: 3, PID: 1001}},
			"1 shares":        {a, a1, 4, 4, fp.FileLock{Type: unix.F_RDLCK, Start: 4, End: 5, PID: 1001}},
			"1 on b":          {b, b1, 0, math.MaxInt64, fp.FileLock{Type: unix.F_WRLCK, Start: 100, End: math.MaxInt64, PID: 1001}},
			"nobody on b":     {b, b1, 0, 99, fp.FileLock{Type: unix.F_UNLCK}},
			"1 on a, the end": {a, a1, 8, 20, fp.FileLock{Type: unix.F_WRLCK, Start: 6, End: 9, PID: 1001}},
		} {
			var out fp.LkOut
			wantErrno(t, what, g.fs.Getlk(g.on(c.node), lkIn(c.fh, 77, unix.F_WRLCK, c.start, c.end), &out), 0)
			if out.Lk != c.want {
				t.Errorf("%s: %+v, want %+v", what, out.Lk, c.want)
			}
		}
		wantErrno(t, "2 wants 1's", set(a, a2, 2, unix.F_RDLCK, 0, 0), unix.EAGAIN)
		wantErrno(t, "2 has one more", set(a, a2, 2, unix.F_WRLCK, 50, 50), 0)
		if n := len(l.safe.held); n != descriptors {
			t.Errorf("%d descriptors are kept, want %d: %v", n, descriptors, l.safe.keys())
		}
	}
	for _, c := range host {
		c.end(t)
	}
	// What waits is given the lock by the process that has it now.
	done := g.waitLock(a, lkIn(a1, 4, unix.F_WRLCK, 0, 9), nil)
	g.parked(1)
	wantErrno(t, "1 closes a", g.fs.Flush(g.on(a), &fp.FlushIn{Fh: a1, LockOwner: 1}), 0)
	stillWaiting(t, done)
	wantErrno(t, "2's file is closed", g.release(a, a2), 0)
	got(t, "4", done, 0)
	wantErrno(t, "close", g.release(a, a1), 0)
	wantErrno(t, "close", g.release(b, b1), 0)
	if keys := l.safe.keys(); len(keys) > 0 {
		t.Errorf("kept in the end: %v", keys)
	}
	for i, o := range g.fs.recovery.store.LockOwners {
		t.Errorf("owner %d is left in the ledger: %+v", i, o)
	}
	for i, lock := range g.fs.recovery.store.Locks {
		t.Errorf("lock %d is left in the ledger: %+v", i, lock)
	}
	if n := g.fs.locks.ranges.Load(); n != 0 {
		t.Errorf("%d ranges are counted in the end", n)
	}
}

// TestResumeWithoutPin: the keeper has lost an owner's description. Its open file gets EIO, others go on.
func TestResumeWithoutPin(t *testing.T) {
	l := newLine(t, nil, allLocks)
	g := l.first(t)
	g.write("f", "0123456789")
	f := g.lookup(fp.RootID, "f")
	locked, other := g.open(f, unix.O_RDWR), g.open(f, unix.O_RDWR)
	idle := g.open(f, unix.O_RDWR)
	wantErrno(t, "lock", g.fs.Setlk(g.on(f), lkIn(locked, 1, unix.F_WRLCK, 0, 9), false), 0)
	wantErrno(t, "lock", g.fs.Setlk(g.on(f), lkIn(idle, 2, unix.F_WRLCK, 20, 20), false), 0)
	wantErrno(t, "unlock", g.fs.Setlk(g.on(f), lkIn(idle, 2, unix.F_UNLCK, 0, math.MaxInt64), false), 0)
	l.safe.Drop(keeper.Lock(f, 1))
	l.safe.Drop(keeper.Lock(f, 2))
	g.dies()
	l.safe.next()
	next := makeShare(t, g.dir, l.config, l.flags).guest()
	warning, err := next.fs.Resume(&next.thread, true)
	if err != nil || !strings.Contains(warning, "whose locks are lost") {
		t.Errorf("warning %q, %v", warning, err)
	}
	for fh, want := range map[uint64]unix.Errno{locked: unix.EIO, other: 0, idle: 0} {
		if _, errno := next.readAt(f, fh, 0, 4); errno != want {
			t.Errorf("open file %d: %v, want %v", fh, errno, want)
		}
	}
	for i, o := range next.fs.recovery.store.LockOwners {
		t.Errorf("owner %d is left in the ledger: %+v", i, o)
	}
	wantErrno(t, "lock", next.fs.Setlk(next.on(f), lkIn(other, 1, unix.F_WRLCK, 0, 9), false), 0)
}

// TestLockKeeperFull: the keeper takes no more descriptors. The guest gets ENOLCK, and nothing is left of the
// owner.
func TestLockKeeperFull(t *testing.T) {
	l := newLine(t, nil, allLocks)
	g := l.first(t)
	g.write("f", "")
	f := g.lookup(fp.RootID, "f")
	fh := g.open(f, unix.O_RDWR)
	set := func(owner uint64) unix.Errno {
		return g.fs.Setlk(g.on(f), lkIn(fh, owner, unix.F_WRLCK, owner, owner), false)
	}
	wantErrno(t, "the first owner", set(1), 0)
	opens, fds := g.fs.fds.kept.Load(), g.fs.fds.used.Load()
	l.safe.refuse = errors.New("as many as there may be")
	wantErrno(t, "one more owner", set(2), unix.ENOLCK)
	wantErrno(t, "one more range of the first", g.fs.Setlk(g.on(f), lkIn(fh, 1, unix.F_WRLCK, 50, 59), false), 0)
	if g.fs.fds.kept.Load() != opens || g.fs.fds.used.Load() != fds {
		t.Errorf("%d and %d descriptors are counted, want %d and %d", g.fs.fds.kept.Load(), g.fs.fds.used.Load(), opens, fds)
	}
	l.safe.refuse = nil
	wantErrno(t, "later", set(2), 0)
}

// TestResumeForgedLocks: what makes no sense in a ledger takes no lock and ends nothing.
func TestResumeForgedLocks(t *testing.T) {
	l := newLine(t, nil, allLocks)
	g := l.first(t)
	g.write("f", "")
	f := g.lookup(fp.RootID, "f")
	fh := g.open(f, unix.O_RDWR)
	wantErrno(t, "lock", g.fs.Setlk(g.on(f), lkIn(fh, 1, unix.F_WRLCK, 0, 9), false), 0)
	s := g.fs.recovery.store
	var own uint32
	for i := range s.LockOwners {
		own = i
	}
	lock := func(owner uint32, start, end int64) {
		i, _ := s.NewLock()
		s.SetLock(i, &ledger.Lock{Owner: owner, Exclusive: true, Start: start, End: end})
	}
	forge := func(node, number, open uint64, ranges ...[2]int64) {
		i, _ := s.AddLockOwner(&ledger.LockOwner{Node: node, Number: number, Open: open})
		for _, r := range ranges {
			lock(i, r[0], r[1])
		}
	}
	forge(f, 1, fh, [2]int64{5, 20})                 // the same owner again
	forge(f, 2, 999, [2]int64{30, 40})               // by a file that is not open
	forge(fp.RootID, 3, 0, [2]int64{30, 40})         // a directory
	forge(f+7, 4, 0, [2]int64{30, 40})               // no such node
	forge(f, 5, 0, [2]int64{40, 30}, [2]int64{0, 9}) // without a pin, and backwards
	lock(own, 5, 30)                                 // overlaps
	lock(own, -1, 5)
	lock(60000, 0, 5)
	for n := range int64(maxFileLocks + 10) {
		lock(own, 100+2*n, 100+2*n)
	}
	l.safe.next()
	next := makeShare(t, g.dir, l.config, l.flags).guest()
	if _, err := next.fs.Resume(&next.thread, true); err != nil {
		t.Fatal(err)
	}
	if n := next.fs.locks.ranges.Load(); n < 1 || n > maxFileLocks {
		t.Errorf("%d ranges", n)
	}
	wantErrno(t, "unlock", next.fs.Setlk(next.on(f), lkIn(fh, 1, unix.F_UNLCK, 0, math.MaxInt64), false), unix.EIO)
	next.fs.Destroy()
	for i, o := range next.fs.recovery.store.LockOwners {
		t.Errorf("owner %d is left in the ledger: %+v", i, o)
	}
	for i, lock := range next.fs.recovery.store.Locks {
		t.Errorf("lock %d is left in the ledger: %+v", i, lock)
	}
}

// TestResumeForgedPins: of many keys of one open file or node, one is taken.
func TestResumeForgedPins(t *testing.T) {
	l := newLine(t, nil, allLocks)
	g := l.first(t)
	g.write("f", "")
	f := g.lookup(fp.RootID, "f")
	fh := g.open(f, unix.O_RDWR)
	in := lkIn(fh, 0, unix.F_WRLCK, 0, 0)
	in.LkFlags = fp.LkFlock
	wantErrno(t, "flock", g.fs.Setlk(g.on(f), in, false), 0)
	held, err := os.Open(g.dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for n := range uint64(50) {
		for _, k := range []keeper.Key{keeper.Open(fh), keeper.Node(f)} {
			k.Sub = n + 1
			if err := errors.Join(l.safe.Keep(k, int(held.Fd())), l.safe.Keep(k.Of(3), int(held.Fd()))); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.dies()
	l.safe.next()
	next := makeShare(t, g.dir, l.config, l.flags).guest()
	before := next.fs.fds.used.Load()
	if warning, err := next.fs.Resume(&next.thread, true); err != nil || warning != "" {
		t.Error(warning, err)
	}
	if more := next.fs.fds.used.Load() - before; more > 2 {
		t.Errorf("%d descriptors were taken", more)
	}
	if keys := l.safe.keys(); len(keys) != 1 {
		t.Errorf("the keeper holds %v", keys)
	}
}
