package virtqueue_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

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
