package frontend

import (
	"errors"
	"net"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// connected makes a Frontend without a device, and the other end of its connection.
func connected(t *testing.T, queues int) (*Frontend, *net.UnixConn) {
	t.Helper()
	ours, theirs := socketpair.New(t)
	f := &Frontend{opts: Options{Queues: queues, QueueSize: 8, Data: 4096, Slots: 2}, memfd: -1, inflight: -1}
	f.sock.Store(vu.NewSocket(ours, vu.ToBackend))
	if err := f.allocate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, theirs
}

// TestRequestOfDead: a request ends with the connection, whichever side ends it.
func TestRequestOfDead(t *testing.T) {
	for name, end := range map[string]func(f *Frontend, other *net.UnixConn) error{
		"back-end": func(_ *Frontend, other *net.UnixConn) error { return other.Close() },
		"here":     func(f *Frontend, _ *net.UnixConn) error { return f.sock.Load().CloseRead() },
	} {
		f, other := connected(t, 1)
		c := NewClient(f)
		if f.HungUp() {
			t.Errorf("%s: hung up too early", name)
		}
		if err := end(f, other); err != nil {
			t.Fatal(err)
		}
		if !f.HungUp() {
			t.Errorf("%s: not hung up", name)
		}
		if _, err := c.Lookup(1, "x"); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want %v", name, err, ErrGone)
		}
	}
}

// TestCheckQueues asks for two request queues.
func TestCheckQueues(t *testing.T) {
	for _, tt := range []struct {
		mq   bool
		n    uint64 // with the high-priority queue
		want string
	}{
		{true, 64, ""}, {true, 3, ""},
		{true, 2, "the back-end offers 1 request queue, --queues is 2"},
		{true, 1, "the back-end offers 0 request queues, --queues is 2"},
		{true, 0, "the back-end offers 0 request queues, --queues is 2"},
		{false, 64, "the back-end offers 1 request queue, --queues is 2"},
	} {
		f, other := connected(t, 2)
		if tt.mq {
			f.Protocol = vu.ProtocolMQ
			h, u := vu.Header{Request: uint32(vu.ReqGetQueueNum), Flags: vu.FlagVersion | vu.FlagReply, Size: 8}, vu.U64{Value: tt.n}
			if _, err := other.Write(append(append([]byte(nil), vu.Bytes(&h)...), vu.Bytes(&u)...)); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		if err := f.CheckQueues(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}
