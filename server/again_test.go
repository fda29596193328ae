package server

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestAgainClass asks of every opcode how it is served a second time.
func TestAgainClass(t *testing.T) {
	for i := range ops {
		if o := &ops[i]; (o.handle != nil) != (o.again != 0) {
			t.Errorf("%v: nothing says how it is served again", fp.Opcode(i))
		}
	}
}

// deliver has thread serve a request that is noted in c, and returns its errno.
func deliver(thread *thread, c *fuse.Cell, op fp.Opcode, body []byte) unix.Errno {
	b := message(op, body)
	m := fuse.Message{Cell: c}
	m.Set(fuse.Over(b), fuse.Over(alignedBytes(512)))
	r, p := thread.Handle(&m)
	if p != nil {
		done := make(chan fuse.Reply)
		p.Start(func(r fuse.Reply) { done <- r })
		r = <-done
		p.Free()
	}
	return r.Errno
}

// TestCell follows a request that waits: each of the calls gets its cell and what a
// predecessor had noted there, whatever was noted since.
func TestCell(t *testing.T) {
	var calls int
	var c fuse.Cell
	var past *Again
	fs := &fakeFS{fsync: func(r *Request) unix.Errno {
		calls++
		if r.Cell != &c {
			t.Errorf("call %d has another cell", calls)
		}
		past = r.Again
		r.Cell.Intend(9, fuse.Evidence{99})
		r.Cell.SetStep(4)
		if !r.MayWait {
			return WouldBlock
		}
		return 0
	}}
	_, thread := newServer(t, fs, Options{})
	body := fp.FsyncIn{Fh: 1}
	send := func() {
		t.Helper()
		if errno := deliver(thread, &c, fp.OpFsync, fp.Bytes(&body)); errno != 0 {
			t.Error(errno)
		}
	}
	h := fp.InHeader{Opcode: uint32(fp.OpFsync), Unique: 5, NodeID: 1}
	c.Take(&h, 1, 0, 0)
	send()
	if calls != 2 || past != nil {
		t.Errorf("the first time: %d calls, %+v", calls, past)
	}
	c.Take(&h, 2, 0, 0)
	c.Intend(7, fuse.Evidence{1, 2})
	c.SetStep(300)
	c.TakeAgain(0)
	send()
	if want := (Again{Intended: true, Stamp: 7, Evidence: fuse.Evidence{1, 2}, Step: 300}); calls != 4 || past == nil || *past != want {
		t.Errorf("the second time: %d calls, %+v, want %+v", calls, past, want)
	}
	c.Take(&h, 3, 0, 0)
	c.TakeAgain(0)
	send()
	if past == nil || *past != (Again{}) {
		t.Errorf("nothing was noted, and is known: %+v", past)
	}
}

// TestInterruptedBefore interrupts a request that waits, and serves it again with the same cell.
func TestInterruptedBefore(t *testing.T) {
	entered := make(chan struct{}, 1)
	setlk := func(r *Request, _ bool) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		entered <- struct{}{}
		<-r.Canceled
		return unix.EINTR
	}
	var c fuse.Cell
	body := fp.LkIn{Fh: 1}
	b := message(fp.OpSetlkw, fp.Bytes(&body))
	wait := func(thread *thread) fuse.Pending {
		m := fuse.Message{Cell: &c}
		m.Set(fuse.Over(b), fuse.Over(alignedBytes(512)))
		_, p := thread.Handle(&m)
		if p == nil {
			t.Fatal("the request does not wait")
		}
		return p
	}
	_, thread := newServer(t, &fakeFS{want: fp.InitPosixLocks, setlk: setlk}, Options{})
	c.Take(&fp.InHeader{Opcode: uint32(fp.OpSetlkw), Unique: 5, NodeID: 1}, 1, 0, 0)
	answer := make(chan fuse.Reply, 1)
	p := wait(thread)
	p.Start(func(r fuse.Reply) { answer <- r })
	<-entered
	in := fp.InterruptIn{Unique: 5}
	handle(thread, fuse.Over(message(fp.OpInterrupt, fp.Bytes(&in))), nil)
	if r := <-answer; r.Errno != unix.EINTR || !c.Interrupted() {
		t.Fatalf("interrupted: %+v, noted: %v", r, c.Interrupted())
	}
	p.Free()
	// That answer got lost: another process serves the request.
	_, thread = newServer(t, &fakeFS{want: fp.InitPosixLocks, setlk: setlk}, Options{})
	c.TakeAgain(0)
	p = wait(thread)
	p.Start(func(r fuse.Reply) { answer <- r })
	if r := <-answer; r.Errno != unix.EINTR {
		t.Errorf("served again: %+v", r)
	}
	p.Free()
}

// TestInitAgain serves an INIT of which a predecessor has died: the session that it has begun
// ends, as the client knows nothing of it.
func TestInitAgain(t *testing.T) {
	fs := &fakeFS{}
	_, thread := newServer(t, fs, Options{})
	in := fp.InitIn{Major: 7, Minor: 45}
	var c fuse.Cell
	c.Take(&fp.InHeader{Opcode: uint32(fp.OpInit), Unique: 5, NodeID: 1}, 1, 0, 0)
	if errno := deliver(thread, &c, fp.OpInit, fp.Bytes(&in)); errno != unix.EINVAL || fs.destroy != 0 {
		t.Errorf("a second INIT: %v, %d sessions ended", errno, fs.destroy)
	}
	c.TakeAgain(0)
	if errno := deliver(thread, &c, fp.OpInit, fp.Bytes(&in)); errno != 0 || fs.destroy != 1 {
		t.Errorf("INIT again: %v, %d sessions ended", errno, fs.destroy)
	}
}
