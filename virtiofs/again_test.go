package virtiofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

func newLedger(t testing.TB) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// counter is a fuse.Handler without a session: it adds what a WRITE says to a number, and answers
// with its new value. The numbers outlive the process, as files do. The evidence of a WRITE is the
// number before it.
//
// FSYNC waits until it may go on; SETLKW waits like that for another client. FORGET has no reply.
type counter struct {
	fuse.Handler
	mu      sync.Mutex
	sum     uint64
	ran     map[uint64]int // how often each unique number changed the sum
	handled atomic.Int64
	goOn    chan struct{}
	over    chan struct{} // of the life that begins
	waits   atomic.Int64
	poison  func(m *fuse.Message) // called with each request, if not nil
}

func newCounter() *counter { return &counter{ran: map[uint64]int{}, goOn: make(chan struct{})} }

// counterThread is of one life.
type counterThread struct {
	*counter
	over chan struct{} // closed when the life is over
}

func (c *counter) StartThread(fuse.Hooks) (fuse.Thread, error) {
	return counterThread{c, c.over}, nil
}
func (t counterThread) Broken() bool { return false }
func (t counterThread) Stop()        {}

func (t counterThread) Try(fuse.Pending) (fuse.Reply, bool) { return fuse.Reply{}, false }
func (t counterThread) Run(p fuse.Pending) fuse.Reply       { return p.(*counterWait).answer() }

func (t counterThread) Refuse(m *fuse.Message, errno unix.Errno) fuse.Reply {
	return answer(m.Header, m.Out, -int32(errno), 0)
}

func (t counterThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	t.handled.Add(1)
	if t.poison != nil {
		t.poison(m)
	}
	switch fp.Opcode(m.Header.Opcode) {
	case fp.OpFsync, fp.OpSetlkw:
		t.waits.Add(1)
		p := &counterWait{t.counter, t.over, *m}
		p.m.Out = slices.Clone(m.Out)
		return fuse.Reply{}, p
	case fp.OpForget:
		t.write(m)
		return fuse.Reply{}, nil
	}
	return answer(m.Header, m.Out, 0, t.write(m)), nil
}

func (c *counter) write(m *fuse.Message) uint64 {
	var b [8]byte
	m.In.CopyTo(b[:], uint64(fp.Size[fp.InHeader]()))
	add := binary.NativeEndian.Uint64(b[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.sum
	if _, e, ok := m.Cell.Intent(); ok && c.sum != e[0] { // it has happened: nobody else writes meanwhile
		return c.sum
	}
	m.Cell.Intend(1, fuse.Evidence{before})
	c.sum += add
	c.ran[m.Header.Unique]++
	return c.sum
}

func answer(h fp.InHeader, out fuse.Buffers, err int32, v uint64) fuse.Reply {
	if out.Len() < 24 {
		return fuse.Reply{}
	}
	b := fp.Bytes(&fp.OutHeader{Len: 24, Error: err, Unique: h.Unique})
	n := out.CopyFrom(b, 0)
	var body [8]byte
	binary.NativeEndian.PutUint64(body[:], v)
	return fuse.Reply{Len: uint32(n + out.CopyFrom(body[:], 16))}
}

// counterWait is a request that waits for counter.goOn.
type counterWait struct {
	c    *counter
	over chan struct{}
	m    fuse.Message
}

func (p *counterWait) answer() fuse.Reply {
	select {
	case <-p.over: // what a dead thread would do next never happens
		select {}
	case <-p.c.goOn:
	}
	return answer(p.m.Header, p.m.Out, 0, 77)
}
func (p *counterWait) Start(done func(fuse.Reply)) { go func() { done(p.answer()) }() }
func (p *counterWait) Stop()                       {}
func (p *counterWait) Brief() bool                 { return false }
func (p *counterWait) Lingers() bool               { return fp.Opcode(p.m.Header.Opcode) == fp.OpSetlkw }
func (p *counterWait) ReplyTo(out fuse.Buffers)    { p.m.Out = out }
func (p *counterWait) Out() fuse.Buffers           { return p.m.Out }
func (p *counterWait) Free()                       {}

// lives is a ring that is served by one worker after the other; each dies where a test says.
type lives struct {
	*ring
	t      *testing.T
	h      *counter
	ledger *ledger.Ledger
	w      *worker
	serves chan struct{} // closed when the last one has taken over
	log    bytes.Buffer
	sums   map[uint64]bool // replies so far
	adds   uint64
	sent   map[int]fp.Opcode // by slot
}

func newLives(t *testing.T, base uint16) *lives {
	x := &lives{t: t, ring: newRing(t), h: newCounter(), ledger: newLedger(t), sums: map[uint64]bool{}, sent: map[int]fp.Opcode{}}
	if base != 0 {
		x.SetAvailIdx(base)
		x.SetUsedIdx(base)
	}
	x.next(base, nil, nil)
	return x
}

// next starts a worker, which goes on where the one before has died. die is called where it might die.
func (x *lives) next(base uint16, edit func(*takeover), die func(at faultPoint) bool) {
	x.t.Helper()
	if x.h.over != nil {
		close(x.h.over)
	}
	x.h.over = make(chan struct{})
	cfg := x.Config()
	cfg.Base = base
	var err error
	if x.queue, err = virtqueue.New(&x.Space, cfg); err != nil {
		x.t.Fatal(err)
	}
	noted, err := x.ledger.Queue(0, ringSize)
	if err != nil {
		x.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&x.log, nil))
	w, err := newWorker(x.h, nil, x.vring(), BusyPoll{Max: NoPoll}, log)
	if err != nil {
		x.t.Fatal(err)
	}
	if die != nil {
		w.cells.interrupt = func(_ int, at faultPoint) {
			if die(at) {
				select {} // what the thread would do next never happens
			}
		}
	}
	w.cells.note(noted, &w.clock)
	serves := make(chan struct{})
	x.serves = serves
	if noted.Start() == 0 {
		noted.Begin(1, base)
		close(serves)
	} else {
		w.queue.SetBase(noted.Resume())
		over := newTakeover(false, false, func() { close(serves) }, log)
		if edit != nil {
			edit(over)
		}
		w.goOn(over)
		over.sorted()
	}
	if err := w.start(true); err != nil {
		x.t.Fatal(err)
	}
	x.w = w
}

// write offers an addition in a slot.
func (x *lives) write(slot int, op fp.Opcode, add uint64) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], add)
	room := 8
	x.sent[slot] = op
	x.adds += add
	x.send(slot, op, 1, b[:], room)
	if op == fp.OpForget { // no room for a reply
		x.Set(2*slot, vqtest.Desc{Addr: x.Guest(slotAt(x.ring, slot)), Len: uint32(fp.Size[fp.InHeader]() + 8)})
	}
}

// desc is a slot's room for a reply, in a chain that goes on at next.
func (x *lives) desc(slot int, next uint16) vqtest.Desc {
	return vqtest.Desc{Addr: x.Guest(slotAt(x.ring, slot) + requestAt), Len: 24, Flags: vqtest.Next, Next: next}
}

// take waits for one reply and checks that it was not there before.
func (x *lives) take(want unix.Errno) (slot int) {
	x.t.Helper()
	slot = x.wait()
	op, ok := x.sent[slot]
	if !ok {
		x.t.Fatalf("slot %d is answered twice", slot)
	}
	delete(x.sent, slot)
	if op == fp.OpForget {
		return slot
	}
	errno, b := x.reply(slot)
	if errno != want || errno == 0 && len(b) != 8 {
		x.t.Fatalf("slot %d: %v, %d bytes; want %v", slot, errno, len(b), want)
	}
	if errno == 0 && op == fp.OpWrite {
		if sum := binary.NativeEndian.Uint64(b); x.sums[sum] {
			x.t.Errorf("two replies have the sum %d", sum)
		} else {
			x.sums[sum] = true
		}
	}
	return slot
}

// done checks that each request was carried out once, and nothing is left of it.
func (x *lives) done() {
	x.t.Helper()
	within(x.t, "stop", x.w.stop)
	if x.Pending() != 0 || len(x.sent) != 0 {
		x.t.Errorf("%d entries are left, %d requests without an answer", x.Pending(), len(x.sent))
	}
	if x.h.sum != x.adds {
		x.t.Errorf("the sum is %d, want %d", x.h.sum, x.adds)
	}
	for unique, n := range x.h.ran {
		if n != 1 {
			x.t.Errorf("request %d was carried out %d times", unique, n)
		}
	}
	noted, err := x.ledger.Queue(0, ringSize)
	if err != nil {
		x.t.Fatal(err)
	}
	for head, c := range noted.Unfinished {
		x.t.Errorf("head %d has a cell in phase %d", head, c.Phase())
	}
}

// TestDieEverywhere: a worker that dies anywhere on the way of any request of a batch has a
// successor that answers each request once, also if that dies while it takes over, and also
// where the indexes of the ring go round.
func TestDieEverywhere(t *testing.T) {
	const batch = 15 // more than are published at once
	for at := range faultPoints {
		for nth := range batch {
			t.Run(fmt.Sprintf("%d/%d", at, nth), func(t *testing.T) {
				x := newLives(t, 0xfff0)
				within(t, "stop", x.w.stop) // it has served nothing
				for slot := range batch {
					op := fp.OpWrite
					if slot%5 == 2 {
						op = fp.OpForget
					}
					x.write(slot, op, uint64(1+slot))
				}
				once := func() (func(faultPoint) bool, chan struct{}) {
					died, n := make(chan struct{}), 0
					return func(p faultPoint) bool {
						if p == at {
							if n++; n == nth+1 || p >= faultPublished {
								close(died)
								return true
							}
						}
						return false
					}, died
				}
				for range 3 {
					die, died := once()
					x.next(0, killed, die)
					x.diesOrStops(died)
				}
				x.next(0, killed, nil)
				for range batch {
					x.take(0)
				}
				x.done()
			})
		}
	}
}

// killed says that the deaths come from outside.
func killed(t *takeover) { t.most = fuse.MostKilled }

// diesOrStops returns when the worker has died, or has answered all that was sent and was stopped.
func (x *lives) diesOrStops(died chan struct{}) {
	x.t.Helper()
	for end := time.Now().Add(30 * time.Second); x.Pending() < len(x.sent); time.Sleep(50 * time.Microsecond) {
		select {
		case <-died:
			return
		default:
		}
		if time.Now().After(end) {
			x.t.Fatalf("%d of %d are answered", x.Pending(), len(x.sent))
		}
	}
	stopped := make(chan struct{})
	w := x.w
	go func() { w.stop(); close(stopped) }()
	select {
	case <-died: // at one of the last points
	case <-stopped:
	case <-time.After(30 * time.Second):
		x.t.Fatal("it does not stop")
	}
}
