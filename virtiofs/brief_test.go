package virtiofs

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestBrief: short waits are for the queue's own thread, once nothing else is in the ring.
func TestBrief(t *testing.T) {
	var first atomic.Pointer[server.Thread]
	var elsewhere atomic.Int64
	fs := &testFS{fsync: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			first.Store(r.Thread)
			return server.WouldBlockBriefly
		}
		if r.Thread != first.Load() {
			elsewhere.Add(1)
		}
		return unix.EIO
	}}
	busy, goOn := make(chan struct{}), make(chan struct{})
	fs.getattr = func(r *server.Request) unix.Errno {
		if r.MayWait {
			t.Error("a request that need not wait has leave to")
		}
		if r.Header.NodeID == 2 {
			busy <- struct{}{}
			<-goOn
		}
		return 0
	}
	r, w := start(t, fs)
	for range 10 {
		r.send(0, fp.OpGetattr, 2, getattrBody, 104)
		r.notify()
		<-busy // until all are in the ring
		for slot := 1; slot <= 3; slot++ {
			r.send(slot, fp.OpFsync, 1, fsyncBody, 0)
		}
		r.send(4, fp.OpGetattr, 1, getattrBody, 104)
		goOn <- struct{}{}
		order := [5]int{r.wait(), r.wait(), r.wait(), r.wait(), r.wait()}
		if want := [5]int{0, 4, 1, 2, 3}; order != want {
			t.Fatalf("answered in the order %v, want %v", order, want)
		}
		for slot := 1; slot <= 3; slot++ {
			if errno, _ := r.reply(slot); errno != unix.EIO {
				t.Fatalf("slot %d: %v, want %v", slot, errno, unix.EIO)
			}
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests of 30 were waited for on another thread", n)
	}
	within(t, "stop", w.stop)
	r.released()
}

// TestBriefPublishes: what is finished is published before the queue's thread waits for
// something else.
func TestBriefPublishes(t *testing.T) {
	busy, goOn := make(chan struct{}), make(chan struct{})
	waiting, enough := make(chan struct{}), make(chan struct{})
	fs := &testFS{
		getattr: func(*server.Request) unix.Errno { busy <- struct{}{}; <-goOn; return 0 },
		fsync: func(r *server.Request) unix.Errno {
			if !r.MayWait {
				return server.WouldBlockBriefly
			}
			waiting <- struct{}{}
			<-enough
			return 0
		},
	}
	r, _ := start(t, fs)
	for range 10 {
		r.send(0, fp.OpGetattr, 1, getattrBody, 104)
		r.notify()
		<-busy // until the next is in the ring, too
		r.send(1, fp.OpFsync, 1, fsyncBody, 0)
		r.notify()
		goOn <- struct{}{}
		<-waiting
		if slot := r.wait(); slot != 0 {
			t.Fatalf("slot %d is answered", slot)
		}
		enough <- struct{}{}
		r.wait()
	}
}

// startBriefWaits starts a queue whose thread waits for the first of three requests, of
// slots 1 to 3, until enough is closed.
func startBriefWaits(t *testing.T) (r *ring, w *worker, enough chan struct{}) {
	t.Helper()
	waiting := make(chan struct{}, 3)
	enough = make(chan struct{})
	fs := &testFS{fsync: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			return server.WouldBlockBriefly
		}
		waiting <- struct{}{}
		<-enough
		return 0
	}}
	r, w = start(t, fs)
	for slot := 1; slot <= 3; slot++ {
		r.send(slot, fp.OpFsync, 1, fsyncBody, 0)
	}
	r.notify()
	<-waiting
	return r, w, enough
}

// TestBriefStop: a queue that is stopped while it waits answers what it has kept.
func TestBriefStop(t *testing.T) {
	r, w, enough := startBriefWaits(t)
	stopped := make(chan struct{})
	go func() { w.stop(); close(stopped) }()
	close(enough)
	within(t, "stop", func() { <-stopped })
	if got := r.wait() + r.wait() + r.wait(); got != 1+2+3 {
		t.Errorf("sum of the slots that are answered is %d, want 6", got)
	}
	r.released()
}

// TestBriefMemoryGone: the front-end takes its memory away while the queue waits itself.
func TestBriefMemoryGone(t *testing.T) {
	r, w, enough := startBriefWaits(t)
	if err := r.Truncate(0); err != nil {
		t.Fatal(err)
	}
	close(enough)
	within(t, "stop", w.stop)
	r.released()
}

// TestBriefHoldsUp: when a queue's waits hold up requests that need not wait, other threads
// take them over.
func TestBriefHoldsUp(t *testing.T) {
	var first atomic.Pointer[server.Thread]
	waiting, enough := make(chan bool), make(chan struct{})
	fs := &testFS{fsync: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			first.Store(r.Thread)
			return server.WouldBlockBriefly
		}
		waiting <- r.Thread == first.Load()
		<-enough
		time.Sleep(2 * longWait)
		return 0
	}}
	r, _ := start(t, fs)
	for round := 0; ; round++ {
		r.send(1, fp.OpFsync, 1, fsyncBody, 0)
		r.notify()
		here := <-waiting
		if !here { // and the queue goes on
			r.getattr(0)
			enough <- struct{}{}
			r.wait()
			return
		}
		if round == 2*heldMost {
			t.Fatal("the queue's thread goes on to wait while other requests do")
		}
		r.send(2, fp.OpGetattr, 1, getattrBody, 104)
		r.notify()
		enough <- struct{}{}
		r.wait()
		r.wait()
	}
}

// offered is a ring that has a request or has none.
type offered bool

func (o offered) More() bool { return bool(o) }

// TestShortWaits: what decides whether a queue's thread waits.
func TestShortWaits(t *testing.T) {
	var s shortWaits
	for range 1000 { // nothing is held up
		if !s.ask() {
			t.Fatal("a request that is alone may not wait")
		}
		s.served(true, offered(false))
		s.served(true, offered(false)) // the driver's next, which came after the answer
	}
	for i := 0; s.ask(); i++ { // every wait holds something up
		if i > heldMost {
			t.Fatal("waits go on that hold up others")
		}
		s.served(true, offered(true))
		s.served(true, offered(true))
	}
	refused := 1
	for ; !s.ask(); refused++ {
		if refused > 2*heldPenalty {
			t.Fatal("it is never tried again")
		}
	}
	if refused < heldPenalty {
		t.Errorf("tried again after %d requests, want %d", refused, heldPenalty)
	}
	s.held = 0
	for i := range 1000 { // one of three holds something up
		s.waited = true
		s.followed(i%3 == 0)
	}
	if !s.may() {
		t.Error("waits that seldom hold anything up are given up")
	}
	s.ask()
	s.served(false, offered(true)) // it went elsewhere all the same
	if s.waited {
		t.Error("a request that did not wait counts as one that did")
	}
}
