package virtiofs

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

var (
	getattrBody = fp.Bytes(&fp.GetattrIn{})
	fsyncBody   = fp.Bytes(&fp.FsyncIn{})
	setlkwBody  = fp.Bytes(&fp.LkIn{})
)

func (r *ring) getattr(want unix.Errno) {
	r.t.Helper()
	if errno, _ := r.do(fp.OpGetattr, 1, getattrBody, 104); errno != want {
		r.t.Errorf("GETATTR: %v, want %v", errno, want)
	}
}

// within fails the test when f takes long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s takes for ever", what)
	}
}

// released checks that nothing holds the guest's memory any more.
func (r *ring) released() {
	r.t.Helper()
	if r.Space.Store(nil); r.Released != 1 {
		r.t.Errorf("guest memory was released %d times, want 1", r.Released)
	}
}

// TestStopStart: a queue that is stopped goes on where it was, in the same session.
func TestStopStart(t *testing.T) {
	r := newRing(t)
	s := newServer(&testFS{})
	w, err := startWorker(s, nil, r.vring(), BusyPoll{}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	base := uint16(1) // INIT
	for range 5 {
		r.getattr(0)
		base++
		within(t, "stop", w.stop)
		if got := r.queue.Base(); got != base {
			t.Fatalf("stopped at %d, want %d", got, base)
		}
		r.send(1, fp.OpGetattr, 1, getattrBody, 104) // nobody is there, and none is lost
		cfg := r.Config()
		cfg.Base = base
		if r.queue, err = virtqueue.New(&r.Space, cfg); err != nil {
			t.Fatal(err)
		}
		if w, err = startWorker(s, nil, r.vring(), BusyPoll{}, false, quiet()); err != nil {
			t.Fatal(err)
		}
		if slot := r.wait(); slot != 1 {
			t.Fatalf("slot %d is answered, want 1", slot)
		}
		base++
		r.offered = 0
	}
	within(t, "stop", w.stop)
	r.released()
}

// TestStopInFlight: stopping waits for a request that is in a system call, ends one that
// waits for somebody else, and answers both.
func TestStopInFlight(t *testing.T) {
	enough := make(chan struct{})
	syncing, locking := make(chan struct{}), make(chan struct{})
	fs := &testFS{
		fsync: func(r *server.Request) unix.Errno {
			if !r.MayWait {
				return server.WouldBlock
			}
			close(syncing)
			<-enough
			return unix.EIO
		},
		setlk: func(r *server.Request) unix.Errno {
			if !r.MayWait {
				return server.WouldBlock
			}
			close(locking)
			<-r.Canceled
			return unix.EINTR
		},
	}
	r, w := start(t, fs)
	r.send(1, fp.OpFsync, 1, fsyncBody, 0)
	r.send(2, fp.OpSetlkw, 1, setlkwBody, 0)
	r.notify()
	<-syncing
	<-locking
	r.getattr(0) // the queue does not stand still behind them
	stopped := make(chan struct{})
	go func() { w.stop(); close(stopped) }()
	if slot := r.wait(); slot != 2 {
		t.Errorf("slot %d is answered first, want that of the canceled request", slot)
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a request in a system call")
	case <-time.After(20 * time.Millisecond):
	}
	close(enough)
	within(t, "stop", func() { <-stopped })
	if r.wait() != 1 {
		t.Error("the request that was waited for is not answered")
	}
	for slot, want := range map[int]unix.Errno{1: unix.EIO, 2: unix.ENOLCK} {
		if errno, _ := r.reply(slot); errno != want {
			t.Errorf("slot %d: %v, want %v", slot, errno, want)
		}
	}
	r.released()
}

// TestLingering: requests that wait for other clients take half of the ring's entries at
// most, and the rest of it works. Two entries each are 16 of 32 requests.
func TestLingering(t *testing.T) {
	dropped := make(chan struct{}) // a token for each
	fs := &testFS{setlk: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			return server.WouldBlock
		}
		<-dropped
		return 0
	}}
	r, w := start(t, fs)
	for range 2 { // room that was taken comes back
		for slot := range slots {
			r.send(slot, fp.OpSetlkw, 1, setlkwBody, 0)
		}
		r.notify()
		for range slots / 2 {
			slot := r.wait()
			if errno, _ := r.reply(slot); errno != unix.ENOLCK {
				t.Errorf("slot %d: %v, want ENOLCK", slot, errno)
			}
			if slot < slots/2 {
				t.Errorf("slot %d has no room to wait", slot)
			}
		}
		r.send(slots-1, fp.OpGetattr, 1, getattrBody, 104)
		r.notify()
		if slot := r.wait(); slot != slots-1 {
			t.Errorf("slot %d is answered, want that of another request", slot)
		}
		for range slots / 2 {
			dropped <- struct{}{}
			if errno, _ := r.reply(r.wait()); errno != 0 {
				t.Error(errno)
			}
		}
	}
	w.stop()
	if w.lingering != 0 {
		t.Errorf("%d entries are counted when nothing waits", w.lingering)
	}
}

// TestBrokenThread: a thread that is not fit any more is replaced after its request was
// answered.
func TestBrokenThread(t *testing.T) {
	fs := &testFS{getattr: func(r *server.Request) unix.Errno {
		r.Thread.Break()
		return unix.EACCES
	}}
	r, w := start(t, fs)
	for range 3 {
		r.getattr(unix.EACCES)
	}
	within(t, "stop", w.stop)
	if n := fs.threads.Load(); n < 3 || n > 4 {
		t.Errorf("%d threads were started for three that broke", n)
	}
	r.released()
}

// TestNoSuccessor: without a new thread the queue serves nothing more, and can be
// stopped.
func TestNoSuccessor(t *testing.T) {
	fs := &testFS{
		getattr: func(r *server.Request) unix.Errno { r.Thread.Break(); return 0 },
		start: func(n int64) error {
			if n > 1 {
				return errors.New("no more threads")
			}
			return nil
		},
	}
	r, w := start(t, fs)
	r.getattr(0)
	r.send(1, fp.OpGetattr, 1, getattrBody, 104)
	r.notify()
	time.Sleep(20 * time.Millisecond)
	if r.Pending() != 0 {
		t.Error("a request is answered by nobody")
	}
	within(t, "stop", w.stop)
	r.released()
}

// TestFirstThreadFails: the front-end is told.
func TestFirstThreadFails(t *testing.T) {
	r := newRing(t)
	fs := &testFS{start: func(int64) error { return errors.New("no threads") }}
	if _, err := startWorker(newServer(fs), nil, r.vring(), BusyPoll{}, false, quiet()); err == nil {
		t.Error("a queue without a thread has started")
	}
	r.released()
}

// TestWithoutKick: a ring without a kick descriptor is looked at by and by.
func TestWithoutKick(t *testing.T) {
	r := newRing(t)
	v := r.vring()
	v.Kick = -1
	w, err := startWorker(newServer(&testFS{}), nil, v, BusyPoll{}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	for range 5 {
		r.getattr(0)
	}
	within(t, "stop", w.stop)
	r.released()
}

// TestNotifications: with eight requests at a time there are at most 0.3 notifications
// a request, both ways together.
func TestNotifications(t *testing.T) {
	r, w := start(t, &testFS{})
	const rounds, depth = 200, 8
	var b [8]byte
	for try := 1; ; try++ { // on a busy machine a batch may be done in pieces
		r.kicks = 0
		_, _ = unix.Read(r.call, b[:])
		calls := 0
		for range rounds {
			r.CallAtNext()
			for slot := range depth {
				r.send(slot, fp.OpGetattr, 1, getattrBody, 104)
			}
			r.notify()
			for range depth {
				r.wait()
			}
			if _, err := unix.Read(r.call, b[:]); err == nil {
				calls += int(binary.NativeEndian.Uint64(b[:]))
			}
		}
		if float64(r.kicks+calls) <= 0.3*rounds*depth {
			break
		}
		if try == 20 {
			t.Errorf("%d kicks and %d calls for %d requests", r.kicks, calls, rounds*depth)
			break
		}
	}
	within(t, "stop", w.stop)
}

// TestPublish: replies become visible together at the end of a batch, but in halves of
// what the driver has under way where wake-ups are slow, and at the latest after flushRequests.
func TestPublish(t *testing.T) {
	for _, test := range []struct {
		depth   int
		looking bool
		want    []int // replies that are visible while each request is served
	}{
		{4, false, []int{0, 0, 0, 0}},
		{4, true, []int{0, 0, 2, 2}},
		{1, true, []int{0}},
		{14, false, []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 12}},
	} {
		var seen []int
		r := newRing(t)
		s := newServer(&testFS{getattr: func(*server.Request) unix.Errno {
			seen = append(seen, r.Pending())
			return 0
		}})
		w, err := newWorker(s, nil, r.vring(), BusyPoll{}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		defer w.waker.close()
		sh := &shift{worker: w}
		if sh.thread, err = s.StartThread(fuse.Hooks{}); err != nil {
			t.Fatal(err)
		}
		in := fp.InitIn{Major: 7, Minor: 45}
		r.send(0, fp.OpInit, 0, fp.Bytes(&in), 80)
		w.batch(sh)
		r.wait()
		w.spin.spinning, w.spin.left = test.looking, 1000
		for slot := range test.depth {
			r.send(slot, fp.OpGetattr, 1, getattrBody, 104)
		}
		w.batch(sh)
		if !slices.Equal(seen, test.want) || r.Pending() != test.depth {
			t.Errorf("%d requests, looking %v: visible %v, want %v; %d at the end", test.depth, test.looking, seen, test.want, r.Pending())
		}
	}
}

// TestMemoryGoneInFlight: the front-end takes its memory away while a request waits and
// while the queue sleeps. The queue breaks, says so, and can be stopped.
func TestMemoryGoneInFlight(t *testing.T) {
	enough, syncing := make(chan struct{}), make(chan struct{}, 2)
	fs := &testFS{fsync: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			return server.WouldBlock
		}
		syncing <- struct{}{}
		<-enough
		return 0
	}}
	r, w := start(t, fs)
	errFD, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := unix.Dup(errFD)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(errFD)
	r.errors.Set(ours)
	defer r.errors.Close()
	r.send(1, fp.OpFsync, 1, fsyncBody, 0)
	r.send(2, fp.OpFsync, 1, fsyncBody, 0)
	r.notify()
	<-syncing
	<-syncing
	if err := r.Truncate(0); err != nil {
		t.Fatal(err)
	}
	close(enough)
	within(t, "stop", w.stop)
	var b [8]byte
	if _, err := unix.Read(errFD, b[:]); err != nil {
		t.Errorf("the front-end is not told: %v", err)
	}
	r.released()
}

// TestMemoryAddedWhileBusy: a worker that polls, and so never ends a batch, serves
// requests in memory that was added meanwhile.
func TestMemoryAddedWhileBusy(t *testing.T) {
	r := newRing(t)
	w, err := startWorker(newServer(&testFS{}), nil, r.vring(), BusyPoll{Max: MaxBusyPoll}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	const at = 0x8000_0000
	more := make([]byte, 4096)
	h := fp.InHeader{Opcode: uint32(fp.OpGetattr), Unique: 1, NodeID: 1, Len: uint32(fp.Size[fp.InHeader]() + len(getattrBody))}
	n := copy(more, fp.Bytes(&h))
	n += copy(more[n:], getattrBody)
	m, err := virtqueue.NewMemory([]*virtqueue.Region{
		{GuestAddr: vqtest.GuestBase, UserAddr: vqtest.UserBase, Host: r.Mem},
		{GuestAddr: at, UserAddr: at, Host: more},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.getattr(0)
	r.Space.Store(m)
	r.Set(0, vqtest.Desc{Addr: at, Len: uint32(n), Flags: vqtest.Next, Next: 1})
	r.Set(1, vqtest.Desc{Addr: r.Guest(slotAt(r, 0) + requestAt), Len: 120, Flags: vqtest.Write})
	r.Offer(0)
	r.offered++
	r.notify()
	r.wait()
	if errno, reply := r.reply(0); errno != 0 || len(reply) != 104 {
		t.Errorf("a request in new memory: %v, %d bytes", errno, len(reply))
	}
	within(t, "stop", w.stop)
}

// TestFlushNow: replies wait for others as long as that saves calls of the driver, and no
// longer.
func TestFlushNow(t *testing.T) {
	for _, c := range []struct {
		what                string
		unflushed, underWay int
		bytes               uint64
		want                bool
	}{
		{"a small one", 1, 1, 100, false}, // at the end of the batch
		{"small ones", flushRequests - 1, 32, flushBytes / 2, false},
		{"many", flushRequests, 32, 1600, true},
		{"a large one that is alone", 1, 1, 1 << 20, true},
		{"a large one of four", 1, 4, 1 << 20, true},
		{"a large one of five", 1, 5, 1 << 20, false},
		{"two large ones of eight", 2, 8, 2 << 20, true},
		{"three large ones of 128", 3, 128, 3 << 20, false},
		{"four large ones of 128", 4, 128, 4 << 20, true},
		{"a very large one", 1, 128, 4 << 20, true},
	} {
		w := &worker{unflushed: c.unflushed, underWay: c.underWay, bytes: c.bytes}
		if got := w.flushNow(); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
