package virtiofs

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// apartFor is how long a queue takes no new requests while one is served apart. It may be a long one.
const apartFor = 2 * time.Second

// loggedBytes is how much of a request that is given up is logged.
const loggedBytes = 4 << 10

// takeover is what the workers of a device share while they go on with what another process has
// left.
type takeover struct {
	fail   bool   // all requests under way are answered EIO
	most   int    // deaths after which a request is given up
	served func() // called when all that was finished by the other process is in the used rings
	log    *slog.Logger
	often  rate.Sometimes // for requests that are given up
	bytes  rate.Sometimes // for the bytes of those of which processes die

	unsorted atomic.Int32 // workers that have not looked at what was left
	once     sync.Once    // for served
	mu       sync.Mutex   // guards the following; a leaf
	apart    *worker      // which serves a request apart from others; nil is none
	queueing []*worker    // for that
}

// newTakeover is for a device none of whose queues has started yet. queues are counted with add,
// and the caller calls sorted when it has started the last.
func newTakeover(fail, killed bool, served func(), log *slog.Logger) *takeover {
	t := &takeover{fail: fail, most: fuse.MostDeaths(killed), served: served, log: log}
	t.often.First, t.often.Interval = 10, time.Second
	t.bytes.First, t.bytes.Interval = 10, time.Second
	t.unsorted.Store(1)
	return t
}

// add counts a worker that is to look at what was left.
func (t *takeover) add() { t.unsorted.Add(1) }

// sorted says that one worker more has looked at what was left.
func (t *takeover) sorted() {
	if t.unsorted.Add(-1) == 0 {
		t.once.Do(t.served)
	}
}

// begin reports whether w may serve a request apart. If not, w is woken to ask again.
func (t *takeover) begin(w *worker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.apart != nil && t.apart != w {
		if !slices.Contains(t.queueing, w) {
			t.queueing = append(t.queueing, w)
		}
		return false
	}
	t.apart = w
	t.dequeue(w)
	return true
}

// dequeue says that w does not want to serve a request apart. mu is held.
func (t *takeover) dequeue(w *worker) {
	t.queueing = slices.DeleteFunc(t.queueing, func(q *worker) bool { return q == w })
}

// end lets another worker serve a request apart. w does not ask for it any more, unless with begin.
func (t *takeover) end(w *worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dequeue(w)
	if t.apart != w {
		return
	}
	t.apart = nil
	for _, q := range t.queueing {
		q.waker.wake() // it does not end while it is in the list
	}
}

// again is what is left for a worker to take over. It belongs to the worker's goroutine.
type again struct {
	*takeover
	listed   bool          // open is what there is
	told     bool          // the takeover was told that it is, or that it can't be
	open     []*unfinished // to be served, in the order in which they were taken
	suspects []*unfinished // to be served apart from others
	apartNow bool          // a suspect is in Handle
	current  *waiting      // a suspect that waits; nil is none
	until    time.Time     // when other requests are served in between
}

// unfinished is a request of another process whose reply the guest does not see.
type unfinished struct {
	head uint16
	cell *fuse.Cell
}

// goOn has a new worker begin with what is left of its ring.
func (w *worker) goOn(t *takeover) {
	t.add()
	w.again = &again{takeover: t}
}

// cantSort has others not wait for this worker to look at what was left. It may never come to that.
func (a *again) cantSort() {
	if a != nil && !a.told {
		a.told = true
		a.takeover.sorted()
	}
}

// abandon forgets what is left: the ring is not usable.
func (w *worker) abandon() {
	if a := w.again; a != nil {
		a.cantSort()
		a.end(w)
		w.again = nil
	}
}

// canGoOn reports whether takeOver has something to do.
func (a *again) canGoOn(s *shift) bool {
	switch {
	case s.thread.Broken() || a.current != nil:
		return false
	case len(a.open) > 0 || len(a.suspects) == 0:
		return true
	}
	return a.begin(s.worker)
}

// fit reports whether this thread can serve more of what is left, also if the queue is to be stopped.
func (s *shift) fit() bool { return s.late == nil && !s.thread.Broken() }

// takeOver continues the requests that are left, as long as the thread is fit. When none is
// left, w.again becomes nil.
func (w *worker) takeOver(s *shift) error {
	a := w.again
	if !a.listed {
		if err := w.sortOut(s); err != nil {
			return err
		}
	}
	for s.fit() && len(a.open) > 0 {
		w.reap()
		u := a.open[0]
		a.open = a.open[1:]
		if err := w.serveAgain(s, u); err != nil {
			return err
		}
	}
	for s.fit() && len(a.suspects) > 0 && a.current == nil && a.begin(w) {
		w.reap()
		w.flush()
		u := a.suspects[0]
		a.suspects = a.suspects[1:]
		if err := w.serveApart(s, u); err != nil {
			return err
		}
	}
	if s.late == nil && len(a.open) == 0 && len(a.suspects) == 0 && a.current == nil {
		w.again = nil
	}
	return nil
}

// sortOut publishes what the other process has finished, calls the driver, which may have missed
// the last call, and lists what is to be served.
func (w *worker) sortOut(s *shift) error {
	a := w.again
	visible := w.queue.NextUsed()
	var done []*unfinished
	for head, cell := range w.cells.ring.Unfinished {
		u := &unfinished{head, cell}
		_, used := cell.Reply()
		switch {
		case cell.Phase() != fuse.PhaseDone:
			a.open = append(a.open, u)
		case int16(used-visible) < 0:
			cell.Free()
		default:
			done = append(done, u)
		}
	}
	// Those that may have changed something come first: others may wait for them.
	slices.SortFunc(a.open, func(x, y *unfinished) int {
		return cmp.Or(cmp.Compare(y.cell.Phase(), x.cell.Phase()), cmp.Compare(x.cell.Order(), y.cell.Order()))
	})
	// Each gets the index that its cell has: another death may follow between two of them.
	slices.SortFunc(done, func(x, y *unfinished) int { return cmp.Compare(x.index()-visible, y.index()-visible) })
	for _, u := range done {
		written, _ := u.cell.Reply()
		if err := w.retake(s, u); err != nil {
			if !errors.Is(err, virtqueue.ErrBadChain) {
				return err
			}
			written = 0
		}
		w.push(&s.chain, u.cell, uint32(min(uint64(written), s.chain.WritableLen())))
	}
	w.flush()
	w.vring.Call.Notify()
	a.listed = true
	a.cantSort()
	return nil
}

// index is the one in the used ring.
func (u *unfinished) index() uint16 {
	_, used := u.cell.Reply()
	return used
}

// retake takes the chain of a request again.
func (w *worker) retake(s *shift, u *unfinished) error {
	err := w.queue.Retake(&s.chain, u.head)
	s.message.Set(s.chain.Readable(), s.chain.Writable())
	s.message.Cell = u.cell
	return err
}

// serveAgain serves a request again, or puts it off because it is suspect.
func (w *worker) serveAgain(s *shift, u *unfinished) error {
	a := w.again
	deaths := u.cell.Tries() + 1
	if deaths >= fuse.ApartAfter && deaths < a.most && !a.fail {
		a.suspects = append(a.suspects, u)
		return nil
	}
	err := w.retake(s, u)
	if err != nil && !errors.Is(err, virtqueue.ErrBadChain) {
		return err
	}
	u.cell.TakeAgain(u.cell.Avail())
	switch {
	case err != nil:
		w.giveUp(s, fmt.Errorf("the guest has changed it: %w", err))
	case !u.cell.Same(&s.message.Header):
		w.giveUp(s, errors.New("the guest has changed it"))
	case a.fail:
		w.giveUp(s, errors.New("going on with what was under way has failed"))
	case deaths >= a.most:
		w.logPoison(s, deaths)
		w.giveUp(s, errors.New("it seems to end the process"))
	default:
		w.handle(s)
	}
	return nil
}

// serveApart serves a suspect request. The worker has the turn for that.
func (w *worker) serveApart(s *shift, u *unfinished) error {
	a := w.again
	err := w.retake(s, u)
	if err != nil && !errors.Is(err, virtqueue.ErrBadChain) {
		return err
	}
	u.cell.TakeAgain(u.cell.Avail())
	if err != nil || !u.cell.Same(&s.message.Header) {
		w.giveUp(s, errors.New("the guest has changed it"))
		a.end(w)
		return nil
	}
	a.apartNow = true
	p := w.handle(s)
	if s.late != nil {
		return nil // see relieved
	}
	a.apartNow = false
	if p == nil || p.lingers > 0 {
		a.end(w)
		return nil
	}
	a.waits(p)
	return nil
}

// waits says that the request which is served apart waits.
func (a *again) waits(p *waiting) {
	a.current, a.until = p, time.Now().Add(apartFor)
}

// relieved says that another thread takes the queue over, and this one keeps the request that it
// serves.
func (a *again) relieved(p *waiting) {
	if a != nil && a.apartNow {
		a.apartNow = false
		a.waits(p)
	}
}

// finished is called when a request that has waited is ready to be given back.
func (a *again) finished(w *worker, p *waiting) {
	if a != nil && a.current == p {
		a.current = nil
		a.end(w)
	}
}

// holds reports whether the worker takes no new requests, for the sake of one that is served apart.
func (w *worker) holds() bool {
	return w.again != nil && w.again.current != nil && time.Now().Before(w.again.until)
}

// timeout is how long the worker may sleep at most, in milliseconds, or -1.
func (w *worker) timeout() int {
	if !w.holds() {
		return -1
	}
	return int(time.Until(w.again.until)/time.Millisecond) + 1
}

// giveUp answers EIO to a request that was under way.
func (w *worker) giveUp(s *shift, why error) {
	w.again.often.Do(func() {
		w.log.Warn(fmt.Sprintf("%s %d is answered EIO", s.message.Cell.Opcode(), s.message.Cell.Unique()), "error", why)
	})
	reply := s.thread.Refuse(&s.message, unix.EIO)
	w.push(&s.chain, s.message.Cell, reply.Len)
}

// logPoison logs a request of which processes die.
func (w *worker) logPoison(s *shift, deaths int) {
	b := make([]byte, loggedBytes)
	b = b[:s.message.In.CopyTo(b, 0)]
	w.again.bytes.Do(func() {
		w.log.Error(fmt.Sprintf("%d processes have died while they served %s. Please report it with the bytes of the request",
			deaths, s.message.Cell.Opcode()), "node", s.message.Header.NodeID, "length", s.message.In.Len(), "request", hex.EncodeToString(b))
	})
}
