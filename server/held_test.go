package server

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
)

// waiters sends requests that wait until they are told to end.
type waiters struct {
	t        *testing.T
	s        *Server
	thread   *thread
	waiting  []*pending
	finished chan uint32
}

func newWaiters(t *testing.T) *waiters {
	fs := &fakeFS{want: fp.InitPosixLocks}
	fs.setlk = func(r *Request, _ bool) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		<-r.Canceled
		return unix.EINTR
	}
	w := &waiters{t: t, finished: make(chan uint32, 1<<16)}
	w.s, w.thread = newServer(t, fs, Options{})
	return w
}

// send returns the errno of a request that is answered at once, and 0 for one that waits.
func (w *waiters) send(in, out fuse.Buffers) unix.Errno {
	_, d := handle(w.thread, in, out)
	if d == nil {
		var h [16]byte
		out.CopyTo(h[:], 0)
		return unix.Errno(-int32(binary.NativeEndian.Uint32(h[4:])))
	}
	d.Start(func(r fuse.Reply) { w.finished <- r.Len })
	w.waiting = append(w.waiting, d)
	return 0
}

// end ends all that wait.
func (w *waiters) end() {
	w.t.Helper()
	for _, d := range w.waiting {
		d.cancel()
	}
	for range w.waiting {
		select {
		case <-w.finished:
		case <-time.After(60 * time.Second):
			w.t.Fatal("a request does not end")
		}
	}
	for _, d := range w.waiting {
		d.Free()
	}
	w.waiting = nil
	if w.s.waiting.held != 0 {
		w.t.Errorf("%d bytes are counted, and nothing waits", w.s.waiting.held)
	}
}

// inUse is the memory that the runtime has for objects and stacks that live.
func inUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one has put aside in pools
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// TestHeldMemory: what requests that wait keep of the host's memory is counted in full and
// bounded, whatever a client attaches to them, and is free again when they are.
func TestHeldMemory(t *testing.T) {
	body := fp.Bytes(&fp.LkIn{})
	message := func(body []byte, ext int) []byte {
		m := message(fp.OpSetlkw, body)
		h, _, _ := fp.View[fp.InHeader](m)
		h.TotalExtLen = uint16(ext / 8)
		return m
	}
	groups := func() []byte {
		b := append([]byte(nil), body...)
		list := make([]byte, 4*maxGroups/2)
		b = append(b, fp.Bytes(&fp.ExtHeader{Size: uint32(16 + len(list)), Type: fp.ExtGroups})...)
		b = append(b, fp.Bytes(&fp.SuppGroups{NrGroups: maxGroups / 2})...)
		return append(b, append(make([]byte, 4), list...)...)
	}()
	one := message(body, 0)
	long := message(append(body[:len(body):len(body)], make([]byte, maxArgs-100)...), 0)
	pieces := message(append(body[:len(body):len(body)], make([]byte, 32<<10)...), 0)
	grouped := message(groups, len(groups)-len(body))
	for name, c := range map[string]struct{ in, out fuse.Buffers }{ // out follows the reply's header
		"nothing else":              {split(one, len(one)), nil},
		"long bodies":               {split(long, len(long)), nil},
		"many buffers to write to":  {split(one, len(one)), split(make([]byte, 32<<10), 1)},
		"many buffers to read from": {split(pieces, 1), nil},
		"groups":                    {split(grouped, len(grouped)), nil},
	} {
		t.Run(name, func(t *testing.T) { heldMemory(t, c.in, c.out) })
	}
}

// heldMemory has as many requests wait as can.
func heldMemory(t *testing.T, in, out fuse.Buffers) {
	w := newWaiters(t)
	const most = 1 << 14
	headers := make([]byte, 16*(most+1))
	send := func() unix.Errno {
		h := headers[16*len(w.waiting):]
		return w.send(in, append(split(h[:16], 16), out...))
	}
	before := inUse()
	var errno unix.Errno
	for errno == 0 && len(w.waiting) < most {
		errno = send()
	}
	if errno != unix.ENOMEM {
		t.Fatalf("%d wait: %v, want ENOMEM", len(w.waiting), errno)
	}
	n, counted, taken := len(w.waiting), w.s.waiting.held, inUse()-before
	t.Logf("%d wait: %d bytes are counted, %d taken", n, counted, taken)
	const noise = 4 << 20 // of other tests, and the list of those that wait
	if counted > maxHeld || taken > counted+noise {
		t.Errorf("%d wait: %d bytes are counted, %d taken, at most %d are allowed", n, counted, taken, maxHeld)
	}
	w.end()
	if errno := send(); errno != 0 {
		t.Errorf("after the others: %v", errno)
	}
	w.end()
	left := inUse() - before // goroutines are still ending
	for end := time.Now().Add(60 * time.Second); left > noise && time.Now().Before(end); left = inUse() - before {
		time.Sleep(10 * time.Millisecond)
	}
	if left > noise {
		t.Errorf("%d bytes are left", left)
	}
	runtime.KeepAlive(headers)
}

// TestHeldNotRefused: a request that only waits for the disk is served all the same when the
// client's memory is used up: on the thread that has it.
func TestHeldNotRefused(t *testing.T) {
	w := newWaiters(t)
	w.s.waiting.held = maxHeld
	var on []*Thread
	w.s.fs.(*fakeFS).fsync = func(r *Request) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		on = append(on, r.Thread)
		return unix.ENOSPC
	}
	in := message(fp.OpFsync, fp.Bytes(&fp.FsyncIn{}))
	if errno := w.send(split(in, len(in)), split(make([]byte, 16), 16)); errno != unix.ENOSPC {
		t.Errorf("FSYNC: %v, want ENOSPC of the method", errno)
	}
	if len(on) != 1 || on[0] != &w.thread.Thread || w.thread.request.MayWait {
		t.Errorf("served on %v with %v, which may wait later: %v", on, w.thread, w.thread.request.MayWait)
	}
	lock := message(fp.OpSetlkw, fp.Bytes(&fp.LkIn{}))
	if errno := w.send(split(lock, len(lock)), split(make([]byte, 16), 16)); errno != unix.ENOMEM {
		t.Errorf("SETLKW: %v, want ENOMEM", errno)
	}
}

// TestHostBudgets: what waits on one server leaves another of the process a thread and
// memory of its own.
func TestHostBudgets(t *testing.T) {
	h, err := host.New(host.Options{Threads: 2, Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var on atomic.Int64
	release := make(chan struct{})
	fs := func() FileSystem {
		return &sessionFS{fsync: func(*Request) unix.Errno {
			on.Add(1)
			defer on.Add(-1)
			<-release
			return 0
		}}
	}
	servers := make([]*Server, 2)
	var senders sync.WaitGroup
	for i := range servers {
		s := New(fs(), Options{Log: silent(), Host: h})
		servers[i] = s
		if errno := send(s, newThread(s), 1, fp.OpInit, initBody); errno != 0 {
			t.Fatal(errno)
		}
		want := int64(3) // one of its own and two that are nobody's
		if i == 1 {
			want = 4 // one of its own
		}
		for n := range 8 {
			senders.Go(func() { send(s, newThread(s), uint64(2+n), fp.OpFsync, make([]byte, 16)) })
		}
		for end := time.Now().Add(60 * time.Second); on.Load() != want && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		s.pool.mu.Lock()
		threads := s.pool.threads
		s.pool.mu.Unlock()
		if n := on.Load(); n != want || int64(threads) != []int64{3, 1}[i] {
			t.Errorf("with %d servers %d requests are on threads, want %d; the last has %d threads", i+1, n, want, threads)
		}
	}
	close(release)
	senders.Wait()

	first, second := &servers[0].waiting, &servers[1].waiting
	n := 0
	for first.reserve(64 << 10) {
		n++
	}
	if n != 32 || !second.reserve(1<<20) || second.reserve(1) {
		t.Errorf("the first gets %d times 64 KiB, want 32, and the second its own MiB", n)
	}
}
