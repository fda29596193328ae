package vhostuser

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// dirtyPages lists the pages that are marked in a log file, and clears it.
func dirtyPages(t testing.TB, fd int, offset int64, n int) (pages []int) {
	t.Helper()
	b := make([]byte, n)
	if _, err := unix.Pread(fd, b, offset); err != nil {
		t.Fatal(err)
	}
	for i := range 8 * n {
		if b[i/8]&(1<<(i%8)) != 0 {
			pages = append(pages, i)
		}
	}
	if _, err := unix.Pwrite(fd, make([]byte, n), offset); err != nil {
		t.Fatal(err)
	}
	return pages
}

// TestDirtyLog switches logging as a migration does, while the ring runs.
func TestDirtyLog(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	_, ram := fe.ram()
	fe.startRing(0)
	d.takeCalls()
	q := d.vring(0).Queue
	avail := uint16(0)
	// Each request has one buffer in page 0xf0 of the guest's memory, at its start
	// here, and writes 4 bytes to it.
	request := func() {
		t.Helper()
		binary.LittleEndian.PutUint64(ram, guestBase+0xf0000)
		binary.LittleEndian.PutUint32(ram[8:], 4)
		binary.LittleEndian.PutUint16(ram[12:], 2) // VRING_DESC_F_WRITE
		binary.LittleEndian.PutUint16(ram[0x4000+4+2*int(avail%256):], 0)
		avail++
		binary.LittleEndian.PutUint16(ram[0x4000+2:], avail)
		if err := q.Begin(); err != nil {
			t.Fatal(err)
		}
		defer q.End()
		var c virtqueue.Chain
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.Push(&c, 4)
		q.Flush()
	}
	const bytes = (guestBase + ramSize) / 4096 / 8
	const data, used = guestBase/4096 + 0xf0, guestBase/4096 + 8
	log := memfd(t, 3*bytes)
	want := func(fd int, offset int64, want ...int) {
		t.Helper()
		got := dirtyPages(t, fd, offset, bytes)
		if len(got) != len(want) {
			t.Fatalf("pages %#x, want %#x", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("pages %#x, want %#x", got, want)
			}
		}
	}
	set := func(size, offset uint64, fd int) uint64 {
		return fe.number(ReqSetLogBase, reply(LogDescription{Size: size, Offset: offset}), fd)
	}

	if v := set(bytes, 0, log); v != 0 {
		t.Fatalf("SET_LOG_BASE: %#x", v)
	}
	request()
	want(log, 0) // not switched on
	fe.must(ReqSetFeatures, replyU64(allFeatures|FeatureLogAll))
	request()
	want(log, 0, data)
	a := ringAddr(0)
	a.Flags = VringAddrLog
	fe.must(ReqSetVringAddr, reply(a))
	request()
	want(log, 0, used, data)
	// The same file further back, a larger one, and a small one again.
	if v := set(bytes, 2*bytes&^4095, log); v != 0 {
		t.Fatalf("SET_LOG_BASE: %#x", v)
	}
	request()
	want(log, 2*bytes&^4095, used, data)
	large := memfd(t, 2*minLogRoom)
	if v := set(2*minLogRoom, 0, large); v != 0 {
		t.Fatalf("SET_LOG_BASE: %#x", v)
	}
	request()
	want(large, 0, used, data)
	want(log, 0)
	if v := set(4096, 0, log); v != 0 {
		t.Fatalf("SET_LOG_BASE: %#x", v)
	}
	request() // the log ends before the page
	want(log, 0)
	want(large, 0)
	if v := set(bytes, 0, log); v != 0 {
		t.Fatalf("SET_LOG_BASE: %#x", v)
	}

	for _, bad := range [][2]uint64{{0, 0}, {bytes, 1}, {bytes, 3 * bytes &^ 4095}, {1 << 63, 0}, {bytes, 1 << 63}} {
		if v := set(bad[0], bad[1], log); v&0xff == 0 {
			t.Errorf("log of %#x bytes at %#x was accepted", bad[0], bad[1])
		}
	}
	if v := set(bytes, 0, eventFD(t)); v&0xff == 0 {
		t.Error("an eventfd was accepted as a log")
	}
	request()
	want(log, 0, used, data)
	a.Flags = 0
	fe.must(ReqSetVringAddr, reply(a))
	fe.must(ReqSetFeatures, replyU64(allFeatures))
	request()
	want(log, 0)
	fe.must(ReqSetLogFD, nil, eventFD(t))
	wantCalls(t, d, "")
}

// TestLogOfStoppedRing sets logging up before the ring runs.
func TestLogOfStoppedRing(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.must(ReqSetFeatures, replyU64(allFeatures|FeatureLogAll))
	log := memfd(t, 1<<20)
	if v := fe.number(ReqSetLogBase, reply(LogDescription{Size: 1 << 20}), log); v != 0 {
		t.Fatalf("SET_LOG_BASE: %#x", v)
	}
	_, ram := fe.ram()
	fe.startRing(0)
	binary.LittleEndian.PutUint64(ram, guestBase)
	binary.LittleEndian.PutUint32(ram[8:], 1)
	binary.LittleEndian.PutUint16(ram[12:], 2)
	binary.LittleEndian.PutUint16(ram[0x4000+2:], 1)
	q := d.vring(0).Queue
	inMemory(t, q, func(*virtqueue.Memory) {
		var c virtqueue.Chain
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.Push(&c, 1)
	})
	if pages := dirtyPages(t, log, 0, 1<<20); len(pages) != 1 || pages[0] != guestBase/4096 {
		t.Errorf("pages %#x", pages)
	}
}
