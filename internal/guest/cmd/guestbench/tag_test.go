package main

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// wire is a message as it travels.
func wire(r vu.Request, flags uint32, body ...uint64) *vu.Message {
	m := &vu.Message{Number: uint32(r), Flags: flags}
	for _, v := range body {
		m.Body = binary.NativeEndian.AppendUint64(m.Body, v)
	}
	return m
}

// pair returns a front-end's and a back-end's socket with a tagger between them.
func pair(t *testing.T) (front, back *vu.Socket) {
	dir, err := os.MkdirTemp("", "tag") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "back"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stop, err := serveTag(filepath.Join(dir, "front"), filepath.Join(dir, "back"), "share")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	b, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	f, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, "front"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return vu.NewSocket(f, vu.ToBackend), vu.NewSocket(b, vu.ToBackend)
}

// pass sends a message on one side and returns what comes out on another.
func pass(t *testing.T, from *vu.Socket, m *vu.Message, to *vu.Socket) *vu.Message {
	t.Helper()
	if err := from.Send(m); err != nil {
		t.Fatal(err)
	}
	got, err := to.Receive()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestTagger: the front-end sees a back-end with a configuration. The back-end sees a
// front-end that does not ask for one. Everything else is unchanged, also descriptors.
func TestTagger(t *testing.T) {
	front, back := pair(t)
	offer := uint64(vu.ProtocolReplyAck)
	got := pass(t, back, wire(vu.ReqGetProtocolFeatures, vu.FlagVersion|vu.FlagReply, offer), front)
	if f := binary.NativeEndian.Uint64(got.Body); f != offer|uint64(vu.ProtocolConfig) {
		t.Errorf("the front-end is offered %#x", f)
	}
	got = pass(t, front, wire(vu.ReqSetProtocolFeatures, vu.FlagVersion, offer|uint64(vu.ProtocolConfig)), back)
	if f := binary.NativeEndian.Uint64(got.Body); f != offer {
		t.Errorf("the back-end is told %#x", f)
	}

	ask := wire(vu.ReqGetConfig, vu.FlagVersion, 4|tagSize<<32, 0, 0, 0, 0, 0) // offset 4, 36 bytes
	got = pass(t, front, ask, front)
	if flags := got.Flags; flags != vu.FlagVersion|vu.FlagReply {
		t.Errorf("flags of the answer are %#x", flags)
	}
	if string(got.Body[12:14]) != "e\x00" || got.Body[12+tagSize-4] != 1 || len(got.Body) != len(ask.Body) {
		t.Errorf("the configuration from byte 4 on is %q", got.Body[12:])
	}

	fd, err := unix.Eventfd(7, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	m := wire(vu.ReqSetVringKick, vu.FlagVersion, 1)
	m.FDs = []int{fd}
	got = pass(t, front, m, back)
	if vu.Request(got.Number) != vu.ReqSetVringKick || len(got.FDs) != 1 {
		t.Fatalf("%v with %d descriptors", vu.Request(got.Number), len(got.FDs))
	}
	b := make([]byte, 8)
	if _, err := unix.Read(got.FDs[0], b); err != nil || binary.NativeEndian.Uint64(b) != 7 {
		t.Errorf("another descriptor arrived: %v, %v", b, err)
	}
	_ = unix.Close(got.FDs[0])
}

// TestTaggerEnds: when one side goes, the other is told.
func TestTaggerEnds(t *testing.T) {
	for _, first := range []string{"front", "back"} {
		front, back := pair(t)
		// One message must have passed, because before that the two may not be
		// connected.
		pass(t, front, wire(vu.ReqSetOwner, vu.FlagVersion), back)
		gone, left := front, back
		if first == "back" {
			gone, left = back, front
		}
		_ = gone.Close()
		if _, err := left.Receive(); err == nil {
			t.Errorf("%s ended, and the other side was not told", first)
		}
	}
}
