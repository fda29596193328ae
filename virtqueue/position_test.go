package virtqueue_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// offer offers requests and pops as many of them.
func offer(t *testing.T, q *virtqueue.Queue, d *vqtest.Driver, heads ...int) []virtqueue.Chain {
	t.Helper()
	chains := make([]virtqueue.Chain, len(heads))
	for i, head := range heads {
		request(d, head)
		d.Offer(uint16(head))
		if ok, err := q.Pop(&chains[i]); !ok || err != nil || int(chains[i].Head) != head {
			t.Fatalf("popped %d, %v, %v, want %d", chains[i].Head, ok, err, head)
		}
	}
	return chains
}

// popAll pops what there is and returns it.
func popAll(t *testing.T, q *virtqueue.Queue) (heads []uint16) {
	t.Helper()
	var c virtqueue.Chain
	for {
		more := q.More()
		ok, err := q.Pop(&c)
		if err != nil || ok != more {
			t.Fatalf("Pop: %v, %v; More: %v", ok, err, more)
		}
		if !ok {
			return heads
		}
		if c.ReadableLen() != 64 || c.WritableLen() != 100 {
			t.Errorf("chain %d has %d and %d bytes", c.Head, c.ReadableLen(), c.WritableLen())
		}
		heads = append(heads, c.Head)
		q.Push(&c, 1)
	}
}

// TestInflightArea stops at each step of giving requests back. The next process pops what was
// not published, in the order of the first time, and then what is new, wherever the front-end says
// that it should begin.
func TestInflightArea(t *testing.T) {
	for name, c := range map[string]struct {
		stop func(q *virtqueue.Queue, chains []virtqueue.Chain)
		want []uint16 // popped again, and then 8 and 10
	}{
		"popped":    {func(*virtqueue.Queue, []virtqueue.Chain) {}, []uint16{6, 2, 4, 8, 10}},
		"pushed":    {func(q *virtqueue.Queue, c []virtqueue.Chain) { q.Push(&c[1], 0) }, []uint16{6, 2, 4, 8, 10}},
		"published": {func(q *virtqueue.Queue, c []virtqueue.Chain) { q.Push(&c[1], 0); q.Flush() }, []uint16{6, 4, 8, 10}},
		"all published": {func(q *virtqueue.Queue, c []virtqueue.Chain) {
			for i := range c {
				q.Push(&c[i], 0)
			}
			q.Flush()
		}, []uint16{8, 10}},
	} {
		for _, base := range []uint16{0, 3, 65533} {
			area := make([]byte, virtqueue.InflightSize(16))
			withArea := func(c *virtqueue.Config) { c.Inflight, c.Base = area, 0 }
			d := vqtest.New(t, 16)
			first := newQueue(t, d, withArea)
			chains := offer(t, first, d, 6, 2, 4)
			c.stop(first, chains)
			for _, head := range []int{8, 10} { // not popped
				request(d, head)
				d.Offer(uint16(head))
			}
			for range 2 { // the second process dies as well, having popped one again
				second := newQueue(t, d, func(c *virtqueue.Config) { withArea(c); c.Base = base })
				if n := second.UnderWay(); n != len(c.want)-2 {
					t.Errorf("%s: %d are under way, want %d", name, n, len(c.want)-2)
				}
				var chain virtqueue.Chain
				if len(c.want) > 2 {
					if ok, err := second.Pop(&chain); !ok || err != nil || chain.Head != c.want[0] {
						t.Errorf("%s: popped %d, %v, %v", name, chain.Head, ok, err)
					}
				}
			}
			if got := popAll(t, newQueue(t, d, func(c *virtqueue.Config) { withArea(c); c.Base = base })); !slices.Equal(got, c.want) {
				t.Errorf("%s, base %d: popped %v, want %v", name, base, got, c.want)
			}
		}
	}
}

// TestPosition: a second queue goes on where the first has stopped. What the first gave up is
// popped again, in order; what it returned is not.
func TestPosition(t *testing.T) {
	d := vqtest.New(t, 16)
	first := newQueue(t, d, nil)
	chains := offer(t, first, d, 0, 2, 4, 6)
	if first.GiveUp(&chains[1]) {
		t.Error("given up while the front-end is there")
	}
	if _, ok := first.Position(); ok {
		t.Error("a position with four chains popped")
	}
	first.Push(&chains[0], 7)
	first.Abandon()
	kept := chains[1].Keep(nil) // as a request that waits
	for _, c := range []*virtqueue.Chain{&chains[3], kept} {
		if !first.GiveUp(c) {
			t.Error("not given up")
		}
	}
	first.Push(&chains[2], 7)
	if _, ok := first.Position(); ok {
		t.Error("a position with chains that were not published")
	}
	first.Flush()
	p, ok := first.Position()
	if !ok || p.Avail != 4 || p.Used != 2 || !slices.Equal(p.Heads, []uint16{2, 6}) {
		t.Fatalf("%+v, %v", p, ok)
	}

	request(d, 8)
	d.Offer(8)
	area := make([]byte, virtqueue.InflightSize(16)) // a new one
	second := newQueue(t, d, func(c *virtqueue.Config) { c.Base, c.Resume, c.Inflight = 2, &p, area })
	if !second.Owes() || second.UnderWay() != 2 {
		t.Errorf("owes %v, %d under way", second.Owes(), second.UnderWay())
	}
	var c virtqueue.Chain
	if ok, err := second.Pop(&c); !ok || err != nil || c.Head != 2 {
		t.Fatal(ok, err, c.Head)
	}
	second.Abandon() // again, with one popped and one not
	if second.Owes() {
		t.Error("an abandoned queue owes something")
	}
	second.GiveUp(&c)
	p, ok = second.Position()
	if !ok || p.Avail != 4 || p.Used != 2 || !slices.Equal(p.Heads, []uint16{2, 6}) {
		t.Fatalf("%+v, %v", p, ok)
	}
	third := newQueue(t, d, func(c *virtqueue.Config) { c.Base, c.Resume, c.Inflight = 9, &p, area })
	if got := popAll(t, third); !slices.Equal(got, []uint16{2, 6, 8}) || third.Base() != 5 || third.Owes() {
		t.Errorf("popped %v up to %d", got, third.Base())
	}
}

// TestForgedArea: an in-flight area may have anything in it. It costs the queue that it belongs to.
func TestForgedArea(t *testing.T) {
	d := vqtest.New(t, 16)
	area := make([]byte, virtqueue.InflightSize(16))
	for i := range area {
		area[i] = 0xff
	}
	area[8], area[9], area[10], area[11] = 1, 0, 16, 0 // version and size
	q := newQueue(t, d, func(c *virtqueue.Config) { c.Inflight = area })
	var c virtqueue.Chain
	for range 16 {
		if ok, err := q.Pop(&c); !ok || err != nil && !errors.Is(err, virtqueue.ErrBadChain) {
			t.Fatal(ok, err)
		}
	}
	if ok, err := q.Pop(&c); ok || !errors.Is(err, virtqueue.ErrBrokenRing) {
		t.Errorf("%v, %v: the ring has nothing more", ok, err)
	}
	area[8] = 2
	cfg := d.Config()
	cfg.Inflight = area
	if _, err := virtqueue.New(&d.Space, cfg); err == nil {
		t.Error("an area of another version")
	}
}
