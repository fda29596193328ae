package passthrough

import (
	"math"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// countTries has waitForLock wait for a while, and returns how often it tries to get the
// lock.
func countTries(t *testing.T, ours bool, during time.Duration) (n int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fs, node := &FS{}, &inode{handles: &handle{}}
		canceled := make(chan struct{})
		done := make(chan unix.Errno)
		go func() {
			done <- fs.waitForLock(node, canceled, func() unix.Errno { n++; return unix.EAGAIN }, func() bool { return ours })
		}()
		time.Sleep(during)
		synctest.Wait()
		close(canceled)
		wantErrno(t, "canceled", <-done, unix.EINTR)
	})
	return n
}

// TestLockTries: who waits for a lock of the share does nothing, and who waits for one of
// somebody else tries seldom after a while.
func TestLockTries(t *testing.T) {
	if n := countTries(t, true, time.Hour); n != 1 {
		t.Errorf("a lock of the share was tried %d times in an hour", n)
	}
	if n := countTries(t, false, time.Second); n < 20 || n > 30 {
		t.Errorf("a lock of somebody else was tried %d times in a second", n)
	}
}

// TestLockTicks: all that wait are woken together, by one timer.
func TestLockTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks ticks
		var wakes sync.Map
		var woken atomic.Int32
		pending := func() int {
			ticks.mu.Lock()
			defer ticks.mu.Unlock()
			return len(ticks.next)
		}
		for i := range 1000 {
			go func() {
				time.Sleep(time.Duration(i) * time.Microsecond)
				for range 5 {
					<-ticks.after(50 * time.Millisecond)
					wakes.Store(time.Now(), true)
					woken.Add(1)
				}
			}()
		}
		time.Sleep(2 * time.Millisecond)
		if n := pending(); n != 1 {
			t.Errorf("1000 waiters have %d ticks", n)
		}
		first := ticks.after(time.Millisecond)
		<-first
		time.Sleep(time.Second)
		synctest.Wait()
		n := 0
		wakes.Range(func(any, any) bool { n++; return true })
		if n != 5 || woken.Load() != 5000 || pending() != 0 {
			t.Errorf("%d waiters were woken %d times; %d ticks are left", woken.Load(), n, pending())
		}
	})
}

// TestFlockPassedOn: a lock that ends with its handle, or by an attempt to change it, is
// passed on at once. Nobody polls for a lock of the share.
func TestFlockPassedOn(t *testing.T) {
	g := newShare(t, nil, fp.InitFlockLocks).guest()
	node, a := g.openName("f", "", unix.O_RDWR)
	b := g.open(node, unix.O_RDWR)
	in := func(fh uint64, typ uint32) *fp.LkIn {
		l := lkIn(fh, fh, typ, 0, math.MaxInt64)
		l.LkFlags = fp.LkFlock
		return l
	}
	got := func(what string, done <-chan unix.Errno) {
		t.Helper()
		select {
		case errno := <-done:
			wantErrno(t, what, errno, 0)
		case <-time.After(20 * time.Second):
			t.Fatal(what + ": not passed on")
		}
	}
	wantErrno(t, "a alone", g.fs.Setlk(g.on(node), in(a, unix.F_WRLCK), false), 0)
	done := g.waitLock(node, in(b, unix.F_WRLCK), nil)
	stillWaiting(t, done)
	wantErrno(t, "release", g.release(node, a), 0)
	got("b alone", done)

	// a's lock goes when a tries to have more, which b and somebody else don't let it.
	a = g.open(node, unix.O_RDWR)
	wantErrno(t, "b shared", g.fs.Setlk(g.on(node), in(b, unix.F_RDLCK), false), 0)
	wantErrno(t, "a shared", g.fs.Setlk(g.on(node), in(a, unix.F_RDLCK), false), 0)
	done = g.waitLock(node, in(b, unix.F_WRLCK), nil) // drops b's, and waits for a's
	stillWaiting(t, done)
	f, err := os.Open(g.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "a alone", g.fs.Setlk(g.on(node), in(a, unix.F_WRLCK), false), unix.EAGAIN)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	got("b alone", done)
}
