package virtqueue

import (
	"errors"
	"testing"
)

func newQueue(t testing.TB, d *driver, edit func(*Config)) *Queue {
	t.Helper()
	cfg := d.config()
	if edit != nil {
		edit(&cfg)
	}
	q, err := New(&d.space, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	return q
}

// request is a chain of one readable and one writable buffer at descriptor i.
func (d *driver) request(i int) {
	at := uint64(guestBase + d.dataAt() + 256*(i/2)%(1<<20))
	d.set(descAt, i, desc{addr: at, len: 64, flags: descNext, next: uint16(i + 1)})
	d.set(descAt, i+1, desc{addr: at + 64, len: 100, flags: descWrite})
}

// TestWrap runs more requests than an index can count, in rings of all sizes.
func TestWrap(t *testing.T) {
	for _, size := range []uint16{2, 128, 32768} {
		d := newDriver(size)
		q := newQueue(t, d, func(c *Config) { c.Indirect = false })
		d.request(0)
		var c Chain
		for i := range 70_000 {
			d.offer(0)
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatalf("size %d, request %d: %v, %v", size, i, ok, err)
			}
			if c.ReadableLen() != 64 || c.WritableLen() != 100 || len(c.Readable()) != 1 || len(c.Writable()) != 1 {
				t.Fatalf("chain %+v", c)
			}
			q.Push(&c, uint32(i%100))
			q.Flush()
			if id, n, ok := d.reap(); !ok || id != 0 || n != uint32(i%100) {
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
	d := newDriver(64)
	q := newQueue(t, d, nil)
	for i := 0; i < 64; i += 2 {
		d.request(i)
		d.offer(uint16(i))
	}
	var chains [32]Chain
	for i := range chains {
		if ok, err := q.Pop(&chains[i]); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	for i := range chains {
		q.Push(&chains[len(chains)-1-i], 1)
	}
	if _, _, ok := d.reap(); ok {
		t.Error("used entries are visible before Flush")
	}
	q.Flush()
	for n := 0; ; n++ {
		if _, _, ok := d.reap(); !ok {
			if n != 32 {
				t.Errorf("%d used entries, want 32", n)
			}
			return
		}
	}
}

// TestNotifications checks when the driver is called and when it must kick.
func TestNotifications(t *testing.T) {
	d := newDriver(16)
	q := newQueue(t, d, nil)
	d.request(0)
	serve := func(n int) bool {
		var c Chain
		for range n {
			d.offer(0)
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			q.Push(&c, 0)
		}
		return q.Flush()
	}
	serve(1) // what was before is not known: it calls
	d.setUsedEvent(1)
	if !serve(1) {
		t.Error("no call at the entry that was asked for")
	}
	if serve(1) {
		t.Error("a call without need")
	}
	d.setUsedEvent(5)
	if serve(2) || !serve(3) || serve(1) {
		t.Error("a batch calls when it passes the event, and only then")
	}
	if q.EnableKicks() {
		t.Error("an empty ring has more")
	}
	if d.availEvent() != q.Base() {
		t.Errorf("avail_event %d, want %d", d.availEvent(), q.Base())
	}
	d.offer(0)
	if !q.EnableKicks() {
		t.Error("a chain that arrived meanwhile is not seen")
	}

	d = newDriver(16)
	d.request(0)
	q = newQueue(t, d, func(c *Config) { c.EventIdx = false })
	if !serve(1) {
		t.Error("no call without EVENT_IDX")
	}
	d.setAvailFlags(availNoInterrupt)
	if serve(1) {
		t.Error("a call in spite of NO_INTERRUPT")
	}
	q.DisableKicks()
	if d.usedFlags() != usedNoNotify {
		t.Error("DisableKicks does not say so")
	}
	q.EnableKicks()
	if d.usedFlags() != 0 {
		t.Error("EnableKicks does not say so")
	}
}

// TestBadChains: each mistake of the driver costs its chain, and the ring goes on.
func TestBadChains(t *testing.T) {
	d := newDriver(16)
	q := newQueue(t, d, nil)
	data := uint64(guestBase + d.dataAt())
	table := uint64(guestBase + d.dataAt() + 4096)
	inTable := d.dataAt() + 4096
	bad := map[string][]desc{
		"loop":             {{data, 8, descNext, 0}},
		"long loop":        {{data, 8, descNext, 1}, {data, 8, descNext, 0}},
		"outside":          {{0, 8, 0, 0}},
		"end outside":      {{guestBase + memSize - 4, 8, 0, 0}},
		"wraps around":     {{^uint64(0) - 4, 8, 0, 0}},
		"next beyond":      {{data, 8, descNext, 16}},
		"readable after":   {{data, 8, descWrite | descNext, 1}, {data, 8, 0, 0}},
		"empty table":      {{table, 0, descIndirect, 0}},
		"odd table":        {{table, 24, descIndirect, 0}},
		"huge table":       {{table, 0xffff_fff0, descIndirect, 0}},
		"table outside":    {{0, 16, descIndirect, 0}},
		"table with next":  {{table, 16, descIndirect | descNext, 1}},
		"table in a table": {{table, 32, descIndirect, 0}},
		"too long":         {{data, 0xffff_ffff, descNext, 1}, {data, 0xffff_ffff, 0, 0}},
	}
	d.set(inTable, 0, desc{table, 16, descIndirect, 0})
	var c Chain
	n := uint64(0)
	for what, list := range bad {
		for i, v := range list {
			d.set(descAt, i, v)
		}
		d.offer(0)
		ok, err := q.Pop(&c)
		if !ok || !errors.Is(err, ErrBadChain) || c.Head != 0 {
			t.Errorf("%s: %v, %v, head %d", what, ok, err, c.Head)
		}
		q.Push(&c, 0)
		q.Flush()
		n++
	}
	d.offer(16) // heads that name nothing are skipped
	d.offer(0xffff)
	d.request(4)
	d.offer(4)
	if ok, err := q.Pop(&c); !ok || err != nil || c.Head != 4 {
		t.Errorf("after all that: %v, %v, head %d", ok, err, c.Head)
	}
	if s := q.Stats(); s.BadChains != n || s.BadHeads != 2 {
		t.Errorf("counted %+v, want %d", s, n)
	}
}

// TestBrokenRing: an index that jumps, and more requests than there are descriptors.
func TestBrokenRing(t *testing.T) {
	d := newDriver(16)
	q := newQueue(t, d, nil)
	var c Chain
	d.request(0)
	for range 17 {
		d.offer(0)
	}
	if _, err := q.Pop(&c); !errors.Is(err, ErrBrokenRing) {
		t.Errorf("17 entries in a ring of 16: %v", err)
	}
	d = newDriver(16)
	d.request(0)
	q = newQueue(t, d, nil)
	var err error
	for n := 0; err == nil; n++ {
		if n > 16 {
			t.Fatal("any number of requests can be under way")
		}
		d.offer(0)
		_, err = q.Pop(&c)
	}
	if !errors.Is(err, ErrBrokenRing) {
		t.Error(err)
	}
}

// TestIndirect reads a table, also one that lies across two regions.
func TestIndirect(t *testing.T) {
	d := newDriver(16)
	half := memSize / 2
	m, err := NewMemory([]*Region{
		{GuestAddr: guestBase, UserAddr: userBase, Host: d.mem[:half]},
		{GuestAddr: guestBase + uint64(half), UserAddr: userBase + uint64(half), Host: d.mem[half:]},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.space.Store(m)
	if d.freed != 1 {
		t.Errorf("the old region was released %d times", d.freed)
	}
	q := newQueue(t, d, nil)
	table := half - 16 // its second entry is in the second region
	data := uint64(guestBase + half - 100)
	d.set(table, 0, desc{data, 60, descNext, 1})
	d.set(table, 1, desc{data, 200, descWrite, 0}) // as is this buffer's end
	d.set(descAt, 3, desc{guestBase + uint64(table), 32, descIndirect, 0})
	d.offer(3)
	var c Chain
	if ok, err := q.Pop(&c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if len(c.Writable()) != 2 || c.WritableLen() != 200 || c.ReadableLen() != 60 {
		t.Errorf("%d writable buffers of %d bytes", len(c.Writable()), c.WritableLen())
	}
}

// TestMemoryReplaced keeps a region until the last user has gone.
func TestMemoryReplaced(t *testing.T) {
	d := newDriver(16)
	q := newQueue(t, d, nil)
	held := q.Memory()
	held.TryAcquire()
	d.space.Store(nil)
	if d.freed != 0 {
		t.Fatal("released while a batch runs")
	}
	q.End()
	if err := q.Begin(); err == nil {
		t.Error("a batch without memory begins")
	}
	if d.freed != 0 {
		t.Fatal("released while a request holds it")
	}
	held.Release()
	if d.freed != 1 {
		t.Errorf("released %d times", d.freed)
	}
	if held.TryAcquire() {
		t.Error("a dead Memory can be had")
	}
}

func TestDirtyLog(t *testing.T) {
	d := newDriver(16)
	q := newQueue(t, d, nil)
	bitmap := make([]byte, 4096)
	q.SetLog(NewLog(bitmap), guestBase+uint64(d.usedAt()), true)
	at := uint64(guestBase + 1<<20)
	d.set(descAt, 0, desc{at, 3 * LogPage, descWrite, 0})
	d.offer(0)
	var c Chain
	if ok, err := q.Pop(&c); !ok || err != nil {
		t.Fatal(ok, err)
	}
	q.Push(&c, LogPage+1)
	q.Flush()
	dirty := func(page uint64) bool { return bitmap[page/8]&(1<<(page%8)) != 0 }
	first := at / LogPage
	if !dirty(first) || !dirty(first+1) || dirty(first+2) {
		t.Error("the pages written are not the pages marked")
	}
	if !dirty((guestBase + uint64(d.usedAt())) / LogPage) {
		t.Error("the used ring is not marked")
	}
}

// TestInflight stops at each step of giving requests back and recovers.
func TestInflight(t *testing.T) {
	area := make([]byte, InflightSize(16))
	d := newDriver(16)
	q := newQueue(t, d, func(c *Config) { c.Inflight = area })
	var chains [3]Chain
	for i := range chains {
		d.request(2 * i)
		d.offer(uint16(2 * i))
		if ok, err := q.Pop(&chains[i]); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	q.Push(&chains[1], 0)
	again := func() []uint16 {
		return newQueue(t, d, func(c *Config) { c.Inflight = area }).Recover()
	}
	if got := again(); len(got) != 3 {
		t.Errorf("pushed but not published: %v", got)
	}
	q.Flush()
	if got := again(); len(got) != 2 || got[0] != 0 || got[1] != 4 {
		t.Errorf("after one was given back: %v, want [0 4]", got)
	}
}

func TestPopAllocations(t *testing.T) {
	d := newDriver(16)
	q := newQueue(t, d, nil)
	q.End()
	d.request(0)
	var c Chain
	if n := testing.AllocsPerRun(1000, func() { cycle(q, d, &c) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func cycle(q *Queue, d *driver, c *Chain) {
	d.offer(0)
	_ = q.Begin()
	_, _ = q.Pop(c)
	q.Push(c, 10)
	q.Flush()
	q.EnableKicks()
	q.End()
	d.reap()
}

func BenchmarkPopPush(b *testing.B) {
	d := newDriver(128)
	q := newQueue(b, d, nil)
	q.End()
	d.request(0)
	var c Chain
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
		d := newDriver(16)
		q := newQueue(t, d, nil)
		copy(d.mem[descAt:descAt+256], b)
		copy(d.mem[d.dataAt():d.dataAt()+4096], b)
		for i := range uint16(16) {
			d.offer(i * heads % 20)
		}
		var c Chain
		for range 40 {
			ok, err := q.Pop(&c)
			if err != nil && !errors.Is(err, ErrBadChain) || !ok {
				break
			}
			total := uint64(0)
			for _, v := range append(append(c.iov[:0:0], c.Readable()...), c.Writable()...) {
				at, ok := q.Memory().hostToGuest(unsafePointer(v.Base))
				if !ok || at+v.Len > guestBase+memSize {
					t.Fatalf("a buffer outside of memory: %#x, %d bytes", at, v.Len)
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
