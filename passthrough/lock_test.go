package passthrough

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

func lkIn(fh, owner uint64, typ uint32, start, end uint64) *fp.LkIn {
	return &fp.LkIn{Fh: fh, Owner: owner, Lk: fp.FileLock{Type: typ, Start: start, End: end}}
}

// waitLock is SETLKW as the server runs it: first on the queue's thread, then on a
// goroutine without a thread.
func (s *share) waitLock(node uint64, in *fp.LkIn, canceled <-chan struct{}) <-chan unix.Errno {
	done := make(chan unix.Errno, 1)
	r := server.NewRequest(fp.InHeader{NodeID: node})
	r.MayWait, r.Canceled = true, canceled
	go func() { done <- s.fs.Setlk(r, in, true) }()
	return done
}

func TestPosixLocks(t *testing.T) {
	g := newShare(t, nil, fp.InitPosixLocks).guest()
	node, a := g.openName("f", "0123456789", unix.O_RDWR)
	b := g.open(node, unix.O_RDWR)
	set := func(in *fp.LkIn) unix.Errno { return g.fs.Setlk(g.on(node), in, false) }
	get := func(in *fp.LkIn) fp.FileLock {
		var out fp.LkOut
		wantErrno(t, "GETLK", g.fs.Getlk(g.on(node), in, &out), 0)
		return out.Lk
	}
	const alice, bob = 100, 200
	wantErrno(t, "alice locks 2 to 5", set(lkIn(a, alice, unix.F_WRLCK, 2, 5)), 0)
	wantErrno(t, "bob locks 5 to 9", set(lkIn(b, bob, unix.F_WRLCK, 5, 9)), unix.EAGAIN)
	wantErrno(t, "bob shares 5", set(lkIn(b, bob, unix.F_RDLCK, 5, 5)), unix.EAGAIN)
	wantErrno(t, "bob locks 6 on", set(lkIn(b, bob, unix.F_WRLCK, 6, math.MaxInt64)), 0)
	wantErrno(t, "alice locks again", set(lkIn(b, alice, unix.F_WRLCK, 0, 5)), 0)
	if lk := get(lkIn(b, bob, unix.F_RDLCK, 0, 3)); lk != (fp.FileLock{Type: unix.F_WRLCK, Start: 0, End: 5}) {
		t.Errorf("bob asks about alice's: %+v", lk)
	}
	if lk := get(lkIn(a, alice, unix.F_RDLCK, 100, 200)); lk != (fp.FileLock{Type: unix.F_WRLCK, Start: 6, End: math.MaxInt64}) {
		t.Errorf("alice asks about bob's: %+v", lk)
	}
	if lk := get(lkIn(a, alice, unix.F_WRLCK, 0, 5)); lk.Type != unix.F_UNLCK {
		t.Errorf("alice asks about her own: %+v", lk)
	}
	if lk := get(lkIn(a, 300, unix.F_RDLCK, 3, 3)); lk.Type != unix.F_WRLCK {
		t.Errorf("carol, without a lock, asks about alice's: %+v", lk)
	}
	wantErrno(t, "alice unlocks 5", set(lkIn(a, alice, unix.F_UNLCK, 5, 5)), 0)
	wantErrno(t, "bob locks 5", set(lkIn(b, bob, unix.F_WRLCK, 5, 5)), 0)
	// A process that closes the file by any descriptor loses its locks.
	wantErrno(t, "bob's FLUSH", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: a, LockOwner: bob}), 0)
	wantErrno(t, "alice locks all", set(lkIn(a, alice, unix.F_WRLCK, 0, math.MaxInt64)), 0)
	wantErrno(t, "release", g.release(node, a), 0)
	wantErrno(t, "bob while the file is open", set(lkIn(b, bob, unix.F_WRLCK, 0, 0)), unix.EAGAIN)
	wantErrno(t, "release of the last", g.release(node, b), 0)
	c := g.open(node, unix.O_RDWR)
	wantErrno(t, "bob after the last close", set(lkIn(c, bob, unix.F_WRLCK, 0, 0)), 0)
}

func TestLockArguments(t *testing.T) {
	g := newShare(t, nil, fp.InitPosixLocks|fp.InitFlockLocks).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	readOnly := g.open(node, unix.O_RDONLY)
	dir := g.open(fp.RootID, unix.O_DIRECTORY)
	for what, c := range map[string]struct {
		in   *fp.LkIn
		want unix.Errno
	}{
		"type":        {lkIn(fh, 1, 3, 0, 1), unix.EINVAL},
		"large type":  {lkIn(fh, 1, 1<<16, 0, 1), unix.EINVAL},
		"backwards":   {lkIn(fh, 1, unix.F_WRLCK, 5, 4), unix.EINVAL},
		"start":       {lkIn(fh, 1, unix.F_WRLCK, 1<<63, ^uint64(0)), unix.EINVAL},
		"all":         {lkIn(fh, 1, unix.F_WRLCK, 0, ^uint64(0)), 0},
		"last byte":   {lkIn(fh, 1, unix.F_WRLCK, math.MaxInt64, math.MaxInt64), 0},
		"forged":      {lkIn(fh+9, 1, unix.F_WRLCK, 0, 1), unix.EBADF},
		"unlock none": {lkIn(readOnly, 77, unix.F_UNLCK, 0, 1), 0},
	} {
		wantErrno(t, what, g.fs.Setlk(g.on(node), c.in, false), c.want)
	}
	wantErrno(t, "directory", g.fs.Setlk(g.on(fp.RootID), lkIn(dir, 1, unix.F_RDLCK, 0, 1), false), unix.EISDIR)
	wantErrno(t, "GETLK of an unlock", g.fs.Getlk(g.on(node), lkIn(fh, 1, unix.F_UNLCK, 0, 1), &fp.LkOut{}), unix.EINVAL)
	g.fs.cfg.PosixLocks, g.fs.cfg.Flocks = false, false
	wantErrno(t, "locks are off", g.fs.Setlk(g.on(node), lkIn(fh, 1, unix.F_RDLCK, 0, 1), false), unix.ENOSYS)
	flock := lkIn(fh, 1, unix.F_RDLCK, 0, 1)
	flock.LkFlags = fp.LkFlock
	wantErrno(t, "flock is off", g.fs.Setlk(g.on(node), flock, false), unix.ENOSYS)
}

// TestLockWait waits for a lock that another client of the share drops, that a process
// of the host drops, and that nobody drops.
func TestLockWait(t *testing.T) {
	g := newShare(t, nil, fp.InitPosixLocks).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	wantErrno(t, "lock", g.fs.Setlk(g.on(node), lkIn(fh, 1, unix.F_WRLCK, 0, 9), true), 0)
	wantErrno(t, "conflict", g.fs.Setlk(g.on(node), lkIn(fh, 2, unix.F_WRLCK, 0, 9), true), server.WouldBlock)

	done := g.waitLock(node, lkIn(fh, 2, unix.F_WRLCK, 0, 9), nil)
	never := make(chan struct{})
	other := g.waitLock(node, lkIn(fh, 3, unix.F_WRLCK, 0, 9), never)
	stillWaiting(t, done)
	start := time.Now()
	wantErrno(t, "unlock", g.fs.Setlk(g.on(node), lkIn(fh, 1, unix.F_UNLCK, 0, math.MaxInt64), false), 0)
	var winner uint64
	select {
	case errno := <-done:
		winner = 2
		wantErrno(t, "second", errno, 0)
	case errno := <-other:
		winner = 3
		wantErrno(t, "third", errno, 0)
	case <-time.After(60 * time.Second):
		t.Fatal("nobody got the lock")
	}
	if d := time.Since(start); d > 40*time.Millisecond {
		t.Logf("woken after %v", d)
	}
	// The process that has the lock ends.
	wantErrno(t, "flush", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh, LockOwner: winner}), 0)
	rest := done
	if winner == 2 {
		rest = other
	}
	select {
	case errno := <-rest:
		wantErrno(t, "the other", errno, 0)
	case <-time.After(60 * time.Second):
		t.Fatal("the lock was not passed on")
	}
}

func TestLockCancel(t *testing.T) {
	g := newShare(t, nil, fp.InitPosixLocks).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	wantErrno(t, "lock", g.fs.Setlk(g.on(node), lkIn(fh, 1, unix.F_WRLCK, 0, 9), false), 0)
	canceled := make(chan struct{})
	var done []<-chan unix.Errno
	for i := range 50 {
		done = append(done, g.waitLock(node, lkIn(fh, uint64(10+i), unix.F_RDLCK, 0, 9), canceled))
	}
	stillWaiting(t, done[0])
	close(canceled)
	for _, d := range done {
		select {
		case errno := <-d:
			wantErrno(t, "canceled", errno, unix.EINTR)
		case <-time.After(60 * time.Second):
			t.Fatal("not canceled")
		}
	}
	wantErrno(t, "release", g.release(node, fh), 0)
}

func stillWaiting(t *testing.T, done <-chan unix.Errno) {
	t.Helper()
	select {
	case errno := <-done:
		t.Fatalf("did not wait: %v", errno)
	case <-time.After(30 * time.Millisecond):
	}
}

// TestHostLocks checks that locks are real: processes of the host see them, and the
// guest sees theirs.
func TestHostLocks(t *testing.T) {
	g := newShare(t, nil, fp.InitPosixLocks|fp.InitFlockLocks).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	f, err := os.OpenFile(g.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 5}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Fatal(err)
	}
	var out fp.LkOut
	wantErrno(t, "GETLK", g.fs.Getlk(g.on(node), lkIn(fh, 1, unix.F_RDLCK, 0, 9), &out), 0)
	if out.Lk != (fp.FileLock{Type: unix.F_WRLCK, End: 4}) {
		t.Errorf("the host's lock: %+v", out.Lk)
	}
	done := g.waitLock(node, lkIn(fh, 1, unix.F_WRLCK, 0, 9), nil)
	stillWaiting(t, done)
	lk.Type = unix.F_UNLCK
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Fatal(err)
	}
	select {
	case errno := <-done:
		wantErrno(t, "lock after the host's", errno, 0)
	case <-time.After(60 * time.Second):
		t.Fatal("the host's unlock was not noticed")
	}
	lk.Type = unix.F_RDLCK
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != unix.EAGAIN {
		t.Errorf("the host does not see the guest's lock: %v", err)
	}
}

func TestFlock(t *testing.T) {
	g := newShare(t, nil, fp.InitFlockLocks).guest()
	node, a := g.openName("f", "", unix.O_RDONLY)
	b := g.open(node, unix.O_RDONLY)
	in := func(fh uint64, typ uint32) *fp.LkIn {
		l := lkIn(fh, fh, typ, 0, math.MaxInt64)
		l.LkFlags = fp.LkFlock
		return l
	}
	set := func(fh uint64, typ uint32) unix.Errno { return g.fs.Setlk(g.on(node), in(fh, typ), false) }
	wantErrno(t, "a shared", set(a, unix.F_RDLCK), 0)
	wantErrno(t, "b shared", set(b, unix.F_RDLCK), 0)
	wantErrno(t, "a alone", set(a, unix.F_WRLCK), unix.EAGAIN)
	wantErrno(t, "b none", set(b, unix.F_UNLCK), 0)
	wantErrno(t, "a alone", set(a, unix.F_WRLCK), 0)
	f, err := os.Open(g.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != unix.EAGAIN {
		t.Errorf("the host does not see the guest's lock: %v", err)
	}
	done := g.waitLock(node, in(b, unix.F_WRLCK), nil)
	stillWaiting(t, done)
	wantErrno(t, "release", g.fs.Release(g.on(node), &fp.ReleaseIn{Fh: a, ReleaseFlags: fp.ReleaseFlockUnlock}), 0)
	select {
	case errno := <-done:
		wantErrno(t, "b alone", errno, 0)
	case <-time.After(60 * time.Second):
		t.Fatal("the lock did not end with its file")
	}
}

// TestDestroyEndsLocks ends a session in which locks are held and waited for.
func TestDestroyEndsLocks(t *testing.T) {
	g := newShare(t, nil, fp.InitPosixLocks).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	wantErrno(t, "lock", g.fs.Setlk(g.on(node), lkIn(fh, 1, unix.F_WRLCK, 0, 9), false), 0)
	canceled := make(chan struct{})
	done := g.waitLock(node, lkIn(fh, 2, unix.F_WRLCK, 0, 9), canceled)
	stillWaiting(t, done)
	g.fs.Destroy()
	close(canceled)
	<-done
	f, err := os.OpenFile(g.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Errorf("the guest's lock outlived its session: %v", err)
	}
}

// TestLockStorm has owners take turns; one at a time has the lock.
func TestLockStorm(t *testing.T) {
	s := newShare(t, nil, fp.InitPosixLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	var holders, turns atomic.Int32
	var wg sync.WaitGroup
	for owner := range uint64(8) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 50 {
				if errno := <-s.waitLock(node, lkIn(fh, owner+1, unix.F_WRLCK, 0, 9), nil); errno != 0 {
					t.Error(errno)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d owners hold the lock", n)
				}
				turns.Add(1)
				runtime.Gosched()
				holders.Add(-1)
				r := server.NewRequest(fp.InHeader{NodeID: node})
				if errno := s.fs.Setlk(r, lkIn(fh, owner+1, unix.F_UNLCK, 0, 9), false); errno != 0 {
					t.Error(errno)
				}
			}
		}()
	}
	wg.Wait()
	if n := turns.Load(); n != 400 {
		t.Errorf("%d turns", n)
	}
}

// TestLockWithoutRoom takes locks when each new descriptor has to displace another one:
// the node itself is one whose descriptor may be closed then.
func TestLockWithoutRoom(t *testing.T) {
	g := newShare(t, func(c *Config) { c.MaxFDs = 64 }, fp.InitPosixLocks).guest()
	type opened struct{ node, fh uint64 }
	var files []opened
	for i := range 25 {
		node, fh := g.openName(fmt.Sprint(i), "x", unix.O_RDWR)
		files = append(files, opened{node, fh})
	}
	done := make(chan struct{})
	time.AfterFunc(60*time.Second, func() {
		select {
		case <-done:
		default:
			panic("a lock is waited for by its holder")
		}
	})
	for round := range uint64(3) {
		for _, f := range files {
			errno := g.fs.Setlk(g.on(f.node), lkIn(f.fh, round, unix.F_RDLCK, 0, 9), false)
			if errno != 0 && errno != unix.ENOLCK {
				t.Errorf("lock: %v", errno)
			}
		}
	}
	close(done)
}
