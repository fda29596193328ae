package virtqueue_test

import (
	"errors"
	"testing"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// TestManyBuffers: a chain whose buffers lie across thousands of regions is refused before it
// takes much memory, and what a long chain has taken is given back with the next.
func TestManyBuffers(t *testing.T) {
	d := vqtest.New(t, 16)
	const pieces, at = 8000, 0x4000_0000
	regions := []*virtqueue.Region{d.Region}
	for i := range pieces {
		regions = append(regions, &virtqueue.Region{GuestAddr: at + uint64(i), UserAddr: at + uint64(i), Host: d.Mem[i : i+1 : i+1]})
	}
	m, err := virtqueue.NewMemory(regions)
	if err != nil {
		t.Fatal(err)
	}
	d.Space.Store(m)
	q, err := virtqueue.New(&d.Space, d.Config())
	if err != nil {
		t.Fatal(err)
	}
	table := d.DataAt()
	const entries = 1000 // 8 million buffers
	for i := range entries {
		flags := uint16(vqtest.Next)
		if i == entries-1 {
			flags = 0
		}
		d.SetAt(table, i, vqtest.Desc{Addr: at, Len: pieces, Flags: flags, Next: uint16(i + 1)})
	}
	d.Set(0, vqtest.Desc{Addr: d.Guest(table), Len: 16 * entries, Flags: vqtest.Indirect})
	d.Set(1, vqtest.Desc{Addr: d.Guest(table), Len: 64})
	d.Offer(0)
	d.Offer(1)
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	defer q.End()
	var c virtqueue.Chain
	if ok, err := q.Pop(&c); !ok || !errors.Is(err, virtqueue.ErrBadChain) {
		t.Errorf("a chain of millions of buffers: %v, %v", ok, err)
	}
	if n := cap(c.Readable()); n > 1<<17 {
		t.Errorf("it has taken %d buffers", n)
	}
	q.Push(&c, 0)
	if ok, err := q.Pop(&c); !ok || err != nil || len(c.Readable()) != 1 {
		t.Errorf("the next chain: %v, %v, %d buffers", ok, err, len(c.Readable()))
	}
	if n := cap(c.Writable()); n > 1<<12 {
		t.Errorf("room for %d buffers is kept", n)
	}
	q.Push(&c, 0)
}
