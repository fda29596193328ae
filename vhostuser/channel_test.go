package vhostuser

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// openChannel gives the Conn a back-end channel and returns the front-end's end.
func (fe *frontEnd) openChannel() *net.UnixConn {
	fe.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fe.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "channel")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		fe.t.Fatal(err)
	}
	fe.t.Cleanup(func() { _ = c.Close() })
	fe.must(ReqSetBackendReqFD, nil, fds[1])
	_ = unix.Close(fds[1])
	return c.(*net.UnixConn)
}

// expect reads one request of the back-end and closes its descriptors.
func expect(t testing.TB, sock *net.UnixConn, r BackendRequest, fds int) []byte {
	t.Helper()
	h, body, got, err := receive(sock)
	for _, fd := range got {
		_ = unix.Close(fd)
	}
	if err != nil || BackendRequest(h.Request) != r || h.Flags != FlagVersion|FlagNeedReply || len(got) != fds {
		t.Fatalf("%v: %s with flags %#x and %d descriptors, want %s", err, BackendRequest(h.Request), h.Flags, len(got), r)
	}
	return body
}

func acknowledge(t testing.TB, sock *net.UnixConn, r BackendRequest, v uint64) {
	t.Helper()
	if _, err := sock.Write(frame(Request(r), FlagVersion|FlagReply, replyU64(v))); err != nil {
		t.Fatal(err)
	}
}

func TestSharedMemory(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.negotiate()
	config, ok := Decode[SharedMemoryConfig](fe.ask(ReqGetShmemConfig, nil))
	if !ok || config.Regions != 1 || config.Sizes[0] != 0 || config.Sizes[1] != 1<<20 {
		t.Errorf("%d regions: %v", config.Regions, config.Sizes[:4])
	}
	sock := fe.openChannel()
	window := <-d.attached
	wantCalls(t, d.fakeDevice, "attach1:true")
	if window.Size() != 1<<20 {
		t.Errorf("size %#x", window.Size())
	}
	fd := memfd(t, 1<<21)
	for _, bad := range [][2]uint64{{0, 0}, {0, 1<<20 + 1}, {1 << 20, 1}, {1<<64 - 1, 2}, {4096, 1 << 20}} {
		if window.Map(fd, bad[0], bad[1], 0, true) == nil || window.Unmap(bad[0], bad[1]) == nil {
			t.Errorf("mapped %#x bytes at %#x", bad[1], bad[0])
		}
	}
	result := make(chan error, 1)
	go func() { result <- window.Map(fd, 0x1000, 0x2000, 0x3000, true) }()
	m, _ := Decode[SharedMemoryMap](expect(t, sock, BackendShmemMap, 1))
	if m.ID != 1 || m.Offset != 0x1000 || m.Length != 0x2000 || m.FileOffset != 0x3000 || m.Flags != SharedMemoryWritable {
		t.Errorf("%+v", m)
	}
	// The front-end asks for something itself before it answers.
	fe.must(ReqAddMemReg, slot(MemoryRegion{GuestAddr: 1 << 40, Size: 0x2000, UserAddr: 1 << 40, MmapOffset: 0x3000}), fd)
	acknowledge(t, sock, BackendShmemMap, 0)
	if err := <-result; err != nil {
		t.Error(err)
	}
	go func() { result <- window.Map(fd, 0, 0x1000, 0, false) }()
	if m, _ = Decode[SharedMemoryMap](expect(t, sock, BackendShmemMap, 1)); m.Flags != 0 {
		t.Errorf("%+v", m)
	}
	acknowledge(t, sock, BackendShmemMap, ^uint64(0)-uint64(unix.ENOMEM)+1)
	if err := <-result; !errors.Is(err, ErrRefused) || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("Map: %v", err)
	}
	go func() { result <- window.Unmap(0x1000, 0x2000) }()
	expect(t, sock, BackendShmemUnmap, 0)
	acknowledge(t, sock, BackendShmemUnmap, 1)
	if err := <-result; !errors.Is(err, ErrRefused) {
		t.Errorf("Unmap: %v", err)
	}
}

// TestChannelOrder has many requests under way and answers them in order.
func TestChannelOrder(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.negotiate()
	sock := fe.openChannel()
	window := <-d.attached
	const n = 50
	var wg sync.WaitGroup
	for i := range uint64(n) {
		wg.Go(func() {
			err := window.Unmap(i*4096, 4096)
			if failed := err != nil; failed != (i%3 == 0) {
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	for range n {
		m, _ := Decode[SharedMemoryMap](expect(t, sock, BackendShmemUnmap, 0))
		ack := uint64(0)
		if m.Offset/4096%3 == 0 {
			ack = 1
		}
		acknowledge(t, sock, BackendShmemUnmap, ack)
	}
	wg.Wait()
}

func TestConfigChanged(t *testing.T) {
	checkLeaks(t)
	d := newFakeDevice()
	ours, theirs := socketpair.New(t)
	c := NewConn(ours, d, testLog())
	if err := c.ConfigChanged(); !errors.Is(err, ErrDisconnected) {
		t.Errorf("before there is a channel: %v", err)
	}
	served := make(chan error, 1)
	go func() { served <- c.Serve(t.Context()) }()
	fe := &frontEnd{t: t, sock: theirs}
	fe.negotiate()
	sock := fe.openChannel()
	result := make(chan error, 1)
	go func() { result <- c.ConfigChanged() }()
	expect(t, sock, BackendConfigChange, 0)
	acknowledge(t, sock, BackendConfigChange, 0)
	if err := <-result; err != nil {
		t.Error(err)
	}
	_ = theirs.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := c.ConfigChanged(); !errors.Is(err, ErrDisconnected) {
		t.Errorf("after the end: %v", err)
	}
}

// TestChannelWithoutReplies negotiates no acknowledgements: nobody waits for them.
func TestChannelWithoutReplies(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.send(ReqSetProtocolFeatures, replyU64(uint64(ProtocolBackendReq|ProtocolSharedMemory)))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	fe.send(ReqSetBackendReqFD, nil, fds[1])
	_ = unix.Close(fds[1])
	window := <-d.attached
	if err := window.Map(0, 0, 4096, 0, false); err == nil {
		t.Error("sent a descriptor without BACKEND_SEND_FD")
	}
	if err := window.Unmap(0, 4096); err != nil {
		t.Error(err)
	}
}

// TestChannelEnds lets requests wait while the front-end goes away in different ways.
func TestChannelEnds(t *testing.T) {
	for name, end := range map[string]func(fe *frontEnd, sock *net.UnixConn){
		"control socket closed": func(fe *frontEnd, _ *net.UnixConn) { _ = fe.sock.Close() },
		"channel closed":        func(_ *frontEnd, sock *net.UnixConn) { _ = sock.Close() },
		"channel exchanged":     func(fe *frontEnd, _ *net.UnixConn) { fe.openChannel() },
		"answer to another request": func(fe *frontEnd, sock *net.UnixConn) {
			acknowledge(fe.t, sock, BackendConfigChange, 0)
		},
		"answer that is none": func(_ *frontEnd, sock *net.UnixConn) { _, _ = sock.Write([]byte("what is this?")) },
		"request where an answer is due": func(_ *frontEnd, sock *net.UnixConn) {
			_, _ = sock.Write(frame(Request(BackendShmemUnmap), FlagVersion, make([]byte, 8)))
		},
		"answer of another version": func(_ *frontEnd, sock *net.UnixConn) {
			_, _ = sock.Write(frame(Request(BackendShmemUnmap), FlagReply|2, make([]byte, 8)))
		},
		"half an answer": func(_ *frontEnd, sock *net.UnixConn) {
			_, _ = sock.Write(frame(Request(BackendShmemUnmap), FlagVersion|FlagReply, make([]byte, 8))[:15])
			_ = sock.Close()
		},
		"answer too long": func(_ *frontEnd, sock *net.UnixConn) {
			_, _ = sock.Write(frame(Request(BackendShmemUnmap), FlagVersion|FlagReply, make([]byte, 9)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFullDevice()
			fe := serve(t, d)
			fe.negotiate()
			sock := fe.openChannel()
			window := <-d.attached
			result := make(chan error, 3)
			for range 3 {
				go func() { result <- window.Unmap(0, 4096) }()
			}
			for range 3 {
				expect(t, sock, BackendShmemUnmap, 0)
			}
			end(fe, sock)
			for range 3 {
				if err := <-result; !errors.Is(err, ErrDisconnected) {
					t.Errorf("Unmap: %v", err)
				}
			}
			if err := window.Unmap(0, 4096); !errors.Is(err, ErrDisconnected) {
				t.Errorf("Unmap after the end: %v", err)
			}
		})
	}
}

// TestAnsweredTwice has a front-end answer a request a second time, with a descriptor: the
// second answer is nobody's, and may not be taken for that of a later request. The
// control socket goes on.
func TestAnsweredTwice(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.negotiate()
	sock := fe.openChannel()
	window := <-d.attached
	result := make(chan error, 1)
	go func() { result <- window.Unmap(0, 4096) }()
	expect(t, sock, BackendShmemUnmap, 0)
	acknowledge(t, sock, BackendShmemUnmap, 0)
	if err := <-result; err != nil {
		t.Error(err)
	}
	again := frame(Request(BackendShmemUnmap), FlagVersion|FlagReply, make([]byte, 8))
	if _, _, err := sock.WriteMsgUnix(again, unix.UnixRights(eventFD(t)), nil); err != nil {
		t.Fatal(err)
	}
	<-window.Done()
	if err := window.Unmap(0, 4096); !errors.Is(err, ErrDisconnected) {
		t.Errorf("Unmap: %v", err)
	}
	fe.number(ReqGetFeatures, nil)
}

// TestChannelUnread fills the channel of a front-end that does not read, and then
// ends the connection.
func TestChannelUnread(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.negotiate()
	fe.openChannel()
	window := <-d.attached
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if err := window.Unmap(0, 4096); !errors.Is(err, ErrDisconnected) {
				t.Errorf("Unmap: %v", err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	fe.number(ReqGetFeatures, nil)
	_ = fe.sock.Close()
	wg.Wait()
}

func TestBackendFDRefused(t *testing.T) {
	fe := serve(t, newFakeDevice())
	fe.negotiate()
	fe.mustNot(ReqSetBackendReqFD, nil, eventFD(t))
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		sock, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(sock)
		fe.mustNot(ReqSetBackendReqFD, nil, sock)
	}
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(inet)
		fe.mustNot(ReqSetBackendReqFD, nil, inet)
	}
}
