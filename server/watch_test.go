package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// frozenFS has nodes on file systems of the host, which are node / 1000. On those that are frozen,
// GETATTR and MKDIR hang until the thaw, and LOOKUP of the name "mnt" does everywhere.
type frozenFS struct {
	NotImplemented
	frozen map[uint64]bool
	hung   atomic.Int32
	which  sync.Map // of those that have hung, their unique numbers
	thaw   chan struct{}
	once   sync.Once
}

// melt is the thaw.
func (f *frozenFS) melt() { f.once.Do(func() { close(f.thaw) }) }

func newFrozenFS(frozen ...uint64) *frozenFS {
	f := &frozenFS{frozen: map[uint64]bool{}, thaw: make(chan struct{})}
	for _, on := range frozen {
		f.frozen[on] = true
	}
	return f
}

func (f *frozenFS) hang(r *Request, yes bool) unix.Errno {
	if yes {
		f.which.Store(r.Header.Unique, nil)
		f.hung.Add(1)
		<-f.thaw
		f.hung.Add(-1)
	}
	return 0
}

func (f *frozenFS) Getattr(r *Request, _ *fp.GetattrIn, _ *fp.AttrOut) unix.Errno {
	return f.hang(r, f.frozen[r.Header.NodeID/1000])
}

func (f *frozenFS) Mkdir(r *Request, _ *fp.MkdirIn, _ fp.Name, _ *fp.EntryOut) unix.Errno {
	return f.hang(r, f.frozen[r.Header.NodeID/1000])
}

func (f *frozenFS) Lookup(r *Request, name fp.Name, _ *fp.EntryOut) unix.Errno {
	return f.hang(r, strings.HasPrefix(name.String(), "mnt"))
}

func (f *frozenFS) Backing(node uint64, _ fp.Name) uint64 { return node / 1000 }
func (f *frozenFS) Path(node uint64) string {
	if node == 1001 {
		return "" // not known
	}
	return fmt.Sprintf("dir/%d", node)
}

// watched is a server of it whose queues lose their thread when it is stuck. The test looks
// itself: the timer's looks are not counted on.
type watched struct {
	t    *testing.T
	fs   *frozenFS
	s    *Server
	log  daemontest.Log
	lost atomic.Int32
	got  chan fuse.Reply
	sent int
}

func newWatched(t *testing.T, fs *frozenFS) *watched {
	w := &watched{t: t, fs: fs, got: make(chan fuse.Reply, 10000)}
	w.s = New(fs, Options{Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		ThreadState: func(tid int) string { return fmt.Sprintf("thread %d sleeps", tid) }})
	in := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0)}
	if _, errno := serve(newThread(w.s), fp.OpInit, fp.Bytes(&in), 80); errno != 0 {
		t.Fatal("INIT:", errno)
	}
	return w
}

// outcome is how a request was answered.
type outcome int

const (
	atOnce  outcome = iota
	pends           // on another thread
	hangs           // on its queue's thread
	refused         // with an errno
)

// send sends a request on a queue of its own, and returns what becomes of it.
func (w *watched) send(op fp.Opcode, node uint64, body []byte) outcome {
	w.t.Helper()
	result := make(chan outcome, 1)
	w.sent++
	unique := uint64(w.sent)
	go func() {
		var q fuse.Thread
		q, _ = w.s.StartThread(fuse.Hooks{Stuck: func() { w.lost.Add(1); result <- hangs }})
		defer q.Stop()
		h := fp.InHeader{Len: uint32(headerSize + len(body)), Opcode: uint32(op), Unique: unique, NodeID: node}
		var m fuse.Message
		m.Set(fuse.Over(append(bytes.Clone(fp.Bytes(&h)), body...)), fuse.Over(make([]byte, 4096)))
		r, p := q.Handle(&m)
		switch {
		case p != nil:
			p.Start(func(r fuse.Reply) { p.Free(); w.got <- r })
			result <- pends
			return
		case r.Errno != 0:
			result <- refused
		default:
			result <- atOnce
		}
		w.got <- r
	}()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); {
		select {
		case o := <-result:
			return o
		case <-time.After(time.Millisecond):
			if _, ok := w.fs.which.Load(unique); ok {
				w.s.watch.look()
			}
		}
	}
	w.t.Error("a request takes for ever")
	return 0
}

func (w *watched) getattr(node uint64) outcome {
	w.t.Helper()
	return w.send(fp.OpGetattr, node, fp.Bytes(&fp.GetattrIn{}))
}

func (w *watched) want(what string, got, want outcome) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: outcome %d, want %d", what, got, want)
	}
}

// until waits for a condition, and looks meanwhile.
func (w *watched) until(what string, done func() bool) {
	w.t.Helper()
	for end := time.Now().Add(60 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("timeout: " + what)
		}
		w.s.watch.look()
	}
}

// end thaws everything, and waits for all replies.
func (w *watched) end() {
	w.t.Helper()
	w.fs.melt()
	for range w.sent {
		select {
		case r := <-w.got:
			if r.Errno != 0 {
				w.t.Error(r.Errno)
			}
		case <-time.After(60 * time.Second):
			w.t.Fatal("a request was not answered")
		}
	}
	select {
	case <-w.got:
		w.t.Error("a request was answered twice")
	default:
	}
	w.until("the watch to forget", func() bool { return w.s.watch.detour.Load() == 0 })
	p := &w.s.pool
	w.until("the pool to shrink", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.threads <= p.max && p.stuck == 0 && p.stuckAll == 0 && len(p.stuckOn)+len(p.stuckAt)+len(p.queue)+len(p.parked) == 0
	})
}

// TestDetour: when a request hangs, its queue loses the thread, and others on the same file system
// of the host wait on other threads from then on. What touches other file systems is
// served as always, and so is what only reads while a change hangs.
func TestDetour(t *testing.T) {
	w := newWatched(t, newFrozenFS(2))
	mkdir := append(fp.Bytes(&fp.MkdirIn{}), "a\x00"...)
	w.want("the first", w.send(fp.OpMkdir, 2000, mkdir), hangs)
	w.want("a change on the same file system", w.send(fp.OpMkdir, 2001, mkdir), pends)
	w.want("a change on another", w.send(fp.OpMkdir, 1000, mkdir), atOnce)
	w.want("reading on the same", w.getattr(2000), hangs)
	w.want("reading again", w.getattr(2001), pends)
	w.want("reading on another", w.getattr(3000), atOnce)
	if n := w.lost.Load(); n != 2 {
		t.Errorf("%d threads are lost, want 2", n)
	}
	w.end()
	w.want("after the thaw", w.getattr(2001), atOnce)
}

// TestDetourName: a name may be where a dead file system is mounted. One LOOKUP that hangs says
// nothing of other names; two do.
func TestDetourName(t *testing.T) {
	w := newWatched(t, newFrozenFS())
	w.want("the first", w.send(fp.OpLookup, 1000, []byte("mnt\x00")), hangs)
	w.want("the same name", w.send(fp.OpLookup, 1000, []byte("mnt\x00")), pends)
	w.want("another name", w.send(fp.OpLookup, 1000, []byte("file\x00")), atOnce)
	w.want("a node", w.getattr(1000), atOnce)
	w.want("another name that hangs", w.send(fp.OpLookup, 1000, []byte("mnt2\x00")), hangs)
	w.want("any other name", w.send(fp.OpLookup, 1000, []byte("file\x00")), pends)
	w.want("another directory's", w.send(fp.OpLookup, 2000, []byte("file\x00")), atOnce)
	w.end()
}

// TestPoolGrows: the pool has threads for others whatever hangs, and not too many: what waits beyond
// waits without one.
func TestPoolGrows(t *testing.T) {
	w := newWatched(t, newFrozenFS(2, 3))
	w.want("the first", w.getattr(2000), hangs)
	w.want("the first", w.getattr(3000), hangs)
	for i := range 400 {
		w.want("the others", w.getattr(2000+uint64(i/2)), pends)
	}
	p := &w.s.pool
	state := func() (threads, stuck, parked int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.threads, p.stuck, len(p.parked)
	}
	w.until("the pool to be full of stuck threads", func() bool { _, stuck, _ := state(); return stuck >= maxStuckOn })
	// Threads that are stuck on one file system leave room for another that hangs, and for
	// one that only takes its time.
	for i := range 100 {
		w.want("the other file system", w.getattr(3000+uint64(i)), pends)
	}
	w.until("it has a thread", func() bool { return p.on(3<<2) > 0 })
	for range 3 * quietLooks {
		w.s.watch.look()
		time.Sleep(time.Millisecond)
	}
	threads, stuck, parked := state()
	if threads > maxStuck+2*p.max || stuck > maxStuck+p.max || parked == 0 {
		t.Errorf("%d threads, of them %d stuck, and %d requests without one", threads, stuck, parked)
	}
	wait, _ := newPool(w) // a third file system of the host
	wait()
	w.end()
}

func (p *pool) on(key uint64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stuckOn[key]
}

// newPool submits a request of a file system where nothing hangs, and returns how to wait for it.
func newPool(w *watched) (wait func(), d *pending) {
	t := newThread(w.s)
	t.session = w.s.session.Load()
	t.request.Header = fp.InHeader{Opcode: uint32(fp.OpGetattr), NodeID: 4000, Unique: 1 << 40}
	t.args = fp.Bytes(&fp.GetattrIn{})
	d = newPending(t, &ops[fp.OpGetattr], false)
	done := make(chan fuse.Reply, 1)
	d.Start(func(r fuse.Reply) { done <- r })
	return func() {
		select {
		case <-done:
			d.Free()
		case <-time.After(60 * time.Second):
			w.t.Fatal("a request of a healthy file system gets no thread")
		}
	}, d
}

// TestNoMemoryToWait: where others hang, a request that can't be kept is refused. Its queue's thread
// must not wait for it.
func TestNoMemoryToWait(t *testing.T) {
	w := newWatched(t, newFrozenFS(2))
	w.want("the first", w.getattr(2000), hangs)
	w.s.waiting.mu.Lock()
	w.s.waiting.held = maxHeld
	w.s.waiting.mu.Unlock()
	w.want("without memory", w.getattr(2000), refused)
	if r := <-w.got; r.Errno != unix.ENOMEM {
		t.Error(r.Errno)
	}
	w.sent--
	w.s.waiting.mu.Lock()
	w.s.waiting.held = 0
	w.s.waiting.mu.Unlock()
	w.end()
}

// TestMaxLost: threads of queues are not lost without end.
func TestMaxLost(t *testing.T) {
	fs := newFrozenFS()
	for i := range uint64(maxLost + 1) {
		fs.frozen[i+1] = true
	}
	w := newWatched(t, fs)
	for i := range uint64(maxLost) {
		w.want("a file system more", w.getattr(1000*(i+1)), hangs)
	}
	result := make(chan outcome, 1)
	go func() { result <- w.getattr(1000 * (maxLost + 1)) }()
	w.until("all hang", func() bool { return fs.hung.Load() == maxLost+1 })
	for range 10 {
		w.s.watch.look()
	}
	if n := w.lost.Load(); n != maxLost {
		t.Errorf("%d threads are lost, want %d", n, maxLost)
	}
	fs.melt()
	if o := <-result; o != atOnce {
		t.Errorf("outcome %d", o)
	}
	w.end()
}

// seconds looks as often as the watch does in this time.
func (w *watched) seconds(n int) {
	for range n * int(time.Second/lookEvery) {
		time.Sleep(100 * time.Microsecond) // see setTurn
		w.s.watch.look()
	}
}

func (w *watched) lines(pattern string) int {
	return len(regexp.MustCompile(pattern).FindAllString(w.log.String(), -1))
}

// TestHangLines: a request that hangs is named after 5, 10, 20, ... seconds, and when it has ended.
func TestHangLines(t *testing.T) {
	w := newWatched(t, newFrozenFS(1, 2))
	mkdir := append(fp.Bytes(&fp.MkdirIn{}), "a\"b\x00"...)
	w.want("the first", w.send(fp.OpMkdir, 2000, mkdir), hangs)
	w.want("where no path is known", w.getattr(1001), hangs)
	w.want("where no path is known", w.send(fp.OpMkdir, 1001, mkdir), hangs)
	w.seconds(3)
	if s := w.log.String(); s != "" {
		t.Errorf("too early: %s", s)
	}
	const line = `A request hangs: MKDIR of \\"dir/2000/a\\\\\\"b\\", under way for [0-9]+s, thread [0-9]+ sleeps"`
	for _, want := range []int{1, 2, 3, 4} { // 5, 10, 20 and 40 s, and a few looks of the timer
		w.until(fmt.Sprint(want, " lines"), func() bool { return w.lines(line) == want })
	}
	for _, other := range []string{`GETATTR of node 1001, under`, `MKDIR of node 1001, name \\"a`} {
		if w.lines(other) == 0 {
			t.Errorf("%s: not in\n%s", other, w.log.String())
		}
	}
	if n := w.lines(line); n > 4 {
		t.Errorf("%d lines", n)
	}
	w.end()
	w.until("the end is told", func() bool {
		return w.lines(`level=INFO msg="A request that hung has ended after [0-9]+s: MKDIR of \\"dir/2000`) == 1
	})
}

// TestManyHang: hundreds of requests that hang do not fill the log.
func TestManyHang(t *testing.T) {
	w := newWatched(t, newFrozenFS(2))
	for i := range 300 {
		w.getattr(2000 + uint64(i))
	}
	w.seconds(7) // so that those without a thread are due too
	w.until("lines", func() bool { return w.lines(`A request hangs: [0-9]+ more`) > 0 })
	if n := w.lines("A request hangs: GETATTR"); n == 0 || n > 4*mostLines {
		t.Errorf("%d lines in\n%s", n, w.log.String())
	}
	w.end()
	w.until("the ends are told", func() bool { return w.lines("requests that hung have ended") > 0 })
	if n := w.lines("has ended after"); n > 30*mostLines {
		t.Errorf("%d lines", n)
	}
}

// TestLogRequests: all that is under way is named: what hangs, what has no thread and what waits for
// a lock.
func TestLogRequests(t *testing.T) {
	w := newWatched(t, newFrozenFS(2))
	w.getattr(2000)
	for range 100 {
		w.getattr(2000)
	}
	w.until("requests without a thread", func() bool {
		w.s.pool.mu.Lock()
		defer w.s.pool.mu.Unlock()
		return len(w.s.pool.parked) > 0
	})
	w.s.LogRequests()
	for pattern, want := range map[string]int{
		`101 requests are under way`: 1, `Under way: GETATTR of \\"dir/2000\\", under way for `: 101, `waits for a thread`: 1,
	} {
		if n := w.lines(pattern); n < want {
			t.Errorf("%d times %s in\n%s", n, pattern, w.log.String())
		}
	}
	w.end()
	w.s.LogRequests()
	if w.lines(`level=INFO msg="0 requests are under way"`) != 1 {
		t.Error("requests are under way when all have ended")
	}
}

// TestWatchSleeps: nobody looks while nothing happens, and somebody does when it does again.
func TestWatchSleeps(t *testing.T) {
	w := newWatched(t, newFrozenFS(2))
	for range 2 {
		w.want("a request", w.getattr(1000), atOnce)
		<-w.got
		for end := time.Now().Add(60 * time.Second); !w.s.watch.asleep.Load(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the watch does not sleep")
			}
		}
	}
	time.Sleep(2 * lookEvery) // the last look
	looks := w.s.watch.count.Load()
	time.Sleep(3 * lookEvery)
	if n := w.s.watch.count.Load(); n != looks {
		t.Errorf("%d looks of a watch that sleeps", n-looks)
	}
	w.sent = 0
	w.want("a request that hangs", w.getattr(2000), hangs)
	w.end()
}
