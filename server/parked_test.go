package server

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// elsewhere is a Parked of the tests.
type elsewhere struct {
	full        bool
	resumer     Resumer
	interrupted atomic.Int32
	dropped     atomic.Int32
}

func (e *elsewhere) Start(r Resumer) bool { e.resumer = r; return !e.full }
func (e *elsewhere) Interrupt()           { e.interrupted.Add(1) }
func (e *elsewhere) Drop()                { e.dropped.Add(1) }

// parkBench has a file system whose FSYNC is parked with e, and calls with what it does afterwards.
func parkBench(t *testing.T, e *elsewhere, after func(r *Request) unix.Errno) (s *Server, p fuse.Pending) {
	t.Helper()
	fs := &fakeFS{}
	fs.fsync = func(r *Request) unix.Errno {
		if !r.MayWait && r.Parked() == nil {
			return r.Park(e)
		}
		return after(r)
	}
	s, thread := newServer(t, fs, Options{})
	h := fp.InHeader{Len: uint32(headerSize + 16), Opcode: uint32(fp.OpFsync), Unique: 7, NodeID: 1}
	var m fuse.Message
	m.Set(fuse.Over(fp.Bytes(&h), make([]byte, 16)), fuse.Over(make([]byte, 16)))
	if _, p = thread.Handle(&m); p == nil {
		t.Fatal("the request does not wait")
	}
	return s, p
}

// reply waits for the reply of a request.
func reply(t *testing.T, done <-chan fuse.Reply) fuse.Reply {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(60 * time.Second):
		t.Fatal("the request does not end")
		return fuse.Reply{}
	}
}

// TestParked: a request that was parked is finished on the goroutine that resumes it, once, and INTERRUPT gets to it until then.
func TestParked(t *testing.T) {
	e := &elsewhere{}
	s, p := parkBench(t, e, func(r *Request) unix.Errno {
		if r.Parked() != e || r.MayWait || e.dropped.Load() != 0 {
			t.Errorf("the method is called again with %v, %v", r.Parked(), r.MayWait)
		}
		return unix.EDOM
	})
	s.waiting.cancel(7) // before it is started
	done := make(chan fuse.Reply, 2)
	p.Start(func(r fuse.Reply) { done <- r })
	if n := e.interrupted.Load(); n != 1 {
		t.Errorf("%d interrupts", n)
	}
	var f Finisher
	e.resumer.Resume(&f)
	if len(done) != 1 { // before Resume has returned
		t.Fatalf("%d replies", len(done))
	}
	if r := reply(t, done); r.Errno != unix.EDOM {
		t.Errorf("%+v", r)
	}
	p.Stop()
	p.Free()
	if e.interrupted.Load() != 1 || e.dropped.Load() != 1 {
		t.Errorf("%d interrupts, dropped %d times", e.interrupted.Load(), e.dropped.Load())
	}
}

// TestParkedInterrupt: INTERRUPT gets to a request that is under way.
func TestParkedInterrupt(t *testing.T) {
	e := &elsewhere{}
	s, p := parkBench(t, e, func(*Request) unix.Errno { return 0 })
	done := make(chan fuse.Reply, 1)
	p.Start(func(r fuse.Reply) { done <- r })
	s.waiting.cancel(7)
	s.waiting.cancel(7)
	if n := e.interrupted.Load(); n != 1 {
		t.Errorf("%d interrupts", n)
	}
	e.resumer.Resume(new(Finisher))
	reply(t, done)
	p.Free()
}

// TestParkedElsewhere: a request that can't be passed on, or gets no answer, is served once more by a goroutine that may wait, without
// what was parked. So is one that the transport has other room for.
func TestParkedElsewhere(t *testing.T) {
	for _, way := range []string{"full", "no answer", "other room", "run"} {
		e := &elsewhere{full: way == "full"}
		waited := 0
		s, p := parkBench(t, e, func(r *Request) unix.Errno {
			if r.Parked() != nil {
				return WouldBlockInGo
			}
			if waited++; !r.MayWait || e.dropped.Load() != 1 {
				t.Errorf("%s: the method may wait: %v, dropped %d times", way, r.MayWait, e.dropped.Load())
			}
			return unix.EDOM
		})
		done := make(chan fuse.Reply, 1)
		switch way {
		case "other room":
			p.ReplyTo(fuse.Over(make([]byte, 64)))
		case "run":
			thread := newThread(s)
			done <- thread.Run(p)
		}
		if way != "run" {
			p.Start(func(r fuse.Reply) { done <- r })
		}
		if way == "no answer" {
			e.resumer.Resume(new(Finisher))
		}
		if r := reply(t, done); r.Errno != unix.EDOM || waited != 1 || e.dropped.Load() != 1 {
			t.Errorf("%s: %+v, called %d times, dropped %d times", way, r, waited, e.dropped.Load())
		}
		p.Free()
	}
}

// TestParkedTooMany: what is parked is dropped when the request can't wait.
func TestParkedTooMany(t *testing.T) {
	e := &elsewhere{}
	fs := &fakeFS{fsync: func(r *Request) unix.Errno { return r.Park(e) }}
	s, thread := newServer(t, fs, Options{})
	s.waiting.held = maxHeld
	h := fp.InHeader{Len: uint32(headerSize + 16), Opcode: uint32(fp.OpFsync), Unique: 7, NodeID: 1}
	var m fuse.Message
	m.Set(fuse.Over(fp.Bytes(&h), make([]byte, 16)), fuse.Over(make([]byte, 16)))
	if r, p := thread.Handle(&m); p != nil || r.Errno != unix.ENOMEM {
		t.Errorf("%+v, %v", r, p)
	}
	s.waiting.held = 0
	if e.dropped.Load() != 1 {
		t.Errorf("dropped %d times", e.dropped.Load())
	}
}

// TestParkedNoRoom: what a lock's request has parked is dropped when the client has no room for one more that waits.
func TestParkedNoRoom(t *testing.T) {
	e := &elsewhere{}
	fs := &fakeFS{want: fp.InitPosixLocks, setlk: func(r *Request, _ bool) unix.Errno { return r.Park(e) }}
	_, thread := newServer(t, fs, Options{})
	thread.hooks.MayLinger = func() bool { return false }
	if n, errno := serve(thread, fp.OpSetlkw, fp.Bytes(&fp.LkIn{}), 16); errno != unix.ENOLCK {
		t.Errorf("%d bytes, %v", n, errno)
	}
	if n := e.dropped.Load(); n != 1 {
		t.Errorf("dropped %d times", n)
	}
}

// TestParkedTry: a method that parks its request once more when it is tried leaves nothing behind.
func TestParkedTry(t *testing.T) {
	e := &elsewhere{}
	s, p := parkBench(t, e, func(*Request) unix.Errno { return unix.EDOM })
	if r, ok := newThread(s).Try(p); ok {
		t.Errorf("%+v", r)
	}
	if n := e.dropped.Load(); n != 2 {
		t.Errorf("parked twice, dropped %d times", n)
	}
	done := make(chan fuse.Reply, 1)
	p.Start(func(r fuse.Reply) { done <- r })
	if r := reply(t, done); r.Errno != unix.EDOM {
		t.Errorf("%+v", r)
	}
	p.Free()
}

// TestParkedDetour: a request whose answer is there is not made again because others hang at the same place meanwhile.
func TestParkedDetour(t *testing.T) {
	e := &elsewhere{}
	s, p := parkBench(t, e, func(r *Request) unix.Errno {
		if r.Parked() != e {
			t.Error("the answer is thrown away")
		}
		return unix.EDOM
	})
	done := make(chan fuse.Reply, 1)
	p.Start(func(r fuse.Reply) { done <- r })
	s.watch.mu.Lock()
	s.watch.mark(p.(*pending).spot, 1)
	s.watch.mu.Unlock()
	e.resumer.Resume(new(Finisher))
	if r := reply(t, done); r.Errno != unix.EDOM {
		t.Errorf("%+v", r)
	}
	p.Free()
}

// TestParkedLast: if a request that was parked is the last one of a server that was closed, the goroutine that resumes it does not wait
// for the file system to close: that may wait for the goroutine.
func TestParkedLast(t *testing.T) {
	e := &elsewhere{}
	s, p := parkBench(t, e, func(*Request) unix.Errno { return 0 })
	resumed := make(chan struct{})
	s.fs.(*fakeFS).closing = func() {
		select {
		case <-resumed:
		case <-time.After(60 * time.Second):
			t.Error("Resume waits for Close")
		}
	}
	done := make(chan fuse.Reply, 1)
	p.Start(func(r fuse.Reply) { done <- r })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); err == nil {
		t.Error("closed with a request under way")
	}
	e.resumer.Resume(new(Finisher))
	close(resumed)
	reply(t, done)
	p.Free()
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
