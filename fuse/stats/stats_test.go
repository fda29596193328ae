package stats

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// fake answers at once, with the errno that the node id says, or later if that is 1000.
type fake struct {
	fuse.Handler
	ready bool
}

func (f *fake) StartThread(fuse.Hooks) (fuse.Thread, error) { return &fakeThread{f: f}, nil }

type fakeThread struct {
	fuse.Thread
	f *fake
}

func (t *fakeThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	if m.Header.NodeID == 1000 {
		return fuse.Reply{}, fakePending{}
	}
	return fuse.Reply{Len: 20, Errno: unix.Errno(m.Header.NodeID)}, nil
}

func (t *fakeThread) Refuse(_ *fuse.Message, errno unix.Errno) fuse.Reply {
	return fuse.Reply{Len: 16, Errno: errno}
}
func (t *fakeThread) Run(p fuse.Pending) fuse.Reply         { _ = p.(fakePending); return fuse.Reply{Len: 24} }
func (t *fakeThread) Try(p fuse.Pending) (fuse.Reply, bool) { return t.Run(p), t.f.ready }
func (t *fakeThread) Stop()                                 {}

type fakePending struct{ fuse.Pending }

func (fakePending) Start(done func(fuse.Reply)) { done(fuse.Reply{Len: 16, Errno: unix.EINTR}) }

func message(op fp.Opcode, node uint64) *fuse.Message {
	h := fp.InHeader{Opcode: uint32(op), NodeID: node}
	m := new(fuse.Message)
	m.Set(fuse.Over(fp.Bytes(&h), make([]byte, 8)), nil)
	return m
}

// TestCounts: each request is counted once, by whichever way it is finished, and stays so
// when its thread has stopped.
func TestCounts(t *testing.T) {
	inner := &fake{}
	h := New(inner)
	thread, err := h.StartThread(fuse.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*fuse.Message{
		message(fp.OpOpen, 0), message(fp.OpOpen, uint64(unix.ENOENT)),
		message(fp.NumOpcodes, uint64(unix.ENOSYS)), message(1<<31, uint64(unix.ENOSYS)), {},
	} {
		if _, p := thread.Handle(m); p != nil {
			t.Fatal("it waits")
		}
	}
	thread.Refuse(message(fp.OpOpen, 0), unix.EIO)
	wait := func() fuse.Pending {
		_, p := thread.Handle(message(fp.OpFsync, 1000))
		if p == nil {
			t.Fatal("it does not wait")
		}
		return p
	}
	thread.Run(wait())
	tried := wait()
	for inner.ready = false; ; inner.ready = true {
		if _, ok := thread.Try(tried); ok {
			break
		}
	}
	finished := 0
	wait().Start(func(r fuse.Reply) {
		if finished++; r.Errno != unix.EINTR {
			t.Errorf("reply %+v", r)
		}
	})
	if finished != 1 {
		t.Errorf("finished %d times", finished)
	}
	check := func(when string) {
		t.Helper()
		var want [fp.NumOpcodes + 1]Counts
		want[0] = Counts{Requests: 1, Sent: 20}
		want[fp.OpOpen] = Counts{Requests: 3, Errors: 2, Received: 3 * 48, Sent: 20 + 20 + 16}
		want[fp.OpFsync] = Counts{Requests: 3, Errors: 1, Waited: 3, Received: 3 * 48, Sent: 24 + 24 + 16}
		want[fp.NumOpcodes] = Counts{Requests: 2, Errors: 2, Received: 2 * 48, Sent: 40}
		for i, got := range h.Counts() {
			if got != want[i] {
				t.Errorf("%s: %v: %+v, want %+v", when, fp.Opcode(i), got, want[i])
			}
		}
	}
	check("while the thread runs")
	thread.Stop()
	check("afterwards")
	m := message(fp.OpOpen, 0)
	if n := testing.AllocsPerRun(100, func() { thread.Handle(m) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}
