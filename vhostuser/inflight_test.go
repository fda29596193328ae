package vhostuser

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// inflightFD asks for an area, with a body of the given size.
func (fe *frontEnd) inflightFD(d InflightDescription, bodySize int) (InflightDescription, int) {
	fe.t.Helper()
	fe.send(ReqGetInflightFD, reply(d)[:bodySize])
	_, body, fds, err := receive(fe.sock)
	if err != nil || len(fds) != 1 || len(body) != bodySize {
		fe.t.Fatalf("%v: %d bytes, descriptors %v", err, len(body), fds)
	}
	fe.t.Cleanup(func() { _ = unix.Close(fds[0]) })
	d, _ = Decode[InflightDescription](body)
	return d, fds[0]
}

func TestInflight(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	for _, bad := range []InflightDescription{{}, {NumQueues: 1}, {QueueSize: 256}, {NumQueues: testQueues + 1, QueueSize: 256},
		{NumQueues: 1, QueueSize: testQueueSize + 1}} {
		if b := fe.ask(ReqGetInflightFD, reply(bad)); len(b) != 0 {
			t.Errorf("%+v was accepted", bad)
		}
	}
	for _, size := range []int{20, 24} {
		area, fd := fe.inflightFD(InflightDescription{NumQueues: 2, QueueSize: 256}, size)
		if area.MmapSize != 2*virtqueue.InflightSize(256) || area.MmapOffset != 0 || area.NumQueues != 2 || area.QueueSize != 256 {
			t.Errorf("%+v", area)
		}
		if err := unix.Ftruncate(fd, 0); err == nil {
			t.Error("the area can be truncated")
		}
	}
	area, fd := fe.inflightFD(InflightDescription{NumQueues: 2, QueueSize: 256}, 24)
	set := func(change func(*InflightDescription)) []byte {
		d := area
		change(&d)
		return reply(d)
	}
	fe.mustNot(ReqSetInflightFD, set(func(d *InflightDescription) { d.MmapSize-- }), fd)
	fe.mustNot(ReqSetInflightFD, set(func(d *InflightDescription) { d.MmapOffset = 8 }), fd)
	fe.mustNot(ReqSetInflightFD, set(func(d *InflightDescription) { d.MmapOffset = 4 }), fd)
	fe.mustNot(ReqSetInflightFD, set(func(d *InflightDescription) { d.NumQueues = 3 }), fd)
	fe.mustNot(ReqSetInflightFD, set(func(d *InflightDescription) { d.QueueSize = 512 }), fd)
	fe.mustNot(ReqSetInflightFD, set(func(*InflightDescription) {}), eventFD(t))
	fe.must(ReqSetInflightFD, reply(area), fd)
	fe.must(ReqSetInflightFD, reply(area)[:20], fd)

	_, ram := fe.ram()
	ram[8], ram[0x4000+2] = 1, 1 // one request, of the descriptor 0
	putGuestAddr(ram, guestBase)
	fe.startRing(0)
	fe.startRing(2) // has no part in the area
	fe.mustNot(ReqSetInflightFD, reply(area), fd)
	q := d.vring(0).Queue
	inMemory(t, q, func(*virtqueue.Memory) {
		var c virtqueue.Chain
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	d.takeCalls()       // its lock hands the queue back
	_ = fe.sock.Close() // the back-end dies, and the request with it
	if err := fe.wait(); err != nil {
		t.Fatal(err)
	}

	next := newFakeDevice()
	fe = serve(t, next)
	fe.negotiate()
	fe.must(ReqSetInflightFD, reply(area), fd)
	fe.ram()
	fe.startRing(0)
	q = next.vring(0).Queue
	if q.Base() != 1 || q.UnderWay() != 1 {
		t.Errorf("starts at %d, %d requests under way", q.Base(), q.UnderWay())
	}
	inMemory(t, q, func(*virtqueue.Memory) {
		var c virtqueue.Chain
		if ok, err := q.Pop(&c); !ok || err != nil || c.Head != 0 || q.Base() != 1 {
			t.Errorf("popped %d, %v, %v", c.Head, ok, err)
		}
	})
	next.takeCalls()
}

// putGuestAddr makes descriptor 0's buffer.
func putGuestAddr(ram []byte, addr uint64) { copy(ram, replyU64(addr)) }
