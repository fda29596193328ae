package frontend

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// eventFD is a descriptor to send.
func eventFD(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestAnswers: an answer of a back-end that the message table does not allow is an error,
// and no number.
func TestAnswers(t *testing.T) {
	const features, reply = uint32(vu.ReqGetFeatures), vu.FlagVersion | vu.FlagReply
	number := vu.U64{Value: 7}
	body := vu.Bytes(&number)
	for name, answer := range map[string]*vu.Message{
		"as it should be":     {Number: features, Flags: reply, Body: body},
		"refused":             {Number: features, Flags: reply},
		"short":               {Number: features, Flags: reply, Body: body[:4]},
		"long":                {Number: features, Flags: reply, Body: make([]byte, 16)},
		"too long to receive": {Number: features, Flags: reply, Body: make([]byte, vu.MaxBodySize+1)},
		"of another request":  {Number: features + 1, Flags: reply, Body: body},
		"of another version":  {Number: features, Flags: reply + 1, Body: body},
		"not a reply":         {Number: features, Flags: vu.FlagVersion, Body: body},
		"with a descriptor":   {Number: features, Flags: reply, Body: body, FDs: []int{eventFD(t)}},
	} {
		f, other := connected(t, 1)
		back := vu.NewSocket(other, vu.ToBackend)
		if err := back.Send(answer); err != nil {
			t.Fatal(err)
		}
		v, err := f.GetU64(vu.ReqGetFeatures)
		if good := name == "as it should be"; good != (err == nil) || good != (v == 7) || errors.Is(err, ErrRefused) != (name == "refused") {
			t.Errorf("%s: %d, %v", name, v, err)
		}
	}
}

// rawWindow is a window whose back-end is the test.
func rawWindow(t *testing.T) (*Window, *vu.Socket) {
	t.Helper()
	f, other := connected(t, 1)
	f.Protocol = vu.ProtocolSharedMemory | vu.ProtocolBackendReq | vu.ProtocolBackendSendFD | vu.ProtocolReplyAck
	w := &Window{f: f, mem: make([]byte, 1<<16)}
	opened := make(chan error, 1)
	go func() {
		var err error
		w.channel, err = openBackendChannel(f, w)
		opened <- err
	}()
	back := vu.NewSocket(other, vu.ToBackend)
	_ = other.SetDeadline(time.Now().Add(60 * time.Second))
	m, err := back.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(f.Protocol); err != nil {
		t.Fatal(m, err)
	}
	sock, err := vu.OpenSocket(m.TakeFD(0), vu.ToFrontend)
	if err != nil {
		t.Fatal(err)
	}
	var ok vu.U64
	if err := back.Send(&vu.Message{Number: m.Number, Flags: vu.FlagVersion | vu.FlagReply, Body: vu.Bytes(&ok)}); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sock.Close(); w.channel.close() })
	_ = sock.SetDeadline(time.Now().Add(60 * time.Second))
	return w, sock
}

// TestBackendRequests: what the message table does not allow is refused and noted, and the
// channel lives on.
func TestBackendRequests(t *testing.T) {
	w, sock := rawWindow(t)
	var m vu.SharedMemoryMap
	body, fd := vu.Bytes(&m), eventFD(t)
	noted := 0
	for _, tt := range []struct {
		name  string
		m     vu.Message
		noted bool
	}{
		{"map without a descriptor", vu.Message{Number: uint32(vu.BackendShmemMap), Body: body}, true},
		{"map with two", vu.Message{Number: uint32(vu.BackendShmemMap), Body: body, FDs: []int{fd, fd}}, true},
		{"map with twenty", vu.Message{Number: uint32(vu.BackendShmemMap), Body: body,
			FDs: []int{fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd}}, true},
		{"short map", vu.Message{Number: uint32(vu.BackendShmemMap), Body: body[1:], FDs: []int{fd}}, true},
		{"unmap with a descriptor", vu.Message{Number: uint32(vu.BackendShmemUnmap), Body: body, FDs: []int{fd}}, true},
		{"without the feature", vu.Message{Number: uint32(vu.BackendConfigChange)}, true},
		{"unknown", vu.Message{Number: 1002, Body: body}, false},
		{"unmap of nothing", vu.Message{Number: uint32(vu.BackendShmemUnmap), Body: body}, false},
	} {
		tt.m.Flags = vu.FlagVersion | vu.FlagNeedReply
		if err := sock.Send(&tt.m); err != nil {
			t.Fatal(tt.name, err)
		}
		a, err := sock.Receive()
		if err != nil {
			t.Fatal(tt.name, err)
		}
		if u, _ := vu.Decode[vu.U64](a.Body); a.CheckReply(tt.m.Number) != nil || u.Value != 1 {
			t.Errorf("%s: %+v", tt.name, a)
		}
		if tt.noted {
			noted++
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) != noted || w.Refused.Load() != 8 {
		t.Errorf("%d refused, %d noted, want 8, %d: %v", w.Refused.Load(), len(w.errs), noted, w.errs)
	}
}

// TestBackendRequestPieces: a descriptor may come with any byte of a request.
func TestBackendRequestPieces(t *testing.T) {
	w, sock := rawWindow(t)
	m := vu.SharedMemoryMap{Offset: 1, Length: 1} // refused, when its file is looked at
	h := vu.Header{Request: uint32(vu.BackendShmemMap), Flags: vu.FlagVersion | vu.FlagNeedReply, Size: uint32(len(vu.Bytes(&m)))}
	wire := append(append([]byte(nil), vu.Bytes(&h)...), vu.Bytes(&m)...)
	fd := eventFD(t)
	for _, at := range []int{0, 1, vu.HeaderSize - 1, vu.HeaderSize, len(wire) - 1} {
		for i := range wire {
			var oob []byte
			if i == at {
				oob = unix.UnixRights(fd)
			}
			if _, _, err := sock.WriteMsgUnix(wire[i:i+1], oob, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := sock.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) != 0 {
		t.Errorf("descriptors were not seen: %v", w.errs)
	}
}
