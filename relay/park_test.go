package relay

import (
	"bytes"
	"context"
	"testing"
	"time"

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
	g, r := newKeptRead(t)
	g.must(fp.OpRelease, r.node, 0, fp.Bytes(&fp.ReleaseIn{Fh: r.fh}))
	g.do(fp.OpForget, r.node, 0, fp.Bytes(&fp.ForgetIn{NLookup: 1}))
	r.program.release()
	if b, errno := g.wait(r.reply); errno != 0 || string(b) != "text" {
		t.Errorf("READ of a file that the client has closed: %q, %v", b, errno)
	}
	r.model.nothingLeft(t, "the READ")
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

// caughtUp waits until the receiving goroutine has taken all that the program has sent so far. It may be called on any goroutine.
func caughtUp(l *link, p *process) bool {
	n := l.notifications.Load()
	p.reply(0, unix.EIO) // an unknown notification
	for end := time.Now().Add(deadline); l.notifications.Load() == n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// TestParkedAnsweredEarly: a program that knows which number comes next can answer a request that is just being sent. What is sent is
// that request all the same.
func TestParkedAnsweredEarly(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	l, p := g.fs.link.Load(), m.process()
	l.io.Lock() // nothing is sent
	ended := make(chan bool)
	go func() {
		var unique uint64
		for end := time.Now().Add(deadline); unique == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			l.mu.Lock()
			for u := range l.calls {
				unique = u
			}
			l.mu.Unlock()
		}
		p.reply(unique, unix.EACCES)
		ok := caughtUp(l, p)
		for range 10 { // others may use what the request had
			defer newCall().free()
		}
		l.io.Unlock()
		ended <- ok
	}()
	if _, errno := g.do(fp.OpGetattr, e.NodeID, 128, fp.Bytes(&fp.GetattrIn{})); errno != unix.EACCES {
		t.Errorf("a GETATTR that was answered early: %v", errno)
	}
	if !<-ended {
		t.Fatal("the program is not heard")
	}
	g.must(fp.OpGetattr, e.NodeID, 128, fp.Bytes(&fp.GetattrIn{}))
	if n := m.count(fp.OpGetattr); n != 2 {
		t.Errorf("the program has got %d GETATTRs, want 2", n)
	}
}

// ending is a file system whose sessions do not end before something was done.
type ending struct {
	*FS
	before func()
}

func (e *ending) Destroy() {
	e.before()
	e.FS.Destroy()
}

// TestParkedAfterSession: a LOOKUP that is answered when its session has just ended is taken back.
func TestParkedAfterSession(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	k := &keeper{op: fp.OpLookup}
	m.hook = k.hook
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	fs, err := New(ctx, m, Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p := m.process()
	t.Cleanup(func() { // after the guest's
		<-p.done
		m.check()
	})
	around := &ending{FS: fs, before: func() {}}
	g := newGuestOn(t, fs, around)
	look := g.start(fp.OpLookup, 1, 128, name("file"))
	eventually(t, "no LOOKUP", func() bool { return k.count() == 1 })
	around.before = func() {
		k.release()
		if !caughtUp(fs.link.Load(), p) {
			t.Error("the program is not heard")
		}
	}
	g.do(fp.OpDestroy, 0, 0)
	around.before = func() {}
	if _, errno := g.wait(look); errno != unix.ENOTCONN {
		t.Errorf("a LOOKUP of a session that has ended: %v", errno)
	}
	eventually(t, "the program has a lookup that nobody knows of", func() bool {
		m.tree.Lock()
		defer m.tree.Unlock()
		return len(p.nodes) == 1
	})
}
