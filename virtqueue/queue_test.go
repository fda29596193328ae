package virtqueue_test

import (
	"errors"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

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

// TestBadChains: each mistake of the driver costs its chain, and the ring goes on.
func TestBadChains(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	data := uint64(vqtest.GuestBase + d.DataAt())
	table := uint64(vqtest.GuestBase + d.DataAt() + 4096)
	inTable := d.DataAt() + 4096
	bad := map[string][]vqtest.Desc{
		"loop":             {desc(data, 8, vqtest.Next, 0)},
		"long loop":        {desc(data, 8, vqtest.Next, 1), desc(data, 8, vqtest.Next, 0)},
		"outside":          {desc(0, 8, 0, 0)},
		"end outside":      {desc(vqtest.GuestBase+vqtest.MemSize-4, 8, 0, 0)},
		"wraps around":     {desc(^uint64(0)-4, 8, 0, 0)},
		"next beyond":      {desc(data, 8, vqtest.Next, 16)},
		"readable after":   {desc(data, 8, vqtest.Write|vqtest.Next, 1), desc(data, 8, 0, 0)},
		"empty table":      {desc(table, 0, vqtest.Indirect, 0)},
		"odd table":        {desc(table, 24, vqtest.Indirect, 0)},
		"huge table":       {desc(table, 0xffff_fff0, vqtest.Indirect, 0)},
		"table outside":    {desc(0, 16, vqtest.Indirect, 0)},
		"table with next":  {desc(table, 16, vqtest.Indirect|vqtest.Next, 1)},
		"table in a table": {desc(table, 32, vqtest.Indirect, 0)},
		"too long":         {desc(data, 0xffff_ffff, vqtest.Next, 1), desc(data, 0xffff_ffff, 0, 0)},
	}
	d.SetAt(inTable, 0, desc(table, 16, vqtest.Indirect, 0))
	var c virtqueue.Chain
	n := uint64(0)
	for what, list := range bad {
		for i, v := range list {
			d.Set(i, v)
		}
		d.Offer(0)
		ok, err := q.Pop(&c)
		if !ok || !errors.Is(err, virtqueue.ErrBadChain) || c.Head != 0 {
			t.Errorf("%s: %v, %v, head %d", what, ok, err, c.Head)
		}
		q.Push(&c, 0)
		q.Flush()
		n++
	}
	d.Offer(16) // heads that name nothing are skipped
	d.Offer(0xffff)
	request(d, 4)
	d.Offer(4)
	if ok, err := q.Pop(&c); !ok || err != nil || c.Head != 4 {
		t.Errorf("after all that: %v, %v, head %d", ok, err, c.Head)
	}
	if s := q.Stats(); s.BadChains != n || s.BadHeads != 2 {
		t.Errorf("counted %+v, want %d", s, n)
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

// TestBadHeadsWithoutEnd: a driver that offers heads that name nothing as fast as they are
// read does not keep Pop from returning, so that the queue can be stopped.
func TestBadHeadsWithoutEnd(t *testing.T) {
	const size = 8192
	d := vqtest.New(t, size)
	q := newQueue(t, d, nil)
	for range size {
		d.Offer(0xffff)
	}
	var c virtqueue.Chain
	if ok, err := q.Pop(&c); ok || err != nil {
		t.Errorf("a ring full of bad heads: %v, %v", ok, err)
	}
	var stop atomic.Bool
	offered := make(chan struct{})
	go func() { // another processor of the guest: always a full ring ahead
		defer close(offered)
		for !stop.Load() {
			d.SetAvailIdx(uint16(q.Stats().BadHeads) + size)
		}
	}()
	// With one processor the driver hardly ever gets ahead: that is no failure.
	var err error
	for start := time.Now(); err == nil && time.Since(start) < time.Second; {
		before := q.Stats().BadHeads
		_, err = q.Pop(&c)
		if n := q.Stats().BadHeads - before; n > size+1 {
			t.Errorf("%d bad heads at a time", n)
			break
		}
	}
	if err != nil && !errors.Is(err, virtqueue.ErrBrokenRing) {
		t.Error(err)
	}
	stop.Store(true)
	<-offered
}

// TestIndirect reads a table, also one that lies across two regions.
func TestIndirect(t *testing.T) {
	d := vqtest.New(t, 16)
	half := vqtest.MemSize / 2
	m, err := virtqueue.NewMemory([]*virtqueue.Region{
		{GuestAddr: vqtest.GuestBase, UserAddr: vqtest.UserBase, Host: d.Mem[:half]},
		{GuestAddr: vqtest.GuestBase + uint64(half), UserAddr: vqtest.UserBase + uint64(half), Host: d.Mem[half:]},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Space.Store(m)
	if d.Released != 1 {
		t.Errorf("the old region was released %d times", d.Released)
	}
	q := newQueue(t, d, nil)
	table := half - 16 // its second entry is in the second region
	data := uint64(vqtest.GuestBase + half - 100)
	d.SetAt(table, 0, desc(data, 60, vqtest.Next, 1))
	d.SetAt(table, 1, desc(data, 200, vqtest.Write, 0)) // as is this buffer's end
	d.Set(3, desc(vqtest.GuestBase+uint64(table), 32, vqtest.Indirect, 0))
	d.Offer(3)
	var c virtqueue.Chain
	if ok, err := q.Pop(&c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if len(c.Writable()) != 2 || c.WritableLen() != 200 || c.ReadableLen() != 60 {
		t.Errorf("%d writable buffers of %d bytes", len(c.Writable()), c.WritableLen())
	}
}

// TestMemoryReplaced keeps a region until the last user has gone.
func TestMemoryReplaced(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	held := q.Memory()
	held.TryAcquire()
	d.Space.Store(nil)
	if d.Released != 0 {
		t.Fatal("released while a batch runs")
	}
	q.End()
	if err := q.Begin(); err == nil {
		t.Error("a batch without memory begins")
	}
	if d.Released != 0 {
		t.Fatal("released while a request holds it")
	}
	held.Release()
	if d.Released != 1 {
		t.Errorf("released %d times", d.Released)
	}
	if held.TryAcquire() {
		t.Error("a dead Memory can be had")
	}
}

// TestMemoryAdded: memory that is added while a batch runs is there for the chains that
// use it, and the old one is let go of. A ring that is not in the new memory is waited
// for, and nothing is lost.
func TestMemoryAdded(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	more := make([]byte, 4096)
	const at = 0x8000_0000
	store := func(regions ...*virtqueue.Region) {
		t.Helper()
		m, err := virtqueue.NewMemory(regions)
		if err != nil {
			t.Fatal(err)
		}
		d.Space.Store(m)
	}
	freed := 0
	added := &virtqueue.Region{GuestAddr: at, UserAddr: at, Host: more, Release: func() { freed++ }}
	ring := &virtqueue.Region{GuestAddr: vqtest.GuestBase, UserAddr: vqtest.UserBase, Host: d.Mem}
	store(ring, added)
	d.Set(0, desc(at, 64, vqtest.Write, 0))
	d.Offer(0)
	var c virtqueue.Chain
	if ok, err := q.Pop(&c); !ok || err != nil || unsafe.Pointer(c.Writable()[0].Base) != unsafe.Pointer(&more[0]) {
		t.Fatalf("a buffer in new memory: %v, %v", ok, err)
	}
	if d.Released != 1 {
		t.Errorf("the old region was released %d times, want 1", d.Released)
	}
	q.Push(&c, 64)
	q.Flush()

	store(added) // the ring is gone
	d.Offer(0)
	if ok, err := q.Pop(&c); ok || !errors.Is(err, virtqueue.ErrRingGone) {
		t.Errorf("a ring that is gone: %v, %v", ok, err)
	}
	q.End()
	if err := q.Begin(); err == nil {
		t.Error("a batch without the ring begins")
	}
	store(ring, added)
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	if ok, err := q.Pop(&c); !ok || err != nil || c.Head != 0 {
		t.Errorf("the chain is lost: %v, %v", ok, err)
	}
	q.End()
	if d.Space.Store(nil); freed != 1 {
		t.Errorf("the added region was released %d times, want 1", freed)
	}
}

func TestDirtyLog(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	bitmap := make([]byte, 4096)
	q.SetLog(virtqueue.NewLog(bitmap), vqtest.GuestBase+uint64(d.UsedAt()), true)
	at := uint64(vqtest.GuestBase + 1<<20)
	d.Set(0, desc(at, 3*virtqueue.LogPage, vqtest.Write, 0))
	d.Offer(0)
	var c virtqueue.Chain
	if ok, err := q.Pop(&c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	q.Push(&c, virtqueue.LogPage+1)
	q.Flush()
	dirty := func(page uint64) bool { return bitmap[page/8]&(1<<(page%8)) != 0 }
	first := at / virtqueue.LogPage
	if !dirty(first) || !dirty(first+1) || dirty(first+2) {
		t.Error("the pages written are not the pages marked")
	}
	if !dirty((vqtest.GuestBase + uint64(d.UsedAt())) / virtqueue.LogPage) {
		t.Error("the used ring is not marked")
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

// FuzzChain has any bytes as descriptor table and heads. Whatever comes out lies in
// memory, and it ends.
func FuzzChain(f *testing.F) {
	f.Add([]byte{0, 0, 16, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0}, uint16(3))
	f.Add([]byte{0, 0, 16, 0, 0, 0, 0, 0, 32, 0, 0, 0, 4, 0, 0, 0}, uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, heads uint16) {
		d := vqtest.New(t, 16)
		q := newQueue(t, d, nil)
		copy(d.Mem[:256], b)
		copy(d.Mem[d.DataAt():d.DataAt()+4096], b)
		for i := range uint16(16) {
			d.Offer(i * heads % 20)
		}
		var c virtqueue.Chain
		for range 40 {
			ok, err := q.Pop(&c)
			if err != nil && !errors.Is(err, virtqueue.ErrBadChain) || !ok {
				break
			}
			total := uint64(0)
			for _, v := range slices.Concat(c.Readable(), c.Writable()) {
				first := uintptr(unsafe.Pointer(v.Base))
				if !q.Memory().Contains(first) || !q.Memory().Contains(first+uintptr(v.Len)-1) {
					t.Fatalf("a buffer outside of memory: %d bytes", v.Len)
				}
				total += v.Len
			}
			if err == nil && total != c.ReadableLen()+c.WritableLen() {
				t.Fatalf("%d bytes in buffers, %d said", total, c.ReadableLen()+c.WritableLen())
			}
			q.Push(&c, 0)
		}
		q.Flush()
		q.End()
	})
}

// TestMemoryGone: the front-end cuts off the files behind the ring, the dirty log and
// the in-flight area. That is an error, or a fault that is known for what it is, and
// costs no reference.
func TestMemoryGone(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	d := vqtest.New(t, 16)
	if err := d.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := virtqueue.New(&d.Space, d.Config()); !errors.Is(err, virtqueue.ErrMemoryGone) {
		t.Errorf("a ring without memory: %v", err)
	}
	if d.Space.Store(nil); d.Released != 1 {
		t.Errorf("released %d times: a reference was lost", d.Released)
	}

	area, cut := mapped(t)
	cut()
	d = vqtest.New(t, 16)
	cfg := d.Config()
	cfg.Inflight = area
	if _, err := virtqueue.New(&d.Space, cfg); !errors.Is(err, virtqueue.ErrMemoryGone) {
		t.Errorf("an in-flight area without memory: %v", err)
	}

	area, cut = mapped(t)
	q := newQueue(t, d, func(c *virtqueue.Config) { c.Inflight = area })
	cut()
	var c virtqueue.Chain
	request(d, 0)
	d.Offer(0)
	if !faults(q, func() { _, _ = q.Pop(&c) }) {
		t.Error("a fault in the in-flight area is not known")
	}

	q = newQueue(t, d, nil)
	if ok, err := q.Pop(&c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	bitmap, cut := mapped(t)
	q.SetLog(virtqueue.NewLog(bitmap), d.Guest(d.UsedAt()), true)
	cut()
	if !faults(q, func() { q.Push(&c, 100); q.SetLog(nil, 0, false) }) {
		t.Error("a fault in the dirty log is not known")
	}
	if q.IsMemoryFault("any other panic") || faults(q, func() { panic(errors.New("ours")) }) {
		t.Error("a mistake of ours is taken for the front-end's")
	}
}

// faults runs f and reports whether it faulted in memory that q knows.
func faults(q *virtqueue.Queue, f func()) (known bool) {
	defer func() {
		if r := recover(); r != nil {
			known = q.IsMemoryFault(r)
		}
	}()
	f()
	return false
}

// mapped is a mapping of a file, and a function that cuts the file off.
func mapped(t *testing.T) (b []byte, cut func()) {
	t.Helper()
	fd, err := unix.MemfdCreate("area", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, 64<<10); err != nil {
		t.Fatal(err)
	}
	b, err = unix.Mmap(fd, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b); _ = unix.Close(fd) })
	return b, func() {
		if err := unix.Ftruncate(fd, 0); err != nil {
			t.Fatal(err)
		}
	}
}
