package virtqueue_test

import (
	"errors"
	"testing"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// TestRetake: a second queue of the same ring returns what the first one has popped and not
// returned, and goes on behind it, across the end of the indexes.
func TestRetake(t *testing.T) {
	d := vqtest.New(t, 16)
	first := newQueue(t, d, nil)
	var c virtqueue.Chain
	request(d, 0)
	for range 65535 {
		cycle(first, d, &c)
	}
	if err := first.Begin(); err != nil {
		t.Fatal(err)
	}
	if first.NextUsed() != 65535 {
		t.Fatalf("index %d in the used ring", first.NextUsed())
	}
	for _, head := range []int{0, 2, 4} {
		request(d, head)
		d.Offer(uint16(head))
	}
	for range 2 { // of three
		if ok, err := first.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	first.Push(&c, 7) // was not published: the driver does not see it
	second := newQueue(t, d, func(c *virtqueue.Config) { c.Base = 99 })
	second.SetBase(first.Base())
	if n := second.NextUsed(); n != 65535 {
		t.Errorf("index %d in the used ring, want 65535", n)
	}
	for _, head := range []uint16{2, 0} {
		if err := second.Retake(&c, head); err != nil || c.Head != head || c.ReadableLen() != 64 || c.WritableLen() != 100 {
			t.Fatalf("chain %d: %d and %d bytes, %v", c.Head, c.ReadableLen(), c.WritableLen(), err)
		}
		second.Push(&c, uint32(10+head))
	}
	if ok, err := second.Pop(&c); !ok || err != nil || c.Head != 4 {
		t.Fatal(ok, err, c.Head)
	}
	second.Push(&c, 14)
	if !second.Flush() {
		t.Error("no call")
	}
	for _, want := range []uint32{2, 0, 4} {
		if id, n, ok := d.Reap(); !ok || id != want || n != 10+want {
			t.Errorf("%d with %d bytes, want %d", id, n, want)
		}
	}
	if n := second.UnderWay(); n != 0 || second.NextUsed() != 2 {
		t.Errorf("%d are under way, index %d", n, second.NextUsed())
	}
}

// TestRetakeMarks: of a chain that is served again all room for the reply is marked.
func TestRetakeMarks(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	bitmap := make([]byte, 4096)
	q.SetLog(virtqueue.NewLog(bitmap), d.Guest(d.UsedAt()), false)
	at := uint64(vqtest.GuestBase + 1<<20)
	d.Set(0, desc(at, 64, vqtest.Next, 1))
	d.Set(1, desc(at+virtqueue.LogPage, 2*virtqueue.LogPage, vqtest.Write, 0))
	var c virtqueue.Chain
	if err := q.Retake(&c, 0); err != nil {
		t.Fatal(err)
	}
	dirty := func(page uint64) bool { return bitmap[page/8]&(1<<(page%8)) != 0 }
	first := at / virtqueue.LogPage
	if dirty(first) || !dirty(first+1) || !dirty(first+2) || dirty(first+3) {
		t.Error("the pages of the room are not the pages marked")
	}
}

// TestBaseMarks: the used ring's index is marked by a successor, once, also if it has nothing to publish.
func TestBaseMarks(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	bitmap := make([]byte, 4096)
	used := d.Guest(d.UsedAt())
	q.SetLog(virtqueue.NewLog(bitmap), used, true)
	q.SetBase(0)
	page := used / virtqueue.LogPage
	for _, want := range []bool{true, false} {
		if q.Flush(); (bitmap[page/8]&(1<<(page%8)) != 0) != want {
			t.Errorf("marked %v, want %v", !want, want)
		}
		clear(bitmap)
	}
}

// TestRetakeBad: a driver may have changed the chain meanwhile, and a forged head takes nothing.
func TestRetakeBad(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	d.Set(3, desc(0, 64, vqtest.Next, 3))
	var c virtqueue.Chain
	if err := q.Retake(&c, 3); !errors.Is(err, virtqueue.ErrBadChain) || c.Head != 3 {
		t.Errorf("a loop: %v", err)
	}
	q.Push(&c, 0)
	if err := q.Retake(&c, 16); !errors.Is(err, virtqueue.ErrBrokenRing) {
		t.Errorf("head 16 of 16: %v", err)
	}
	request(d, 0)
	for range 16 {
		if err := q.Retake(&c, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Retake(&c, 0); !errors.Is(err, virtqueue.ErrBrokenRing) {
		t.Errorf("17 chains in a ring of 16: %v", err)
	}
}
