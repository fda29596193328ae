package stream

import (
	"bytes"
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// remains are what processes leave to each other.
type remains struct {
	ledger *ledger.Ledger
	memory int
}

// newRemains makes empty ones. They stay until the end of the tests: requests that wait may still write there after
// their server has ended, as in a daemon, which never lets go of them.
func newRemains(t testing.TB) *remains {
	t.Helper()
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	return &remains{l, fd}
}

// process is a server of a process that can die: all that it leaves is in its remains.
type process struct {
	t       *testing.T
	server  *Server
	resumed bool
	path    string
	cancel  context.CancelFunc
	ended   chan struct{}
}

func (r *remains) start(t *testing.T, h fuse.Handler, o Recovery) *process {
	t.Helper()
	o.Ledger, o.Memory = r.ledger, r.memory
	s, err := New(h, Options{Recovery: &o, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, server: s, path: filepath.Join(t.TempDir(), "s"), ended: make(chan struct{})}
	if p.resumed, err = s.Resume(); err != nil {
		t.Fatal(err)
	}
	l := listenUnix(t, p.path)
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	go func() {
		_ = s.Serve(ctx, l)
		close(p.ended)
	}()
	t.Cleanup(func() { p.cancel(); <-p.ended })
	return p
}

// die ends the process without a trace: what it notes from now on is nowhere.
func (p *process) die() {
	s := p.server
	s.mu.Lock()
	n := s.session
	s.session, s.closed = nil, true
	s.mu.Unlock()
	for _, c := range n.channels {
		c.mu.Lock()
		c.closed = true
		c.out.reset()
		ended := c.ended
		c.mu.Unlock()
		<-ended
		c.out.mu.Lock()
		c.out.closed = true // goroutines that still run note nothing
		c.out.mu.Unlock()
	}
	p.cancel()
	<-p.ended
}

// counter answers each request with how often it has come. Those with odd numbers wait until they are let go.
type counter struct {
	recorder
	wait chan struct{}
}

func (h *counter) StartThread(fuse.Hooks) (fuse.Thread, error) { return &counterThread{h: h}, nil }

type counterThread struct {
	fuse.Thread
	h *counter
}

func (*counterThread) Stop()        {}
func (*counterThread) Broken() bool { return false }

func (t *counterThread) Refuse(m *fuse.Message, errno unix.Errno) fuse.Reply {
	h := fp.OutHeader{Len: uint32(outHeaderSize), Error: -int32(errno), Unique: m.Header.Unique}
	m.Out.CopyFrom(fp.Bytes(&h), 0)
	return fuse.Reply{Len: uint32(outHeaderSize)}
}

func (t *counterThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	t.h.mu.Lock()
	t.h.times[m.Header.Unique]++
	t.h.mu.Unlock()
	if m.Header.Unique%2 == 1 {
		return fuse.Reply{}, &heldPending{recorderPending{h: m.Header, in: m.In.Cut(nil, 0, 1<<20), out: m.Out.Cut(nil, 0, 1<<20)}, t.h.wait}
	}
	return respond(m.Header, m.In, m.Out), nil
}

type heldPending struct {
	recorderPending
	wait chan struct{}
}

func (p *heldPending) Start(done func(fuse.Reply)) {
	go func() {
		<-p.wait
		done(respond(p.recorderPending.h, p.in, p.out))
	}()
}

// TestDeath: a process dies with replies that the guest does not have, and with requests that wait. Its successor
// sends the former again and does them not, and does the latter once more, without the guest sending them.
func TestDeath(t *testing.T) {
	r := newRemains(t)
	first := &counter{recorder: *newRecorder(), wait: make(chan struct{})}
	p := r.start(t, first, Recovery{})
	if p.resumed {
		t.Fatal("there was nothing")
	}
	g := dialGuest(t, p.path)
	h := hello{Channel: 1, Session: id{7}}
	m, err := g.greet(h, "", "")
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte{5}, 3000)
	for unique := uint64(2); unique < 12; unique++ { // 2, 4, ... are answered, 3, 5, ... wait
		if _, err := g.Write(message(fp.OpSetxattr, unique, body)); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint64
	for range 5 {
		b, err := g.receive()
		if err != nil {
			t.Fatal(err)
		}
		o, _, _ := fp.View[fp.OutHeader](b)
		got = append(got, o.Unique)
	}
	p.die()

	second := &counter{recorder: *newRecorder(), wait: make(chan struct{})}
	close(second.wait)
	p = r.start(t, second, Recovery{Killed: true})
	if !p.resumed {
		t.Fatal("the session is lost")
	}
	g = dialGuest(t, p.path)
	h.Mode, h.Ticket, h.At = modeResume, m.Ticket, position{Sent: 10, Received: 3} // it has three replies
	m, err = g.greet(h, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if m.At != (position{First: 0, Sent: m.At.Sent, Received: 10}) {
		t.Errorf("the successor is at %+v", m.At)
	}
	seen := map[uint64]int{got[0]: 1, got[1]: 1, got[2]: 1}
	for len(seen) < 10 {
		b, err := g.receive()
		if err != nil {
			t.Fatalf("%v: %v, at %+v", err, seen, m.At)
		}
		o, _, _ := fp.View[fp.OutHeader](b)
		seen[o.Unique]++
	}
	for unique := uint64(2); unique < 12; unique++ {
		second.mu.Lock()
		if again := second.times[unique]; seen[unique] != 1 || again != int(unique%2) {
			t.Errorf("request %d: %d replies, done %d times by the successor", unique, seen[unique], again)
		}
		second.mu.Unlock()
	}
}

// TestPoison: a request of which process after process dies is answered EIO in the end, and others are served.
func TestPoison(t *testing.T) {
	r := newRemains(t)
	p := r.start(t, &counter{recorder: *newRecorder(), wait: make(chan struct{})}, Recovery{})
	g := dialGuest(t, p.path)
	h := hello{Channel: 1, Session: id{7}}
	m, err := g.greet(h, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Write(message(fp.OpGetattr, 3, make([]byte, 16))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request", func() bool { return p.server.session.channels[1].out.count() == 1 })
	handlers := []*counter{}
	for range fuse.MostDied {
		p.die()
		c := &counter{recorder: *newRecorder(), wait: make(chan struct{})}
		handlers = append(handlers, c)
		p = r.start(t, c, Recovery{})
	}
	g = dialGuest(t, p.path)
	h.Mode, h.Ticket, h.At = modeResume, m.Ticket, position{Sent: 1}
	if _, err = g.greet(h, "", ""); err != nil {
		t.Fatal(err)
	}
	b, err := g.receive()
	if err != nil {
		t.Fatal(err)
	}
	if o, _, _ := fp.View[fp.OutHeader](b); o.Unique != 3 || o.Error != -int32(unix.EIO) {
		t.Errorf("%+v", o)
	}
	for i, c := range handlers {
		c.mu.Lock()
		if want := i < fuse.MostDied-1; (c.times[3] == 1) != want {
			t.Errorf("process %d has served it %d times", i+2, c.times[3])
		}
		c.mu.Unlock()
	}
}

// TestForgedRemains: what an attacker in the process before may have left is refused, or a session like another. It
// ends nothing, and is bounded.
func TestForgedRemains(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		r := newRemains(t)
		s, err := New(newRecorder(), Options{Recovery: &Recovery{Ledger: r.ledger, Memory: r.memory}, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		forge(t, s, random)
		h := &counter{recorder: *newRecorder(), wait: make(chan struct{})}
		close(h.wait)
		second, err := New(h, Options{Recovery: &Recovery{Ledger: r.ledger, Memory: r.memory, Fail: random.IntN(2) == 0}, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		resumed, err := second.Resume()
		if resumed && err != nil {
			t.Error(err)
		}
		second.mu.Lock()
		n := second.session // nil if it could not go on
		second.mu.Unlock()
		if n != nil {
			for _, c := range n.channels {
				<-c.ended
			}
			n.underWay.Wait()
			for _, c := range n.channels {
				if len(c.out.frames) > cellsOfChannel || c.used > c.window+cellsOfChannel*maxMessage {
					t.Errorf("%d replies, %d bytes", len(c.out.frames), c.used)
				}
			}
		}
		second.close()
	}
}

// forge writes a record of a session, and cells that are not quite right.
func forge(t *testing.T, s *Server, random *rand.Rand) {
	t.Helper()
	forgeSession(t, s, random.IntN(maxChannels+2))
	j := s.journal
	some := func() uint64 { return []uint64{0, 1, 2, 3, 1 << 31, 1<<64 - 1}[random.IntN(6)] }
	for _, c := range j.channels {
		c.record.first, c.record.received = some()%4, some()
		for range random.IntN(4) {
			sl := &c.slots[random.IntN(cellsOfChannel)]
			*sl.record = cellRecord{session: 1, cost: uint32(some()), waits: uint32(some())}
			if random.IntN(2) == 0 {
				sl.record.waits = 40 + uint32(random.IntN(100))
			}
			m := message(fp.OpGetattr, 2, make([]byte, 16))
			if kept, err := sl.buffer(1, len(m)); err == nil {
				copy(kept, m)
			}
			sl.cell.Take(header(m), some(), 0, 0)
			if random.IntN(2) == 0 {
				sl.cell.Done(uint32([]uint64{0, 16, 100, 1 << 20, 1<<32 - 1}[random.IntN(5)]), uint16(some()))
			}
		}
	}
}

// forgeSession writes a record of a session.
func forgeSession(t *testing.T, s *Server, channels int) {
	t.Helper()
	var b bytes.Buffer
	w := record.NewWriter(&b)
	w.Uint(noteVersion, 1, uint64(s.opts.MaxWrite), uint64(channels))
	w.Bytes(make([]byte, 16))
	w.Bytes(nil)
	for range channels {
		w.Bytes(make([]byte, 16))
		w.Bytes(make([]byte, 16))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.journal.area.Store(b.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// TestForgedCost: a request that waits and has no reply does not take off the count what it never was counted with.
func TestForgedCost(t *testing.T) {
	r := newRemains(t)
	first, err := New(newRecorder(), Options{Recovery: &Recovery{Ledger: r.ledger, Memory: r.memory}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	forgeSession(t, first, 2)
	m := message(fp.OpForget, 2, make([]byte, 16))
	sl := &first.journal.channels[0].slots[0]
	kept, err := sl.buffer(1, len(m))
	if err != nil {
		t.Fatal(err)
	}
	copy(kept, m)
	*sl.record = cellRecord{session: 1, cost: 1 << 31, waits: uint32(len(m))}
	sl.cell.Take(header(m), 1, 0, 0)
	h := &counter{recorder: *newRecorder(), wait: make(chan struct{})}
	second, err := New(h, Options{Recovery: &Recovery{Ledger: r.ledger, Memory: r.memory}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	if resumed, err := second.Resume(); !resumed || err != nil {
		t.Fatal(resumed, err)
	}
	c := second.session.channels[0]
	if <-c.ended; h.times[2] != 1 || c.used != 0 {
		t.Errorf("served %d times, and %d bytes are under way", h.times[2], c.used)
	}
}

// TestWrongMemory: memory that could be taken away is not used.
func TestWrongMemory(t *testing.T) {
	r := newRemains(t)
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Ftruncate(fd, memorySize(maxMaxWrite))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := New(newRecorder(), Options{Recovery: &Recovery{Ledger: r.ledger, Memory: fd}, Log: quiet()}); err == nil {
		t.Error("a file that can be cut is taken")
	}
}
