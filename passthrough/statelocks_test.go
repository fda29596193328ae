package passthrough

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// TestLockRanges compares the list of ranges with a map of bytes.
func TestLockRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const size = 12
	for range 2000 {
		var list lockRanges
		var bytes [size]int16 // the last one is for all that follow
		for i := range bytes {
			bytes[i] = unix.F_UNLCK
		}
		for range 12 {
			lk := &unix.Flock_t{Type: []int16{unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK}[r.IntN(3)], Start: r.Int64N(size)}
			end := int64(size)
			if r.IntN(4) > 0 {
				lk.Len = 1 + r.Int64N(size-lk.Start)
				if end = lk.Start + lk.Len; end == size {
					lk.Len = 0
				}
			}
			old := bytes
			for i := lk.Start; i < end; i++ {
				bytes[i] = lk.Type
			}
			before := len(list)
			c := list.change(lk)
			var frees bool
			for i := range bytes {
				frees = frees || old[i] != bytes[i] && old[i] != unix.F_UNLCK && bytes[i] != unix.F_WRLCK
			}
			if lk.Type != unix.F_UNLCK && c.frees != frees && !c.frees || lk.Type == unix.F_UNLCK && c.frees != frees {
				t.Fatalf("%v, then %+v: frees %v, want %v", list, lk, c.frees, frees)
			}
			list = list.apply(&c)
			if len(list)-before != c.growth() {
				t.Fatalf("grown by %d, not by %d", len(list)-before, c.growth())
			}
		}
		var want lockRanges
		for i, typ := range bytes {
			one := lockRange{start: int64(i), end: int64(i), exclusive: typ == unix.F_WRLCK}
			if i == size-1 {
				one.end = math.MaxInt64
			}
			switch last := len(want) - 1; {
			case typ == unix.F_UNLCK:
			case last >= 0 && want[last].end == one.start-1 && want[last].exclusive == one.exclusive:
				want[last].end = one.end
			default:
				want = append(want, one)
			}
		}
		if !slices.Equal(list, want) {
			t.Fatalf("got %v, want %v", list, want)
		}
		for _, r := range list {
			if got := rangeOf(r.flock()); got != r {
				t.Fatalf("%v became %v", r, got)
			}
		}
	}
}

// locker is a guest that holds locks of both kinds.
type locker struct {
	*guest
	node, a, b uint64
}

const (
	lockAlice = 100
	lockBob   = 200
)

// allLocks is what a guest with locks has agreed on.
const allLocks = fp.InitPosixLocks | fp.InitFlockLocks

func newLocker(t testing.TB) *locker {
	t.Helper()
	g := newShare(t, nil, allLocks).guest()
	v := &locker{guest: g}
	if err := os.Mkdir(g.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.write("dir/db", "0123456789")
	v.node = g.lookup(g.lookup(fp.RootID, "dir"), "db")
	v.a, v.b = g.open(v.node, unix.O_RDWR), g.open(v.node, unix.O_RDONLY)
	set := func(what string, in *fp.LkIn) {
		t.Helper()
		if errno := g.fs.Setlk(g.on(v.node), in, false); errno != 0 {
			t.Fatal(what, errno)
		}
	}
	set("alice", lkIn(v.a, lockAlice, unix.F_WRLCK, 2, 5))
	set("alice shares", lkIn(v.a, lockAlice, unix.F_RDLCK, 8, 8))
	set("alice drops", lkIn(v.a, lockAlice, unix.F_UNLCK, 3, 3))
	set("bob", lkIn(v.b, lockBob, unix.F_WRLCK, 20, math.MaxInt64))
	set("flock", v.flockIn(unix.F_WRLCK, v.a))
	return v
}

func (v *locker) flockIn(typ uint32, fh uint64) *fp.LkIn {
	in := lkIn(fh, fh, typ, 0, math.MaxInt64)
	in.LkFlags = fp.LkFlock
	return in
}

// wantOnHost checks what a process of the host sees: the ranges that can't be locked for
// writing, and whether there is a flock lock.
func (v *locker) wantOnHost(t *testing.T, what string, held bool) {
	t.Helper()
	f, err := os.OpenFile(v.path("dir/db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, locked := range map[int64]bool{1: false, 2: true, 3: false, 4: true, 5: true, 6: false, 8: true, 9: false, 19: false, 20: true, 1 << 40: true} {
		lk := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
			t.Fatal(err)
		}
		if got := lk.Type != unix.F_UNLCK; got != (locked && held) {
			t.Errorf("%s: byte %d is locked: %v, want %v", what, at, got, locked && held)
		}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); (err == unix.EAGAIN) != held {
		t.Errorf("%s: flock by the host: %v", what, err)
	}
}

// loadLocks is load of a guest with locks.
func (v *locker) load(t testing.TB, state []byte, edit func(*Config)) (*locker, string, error) {
	t.Helper()
	g := shareDir(t, v.share.dir, edit, allLocks).guest()
	warning, err := g.fs.LoadState(&g.thread, record.NewReader(bytes.NewReader(state), math.MaxInt64))
	return &locker{g, v.node, v.a, v.b}, warning, err
}

// TestMoveLocks: the locks of a guest that moves are taken where it comes to, by the same
// owners.
func TestMoveLocks(t *testing.T) {
	v := newLocker(t)
	state := v.saved()
	v.wantOnHost(t, "saved", true)
	v.fs.Leave(&v.thread)
	v.wantOnHost(t, "on the way", false)
	there, warning, err := v.load(t, state, nil)
	if err != nil || warning != "" {
		t.Fatal(err, warning)
	}
	there.wantOnHost(t, "arrived", true)
	set := func(in *fp.LkIn) unix.Errno { return there.fs.Setlk(there.on(there.node), in, false) }
	wantErrno(t, "bob takes alice's", set(lkIn(there.b, lockBob, unix.F_WRLCK, 4, 4)), unix.EAGAIN)
	wantErrno(t, "alice takes hers again", set(lkIn(there.a, lockAlice, unix.F_WRLCK, 4, 4)), 0)
	wantErrno(t, "flock by another open file", set(there.flockIn(unix.F_RDLCK, there.b)), unix.EAGAIN)
	// The guest can move on, and end.
	// Its numbers are in a generation after those of the other table, which the last record tells.
	const last = 5 // bytes
	if again := there.saved(); len(again) != len(state) || !bytes.Equal(again[:len(again)-last], state[:len(state)-last]) {
		t.Errorf("the state of the guest that has arrived is another one:\n%x\n%x", again, state)
	}
	wantErrno(t, "alice's FLUSH", there.fs.Flush(there.on(there.node), &fp.FlushIn{Fh: there.a, LockOwner: lockAlice}), 0)
	wantErrno(t, "bob's FLUSH", there.fs.Flush(there.on(there.node), &fp.FlushIn{Fh: there.b, LockOwner: lockBob}), 0)
	wantErrno(t, "flock ends", set(there.flockIn(unix.F_UNLCK, there.a)), 0)
	there.wantOnHost(t, "dropped", false)
}

// TestMoveLockOwners: what is known about an owner moves along: the process, and the open
// file with which its locks end.
func TestMoveLockOwners(t *testing.T) {
	v := newLocker(t)
	in := lkIn(v.b, 300, unix.F_WRLCK, 10, 10)
	in.Lk.PID = 4711
	wantErrno(t, "lock", v.fs.Setlk(v.on(v.node), in, false), 0)
	wantErrno(t, "bob by another file", v.fs.Setlk(v.on(v.node), lkIn(v.a, lockBob, unix.F_WRLCK, 15, 15), false), 0)
	state := v.saved()
	v.fs.Leave(&v.thread)
	there, warning, err := v.load(t, state, nil)
	if err != nil || warning != "" {
		t.Fatal(err, warning)
	}
	var out fp.LkOut
	wantErrno(t, "GETLK", there.fs.Getlk(there.on(there.node), lkIn(there.a, 1, unix.F_WRLCK, 10, 10), &out), 0)
	if out.Lk.PID != 4711 {
		t.Errorf("process %d, want 4711", out.Lk.PID)
	}
	wantErrno(t, "close of b", there.release(there.node, there.b), 0)
	set := func(at uint64) unix.Errno {
		return there.fs.Setlk(there.on(there.node), lkIn(there.a, 1, unix.F_WRLCK, at, at), false)
	}
	wantErrno(t, "the lock by b", set(10), 0)
	wantErrno(t, "bob's, by both", set(15), unix.EAGAIN)
}

// TestMoveLocksBack: the migration fails after the state was saved.
func TestMoveLocksBack(t *testing.T) {
	v := newLocker(t)
	_ = v.saved()
	v.fs.Leave(&v.thread)
	if warning := v.fs.Return(&v.thread); warning != "" {
		t.Error(warning)
	}
	v.wantOnHost(t, "returned", true)

	// Somebody was faster with some of them.
	v.fs.Leave(&v.thread)
	f := v.hostLock(t, 4)
	warning := v.fs.Return(&v.thread)
	if !strings.Contains(warning, `fcntl on "dir/db" (somebody else holds it)`) || strings.Contains(warning, "flock") {
		t.Errorf("warning: %q", warning)
	}
	f.Close()
	// What is lost is not taken later behind everybody's back.
	v.fs.Leave(&v.thread)
	if warning := v.fs.Return(&v.thread); warning != "" {
		t.Error(warning)
	}
	f = v.hostLock(t, 4)
	f.Close()
}

// hostLock locks a byte on the host.
func (v *locker) hostLock(t testing.TB, at int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(v.path("dir/db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestMoveLocksLost: somebody else has a lock where the guest comes to.
func TestMoveLocksLost(t *testing.T) {
	v := newLocker(t)
	v.write("other", "other")
	other := v.lookup(fp.RootID, "other")
	otherFh := v.open(other, unix.O_RDONLY)
	state := v.saved()
	v.fs.Leave(&v.thread)
	f := v.hostLock(t, 5)
	defer f.Close()
	there, _, err := v.load(t, state, nil)
	if err == nil || !strings.Contains(err.Error(), `fcntl on "dir/db" (somebody else holds it)`) ||
		!strings.Contains(err.Error(), "--migration-on-error=guest-error") {
		t.Fatalf("abort: %v", err)
	}
	there.fs.Destroy()
	there, warning, err := v.load(t, state, func(c *Config) { c.Migration.GuestErrors = true })
	if err != nil || !strings.Contains(warning, `fcntl on "dir/db"`) {
		t.Fatalf("guest-error: %v, %q", err, warning)
	}
	// It must not write where it believes to be alone.
	for _, fh := range []uint64{there.a, there.b} {
		_, errno := there.readAt(there.node, fh, 0, 10)
		wantErrno(t, "file without its lock", errno, unix.EBADF)
	}
	if got, errno := there.readAt(other, otherFh, 0, 10); got != "other" || errno != 0 {
		t.Errorf("another file: %q, %v", got, errno)
	}
	if fh := there.open(there.node, unix.O_RDONLY); fh == 0 {
		t.Error("the file can't be opened again")
	}
}

// TestMoveFlockLost is the same with flock: other open files of the file are not concerned.
func TestMoveFlockLost(t *testing.T) {
	v := newLocker(t)
	state := v.saved()
	v.fs.Leave(&v.thread)
	f, err := os.Open(v.path("dir/db"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	there, warning, err := v.load(t, state, func(c *Config) { c.Migration.GuestErrors = true })
	if err != nil || !strings.Contains(warning, `flock on "dir/db" (somebody else holds it)`) || strings.Contains(warning, "fcntl") {
		t.Fatalf("guest-error: %v, %q", err, warning)
	}
	_, errno := there.readAt(there.node, there.a, 0, 10)
	wantErrno(t, "file without its lock", errno, unix.EBADF)
	if _, errno := there.readAt(there.node, there.b, 0, 10); errno != 0 {
		t.Errorf("the other open file: %v", errno)
	}
}

// TestFlockChange: a lock that can't be made an exclusive one is lost, as on the host, and
// not taken again by a migration.
func TestFlockChange(t *testing.T) {
	g := newShare(t, nil, allLocks).guest()
	node, a := g.openName("f", "", unix.O_RDWR)
	b := g.open(node, unix.O_RDWR)
	v := &locker{g, node, a, b}
	set := func(typ uint32, fh uint64) unix.Errno { return g.fs.Setlk(g.on(node), v.flockIn(typ, fh), false) }
	wantErrno(t, "a shares", set(unix.F_RDLCK, a), 0)
	wantErrno(t, "b shares", set(unix.F_RDLCK, b), 0)
	wantErrno(t, "a wants it alone", set(unix.F_WRLCK, a), unix.EAGAIN)
	wantErrno(t, "b wants it alone", set(unix.F_WRLCK, b), 0) // a has none any more
	g.fs.Leave(&g.thread)
	if warning := g.fs.Return(&g.thread); warning != "" {
		t.Error(warning)
	}
	wantErrno(t, "a shares", set(unix.F_RDLCK, a), unix.EAGAIN)
}

// TestLoadLocksCut: see TestLoadCut.
func TestLoadLocksCut(t *testing.T) {
	v := newLocker(t)
	state := v.saved()
	v.fs.Leave(&v.thread)
	for n := range len(state) {
		g, _, err := v.load(t, state[:n], nil)
		if err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(state))
		}
		g.fs.Destroy()
		v.wantOnHost(t, "refused", false)
		if fds, opens := g.fs.fds.used.Load(), g.fs.fds.kept.Load(); fds != 1 || opens != 0 {
			t.Fatalf("%d of %d bytes: %d descriptors and %d open files are left", n, len(state), fds-1, opens)
		}
	}
	// A share that keeps locks within the guest can't have any to load.
	_, _, err := v.load(t, state, func(c *Config) { c.PosixLocks, c.Flocks = false, false })
	if err == nil || !strings.Contains(err.Error(), "impossible lock") {
		t.Errorf("locks where there are none: %v", err)
	}
}
