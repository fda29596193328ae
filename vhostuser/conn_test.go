package vhostuser

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

func TestNegotiate(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	if got, want := fe.number(ReqGetFeatures, nil), connFeatures|1<<40; got != want {
		t.Errorf("features %#x, want %#x", got, want)
	}
	p := ProtocolFeatures(fe.number(ReqGetProtocolFeatures, nil))
	if want := connProtocolFeatures | ProtocolConfig; p != want {
		t.Errorf("protocol features %s, want %s", p, want)
	}
	fe.send(ReqSetProtocolFeatures, replyU64(uint64(p)))
	fe.mustNot(ReqSetProtocolFeatures, replyU64(uint64(p|ProtocolPageFault)))
	fe.must(ReqSetOwner, nil)
	fe.mustNot(ReqSetFeatures, replyU64(allFeatures|1<<34)) // packed rings
	fe.must(ReqSetFeatures, replyU64(allFeatures))
	if n := fe.number(ReqGetQueueNum, nil); n != testQueues {
		t.Errorf("%d queues", n)
	}
	fe.must(ReqSetStatus, replyU64(0x1_0f))
	if s := fe.number(ReqGetStatus, nil); s != 0x0f {
		t.Errorf("status %#x", s)
	}
	fe.must(ReqSetStatus, replyU64(0))
	fe.must(ReqResetOwner, nil)
	wantCalls(t, d, "")
	fe.must(ReqResetDevice, nil)
	wantCalls(t, d, "reset")
}

func TestOptionalFeatures(t *testing.T) {
	full := newFullDevice()
	full.config = nil
	// One that another device embeds can do as much as alone.
	full.save = func(io.Writer) error { full.note("save"); return nil }
	for _, d := range []Device{full, struct{ Device }{full}} {
		testOptional(t, d)
		<-full.attached
		wantCalls(t, full.fakeDevice, "attach1:true save")
	}
	fe := serve(t, newFakeDevice())
	if p := ProtocolFeatures(fe.number(ReqGetProtocolFeatures, nil)); p != connProtocolFeatures|ProtocolConfig {
		t.Errorf("a device without them: protocol features %s", p)
	}
}

func testOptional(t *testing.T, d Device) {
	t.Helper()
	fe := serve(t, d)
	want := connProtocolFeatures | ProtocolDeviceState | ProtocolSharedMemory
	if p := ProtocolFeatures(fe.number(ReqGetProtocolFeatures, nil)); p != want {
		t.Errorf("protocol features %s, want %s", p, want)
	}
	fe.negotiate()
	fe.openChannel()
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	if v := fe.number(ReqSetDeviceStateFD, reply(TransferState{Direction: TransferSave}), pipe[1]); v != TransferNoFD {
		t.Errorf("SET_DEVICE_STATE_FD answers %#x", v)
	}
	_ = unix.Close(pipe[1])
	if v := fe.number(ReqCheckDeviceState, nil); v != 0 {
		t.Errorf("CHECK_DEVICE_STATE answers %#x", v)
	}
}

// TestNoReply sends requests before REPLY_ACK is negotiated: with or without
// FlagNeedReply there is no answer, or the next one would be out of step.
func TestNoReply(t *testing.T) {
	fe := serve(t, newFakeDevice())
	fe.write(frame(ReqSetOwner, FlagVersion|FlagNeedReply, nil))
	fe.write(frame(ReqSetVringNum, FlagVersion|FlagNeedReply, state(99, 1)))
	fe.send(999, nil)
	fe.send(0, nil)
	fe.write(frame(ReqGetFeatures, FlagVersion|FlagReply, nil))
	fe.number(ReqGetFeatures, nil)
}

func TestUnknownRequest(t *testing.T) {
	fe := serve(t, newFakeDevice())
	fe.negotiate()
	for _, r := range []Request{0, ReqSendRARP, ReqNetSetMTU, ReqIOTLBMsg, ReqSetVringEndian, ReqPostcopyAdvise,
		ReqGPUSetSocket, ReqVringKick, ReqGetSharedObject, 45, 1000, 1<<32 - 1} {
		fe.mustNot(r, make([]byte, 8))
		fe.send(r, make([]byte, 8), eventFD(t))
	}
	fe.number(ReqGetFeatures, nil)
}

// rows calls f for each request that Conn serves.
func rows(f func(Request, *Format)) {
	for r := range Request(len(handlers)) {
		if handlers[r] != nil {
			f(r, FormatOf(ToBackend, uint32(r)))
		}
	}
}

// TestHandlers: what has a format is served, and nothing else.
func TestHandlers(t *testing.T) {
	served := 0
	for n := range len(formats[ToBackend]) {
		f := FormatOf(ToBackend, uint32(n))
		if has := n < len(handlers) && handlers[n] != nil; has != (f != nil && f.Answer.Kind != NoAnswer) {
			t.Errorf("%s: handler %v", Request(n), has)
		}
	}
	rows(func(Request, *Format) { served++ })
	if served != 32 {
		t.Errorf("%d requests are served, want 32", served)
	}
}

// TestTable sends each request with bodies, descriptors and features that its row
// forbids. All must be refused, and nothing may be left open.
func TestTable(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.send(ReqSetProtocolFeatures, replyU64(uint64(ProtocolReplyAck)))
	refuse := func(r Request, body []byte, fds ...int) {
		t.Helper()
		switch FormatOf(ToBackend, uint32(r)).Answer.Kind {
		case ReplyBody:
			if b := fe.ask(r, body, fds...); len(b) != 0 {
				t.Errorf("%s with %d bytes and %d descriptors was answered with % x", r, len(body), len(fds), b)
			}
		case ReplyStatus:
			if v := fe.number(r, body, fds...); v&0xff == 0 {
				t.Errorf("%s with %d bytes and %d descriptors succeeded", r, len(body), len(fds))
			}
		default:
			if fe.ack(r, body, fds...) {
				t.Errorf("%s with %d bytes and %d descriptors was accepted", r, len(body), len(fds))
			}
		}
	}
	fd := eventFD(t)
	some := func(n int) []int { return slices.Repeat([]int{fd}, n) }
	rows(func(r Request, f *Format) {
		if f.Needs != 0 {
			refuse(r, make([]byte, f.Body.Min), some(f.FDs.Min)...)
		}
	})
	fe.negotiate()
	rows(func(r Request, f *Format) {
		least := make([]byte, f.Body.Min)
		refuse(r, make([]byte, f.Body.Max+1), some(f.FDs.Min)...)
		if f.Body.Min > 0 {
			refuse(r, least[1:], some(f.FDs.Min)...)
			refuse(r, nil, some(f.FDs.Min)...)
		}
		refuse(r, least, some(f.FDs.Max+1)...)
		refuse(r, least, some(20)...)
		if f.FDs.Min > 0 {
			refuse(r, least)
		}
	})
	if got := d.takeCalls(); got != "" {
		t.Errorf("device saw %q", got)
	}
}

func TestFraming(t *testing.T) {
	for name, b := range map[string][]byte{
		"version 0":  frame(ReqGetFeatures, 0, nil),
		"version 2":  frame(ReqGetFeatures, 2, nil),
		"huge body":  Bytes(&Header{Request: uint32(ReqSetMemTable), Flags: FlagVersion, Size: MaxBodySize + 1}),
		"huger body": Bytes(&Header{Request: uint32(ReqSetMemTable), Flags: FlagVersion, Size: 1<<32 - 1}),
		"text":       []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			fe := serve(t, newFakeDevice())
			fe.write(b, eventFD(t))
			if err := fe.wait(); err == nil || errors.Is(err, context.Canceled) {
				t.Errorf("Serve returns %v", err)
			}
		})
	}
}

// TestSplitMessages sends messages in single bytes, and many at once.
func TestSplitMessages(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fd := memfd(t, ramSize)
	b := frame(ReqSetMemTable, FlagVersion|FlagNeedReply, table(MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}))
	fe.write(b[:1], fd)
	for i := 1; i < len(b); i++ {
		fe.write(b[i : i+1])
	}
	if v, _ := Decode[U64](fe.reply(ReqSetMemTable)); v.Value != 0 {
		t.Error("SET_MEM_TABLE in pieces was refused")
	}
	var all []byte
	all = append(all, frame(ReqSetVringNum, FlagVersion, state(0, 256))...)
	all = append(all, frame(ReqSetVringAddr, FlagVersion, reply(ringAddr(0)))...)
	all = append(all, frame(ReqSetVringEnable, FlagVersion, state(0, 1))...)
	all = append(all, frame(ReqSetVringKick, FlagVersion|FlagNeedReply, replyU64(VringNoFD))...)
	fe.write(all)
	fe.reply(ReqSetVringKick)
	wantCalls(t, d, "start0@0")
}

// TestDescriptorPerByte attaches descriptors to every byte of a message.
func TestDescriptorPerByte(t *testing.T) {
	fe := serve(t, newFakeDevice())
	fd := eventFD(t)
	for _, b := range frame(ReqSetMemTable, FlagVersion, table(MemoryRegion{})) {
		if _, _, err := fe.sock.WriteMsgUnix([]byte{b}, unix.UnixRights(fd), nil); err != nil {
			break // Serve has hung up
		}
	}
	if err := fe.wait(); err == nil {
		t.Error("Serve returns nil")
	}
}

// TestOutOfDescriptors receives a message when this process can't open any more.
func TestOutOfDescriptors(t *testing.T) {
	fe := serve(t, newFakeDevice())
	fe.negotiate()
	call := eventFD(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }()
	// The lowest limit that keeps all that is open. Holes below it are filled.
	highest := 0
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		var n int
		for _, c := range e.Name() {
			n = n*10 + int(c-'0')
		}
		highest = max(highest, n)
	}
	low := old
	low.Cur = uint64(highest + 1)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var fill []int
	for {
		fd, err := unix.Dup(call)
		if err != nil {
			break
		}
		fill = append(fill, fd)
	}
	fe.mustNot(ReqSetVringCall, replyU64(0), call)
	for _, fd := range fill {
		_ = unix.Close(fd)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	fe.must(ReqSetVringCall, replyU64(0), call)
}

func TestCancel(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	fe.startRing(1)
	fe.cancel()
	if err := fe.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve returns %v", err)
	}
	wantCalls(t, d, "start1@0 stop1")
}

// TestCancelBeforeServe must not serve anything.
func TestCancelBeforeServe(t *testing.T) {
	checkLeaks(t)
	ours, _ := socketpair.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := NewConn(ours, newFakeDevice(), testLog()).Serve(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve returns %v", err)
	}
}

// script is a session that uses most of what there is; each step is one message.
func script(t testing.TB) (steps [][]byte, fds [][]int) {
	kick, call, log := eventFD(t), eventFD(t), memfd(t, 1<<16)
	ram, area := memfd(t, ramSize), memfd(t, 1<<20)
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	sock, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{pipe[0], pipe[1], sock[0], sock[1]} {
		t.Cleanup(func() { _ = unix.Close(fd) })
	}
	add := func(r Request, body []byte, f ...int) {
		steps = append(steps, frame(r, FlagVersion|FlagNeedReply, body))
		fds = append(fds, f)
	}
	all := connProtocolFeatures | ProtocolConfig | ProtocolDeviceState | ProtocolSharedMemory
	region := MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}
	add(ReqGetFeatures, nil)
	add(ReqSetProtocolFeatures, replyU64(uint64(all)))
	add(ReqSetBackendReqFD, nil, sock[0])
	add(ReqSetOwner, nil)
	add(ReqSetFeatures, replyU64(connFeatures))
	add(ReqGetConfig, reply(ConfigHeader{Size: 8}))
	add(ReqGetShmemConfig, nil)
	add(ReqGetInflightFD, reply(InflightDescription{NumQueues: 1, QueueSize: 256}))
	add(ReqSetInflightFD, reply(InflightDescription{MmapSize: 1 << 20, NumQueues: 1, QueueSize: 256}), area)
	add(ReqAddMemReg, slot(region), ram)
	add(ReqSetDeviceStateFD, reply(TransferState{Direction: TransferLoad}), pipe[0])
	add(ReqSetVringNum, state(0, 256))
	add(ReqSetVringBase, state(0, 0))
	add(ReqSetVringAddr, reply(ringAddr(0)))
	add(ReqSetVringCall, replyU64(0), call)
	add(ReqSetVringKick, replyU64(0), kick)
	add(ReqSetVringEnable, state(0, 1))
	add(ReqSetLogBase, reply(LogDescription{Size: 1 << 16}), log)
	add(ReqSetMemTable, table(region), ram)
	add(ReqGetVringBase, state(0, 0))
	add(ReqRemMemReg, slot(region))
	return steps, fds
}

// TestDisconnect ends the connection after each step of a session, and within each
// message.
func TestDisconnect(t *testing.T) {
	checkLeaks(t)
	d := newFullDevice()
	d.load = func(f io.Reader) error { // never sees the end of the data
		_, err := f.Read(make([]byte, 1))
		return err
	}
	steps, fds := script(t)
	for n := range steps {
		for _, part := range []int{1, HeaderSize, len(steps[n]) - 1, len(steps[n])} {
			if part == 0 {
				continue
			}
			ours, theirs := socketpair.New(t)
			c := NewConn(ours, d, testLog())
			served := make(chan error, 1)
			go func() { served <- c.Serve(context.Background()) }()
			for i := range n + 1 {
				b := steps[i]
				if i == n {
					b = b[:part]
				}
				var oob []byte
				if len(fds[i]) > 0 {
					oob = unix.UnixRights(fds[i]...)
				}
				if _, _, err := theirs.WriteMsgUnix(b, oob, nil); err != nil {
					t.Fatal(err)
				}
			}
			_ = theirs.Close()
			select {
			case err := <-served:
				if err != nil {
					t.Errorf("after %d messages and %d bytes: %v", n, part, err)
				}
			case <-time.After(60 * time.Second):
				t.Fatalf("after %d messages and %d bytes Serve does not return", n, part)
			}
			for len(d.attached) > 0 {
				<-d.attached
			}
		}
	}
}

func TestConfig(t *testing.T) {
	d := newFakeDevice()
	fe := serve(t, d)
	fe.negotiate()
	get := func(offset, size uint32, more int) []byte {
		return fe.ask(ReqGetConfig, append(reply(ConfigHeader{Offset: offset, Size: size, Flags: 0}), make([]byte, more)...))
	}
	for _, test := range []struct {
		offset, size uint32
		want         string
	}{
		{0, 13, "configuration"}, {3, 2, "fi"}, {10, 5, "ion\x00\x00"}, {100, 2, "\x00\x00"}, {255, 1, "\x00"},
		{0, MaxConfigSize, "configuration" + string(make([]byte, MaxConfigSize-13))},
	} {
		want := append(reply(ConfigHeader{Offset: test.offset, Size: test.size}), test.want...)
		for _, more := range []int{0, int(test.size)} {
			if got := get(test.offset, test.size, more); !bytes.Equal(got, want) {
				t.Errorf("offset %d size %d: % x", test.offset, test.size, got)
			}
		}
	}
	for _, test := range [][3]uint32{{0, 0, 0}, {0, 257, 0}, {1, 256, 0}, {256, 1, 0}, {1<<32 - 1, 2, 0}, {0, 4, 3}, {0, 4, 5}} {
		if b := get(test[0], test[1], int(test[2])); len(b) != 0 {
			t.Errorf("offset %d size %d, %d bytes more: got % x", test[0], test[1], test[2], b)
		}
	}
	body := append(reply(ConfigHeader{Size: 4}), 1, 2, 3, 4)
	fe.mustNot(ReqSetConfig, body)
	fe.mustNot(ReqSetConfig, body[:14])
	fe.must(ReqSetConfig, append(reply(ConfigHeader{Size: 4, Flags: configMigration}), 1, 2, 3, 4))
}

// TestWriteToDeadFrontEnd answers a front-end that has stopped to read.
func TestWriteToDeadFrontEnd(t *testing.T) {
	fe := serve(t, newFakeDevice())
	_ = fe.sock.CloseRead()
	fe.send(ReqGetFeatures, nil)
	if err := fe.wait(); err != nil {
		t.Errorf("Serve returns %v", err)
	}
	if !disconnected(&net.OpError{Op: "write", Err: os.NewSyscallError("sendmsg", unix.EPIPE)}) {
		t.Error("EPIPE is not a disconnect")
	}
}
