package virtqueue_test

import (
	"errors"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

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

// TestDirtyIndex: a front-end that takes the marks and copies marked pages at any time has the last index of the
// used ring in the end.
func TestDirtyIndex(t *testing.T) {
	d := vqtest.New(t, 16)
	q := newQueue(t, d, nil)
	bitmap := make([]byte, 4096)
	used := d.Guest(d.UsedAt())
	q.SetLog(virtqueue.NewLog(bitmap), used, true)
	page := used / virtqueue.LogPage
	word, bit := (*uint32)(unsafe.Pointer(&bitmap[page/32*4])), uint32(1)<<(page%32)
	request(d, 0)
	var c virtqueue.Chain
	copied := 0
	take := func() {
		if atomic.SwapUint32(word, 0)&bit != 0 {
			copied = d.Pending()
		}
	}
	for n := range 10000 {
		d.Offer(0)
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.Push(&c, 0)
		var stop atomic.Bool
		ready, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			close(ready)
			for !stop.Load() {
				take()
			}
		}()
		<-ready
		q.Flush()
		stop.Store(true)
		<-done
		if take(); copied != d.Pending() {
			t.Fatalf("request %d: index %d was copied, the ring has %d", n, copied, d.Pending())
		}
		d.Reap()
		copied = 0
	}
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
