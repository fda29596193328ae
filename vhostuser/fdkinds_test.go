package vhostuser

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/fdkinds"
)

// TestDescriptorKinds sends a descriptor of each kind with each message that may have one.
// Each is answered, the next message is served, and so is the end of the connection.
func TestDescriptorKinds(t *testing.T) {
	region := MemoryRegion{GuestAddr: guestBase + 1<<32, Size: 1 << 16, UserAddr: userBase + 1<<32}
	kick := replyU64(0)
	transfer := func(direction uint32) []byte { return reply(TransferState{Direction: direction}) }
	messages := []struct {
		name string
		r    Request
		body []byte
		// accepted are kinds that must not be refused; others may be.
		accepted []string
		// refused must be.
		refused []string
	}{
		{"memory table", ReqSetMemTable, table(region), []string{"regular file"}, nil},
		{"region", ReqAddMemReg, slot(region), []string{"regular file"},
			[]string{"pipe to read", "eventfd", "epoll", "directory", "stream socket", "empty file", "path"}},
		{"region to remove", ReqRemMemReg, slot(region), nil, nil},
		{"log", ReqSetLogBase, reply(LogDescription{Size: 4096}), []string{"regular file"},
			[]string{"read-only file", "eventfd", "pipe to write", "directory", "sealed memfd"}},
		{"log event", ReqSetLogFD, nil, []string{"eventfd"}, nil},
		{"kick", ReqSetVringKick, kick, []string{"eventfd", "non-blocking eventfd"},
			[]string{"regular file", "directory", "/dev/zero", "terminal", "path"}},
		{"call", ReqSetVringCall, kick, []string{"eventfd", "non-blocking eventfd"}, []string{"regular file", "directory", "/dev/null"}},
		{"error", ReqSetVringErr, kick, []string{"eventfd", "non-blocking eventfd"}, []string{"regular file", "directory", "/dev/null"}},
		{"back-end channel", ReqSetBackendReqFD, nil, []string{"stream socket"},
			[]string{"regular file", "directory", "eventfd", "epoll", "pipe to write", "datagram socket", "packet socket", "TCP socket", "path"}},
		{"in-flight area", ReqSetInflightFD, reply(InflightDescription{MmapSize: 1 << 16, NumQueues: 1, QueueSize: 256}), []string{"regular file"},
			[]string{"eventfd", "directory", "pipe to read"}},
		{"state to save", ReqSetDeviceStateFD, transfer(TransferSave), []string{"pipe to write", "stream socket"},
			[]string{"regular file", "eventfd", "epoll", "timerfd", "directory", "/dev/zero", "terminal"}},
		{"state to load", ReqSetDeviceStateFD, transfer(TransferLoad), []string{"pipe to read", "stream socket"},
			[]string{"regular file", "eventfd", "epoll", "timerfd", "directory", "/dev/zero", "terminal"}},
	}
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			for _, kind := range fdkinds.Open(t) {
				t.Run(kind.Name, func(t *testing.T) {
					accepted := sendKind(t, m.r, m.body, kind.FD)
					if accepted && slices.Contains(m.refused, kind.Name) {
						t.Error("it was accepted")
					}
					if !accepted && slices.Contains(m.accepted, kind.Name) {
						t.Error("it was refused")
					}
				})
			}
		})
	}
}

// sendKind sends one message with a descriptor to a connection that is set up, and reports
// whether that was accepted.
func sendKind(t *testing.T, r Request, body []byte, fd int) (accepted bool) {
	t.Helper()
	d := newFullDevice()
	d.save = func(w io.Writer) error { _, err := w.Write(make([]byte, 1<<20)); return err }
	d.load = func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
	fe := serveWith(t, d, func(c *Conn) { c.transfer.idle = 10 * time.Millisecond })
	fe.negotiate()
	if r != ReqSetDeviceStateFD && r != ReqSetInflightFD {
		fe.ram()
		fe.startRing(0)
	}
	switch r {
	case ReqSetDeviceStateFD:
		accepted = fe.number(r, body, fd)&0xff == 0
		if check := fe.number(ReqCheckDeviceState, nil); !accepted && check&0xff == 0 {
			t.Error("a transfer that was refused has succeeded")
		}
	case ReqSetLogBase:
		accepted = fe.number(r, body, fd) == 0
	default:
		accepted = fe.ack(r, body, fd)
	}
	fe.number(ReqGetFeatures, nil)
	fe.ask(ReqGetVringBase, state(0, 0))
	return accepted
}

// TestFileOfDeadServer: a file whose server does not answer is refused like others, and
// nobody waits for it. It could be memory: to use that would wait, so none is used here.
func TestFileOfDeadServer(t *testing.T) {
	for _, m := range []struct {
		name string
		r    Request
		body []byte
	}{
		{"kick", ReqSetVringKick, replyU64(0)},
		{"call", ReqSetVringCall, replyU64(0)},
		{"error", ReqSetVringErr, replyU64(0)},
		{"log event", ReqSetLogFD, nil},
		{"back-end channel", ReqSetBackendReqFD, nil},
		{"state to save", ReqSetDeviceStateFD, reply(TransferState{Direction: TransferSave})},
		{"state to load", ReqSetDeviceStateFD, reply(TransferState{Direction: TransferLoad})},
	} {
		t.Run(m.name, func(t *testing.T) {
			dead, release := fdkinds.Dead(t)
			accepted := sendKind(t, m.r, m.body, dead.FD)
			release() // what closes it may end now
			if accepted && m.r != ReqSetLogFD {
				t.Error("it was accepted")
			}
		})
	}
}
