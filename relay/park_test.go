package relay

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestParkedInterrupt: INTERRUPT of a request without a goroutine gets to the program, and the request ends with its answer.
func TestParkedInterrupt(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	asked := make(chan fp.InHeader, 1)
	var held fp.InHeader
	m.hook = func(p *process, h *fp.InHeader, body []byte) bool {
		switch fp.Opcode(h.Opcode) {
		case fp.OpRead:
			held = *h
			asked <- held
			return true
		case fp.OpInterrupt:
			if in := as[fp.InterruptIn](body); in.Unique != held.Unique {
				p.violation("INTERRUPT of %d, want %d", in.Unique, held.Unique)
			}
			p.reply(held.Unique, unix.EINTR)
			return true
		}
		return false
	}
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	read := g.start(fp.OpRead, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10}))
	unique := g.unique
	<-asked
	l := g.fs.link.Load()
	eventually(t, "the request is not parked", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.calls {
			return c.parked != nil
		}
		return false
	})
	g.do(fp.OpInterrupt, 0, 0, fp.Bytes(&fp.InterruptIn{Unique: unique}))
	if _, errno := g.wait(read); errno != unix.EINTR {
		t.Errorf("an interrupted READ: %v", errno)
	}
}

// TestParkedLetsGo: what a parked request refers to is let go of when its reply has come, also when the client has forgotten it meanwhile.
func TestParkedLetsGo(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	k := &keeper{op: fp.OpRead}
	m.hook = k.hook
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	read := g.start(fp.OpRead, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10}))
	eventually(t, "no READ", func() bool { return k.count() == 1 })
	g.must(fp.OpRelease, e.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
	g.do(fp.OpForget, e.NodeID, 0, fp.Bytes(&fp.ForgetIn{NLookup: 1}))
	k.release()
	if b, errno := g.wait(read); errno != 0 || string(b) != "text" {
		t.Errorf("READ of a file that the client has closed: %q, %v", b, errno)
	}
	eventually(t, "something is left in the program", func() bool {
		m.tree.Lock()
		defer m.tree.Unlock()
		return len(m.current.handles) == 0 && len(m.current.nodes) == 1
	})
}

// parked makes one request of a client over and over, with the program's end of the socket in the same process.
func parkedLoop(t testing.TB, op fp.Opcode) (one func()) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	body := fp.Bytes(&fp.GetattrIn{})
	size := fp.Size[fp.AttrOut]()
	if op == fp.OpRead {
		body = fp.Bytes(&fp.ReadIn{Fh: g.open(fp.OpOpen, e.NodeID, 0), Size: 4096})
		size = 4096
	}
	h := fp.InHeader{Len: uint32(inHeaderSize + len(body)), Opcode: uint32(op), Unique: 1 << 40, NodeID: e.NodeID}
	in, out := fuse.Over(append(bytes.Clone(fp.Bytes(&h)), body...)), fuse.Over(make([]byte, outHeaderSize+size))
	var msg fuse.Message
	done := make(chan fuse.Reply, 1)
	answer := func(r fuse.Reply) { done <- r }
	return func() {
		msg.Set(in, out)
		_, p := g.thread.Handle(&msg)
		p.Start(answer)
		if r := <-done; r.Errno != 0 {
			t.Fatal(r.Errno)
		}
		p.Free()
	}
}

func BenchmarkParked(b *testing.B) {
	for _, op := range []fp.Opcode{fp.OpGetattr, fp.OpRead} {
		b.Run(op.String(), func(b *testing.B) {
			one := parkedLoop(b, op)
			b.ReportAllocs()
			for b.Loop() {
				one()
			}
		})
	}
}
