package virtqueue_test

import (
	"errors"
	"testing"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

func newQueue(t testing.TB, d *vqtest.Driver, edit func(*virtqueue.Config)) *virtqueue.Queue {
	t.Helper()
	cfg := d.Config()
	if edit != nil {
		edit(&cfg)
	}
	q, err := virtqueue.New(&d.Space, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	return q
}

func desc(addr uint64, n uint32, flags, next uint16) vqtest.Desc {
	return vqtest.Desc{Addr: addr, Len: n, Flags: flags, Next: next}
}

// request makes a chain of one readable and one writable buffer at descriptor i.
func request(d *vqtest.Driver, i int) { d.Request(i, d.DataAt()+256*(i/2)%(1<<20), 64, 100) }

// TestWrap runs more requests than an index can count, in rings of all sizes.
func TestWrap(t *testing.T) {
	for _, size := range []uint16{2, 128, 32768} {
		d := vqtest.New(t, size)
		q := newQueue(t, d, func(c *virtqueue.Config) { c.Indirect = false })
		request(d, 0)
		var c virtqueue.Chain
		for i := range 70_000 {
			d.Offer(0)
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatalf("size %d, request %d: %v, %v", size, i, ok, err)
			}
			if c.ReadableLen() != 64 || c.WritableLen() != 100 || len(c.Readable()) != 1 || len(c.Writable()) != 1 {
				t.Fatalf("chain %+v", c)
			}
			q.Push(&c, uint32(i%100))
			q.Flush()
			if id, n, ok := d.Reap(); !ok || id != 0 || n != uint32(i%100) {
				t.Fatalf("used: %d, %d, %v", id, n, ok)
			}
		}
		if ok, err := q.Pop(&c); ok || err != nil {
			t.Errorf("empty ring: %v, %v", ok, err)
		}
		if want := uint16(70_000 % 65536); q.Base() != want {
			t.Errorf("base %d, want %d", q.Base(), want)
		}
	}
}

// TestFullRing fills the ring and gives all back in one batch.
func TestFullRing(t *testing.T) {
	d := vqtest.New(t, 64)
	q := newQueue(t, d, nil)
	for i := 0; i < 64; i += 2 {
		request(d, i)
		d.Offer(uint16(i))
	}
	underWay := func(want int) {
		t.Helper()
		if n := q.UnderWay(); n != want {
			t.Errorf("%d chains under way, want %d", n, want)
		}
	}
	underWay(0)
	var chains [32]virtqueue.Chain
	for i := range chains {
		if ok, err := q.Pop(&chains[i]); !ok || err != nil {
			t.Fatal(ok, err)
		}
		underWay(32)
	}
	for i := range chains {
		q.Push(&chains[len(chains)-1-i], 1)
		underWay(32)
	}
	if _, _, ok := d.Reap(); ok {
		t.Error("used entries are visible before Flush")
	}
	q.Flush()
	underWay(0)
	for n := 0; ; n++ {
		if _, _, ok := d.Reap(); !ok {
			if n != 32 {
				t.Errorf("%d used entries, want 32", n)
			}
			return
		}
	}
}

// TestNotifications checks when the driver is called and when it must kick.
func TestNotifications(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	request(d, 0)
	serve := func(n int) bool {
		var c virtqueue.Chain
		for range n {
			d.Offer(0)
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			q.Push(&c, 0)
		}
		return q.Flush()
	}
	serve(1) // what was before is not known: it calls
	d.SetUsedEvent(1)
	if !serve(1) {
		t.Error("no call at the entry that was asked for")
	}
	if serve(1) {
		t.Error("a call without need")
	}
	d.SetUsedEvent(5)
	if serve(2) || !serve(3) || serve(1) {
		t.Error("a batch calls when it passes the event, and only then")
	}
	if q.EnableKicks() {
		t.Error("an empty ring has more")
	}
	if d.AvailEvent() != q.Base() {
		t.Errorf("avail_event %d, want %d", d.AvailEvent(), q.Base())
	}
	d.Offer(0)
	if !q.EnableKicks() {
		t.Error("a chain that arrived meanwhile is not seen")
	}

	d = vqtest.New(t, 16)
	request(d, 0)
	q = newQueue(t, d, func(c *virtqueue.Config) { c.EventIdx = false })
	if !serve(1) {
		t.Error("no call without EVENT_IDX")
	}
	d.SetAvailFlags(vqtest.NoInterrupt)
	if serve(1) {
		t.Error("a call in spite of NO_INTERRUPT")
	}
	q.DisableKicks()
	if d.UsedFlags() != vqtest.NoNotify {
		t.Error("DisableKicks does not say so")
	}
	q.EnableKicks()
	if d.UsedFlags() != 0 {
		t.Error("EnableKicks does not say so")
	}
}

// TestBrokenRing: an index that jumps, and more requests than there are descriptors.
func TestBrokenRing(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	var c virtqueue.Chain
	request(d, 0)
	for range 17 {
		d.Offer(0)
	}
	if _, err := q.Pop(&c); !errors.Is(err, virtqueue.ErrBrokenRing) {
		t.Errorf("17 entries in a ring of 16: %v", err)
	}
	d = vqtest.New(t, 16)
	request(d, 0)
	q = newQueue(t, d, nil)
	var err error
	for n := 0; err == nil; n++ {
		if n > 16 {
			t.Fatal("any number of requests can be under way")
		}
		d.Offer(0)
		_, err = q.Pop(&c)
	}
	if !errors.Is(err, virtqueue.ErrBrokenRing) {
		t.Error(err)
	}
}

func TestPopAllocations(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	q.End()
	request(d, 0)
	var c virtqueue.Chain
	if n := testing.AllocsPerRun(1000, func() { cycle(q, d, &c) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func cycle(q *virtqueue.Queue, d *vqtest.Driver, c *virtqueue.Chain) {
	d.Offer(0)
	_ = q.Begin()
	_, _ = q.Pop(c)
	q.Push(c, 10)
	q.Flush()
	q.EnableKicks()
	q.End()
	d.Reap()
}

func BenchmarkPopPush(b *testing.B) {
	d := vqtest.New(b, 128)
	q := newQueue(b, d, nil)
	q.End()
	request(d, 0)
	var c virtqueue.Chain
	b.ReportAllocs()
	for b.Loop() {
		cycle(q, d, &c)
	}
}
