package vhostuser

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// inMemory runs f with what a queue sees of the guest's memory.
func inMemory(t testing.TB, q *virtqueue.Queue, f func(*virtqueue.Memory)) {
	t.Helper()
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	defer q.End()
	f(q.Memory())
}

func TestMemTable(t *testing.T) {
	before := testMappings(t) // of tests whose processes have only died in name
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fd := memfd(t, ramSize)
	mark := func(at int64, s string) {
		if _, err := unix.Pwrite(fd, []byte(s), at); err != nil {
			t.Fatal(err)
		}
	}
	mark(0x12345, "hello")
	mark(0x80000, "world")
	region := MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}
	fe.must(ReqSetMemTable, table(region), fd)
	fe.startRing(0)
	q := d.vring(0).Queue
	inMemory(t, q, func(m *virtqueue.Memory) {
		if s := string(m.Guest(guestBase+0x12345, 5)); s != "hello" {
			t.Errorf("%q", s)
		}
	})

	// What is wrong leaves the memory as it was.
	bad := func(r MemoryRegion, fds ...int) {
		t.Helper()
		fe.mustNot(ReqSetMemTable, table(region, r), append([]int{fd}, fds...)...)
		fe.mustNot(ReqAddMemReg, slot(r), fds...)
	}
	bad(MemoryRegion{GuestAddr: 0, Size: 0, UserAddr: 0}, fd)
	bad(MemoryRegion{GuestAddr: 0, Size: ramSize + 1, UserAddr: 0}, fd)
	bad(MemoryRegion{GuestAddr: 0, Size: 4096, UserAddr: 0, MmapOffset: ramSize}, fd)
	bad(MemoryRegion{GuestAddr: 0, Size: 4096, UserAddr: 0, MmapOffset: 1<<64 - 4096}, fd)
	bad(MemoryRegion{GuestAddr: 0, Size: 1<<64 - 1, UserAddr: 0, MmapOffset: 1}, fd)
	bad(MemoryRegion{GuestAddr: 1<<64 - 4096, Size: 8192, UserAddr: 0}, fd)
	bad(MemoryRegion{GuestAddr: 0, Size: 8192, UserAddr: 1<<64 - 4096}, fd)
	bad(MemoryRegion{GuestAddr: guestBase + ramSize - 1, Size: 4096, UserAddr: 0}, fd) // overlap
	bad(MemoryRegion{GuestAddr: 0, Size: 4096, UserAddr: 0}, eventFD(t))               // can't be mapped
	bad(MemoryRegion{GuestAddr: 0, Size: 4096, UserAddr: 0})                           // not shared
	nine := MemoryHeader{Regions: 9}
	fe.mustNot(ReqSetMemTable, append(reply(nine), make([]byte, 8*32)...), fd)
	fe.mustNot(ReqSetMemTable, table(region)[:39], fd)
	fe.mustNot(ReqSetMemTable, append(table(region), make([]byte, 32)...), fd)
	inMemory(t, q, func(m *virtqueue.Memory) {
		if len(m.Regions()) != 1 || string(m.Guest(guestBase+0x12345, 5)) != "hello" {
			t.Error("memory is not what it was")
		}
	})

	// Another table while the ring runs; its offset is not a multiple of the page
	// size.
	second := MemoryRegion{GuestAddr: 0x1234, Size: 0x1000, UserAddr: 0x5678, MmapOffset: 0x7fffe}
	fe.must(ReqSetMemTable, table(region, second), fd, fd)
	inMemory(t, q, func(m *virtqueue.Memory) {
		if s := string(m.Guest(0x1236, 5)); s != "world" {
			t.Errorf("%q", s)
		}
		if len(m.Guest(0x1234, 0x1000)) != 0x1000 || m.Guest(0x1234, 0x1001) != nil {
			t.Error("region is not as long as it was said")
		}
	})
	if n := testMappings(t) - before; n != 2 {
		t.Errorf("%d mappings, want 2", n)
	}
	fe.must(ReqSetMemTable, table())
	if n := testMappings(t) - before; n != 0 {
		t.Errorf("%d mappings, want 0", n)
	}
	if err := q.Begin(); err == nil {
		t.Error("a ring without memory goes on")
		q.End()
	}
}

func TestMemRegions(t *testing.T) {
	before := testMappings(t)
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	if n := fe.number(ReqGetMaxMemSlots, nil); n != memSlots {
		t.Errorf("%d slots", n)
	}
	fe.ram()
	fe.startRing(0)
	q := d.vring(0).Queue
	fd := memfd(t, 1<<21)
	region := func(i int) MemoryRegion {
		return MemoryRegion{GuestAddr: uint64(i) << 12, Size: 4096, UserAddr: 1<<40 + uint64(i)<<12, MmapOffset: uint64(i%512) << 12}
	}
	const many = memSlots + 100
	for i := range many {
		fe.must(ReqAddMemReg, slot(region(i)), fd)
	}
	fe.mustNot(ReqAddMemReg, slot(region(7)), fd)
	// A queue in the middle of a batch keeps what it has.
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	held := q.Memory().Guest(region(5).GuestAddr, 4096)
	wrong := region(5)
	wrong.UserAddr++
	fe.mustNot(ReqRemMemReg, slot(wrong))
	wrong = region(5)
	wrong.Size--
	fe.mustNot(ReqRemMemReg, slot(wrong))
	for i := range many {
		r := region(i)
		r.MmapOffset = 12345 // of no interest
		if i%2 == 0 {
			fe.must(ReqRemMemReg, slot(r))
		} else {
			fe.must(ReqRemMemReg, slot(r), fd)
		}
	}
	fe.mustNot(ReqRemMemReg, slot(region(0)))
	held[0] = 1 // a fault if it was unmapped
	q.End()
	if n := testMappings(t) - before; n != 2 { // the ram, by Conn and by the test
		t.Errorf("%d mappings, want 2", n)
	}
	inMemory(t, q, func(m *virtqueue.Memory) {
		if len(m.Regions()) != 1 {
			t.Errorf("%d regions", len(m.Regions()))
		}
	})
}

// TestRingWaitsForMemory sets rings up before the memory which they are in.
func TestRingWaitsForMemory(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.setUpRing(0)
	fe.mustNot(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "")
	fe.ram()
	wantCalls(t, d, "start0@0")
}

// TestTruncatedMemory starts a ring in a file that has lost its end.
func TestTruncatedMemory(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fd := memfd(t, ramSize)
	fe.must(ReqSetMemTable, table(MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}), fd)
	fe.setUpRing(0)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		t.Fatal(err)
	}
	fe.mustNot(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "")
	if err := unix.Ftruncate(fd, ramSize); err != nil {
		t.Fatal(err)
	}
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "start0@0")
}

// TestReadOnlyMemory adds a file that is open for reading only, as QEMU does with
// what the device maps into a window.
func TestReadOnlyMemory(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	fe.startRing(0)
	fd, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	fe.must(ReqAddMemReg, slot(MemoryRegion{GuestAddr: 0, Size: 4096, UserAddr: 0}), fd)
	inMemory(t, d.vring(0).Queue, func(m *virtqueue.Memory) {
		if s := string(m.Guest(1, 3)); s != "ELF" {
			t.Errorf("%q", s)
		}
	})
}

func TestMapFile(t *testing.T) {
	checkLeaks(t)
	fd := memfd(t, 3*4096)
	for _, test := range []struct {
		offset, size uint64
		pages        int
	}{{0, 1, 1}, {0, 4096, 1}, {4095, 2, 2}, {4096, 8192, 2}, {1, 3*4096 - 1, 3}, {8192, 4096, 1}} {
		m, err := mapFile(fd, test.offset, test.size)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.all) != test.pages*4096 || uint64(len(m.part)) != test.size {
			t.Errorf("%+v: %d and %d bytes", test, len(m.all), len(m.part))
		}
		m.unmap()
		m.unmap()
	}
	if m, err := mapFile(-1, 0, 4096); err == nil {
		m.unmap()
		t.Error("mapped nothing")
	}
}

// TestHugePages maps parts of a file of huge pages, of which only whole ones can be
// mapped and unmapped. Nothing is touched, so the machine need not have any.
func TestHugePages(t *testing.T) {
	checkLeaks(t)
	fd, err := unix.MemfdCreate("vhostuser-test", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skipf("no huge pages in this kernel: %v", err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		t.Fatal(err)
	}
	huge := uint64(fs.Bsize)
	if err := unix.Ftruncate(fd, int64(2*huge)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ offset, size, pages uint64 }{{0, 4096, 1}, {4096, 4096, 1}, {huge - 4096, 8192, 2}, {huge, huge, 1}} {
		m, err := mapFile(fd, test.offset, test.size)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if uint64(len(m.all)) != test.pages*huge || uint64(len(m.part)) != test.size {
			t.Errorf("%+v: %d and %d bytes", test, len(m.all), len(m.part))
		}
		m.unmap()
	}
}
