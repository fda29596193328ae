package vhostuser

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// counter reads an eventfd without waiting.
func counter(t testing.TB, fd int) uint64 {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 0); err != nil || n == 0 {
		return 0
	}
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

func TestRingStartStop(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	fe.setUpRing(0)
	wantCalls(t, d, "")
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "start0@0")
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "")
	fe.must(ReqSetVringEnable, state(0, 0))
	wantCalls(t, d, "stop0")
	fe.must(ReqSetVringEnable, state(0, 0))
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "start0@0")
	fe.mustNot(ReqSetVringEnable, state(0, 2))
	fe.mustNot(ReqSetVringEnable, state(testQueues, 1))

	if b, _ := Decode[VringState](fe.ask(ReqGetVringBase, state(0, 0))); b.Index != 0 || b.Num != 0 {
		t.Errorf("base %+v", b)
	}
	wantCalls(t, d, "stop0")
	// The ring waits for a new kick descriptor, and starts where it is told to.
	fe.must(ReqSetVringEnable, state(0, 0))
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "")
	fe.must(ReqSetVringBase, state(0, 65535))
	fe.must(ReqSetVringKick, replyU64(0), eventFD(t))
	wantCalls(t, d, "start0@65535")
	if b, _ := Decode[VringState](fe.ask(ReqGetVringBase, state(0, 0))); b.Num != 65535 {
		t.Errorf("base %+v", b)
	}
	if b := fe.ask(ReqGetVringBase, state(testQueues, 0)); len(b) != 0 {
		t.Errorf("base of a ring that is not there: % x", b)
	}
}

// TestRingBase lets the device take requests, and expects the ring to go on after
// them.
func TestRingBase(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	_, ram := fe.ram()
	d.whenStopped(func(int) {
		q := d.vring(0).Queue
		if err := q.Begin(); err != nil {
			t.Error(err)
			return
		}
		defer q.End()
		var c virtqueue.Chain
		for range 2 {
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Errorf("Pop: %v, %v", ok, err)
				return
			}
			q.Push(&c, 4)
		}
		q.Flush()
	})
	// Two descriptors of 4 bytes at 0x1000 of ring 0's area, made available.
	for i := range 2 {
		desc := ram[16*i:]
		binary.LittleEndian.PutUint64(desc, guestBase+0xf0000+uint64(i)<<12)
		binary.LittleEndian.PutUint32(desc[8:], 4)
		binary.LittleEndian.PutUint16(desc[12:], 2) // VRING_DESC_F_WRITE
		binary.LittleEndian.PutUint16(ram[0x4000+4+2*i:], uint16(i))
	}
	binary.LittleEndian.PutUint16(ram[0x4000+2:], 2)
	fe.startRing(0)
	if b, _ := Decode[VringState](fe.ask(ReqGetVringBase, state(0, 0))); b.Num != 2 {
		t.Errorf("base %+v, want 2", b)
	}
	if used := binary.LittleEndian.Uint16(ram[0x8000+2:]); used != 2 {
		t.Errorf("used index %d, want 2", used)
	}
	d.whenStopped(nil)
	fe.must(ReqSetVringKick, replyU64(0), eventFD(t))
	d.takeCalls()
	if q := d.vring(0).Queue; q.Base() != 2 {
		t.Errorf("restarted at %d", q.Base())
	}
}

// TestRingsEnabledFromStart leaves out PROTOCOL_FEATURES in SET_FEATURES.
func TestRingsEnabledFromStart(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.send(ReqSetProtocolFeatures, replyU64(uint64(ProtocolReplyAck|ProtocolResetDevice)))
	fe.ram()
	fe.setUpRing(0)
	wantCalls(t, d, "")
	fe.must(ReqSetFeatures, replyU64(allFeatures&^FeatureProtocolFeatures))
	wantCalls(t, d, "start0@0")
	fe.setUpRing(1)
	wantCalls(t, d, "start1@0")
	fe.must(ReqResetOwner, nil)
	wantCalls(t, d, "stop0 stop1")
	fe.must(ReqSetVringKick, replyU64(1), eventFD(t))
	wantCalls(t, d, "start1@0")
	fe.must(ReqResetDevice, nil)
	wantCalls(t, d, "stop1 reset")
	fe.must(ReqSetVringKick, replyU64(1), eventFD(t))
	wantCalls(t, d, "start1@0")
}

// TestRingOrder configures a ring in different orders of its parts.
func TestRingOrder(t *testing.T) {
	for first := range 4 {
		d := newFakeDevice()
		fe := serve(t, d)
		fe.negotiate()
		fe.ram()
		parts := []func(){
			func() { fe.must(ReqSetVringNum, state(2, 128)) },
			func() { fe.must(ReqSetVringAddr, reply(ringAddr(2))) },
			func() { fe.must(ReqSetVringKick, replyU64(2), eventFD(t)) },
			func() { fe.must(ReqSetVringEnable, state(2, 1)) },
		}
		for i := range parts {
			if got := d.takeCalls(); got != "" {
				t.Errorf("starting with part %d: %s after %d parts", first, got, i)
			}
			parts[(first+i)%len(parts)]()
		}
		wantCalls(t, d, "start2@0")
	}
}

func TestRingReconfigure(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	fe.startRing(0)
	wantCalls(t, d, "start0@0")
	fe.must(ReqSetVringNum, state(0, 256)) // no change
	fe.mustNot(ReqSetVringNum, state(0, 128))
	fe.mustNot(ReqSetVringBase, state(0, 0))
	wantCalls(t, d, "")
	// Only the logging of the used ring changes: nothing stops.
	a := ringAddr(0)
	a.Flags = VringAddrLog
	fe.must(ReqSetVringAddr, reply(a))
	wantCalls(t, d, "")
	// The ring moves.
	b := ringAddr(1)
	b.Index = 0
	fe.must(ReqSetVringAddr, reply(b))
	wantCalls(t, d, "stop0 start0@0")
	// It moves to where no memory is, and back.
	b.Used = 0xdead0000
	fe.mustNot(ReqSetVringAddr, reply(b))
	wantCalls(t, d, "stop0")
	fe.must(ReqSetVringAddr, reply(a))
	wantCalls(t, d, "start0@0")
	// A new kick descriptor, and none.
	fe.must(ReqSetVringKick, replyU64(0), eventFD(t))
	wantCalls(t, d, "stop0 start0@0")
	fe.must(ReqSetVringKick, replyU64(VringNoFD))
	wantCalls(t, d, "stop0 start0@0")
	if v := d.vring(0); v.Kick != -1 {
		t.Errorf("kick %d, want -1", v.Kick)
	}
	fe.mustNot(ReqSetVringKick, replyU64(0))
	fe.mustNot(ReqSetVringKick, replyU64(VringNoFD), eventFD(t))
	fe.mustNot(ReqSetVringKick, replyU64(testQueues), eventFD(t))
	fe.mustNot(ReqSetVringCall, replyU64(testQueues), eventFD(t))
	fe.mustNot(ReqSetVringErr, replyU64(255), eventFD(t))
	fe.mustNot(ReqSetVringAddr, reply(ringAddr(testQueues)))
	fe.mustNot(ReqSetVringBase, state(1, 65536))
	for _, n := range []uint32{0, 3, 2048, 32768, 65536, 1 << 31} {
		fe.mustNot(ReqSetVringNum, state(1, n))
	}
	wantCalls(t, d, "")
}

// TestCallExchange swaps call and error descriptors of a running ring.
func TestCallExchange(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	call1, call2, errFD := eventFD(t), eventFD(t), eventFD(t)
	fe.must(ReqSetVringCall, replyU64(0), call1)
	fe.startRing(0)
	d.takeCalls()
	v := d.vring(0)
	v.Call.Notify()
	v.Err.Notify() // there is none yet
	if n := counter(t, call1); n != 1 {
		t.Errorf("call counted %d", n)
	}
	fe.must(ReqSetVringErr, replyU64(0), errFD)
	fe.must(ReqSetVringCall, replyU64(0), call2)
	if n := counter(t, call2); n != 1 {
		t.Errorf("new call descriptor counted %d, want 1: a lost call is not made up for", n)
	}
	v.Call.Notify()
	v.Err.Notify()
	if a, b, c := counter(t, call1), counter(t, call2), counter(t, errFD); a != 0 || b != 1 || c != 1 {
		t.Errorf("counted %d %d %d, want 0 1 1", a, b, c)
	}
	fe.must(ReqSetVringCall, replyU64(VringNoFD))
	v.Call.Notify()
	if a, b := counter(t, call1), counter(t, call2); a != 0 || b != 0 {
		t.Errorf("counted %d %d after the descriptor was taken away", a, b)
	}
	wantCalls(t, d, "")
}

// TestKickFlags expects the front-end's kick descriptor as it made it: the flags are
// shared, and QEMU counts on its own.
func TestKickFlags(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	kick := fe.startRing(0)
	for _, nonblock := range []bool{false, true} {
		if err := unix.SetNonblock(kick, nonblock); err != nil {
			t.Fatal(err)
		}
		fe.must(ReqSetVringKick, replyU64(0), kick)
		flags, err := unix.FcntlInt(uintptr(kick), unix.F_GETFL, 0)
		if err != nil || (flags&unix.O_NONBLOCK != 0) != nonblock {
			t.Errorf("flags %#x (%v), want O_NONBLOCK %v", flags, err, nonblock)
		}
	}
}

func TestStartFails(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	d.failStart(errors.New("no"))
	fe.setUpRing(0)
	fe.mustNot(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "start0@0")
	d.failStart(nil)
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "start0@0")
}

// TestResetKeepsMemory resets a running device: QEMU sends memory only once.
func TestResetKeepsMemory(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	fe.startRing(0)
	fe.startRing(2)
	d.takeCalls()
	fe.must(ReqResetDevice, nil)
	wantCalls(t, d, "stop0 stop2 reset")
	fe.must(ReqResetDevice, nil)
	wantCalls(t, d, "reset")
	fe.must(ReqSetVringEnable, state(0, 1))
	wantCalls(t, d, "")
	fe.must(ReqSetVringKick, replyU64(0), eventFD(t))
	wantCalls(t, d, "start0@0")
	fe.must(ReqSetStatus, replyU64(0))
	fe.must(ReqResetOwner, nil)
	wantCalls(t, d, "stop0")
}

// TestStopWaits expects GET_VRING_BASE to be answered after StopQueue only.
func TestStopWaits(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	release := make(chan struct{})
	d.whenStopped(func(int) { <-release })
	fe.startRing(0)
	fe.send(ReqGetVringBase, state(0, 0))
	_ = fe.sock.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := fe.sock.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes of an answer while the queue runs", n)
	}
	close(release)
	fe.reply(ReqGetVringBase)
}
