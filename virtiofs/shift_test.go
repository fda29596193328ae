package virtiofs

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// frozen is a file system whose nodes from firstFrozen on hang until thawed is closed.
type frozen struct {
	testFS
	hung   chan uint64 // node numbers, as they begin to hang
	thawed chan struct{}
	after  unix.Errno // of a request that has hung and may not wait
}

const firstFrozen = 100

func newFrozen() *frozen {
	return &frozen{hung: make(chan uint64, 1000), thawed: make(chan struct{})}
}

func (f *frozen) Getattr(r *server.Request, _ *fp.GetattrIn, _ *fp.AttrOut) unix.Errno {
	if r.Header.NodeID < firstFrozen {
		return 0
	}
	f.hung <- r.Header.NodeID
	<-f.thawed
	if f.after != 0 && !r.MayWait {
		return f.after
	}
	return 0
}

func (f *frozen) Backing(nodeID uint64, _ fp.Name) uint64 {
	if nodeID < firstFrozen {
		return 1
	}
	return 2
}

// thaw lets go of all that hang, and checks that each of the slots is answered once.
func (f *frozen) thaw(t *testing.T, r *ring, slots int) {
	t.Helper()
	close(f.thawed)
	seen := map[int]bool{}
	for range slots {
		slot := r.wait()
		if seen[slot] {
			t.Errorf("slot %d is answered twice", slot)
		}
		seen[slot] = true
		if errno, _ := r.reply(slot); errno != 0 {
			t.Errorf("slot %d: %v", slot, errno)
		}
	}
	r.getattr(0)
	if r.Pending() != 0 {
		t.Error("something is answered twice")
	}
}

// TestStuck: a queue goes on when its thread hangs in a request, also when more requests would
// hang than there are threads. When they end, each is answered once.
func TestStuck(t *testing.T) {
	for _, hang := range []int{1, 4, slots - 1} {
		fs := newFrozen()
		r, w := start(t, fs)
		for i := range hang {
			r.send(1+i, fp.OpGetattr, firstFrozen+uint64(i), getattrBody, 104)
		}
		r.notify()
		<-fs.hung
		for range 100 {
			r.getattr(0)
		}
		fs.thaw(t, r, hang)
		within(t, "stop", w.stop)
		r.released()
	}
}

// TestStuckThenWaits: a request that hangs, and then has to wait after all, is waited for.
func TestStuckThenWaits(t *testing.T) {
	for _, wait := range []unix.Errno{server.WouldBlock, server.WouldBlockBriefly, server.WouldBlockInGo} {
		fs := newFrozen()
		fs.after = wait
		r, w := start(t, fs)
		r.send(1, fp.OpGetattr, firstFrozen, getattrBody, 104)
		r.notify()
		<-fs.hung
		r.getattr(0)
		fs.thaw(t, r, 1)
		within(t, "stop", w.stop)
		r.released()
	}
}

// TestStuckStop: stopping a queue waits for the request that hangs, whether the thread has lost
// the queue before or loses it meanwhile, and answers it.
func TestStuckStop(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for _, after := range []unix.Errno{0, server.WouldBlock} {
			fs := newFrozen()
			fs.after = after
			r, w := start(t, fs)
			r.send(1, fp.OpGetattr, firstFrozen, getattrBody, 104)
			r.notify()
			<-fs.hung
			if lost {
				r.getattr(0)
			}
			stopped := make(chan struct{})
			go func() { w.stop(); close(stopped) }()
			for fs.threads.Load() < 2 { // the successor has begun
				time.Sleep(time.Millisecond)
			}
			select {
			case <-stopped:
				t.Fatal("stopped with a request that hangs")
			case <-time.After(20 * time.Millisecond):
			}
			close(fs.thawed)
			within(t, "stop", func() { <-stopped })
			if slot := r.wait(); slot != 1 {
				t.Errorf("slot %d is answered", slot)
			}
			r.released()
		}
	}
}

// TestStuckLocks: a request for a lock that hangs first and then waits for another client is ended
// when its queue stops, and counted among those that may wait.
func TestStuckLocks(t *testing.T) {
	hung, thawed, waits := make(chan struct{}), make(chan struct{}), make(chan struct{})
	fs := &testFS{setlk: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			hung <- struct{}{}
			<-thawed
			return server.WouldBlock
		}
		waits <- struct{}{}
		<-r.Canceled
		return unix.EINTR
	}}
	r, w := start(t, fs)
	r.send(1, fp.OpSetlkw, 1, setlkwBody, 0)
	r.notify()
	<-hung
	r.getattr(0)
	thawed <- struct{}{}
	<-waits
	r.getattr(0)
	within(t, "stop", w.stop)
	if errno, _ := r.reply(r.wait()); errno != unix.ENOLCK {
		t.Errorf("%v, want ENOLCK", errno)
	}
	if w.lingering != 0 {
		t.Errorf("%d entries are counted when nothing waits", w.lingering)
	}
	r.released()
}

// TestStuckBrief: a thread that waits for a page which does not come loses the queue, and the
// others that it has kept are waited for elsewhere.
func TestStuckBrief(t *testing.T) {
	r, w, enough := startBriefWaits(t)
	r.getattr(0)
	close(enough)
	if got := r.wait() + r.wait() + r.wait(); got != 1+2+3 {
		t.Errorf("sum of the slots that are answered is %d, want 6", got)
	}
	within(t, "stop", w.stop)
	r.released()
}

// TestStuckTry: the same for a request that was to be tried once more.
func TestStuckTry(t *testing.T) {
	for _, again := range []bool{false, true} {
		busy, goOn := make(chan struct{}), make(chan struct{})
		tried, enough := make(chan struct{}), make(chan struct{})
		tries := 0
		fs := &testFS{
			getattr: func(r *server.Request) unix.Errno {
				if r.Header.NodeID == 2 {
					busy <- struct{}{}
					<-goOn
				}
				return 0
			},
			fsync: func(r *server.Request) unix.Errno {
				if tries++; tries != 2 {
					if r.MayWait {
						return 0
					}
					return server.WouldBlockBriefly
				}
				tried <- struct{}{}
				<-enough
				if again {
					return server.WouldBlockBriefly
				}
				return 0
			},
		}
		r, w := start(t, fs)
		r.send(2, fp.OpGetattr, 2, getattrBody, 104)
		r.notify()
		<-busy // until both are in the ring
		r.send(1, fp.OpFsync, 1, fsyncBody, 0)
		r.notify()
		goOn <- struct{}{}
		<-tried
		r.send(3, fp.OpGetattr, 1, getattrBody, 104)
		r.notify()
		if got := r.wait() + r.wait(); got != 2+3 {
			t.Errorf("sum of the slots that are answered is %d, want 5", got)
		}
		close(enough)
		if slot := r.wait(); slot != 1 {
			t.Errorf("slot %d is answered", slot)
		}
		within(t, "stop", w.stop)
		r.released()
	}
}

// TestStuckPanics: a mistake, or memory that is gone, costs a thread that has lost the queue its
// own reply.
func TestStuckPanics(t *testing.T) {
	r := newRing(t)
	h := &panics{Handler: newServer(&testFS{}), hung: make(chan struct{}), thawed: make(chan struct{})}
	w, err := startWorker(h, nil, r.vring(), BusyPoll{}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	r.send(1, fp.OpGetattr, firstFrozen, getattrBody, 104)
	r.notify()
	<-h.hung
	r.getattr(0)
	close(h.thawed)
	if slot := r.wait(); slot != 1 {
		t.Errorf("slot %d is answered", slot)
	}
	r.getattr(0)
	within(t, "stop", w.stop)
	r.released()
}

// panics is a handler that hangs without one that watches it, and panics.
type panics struct {
	fuse.Handler
	hung, thawed chan struct{}
}

type panicking struct {
	fuse.Thread
	h     *panics
	stuck func()
}

func (h *panics) StartThread(hooks fuse.Hooks) (fuse.Thread, error) {
	t, err := h.Handler.StartThread(hooks)
	return &panicking{t, h, hooks.Stuck}, err
}

func (t *panicking) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	if m.Header.NodeID >= firstFrozen {
		done := make(chan struct{})
		go func() { t.stuck(); close(done) }()
		<-done
		t.h.hung <- struct{}{}
		<-t.h.thawed
		panic("a mistake")
	}
	return t.Thread.Handle(m)
}
