package vhostuser

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// TestSocketPieces sends a message in single bytes, with its descriptors at any of them.
func TestSocketPieces(t *testing.T) {
	checkLeaks(t)
	a, b := socketpair.New(t)
	fd := eventFD(t)
	body := reply(SharedMemoryMap{Offset: 1, Length: 2})
	wire := frame(Request(BackendShmemMap), FlagVersion|FlagNeedReply, body)
	for at := range wire {
		for i := range wire {
			var oob []byte
			if i == at {
				oob = unix.UnixRights(fd)
			}
			if _, _, err := a.WriteMsgUnix(wire[i:i+1], oob, nil); err != nil {
				t.Fatal(err)
			}
		}
		m, err := NewSocket(b, ToFrontend).Receive()
		if err != nil {
			t.Fatal(err)
		}
		if BackendRequest(m.Number) != BackendShmemMap || m.Flags != FlagVersion|FlagNeedReply || m.String() != "BACKEND_SHMEM_MAP" ||
			!bytes.Equal(m.Body, body) || len(m.FDs) != 1 || m.FDsLost {
			t.Errorf("descriptor at byte %d: %+v", at, m)
		}
		if err := m.Check(ProtocolSharedMemory); err != nil {
			t.Errorf("descriptor at byte %d: %v", at, err)
		}
		m.Close()
	}
}

// TestSocketSurplus sends more descriptors than a message can have: with one byte, and
// with each. Nothing stays open, and the first kind is a message that Check refuses.
func TestSocketSurplus(t *testing.T) {
	checkLeaks(t)
	fd := eventFD(t)
	for _, n := range []int{1, MaxMessageFDs, MaxMessageFDs + 1, 2 * MaxMessageFDs, 100} {
		a, b := socketpair.New(t)
		fds := slices.Repeat([]int{fd}, n)
		if err := NewSocket(a, ToBackend).Send(&Message{Number: uint32(ReqSetOwner), Flags: FlagVersion, FDs: fds}); err != nil {
			t.Fatal(err)
		}
		m, err := NewSocket(b, ToBackend).Receive()
		if err != nil {
			t.Fatal(n, err)
		}
		if lost := n > MaxMessageFDs+1; m.FDsLost != lost || !lost && len(m.FDs) != n || m.Check(0) == nil {
			t.Errorf("%d descriptors: %d came, lost %v, %v", n, len(m.FDs), m.FDsLost, m.Check(0))
		}
		m.Close()
	}
	a, b := socketpair.New(t)
	for _, c := range frame(ReqSetMemTable, FlagVersion, table(MemoryRegion{})) {
		if _, _, err := a.WriteMsgUnix([]byte{c}, unix.UnixRights(fd), nil); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := NewSocket(b, ToBackend).Receive(); err == nil {
		t.Errorf("a descriptor in each byte: %d came", len(m.FDs))
	}
}

// TestSocketTruncated ends the connection within a message: its descriptors are closed.
func TestSocketTruncated(t *testing.T) {
	checkLeaks(t)
	fd := eventFD(t)
	wire := frame(ReqSetVringCall, FlagVersion, replyU64(0))
	for n := range wire {
		a, b := socketpair.New(t)
		if n > 0 {
			if _, _, err := a.WriteMsgUnix(wire[:n], unix.UnixRights(fd), nil); err != nil {
				t.Fatal(err)
			}
		}
		_ = a.Close()
		if m, err := NewSocket(b, ToBackend).Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("after %d bytes: %v, %v", n, m, err)
		}
	}
}

// TestSocketSmallBuffer sends messages of which the socket takes only a part at first: they
// arrive whole, with their descriptors.
func TestSocketSmallBuffer(t *testing.T) {
	checkLeaks(t)
	a, b := socketpair.New(t)
	if err := a.SetWriteBuffer(1); err != nil { // the least that the kernel takes: 4608
		t.Fatal(err)
	}
	for _, c := range []*net.UnixConn{a, b} {
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	}
	from, to := NewSocket(a, ToBackend), NewSocket(b, ToBackend)
	fd, body := eventFD(t), bytes.Repeat([]byte("0123456789abcdef"), MaxBodySize/16)
	send := func(body []byte) error {
		return from.Send(&Message{Number: uint32(ReqSetConfig), Flags: FlagVersion, Body: body, FDs: []int{fd}})
	}
	for range 20 {
		if err := send(body[:2000]); err != nil { // leaves room for a part of the next
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- send(body) }()
		for unread(t, b) <= HeaderSize+2000 {
			runtime.Gosched()
		}
		for _, size := range []int{2000, MaxBodySize} {
			m, err := to.Receive()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.Body, body[:size]) || len(m.FDs) != 1 {
				t.Errorf("%d bytes, descriptors %v", len(m.Body), m.FDs)
			}
			m.Close()
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
}

// unread is how many bytes are there to receive.
func unread(t *testing.T, c *net.UnixConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSocketCloexec checks that no child of ours could inherit what we were given.
func TestSocketCloexec(t *testing.T) {
	a, b := socketpair.New(t)
	if err := NewSocket(a, ToBackend).Send(&Message{Number: uint32(ReqSetOwner), Flags: FlagVersion, FDs: []int{eventFD(t)}}); err != nil {
		t.Fatal(err)
	}
	m, err := NewSocket(b, ToBackend).Receive()
	if err != nil || len(m.FDs) != 1 {
		t.Fatalf("%v, %+v", err, m)
	}
	defer m.Close()
	if flags, err := unix.FcntlInt(uintptr(m.FDs[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v", flags, err)
	}
}

// TestCheckReply: what answers to a request may look like.
func TestCheckReply(t *testing.T) {
	const flags = FlagVersion | FlagReply
	number := replyU64(1)
	region := make([]byte, 20)
	for _, tt := range []struct {
		name    string
		request uint32
		d       Direction
		m       Message
		ok      bool
	}{
		{"number", uint32(ReqGetFeatures), ToBackend, Message{Number: 1, Flags: flags, Body: number}, true},
		{"refused", uint32(ReqGetFeatures), ToBackend, Message{Number: 1, Flags: flags}, true},
		{"refused with a descriptor", uint32(ReqGetInflightFD), ToBackend, Message{Number: 31, Flags: flags, FDs: []int{-1}}, false},
		{"short", uint32(ReqGetFeatures), ToBackend, Message{Number: 1, Flags: flags, Body: number[:7]}, false},
		{"a request", uint32(ReqGetFeatures), ToBackend, Message{Number: 1, Flags: FlagVersion, Body: number}, false},
		{"other number", uint32(ReqGetFeatures), ToBackend, Message{Number: 2, Flags: flags, Body: number}, false},
		{"descriptor", uint32(ReqGetFeatures), ToBackend, Message{Number: 1, Flags: flags, Body: number, FDs: []int{-1}}, false},
		{"area", uint32(ReqGetInflightFD), ToBackend, Message{Number: 31, Flags: flags, Body: region, FDs: []int{-1}}, true},
		{"area without file", uint32(ReqGetInflightFD), ToBackend, Message{Number: 31, Flags: flags, Body: region}, false},
		{"status", uint32(ReqCheckDeviceState), ToBackend, Message{Number: 43, Flags: flags, Body: number}, true},
		{"status without body", uint32(ReqCheckDeviceState), ToBackend, Message{Number: 43, Flags: flags}, false},
		{"acknowledgement", uint32(BackendShmemMap), ToFrontend, Message{Number: 9, Flags: flags, Body: number}, true},
		{"acknowledgement without body", uint32(BackendShmemMap), ToFrontend, Message{Number: 9, Flags: flags}, false},
		{"of an unknown request", 1002, ToFrontend, Message{Number: 1002, Flags: flags, Body: number}, true},
	} {
		tt.m.Direction = tt.d
		if err := tt.m.CheckReply(tt.request); err == nil != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
