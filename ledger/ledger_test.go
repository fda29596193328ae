package ledger

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func create(t *testing.T) *Ledger {
	t.Helper()
	l, err := Create()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// successor opens a ledger as another process does.
func successor(t *testing.T, l *Ledger) *Ledger {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(l.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Open(fd)
	if err != nil {
		_ = unix.Close(fd)
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	return next
}

// TestArea: a successor finds what was stored last, whatever its size.
func TestArea(t *testing.T) {
	l := create(t)
	a, err := l.Area(AreaSession)
	if err != nil {
		t.Fatal(err)
	}
	if b := a.Load(); b != nil {
		t.Errorf("a new area has %d bytes", len(b))
	}
	for _, size := range []int{1, 100, MaxArea, 7} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		if err := a.Store(want); err != nil {
			t.Fatal(err)
		}
		b, err := successor(t, l).Area(AreaSession)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Load(); !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
	}
	if err := a.Store(make([]byte, MaxArea+1)); err == nil {
		t.Error("too much was stored")
	}
}

// TestQueue: a successor goes on behind the requests that have a cell, also if the index was
// not noted any more, and across the end of the indexes.
func TestQueue(t *testing.T) {
	l := create(t)
	q, err := l.Queue(3, 256)
	if err != nil {
		t.Fatal(err)
	}
	if q.Start() != 0 {
		t.Error("a ring that was never used is known")
	}
	h := fp.InHeader{Unique: 5, NodeID: 1, Opcode: uint32(fp.OpMkdir)}
	q.Begin(7, 0xffff)
	q.Cell(9).Take(&h, q.Order(), 0xffff, 0)
	q.SetNext(0)
	h.Unique = 6
	q.Cell(200).Take(&h, q.Order(), 0, 0)
	q.SetNext(1)
	q.Cell(200).Done(80, 17)
	q.Cell(200).Free()
	q.Cell(4).Take(&h, q.Order(), 1, 0)
	q.Cell(4).Intend(77, fuse.Evidence{1, 2, 3, 4, 5})

	after, err := successor(t, l).Queue(3, 256)
	if err != nil {
		t.Fatal(err)
	}
	if next, start := after.Next(), after.Start(); next != 2 || start != 7 {
		t.Errorf("next index %d of start %d; want 2 of 7", next, start)
	}
	var heads []uint16
	for head, c := range after.Unfinished {
		heads = append(heads, head)
		if c.Opcode() != fp.OpMkdir || c.Node() != 1 {
			t.Errorf("head %d: %v of node %d", head, c.Opcode(), c.Node())
		}
	}
	if !slices.Equal(heads, []uint16{4, 9}) {
		t.Errorf("requests at %v", heads)
	}
	if stamp, e, ok := after.Cell(4).Intent(); stamp != 77 || e != (fuse.Evidence{1, 2, 3, 4, 5}) || !ok {
		t.Errorf("evidence %v at %d, %v", e, stamp, ok)
	}
	if _, _, ok := after.Cell(9).Intent(); ok {
		t.Error("a request that changed nothing has evidence")
	}
	if after.Cell(4).Order() <= after.Cell(9).Order() || after.Order() <= after.Cell(4).Order() {
		t.Error("the order is lost")
	}
}

// TestQueueLongWait: a request that has waited while the indexes went round does not hide
// where the ring goes on.
func TestQueueLongWait(t *testing.T) {
	l := create(t)
	q, err := l.Queue(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	h := fp.InHeader{Unique: 5, NodeID: 1, Opcode: uint32(fp.OpSetlkw)}
	q.Begin(1, 10)
	q.Cell(7).Take(&h, q.Order(), 10, 0)
	q.SetNext(11)
	for next := uint16(11); ; {
		q.Cell(1).Take(&h, q.Order(), next, 0)
		next++
		q.SetNext(next)
		q.Cell(1).Free()
		after, err := successor(t, l).Queue(0, 8)
		if err != nil {
			t.Fatal(err)
		}
		if got := after.Next(); got != next {
			t.Fatalf("next index %d, want %d", got, next)
		}
		if next == 11 {
			break
		}
		if next%1024 != 0 && next-10 > 2 {
			next += min(1021, 10-next) // not each one
			q.SetNext(next)
		}
	}
}

// TestQueueBegin: a ring that starts anew has nothing of the time before.
func TestQueueBegin(t *testing.T) {
	l := create(t)
	q, err := l.Queue(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	q.Begin(1, 0)
	q.Cell(3).Take(&fp.InHeader{}, q.Order(), 0, 0)
	q.Begin(2, 40)
	if n := q.Next(); n != 40 || q.Start() != 2 {
		t.Errorf("next index %d of start %d", n, q.Start())
	}
	for head := range q.Unfinished {
		t.Errorf("head %d is under way", head)
	}
	if err := l.ForgetQueues(); err != nil || q.Start() != 0 {
		t.Errorf("start %d after it was forgotten, %v", q.Start(), err)
	}
}

// TestOpenOther: what is no ledger is refused.
func TestOpenOther(t *testing.T) {
	for _, size := range []int64{0, pageSize, fileSize} {
		fd, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
		for _, sealed := range []bool{false, true} {
			if sealed {
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
					t.Fatal(err)
				}
			}
			if l, err := Open(fd); err == nil {
				_ = l.Close()
				t.Fatalf("a file of %d bytes was opened", size)
			}
		}
	}
}

// TestGenerations: a process says that it has taken over, and that it ends.
func TestGenerations(t *testing.T) {
	l := create(t)
	for want := range uint64(3) {
		if n := l.Begin(); n != want+1 || l.IsServing() {
			t.Errorf("generation %d serves %v", n, l.IsServing())
		}
		l.Serving()
		if !successor(t, l).IsServing() || l.Ended() {
			t.Error("it does not serve")
		}
	}
	l.End()
	if !successor(t, l).Ended() {
		t.Error("it has not ended")
	}
}

// TestNone: without a ledger nothing is noted, and nothing fails.
func TestNone(t *testing.T) {
	var l *Ledger
	l.Serving()
	l.End()
	a, err := l.Area(AreaFS)
	if a != nil || err != nil || a.Store([]byte("x")) != nil || a.Load() != nil {
		t.Errorf("area %v, %v", a, err)
	}
	q, err := l.Queue(1, 8)
	if q != nil || err != nil {
		t.Errorf("queue %v, %v", q, err)
	}
	q.SetNext(1)
	q.Forget()
	q.Cell(3).Intend(1, fuse.Evidence{})
	q.Cell(3).Forgetting(1)
	for range q.Unfinished {
		t.Error("a request")
	}
}
