package passthrough

import (
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// manyWaiters is as many as a large guest's queues let wait.
const manyWaiters = 900

// hostLocked has a process of the host lock a range of a file.
func (s *share) hostLocked(name string, start, length int64) *os.File {
	s.t.Helper()
	f, err := os.OpenFile(s.path(name), os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		s.t.Fatal(err)
	}
	return f
}

// parked waits until so many requests wait.
func (s *share) parked(n int) {
	s.t.Helper()
	for end := time.Now().Add(60 * time.Second); int(s.fs.locks.waiters.Load()) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%d requests wait, want %d", s.fs.locks.waiters.Load(), n)
		}
	}
}

// got wants a request to end.
func got(t testing.TB, what string, done <-chan unix.Errno, want unix.Errno) {
	t.Helper()
	select {
	case errno := <-done:
		wantErrno(t, what, errno, want)
	case <-time.After(60 * time.Second):
		t.Fatal(what + ": it waits")
	}
}

// TestLockWakesOne has 900 owners wait for a lock. An unlock that lets nobody go on makes no
// system call but its own, and wakes nobody; one that does is passed on to the first.
func TestLockWakesOne(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	set := func(what string, in *fp.LkIn, want int64) {
		t.Helper()
		var errno unix.Errno
		if n := countCalls(func() { errno = g.fs.Setlk(g.on(node), in, false) }); n != want || errno != 0 {
			t.Errorf("%s: %d system calls and %v, want %d", what, n, errno, want)
		}
	}
	whole := func(owner uint64) *fp.LkIn { return lkIn(fh, owner, unix.F_WRLCK, 0, math.MaxInt64) }
	set("lock", lkIn(fh, 1, unix.F_WRLCK, 0, 9), 2) // and an open
	set("another range", lkIn(fh, 1, unix.F_WRLCK, 20, 29), 1)
	canceled := make(chan struct{})
	first := s.waitLock(node, whole(2), canceled)
	s.parked(1)
	rest := make([]<-chan unix.Errno, manyWaiters)
	for i := range rest {
		rest[i] = s.waitLock(node, whole(uint64(10+i)), canceled)
	}
	s.parked(1 + manyWaiters)

	set("unlock of nothing", lkIn(fh, 1, unix.F_UNLCK, 100, 200), 0)
	set("unlock of nothing by nobody", lkIn(fh, 3, unix.F_UNLCK, 0, 200), 0)
	set("the same lock again", lkIn(fh, 1, unix.F_WRLCK, 0, 9), 1)
	set("unlock of a part", lkIn(fh, 1, unix.F_UNLCK, 20, 29), 1)
	if n := s.fs.locks.waiters.Load(); n != 1+manyWaiters {
		t.Fatalf("%d requests wait, want %d", n, 1+manyWaiters)
	}
	set("unlock", lkIn(fh, 1, unix.F_UNLCK, 0, 9), 2) // and the first waiter's lock
	got(t, "the first waiter", first, 0)
	if n := s.fs.locks.waiters.Load(); n != manyWaiters {
		t.Errorf("%d requests wait, want %d: one goes on", n, manyWaiters)
	}
	close(canceled)
	for _, done := range rest {
		got(t, "canceled", done, unix.EINTR)
	}
}

// TestSharedLocksWakeAll has several owners share what one of them had alone.
func TestSharedLocksWakeAll(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	set := func(typ uint32) { wantErrno(t, "set", g.fs.Setlk(g.on(node), lkIn(fh, 1, typ, 0, 9), false), 0) }
	set(unix.F_WRLCK)
	var done []<-chan unix.Errno
	for i := range uint64(5) {
		done = append(done, s.waitLock(node, lkIn(fh, 10+i, unix.F_RDLCK, 5, 5), nil))
	}
	s.parked(5)
	alone := s.waitLock(node, lkIn(fh, 99, unix.F_WRLCK, 5, 5), nil)
	s.parked(6)
	set(unix.F_RDLCK)
	for _, d := range done {
		got(t, "shared lock", d, 0)
	}
	s.parked(1)
	set(unix.F_UNLCK)
	for i := range uint64(5) {
		s.parked(1)
		wantErrno(t, "flush", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh, LockOwner: 10 + i}), 0)
	}
	got(t, "exclusive lock", alone, 0)
}

// TestLockProbes counts how often the host is asked about a lock that a process of it
// holds, in a minute: as often for 900 who wait as for one.
func TestLockProbes(t *testing.T) {
	const perMinute = int64(time.Minute / lockProbeMax)
	for name, c := range map[string]struct {
		waiters int
		length  int64 // of each waiter's range, which lie side by side; 0: all the same
		most    int64
	}{
		"one":       {1, 0, perMinute + 10},
		"many":      {manyWaiters, 0, perMinute + 10},
		"all apart": {manyWaiters, 1, lockProbeMost * (perMinute + 10)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShare(t, nil, allLocks)
				g := s.guest()
				node, fh := g.openName("f", "", unix.O_RDWR)
				var host []*os.File
				for i := range int64(c.waiters) {
					if i == 0 || c.length > 0 {
						host = append(host, s.hostLocked("f", i, 1))
					}
				}
				canceled := make(chan struct{})
				var done []<-chan unix.Errno
				for i := range uint64(c.waiters) {
					at := i * uint64(c.length)
					done = append(done, s.waitLock(node, lkIn(fh, 10+i, unix.F_WRLCK, at, at), canceled))
				}
				synctest.Wait()
				n := countCalls(func() { time.Sleep(time.Minute) })
				if n == 0 || n > c.most {
					t.Errorf("%d system calls in a minute, want at most %d", n, c.most)
				}
				host[len(host)-1].Close()
				time.Sleep(time.Minute)
				if n := int(s.fs.locks.waiters.Load()); n != c.waiters-1 {
					t.Errorf("%d requests wait for what one could have, want %d", n, c.waiters-1)
				}
				close(canceled)
				for _, d := range done {
					<-d
				}
				synctest.Wait()
				if n := countCalls(func() { time.Sleep(time.Hour) }); n != 0 {
					t.Errorf("%d system calls in an hour in which nobody waits", n)
				}
				for _, f := range host {
					f.Close()
				}
			})
		})
	}
}

// TestFlockProbes is the same for flock, where who shares may go on and others not.
func TestFlockProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShare(t, nil, allLocks)
		g := s.guest()
		node, first := g.openName("f", "", unix.O_RDWR)
		f, err := os.Open(s.path("f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		host := func(how int) {
			if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
				t.Fatal(err)
			}
		}
		host(unix.LOCK_EX)
		ask := func(fh uint64, typ uint32) *fp.LkIn { return (&locker{}).flockIn(typ, fh) }
		alone := s.waitLock(node, ask(first, unix.F_WRLCK), nil)
		synctest.Wait()
		var shared []<-chan unix.Errno
		for range 100 {
			shared = append(shared, s.waitLock(node, ask(g.open(node, unix.O_RDONLY), unix.F_RDLCK), nil))
		}
		synctest.Wait()
		if n, most := countCalls(func() { time.Sleep(time.Minute) }), int64(2*time.Minute/lockProbeMax)+20; n == 0 || n > most {
			t.Errorf("%d system calls in a minute, want at most %d", n, most)
		}
		host(unix.LOCK_SH)
		time.Sleep(time.Minute)
		for _, d := range shared {
			got(t, "shared lock", d, 0)
		}
		s.fs.Destroy()
		got(t, "the session ends", alone, unix.EBADF)
	})
}

// TestLockEndsWithOpenFile: Linux sends no unlock and no FLUSH for the owner of an open
// file's lock (F_OFD_SETLK) when the file is closed.
func TestLockEndsWithOpenFile(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, a := g.openName("f", "", unix.O_RDWR)
	b := g.open(node, unix.O_RDWR)
	const ofdA, ofdB, process = 1, 2, 3
	set := func(in *fp.LkIn) unix.Errno { return g.fs.Setlk(g.on(node), in, false) }
	wantErrno(t, "A", set(lkIn(a, ofdA, unix.F_WRLCK, 0, 9)), 0)
	wantErrno(t, "process by a", set(lkIn(a, process, unix.F_WRLCK, 100, 100)), 0)
	wantErrno(t, "process by b", set(lkIn(b, process, unix.F_WRLCK, 101, 101)), 0)
	wantErrno(t, "B", set(lkIn(b, ofdB, unix.F_WRLCK, 0, 9)), unix.EAGAIN)
	done := s.waitLock(node, lkIn(b, ofdB, unix.F_WRLCK, 0, 9), nil)
	s.parked(1)
	wantErrno(t, "close of a", g.release(node, a), 0)
	got(t, "B waits for A, which is closed", done, 0)
	wantErrno(t, "the process goes on", set(lkIn(b, ofdB, unix.F_WRLCK, 100, 100)), unix.EAGAIN)
	wantErrno(t, "close of the process", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: b, LockOwner: process}), 0)
	wantErrno(t, "after it", set(lkIn(b, ofdB, unix.F_WRLCK, 100, 101)), 0)
	// What waits by a file that is closed can't be left waiting either.
	c := g.open(node, unix.O_RDWR)
	done = s.waitLock(node, lkIn(c, 4, unix.F_WRLCK, 0, 9), nil)
	s.parked(1)
	wantErrno(t, "close of c", g.release(node, c), 0)
	got(t, "by c", done, unix.EBADF)
	if n := g.fs.locks.ranges.Load(); n != 2 {
		t.Errorf("%d ranges are held, want 2", n)
	}
}

// TestDeadlock: a request that would wait for itself is refused, as by Linux, whether the
// circle has two processes or more, on one file or on several.
func TestDeadlock(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	other, otherFh := g.openName("g", "", unix.O_RDWR)
	ask := func(fh, owner uint64, pid uint32, at uint64) *fp.LkIn {
		in := lkIn(fh, owner, unix.F_WRLCK, at, at)
		in.Lk.PID = pid
		return in
	}
	set := func(node uint64, in *fp.LkIn) {
		t.Helper()
		wantErrno(t, "lock", g.fs.Setlk(g.on(node), in, false), 0)
	}
	wait := func(what string, node uint64, in *fp.LkIn, want unix.Errno) <-chan unix.Errno {
		t.Helper()
		wantErrno(t, what, g.fs.Setlk(g.on(node), in, true), want)
		if want != server.WouldBlock {
			return nil
		}
		n := int(s.fs.locks.waiters.Load())
		done := s.waitLock(node, in, nil)
		s.parked(n + 1)
		return done
	}
	set(node, ask(fh, 1, 11, 0))
	set(node, ask(fh, 2, 22, 1))
	set(other, ask(otherFh, 3, 33, 0))
	a := wait("1 waits for 2", node, ask(fh, 1, 11, 1), server.WouldBlock)
	wait("2 and 1", node, ask(fh, 2, 22, 0), unix.EDEADLK)
	b := wait("2 waits for 3", other, ask(otherFh, 2, 22, 0), server.WouldBlock)
	wait("3, 1 and 2", node, ask(fh, 3, 33, 0), unix.EDEADLK)
	wantErrno(t, "3 without waiting", g.fs.Setlk(g.on(node), ask(fh, 3, 33, 0), false), unix.EAGAIN)
	// Two owners of one process are open files, and another thread may end the wait.
	c := wait("3 of 1's process", node, ask(fh, 3, 11, 0), server.WouldBlock)
	wantErrno(t, "3 ends", g.fs.Flush(g.on(other), &fp.FlushIn{Fh: otherFh, LockOwner: 3}), 0)
	got(t, "2 has 3's", b, 0)
	wantErrno(t, "2 ends", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh, LockOwner: 2}), 0)
	got(t, "1 has 2's", a, 0)
	wantErrno(t, "1 ends", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh, LockOwner: 1}), 0)
	got(t, "3 has 1's", c, 0)
}

// TestDeadlockLater: a request waits for two, and the circle is with the second.
func TestDeadlockLater(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	for owner := range uint64(3) {
		wantErrno(t, "lock", g.fs.Setlk(g.on(node), lkIn(fh, 1+owner, unix.F_WRLCK, owner, owner), false), 0)
	}
	two := s.waitLock(node, lkIn(fh, 2, unix.F_WRLCK, 0, 0), nil) // 2 waits for 1
	s.parked(1)
	one := s.waitLock(node, lkIn(fh, 1, unix.F_WRLCK, 1, 2), nil) // 1 waits for 3, or for 2 at once
	var errno unix.Errno
	select {
	case errno = <-one:
	case <-time.After(10 * time.Millisecond):
		wantErrno(t, "3 ends", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh, LockOwner: 3}), 0)
		select {
		case errno = <-one:
		case <-time.After(60 * time.Second):
			t.Fatal("1 and 2 wait for each other")
		}
	}
	wantErrno(t, "1 and 2", errno, unix.EDEADLK)
	wantErrno(t, "1 ends", g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh, LockOwner: 1}), 0)
	got(t, "2", two, 0)
}

// TestLockHolder: who holds a lock is told if it is a process of this guest.
func TestLockHolder(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	in := lkIn(fh, 1, unix.F_WRLCK, 10, 19)
	in.Lk.PID = 4711
	wantErrno(t, "lock", g.fs.Setlk(g.on(node), in, false), 0)
	in = lkIn(fh, 1, unix.F_WRLCK, 20, 29) // joined with the first
	in.Lk.PID = 4711
	wantErrno(t, "lock", g.fs.Setlk(g.on(node), in, false), 0)
	f := s.hostLocked("f", 100, 10)
	defer f.Close()
	get := func(start, end uint64, want fp.FileLock) {
		t.Helper()
		var out fp.LkOut
		wantErrno(t, "GETLK", g.fs.Getlk(g.on(node), lkIn(fh, 2, unix.F_RDLCK, start, end), &out), 0)
		if out.Lk != want {
			t.Errorf("%d to %d: %+v, want %+v", start, end, out.Lk, want)
		}
	}
	get(25, 200, fp.FileLock{Start: 10, End: 29, Type: unix.F_WRLCK, PID: 4711})
	get(50, 200, fp.FileLock{Start: 100, End: 109, Type: unix.F_WRLCK})
	get(200, 300, fp.FileLock{Type: unix.F_UNLCK})
}

// TestReadonlyLocks: a guest that may only read keeps no writer of the host out but with a
// shared lock.
func TestReadonlyLocks(t *testing.T) {
	s := newShare(t, func(c *Config) { c.ReadOnly = true }, allLocks)
	g := s.guest()
	s.write("f", "")
	node := g.lookup(fp.RootID, "f")
	fh := g.open(node, unix.O_RDONLY)
	ask := func(typ uint32) *fp.LkIn { return (&locker{}).flockIn(typ, fh) }
	for what, c := range map[string]struct {
		in   *fp.LkIn
		want unix.Errno
	}{
		"flock, exclusive": {ask(unix.F_WRLCK), unix.EBADF}, "flock, shared": {ask(unix.F_RDLCK), 0},
		"exclusive": {lkIn(fh, 1, unix.F_WRLCK, 0, 9), unix.EBADF}, "shared": {lkIn(fh, 1, unix.F_RDLCK, 0, 9), 0},
	} {
		for _, wait := range []bool{false, true} {
			wantErrno(t, what, g.fs.Setlk(g.on(node), c.in, wait), c.want)
		}
	}
}

// TestLockLimits: a guest has so many ranges of a file and no more, by whichever requests,
// and owners that hold nothing make room for others.
func TestLockLimits(t *testing.T) {
	s := newShare(t, nil, allLocks)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	set := func(typ uint32, start, end uint64) unix.Errno {
		return g.fs.Setlk(g.on(node), lkIn(fh, 1, typ, start, end), false)
	}
	for i := range uint64(20000) {
		want := unix.Errno(0)
		if i >= maxFileLocks {
			want = unix.ENOLCK
		}
		if errno := set(unix.F_WRLCK, 2*i, 2*i); errno != want {
			t.Fatalf("range %d: %v, want %v", i, errno, want)
		}
	}
	wantErrno(t, "a range less", set(unix.F_UNLCK, 0, 0), 0)
	wantErrno(t, "and one more", set(unix.F_RDLCK, 1<<40, 1<<40), 0)
	wantErrno(t, "joined with another", set(unix.F_RDLCK, 1<<40+1, 1<<41), 0)
	wantErrno(t, "an unlock that makes two of one", set(unix.F_UNLCK, 1<<40+10, 1<<40+10), unix.ENOLCK)
	wantErrno(t, "unlock of all", set(unix.F_UNLCK, 0, math.MaxInt64), 0)
	if n := s.fs.locks.ranges.Load(); n != 0 {
		t.Errorf("%d ranges are counted, want 0", n)
	}
}
