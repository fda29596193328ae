package vfs

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestLockTable: random locks against a table that has each byte.
func TestLockTable(t *testing.T) {
	const size, owners = 24, 3
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := New(&dir{}, Options{})
	var table Locks
	var model [owners][size]LockKind
	for range 20_000 {
		o := random.IntN(owners)
		start := random.IntN(size)
		l := Lock{Owner: LockOwner{client: f, number: uint64(o)}, Kind: LockKind(random.IntN(3)),
			Start: int64(start), End: int64(start + random.IntN(size-start))}
		free := true
		for other := range owners {
			for i := l.Start; i <= l.End && other != o && l.Kind != Unlock; i++ {
				free = free && (model[other][i] == Unlock || model[other][i] == ReadLock && l.Kind == ReadLock)
			}
		}
		found, err := table.GetLock(t.Context(), l)
		if err != nil || (found.Kind == Unlock) != free {
			t.Fatalf("%+v: found %+v, free %v", l, found, free)
		}
		err = table.SetLock(t.Context(), l, false)
		if (err == nil) != free {
			t.Fatalf("%+v: %v, free %v", l, err, free)
		}
		for i := l.Start; i <= l.End && free; i++ {
			model[o][i] = l.Kind
		}
		if n := f.locked.Load(); n != int64(len(table.held)) || n > owners*size {
			t.Fatalf("%d locks, %d are counted", len(table.held), n)
		}
	}
	for o := range owners {
		if err := table.SetLock(t.Context(), Lock{Owner: LockOwner{client: f, number: uint64(o)}, End: math.MaxInt64}, false); err != nil {
			t.Fatal(err)
		}
	}
	if len(table.held) != 0 || f.locked.Load() != 0 {
		t.Errorf("%d are left, %d are counted", len(table.held), f.locked.Load())
	}
}

// lockable is a file with locks.
type lockable struct {
	Locks
	text
}

func lockIn(fh, owner uint64, kind uint32, start, end uint64) *fp.LkIn {
	return &fp.LkIn{Fh: fh, Owner: owner, Lk: fp.FileLock{Start: start, End: end, Type: kind}}
}

// TestLockLimits: a client can't have locks without end, and leaves none.
func TestLockLimits(t *testing.T) {
	file := &lockable{text: "abc"}
	f := New(&dir{names: map[string]Node{"f": file, "plain": text("x")}}, Options{Locks: true, MaxLocks: 10, NonBlocking: true})
	open := func(name string) (id, fh uint64) {
		e, errno := lookup(f, fp.RootID, name)
		var o fp.OpenOut
		if errno2 := f.Open(request(e.NodeID), &fp.OpenIn{Flags: unix.O_RDWR}, &o); errno != 0 || errno2 != 0 || o.OpenFlags&fp.FopenNoflush != 0 {
			t.Fatal(errno, errno2, o.OpenFlags)
		}
		return e.NodeID, o.Fh
	}
	id, fh := open("f")
	_, fh2 := open("f")
	r := request(id)
	var errno unix.Errno
	n := uint64(0)
	for ; errno == 0 && n < 100; n++ {
		errno = f.Setlk(r, lockIn(fh, 1, unix.F_WRLCK, 2*n, 2*n), false)
	}
	if errno != unix.ENOLCK || n != 10 { // one is the owner's
		t.Errorf("after %d locks: %v", n, errno)
	}
	for _, in := range []*fp.LkIn{lockIn(fh, 2, unix.F_WRLCK, 5, 4), lockIn(fh, 2, unix.F_WRLCK, 5, 1<<63), lockIn(fh, 2, 77, 0, 1)} {
		if errno := f.Setlk(r, in, false); errno != unix.EINVAL {
			t.Errorf("%+v: %v", in, errno)
		}
	}
	if errno := f.Setlk(r, lockIn(fh2+1, 2, unix.F_WRLCK, 0, 1), true); errno != unix.EBADF {
		t.Errorf("an open file that is none: %v", errno)
	}
	if errno := f.Flush(r, &fp.FlushIn{Fh: fh2, LockOwner: 1}); errno != 0 || len(file.held) != 0 || f.locked.Load() != 0 {
		t.Errorf("close by another open file: %v, %d locks are left", errno, len(file.held))
	}
	// Without FLUSH, as only a forged client does it.
	for _, fh := range []uint64{fh, fh2} {
		if errno := f.Setlk(r, lockIn(fh, fh, unix.F_RDLCK, 0, 9), false); errno != 0 {
			t.Fatal(errno)
		}
		in := lockIn(fh, 7, unix.F_RDLCK, 3, 3)
		in.LkFlags = fp.LkFlock
		if errno := f.Setlk(r, in, false); errno != 0 {
			t.Fatal(errno)
		}
	}
	if errno := f.Release(r, &fp.ReleaseIn{Fh: fh}); errno != 0 || len(file.held) != 2 {
		t.Errorf("%v, %d locks are left", errno, len(file.held))
	}
	f.Destroy()
	if len(file.held) != 0 || f.locked.Load() != 0 || len(f.owners.of) != 0 {
		t.Errorf("%d locks are left, %d are counted", len(file.held), f.locked.Load())
	}
	id, fh = open("plain")
	if errno := f.Setlk(request(id), lockIn(fh, 1, unix.F_WRLCK, 0, 1), false); errno != unix.EOPNOTSUPP || f.locked.Load() != 0 {
		t.Errorf("a file without locks: %v", errno)
	}
}

// TestLockWaits: a lock that waits takes no slot, ends with the context, and is not kept for an open
// file that is closed meanwhile.
func TestLockWaits(t *testing.T) {
	file := &lockable{text: "abc"}
	f := New(&dir{names: map[string]Node{"f": file}}, Options{Locks: true, MaxRunning: 1})
	e, _ := lookup(f, fp.RootID, "f")
	var o, o2 fp.OpenOut
	for _, o := range []*fp.OpenOut{&o, &o2} {
		if errno := f.Open(request(e.NodeID), &fp.OpenIn{Flags: unix.O_RDWR}, o); errno != 0 {
			t.Fatal(errno)
		}
	}
	if errno := f.Setlk(request(e.NodeID), lockIn(o.Fh, 1, unix.F_WRLCK, 0, 9), true); errno != 0 {
		t.Fatal(errno)
	}
	results := make(chan unix.Errno, 3)
	ended := make(chan struct{})
	for i := range 3 {
		r := request(e.NodeID)
		if i == 0 {
			r.Canceled = ended
		}
		go func() { results <- f.Setlk(r, lockIn(o2.Fh, uint64(2+i), unix.F_WRLCK, 0, 9), true) }()
	}
	if _, errno := lookup(f, fp.RootID, "f"); errno != 0 {
		t.Error(errno)
	}
	close(ended)
	if errno := receive(t, results); errno != unix.EINTR {
		t.Errorf("interrupted: %v", errno)
	}
	if errno := f.Release(request(e.NodeID), &fp.ReleaseIn{Fh: o2.Fh}); errno != 0 {
		t.Error(errno)
	}
	if errno := f.Flush(request(e.NodeID), &fp.FlushIn{Fh: o.Fh, LockOwner: 1}); errno != 0 {
		t.Error(errno)
	}
	for range 2 {
		if errno := receive(t, results); errno != unix.EBADF {
			t.Errorf("a lock of a file that is closed: %v", errno)
		}
	}
	if len(file.held) != 0 {
		t.Errorf("%d locks are left", len(file.held))
	}
}

// TestNoLocks: without the option the client's kernel keeps locks itself.
func TestNoLocks(t *testing.T) {
	f := New(&dir{}, Options{})
	if errno := f.Setlk(request(1), lockIn(0, 1, unix.F_WRLCK, 0, 1), false); errno != unix.ENOSYS {
		t.Error(errno)
	}
}

// wrappable has the optional abilities, and says so.
type wrappable struct {
	dir
	child Node
}

func (w *wrappable) Tmpfile(context.Context, int, fs.FileMode) (Node, Handle, error) {
	return w.child, nil, nil
}
func (w *wrappable) Access(context.Context, uint32) error { return fs.ErrPermission }
func (w *wrappable) CopyFrom(_ context.Context, _ int64, src Handle, _, n int64) (int64, error) {
	if src != Handle(w) {
		return 0, unix.EINVAL
	}
	return n, nil
}

// TestWrapOptional: decorators keep them.
func TestWrapOptional(t *testing.T) {
	inner := &wrappable{child: text("x")}
	root := outer{outer{inner}}
	n, h, err := Tmpfile(t.Context(), root, 0, 0)
	if want := (outer{outer{text("x")}}); n != Node(want) || h != Handle(want) || err != nil {
		t.Errorf("%#v, %#v, %v", n, h, err)
	}
	if err := Access(t.Context(), root, 4); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
	if n, err := CopyFrom(t.Context(), root, 0, root, 0, 5); n != 5 || err != nil {
		t.Error(n, err)
	}
	if _, err := CopyFrom(t.Context(), root, 0, outer{inner}, 0, 5); !errors.Is(err, unix.EXDEV) {
		t.Error(err)
	}
}
