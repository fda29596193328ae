package virtiofs

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtqueue"

	"golang.org/x/sys/unix"
)

// Replies are published, and the driver called if it sleeps, at the latest after so many
// requests or bytes: a batch must not make its first reply wait for its last. Of 32 requests
// under way, a batch of 12 leaves 20 to serve while the driver wakes up: that is what a
// wake-up takes. Of large replies it is a quarter of what is under way, but not more than
// mostBytes.
const (
	flushRequests = 12
	flushBytes    = 64 << 10
	mostBytes     = 4 << 20
)

// worker serves one running queue. Fields without a comment belong to its
// goroutine.
type worker struct {
	handler fuse.Handler
	host    *host.Host // may be nil
	log     *slog.Logger
	vring   vhostuser.Vring
	queue   *virtqueue.Queue
	waker   *waker // shared, safe for concurrent use
	cells   cells
	again   *again // what another process has left, until it is taken over

	clock     clock
	spin      spinPolicy
	unflushed int
	underWay  int    // requests that the driver has under way at the same time, lately
	seen      uint16 // the driver's index, by which that was last checked
	bytes     uint64
	waiting   map[*waiting]struct{}
	lingering int // entries of the ring that requests take which wait for other clients
	short     shortWaits
	served    uint64        // chains returned
	vain      int           // kicks before the first of these
	broken    bool          // the ring makes no sense; nothing more is read from it
	canceled  bool          // the waiting requests have been told to end
	yielded   time.Duration // when it last was, by clock
	flushes   uint32        // in the middle of batches
	counted   bool          // it has a processor of the scheduler's; see count

	badChain rate.Sometimes
	ringGone rate.Sometimes
	stopping atomic.Bool
	exited   chan struct{}  // closed when the goroutine and its requests are gone
	hasDone  atomic.Bool    // done is not empty
	mu       sync.Mutex     // guards done
	done     []*waiting     // finished elsewhere
	finished []*waiting     // taken from done, to be put in the used ring
	waking   sync.WaitGroup // goroutines that are about to wake the worker for done
}

// start starts the goroutine of a new worker. After an error nothing is left of the worker.
func (w *worker) start(seldom bool) error {
	if !seldom {
		w.count(true)
	}
	ready := make(chan error)
	go w.run(ready)
	if err := <-ready; err != nil {
		w.count(false)
		w.waker.close()
		return err
	}
	return nil
}

// seldomServed is how many requests of a queue that is seldom used are served without a
// processor for it.
const seldomServed = 16

// count gives the worker a processor of the scheduler's, or takes it back. A queue that is
// seldom used gets it when it is used: each processor keeps some 100 KiB once it has run
// something. Until then the worker borrows one, which others may get back ten milliseconds
// later; see host.Host.AddQueues.
func (w *worker) count(in bool) {
	switch {
	case in && !w.counted:
		w.host.AddQueues(1)
	case !in && w.counted:
		w.host.AddQueues(-1)
	}
	w.counted = in
}

// newWorker makes a worker without a goroutine.
func newWorker(h fuse.Handler, in *host.Host, v vhostuser.Vring, poll BusyPoll, log *slog.Logger) (*worker, error) {
	b, err := newWaker(v.Kick)
	if err != nil {
		return nil, err
	}
	return &worker{
		handler:  h,
		host:     in,
		log:      log,
		vring:    v,
		queue:    v.Queue,
		waker:    b,
		clock:    newClock(),
		spin:     newSpinPolicy(poll),
		waiting:  make(map[*waiting]struct{}),
		badChain: rate.Sometimes{Interval: time.Second},
		ringGone: rate.Sometimes{Interval: time.Second},
		exited:   make(chan struct{}),
	}, nil
}

// stop ends the worker and returns when nothing of the queue is in flight.
func (w *worker) stop() {
	w.stopping.Store(true)
	w.vring.Call.Unblock()
	w.vring.Err.Unblock()
	w.waker.wake()
	<-w.exited
	w.waking.Wait()
	w.waker.close()
	w.count(false)
	w.log.Debug(fmt.Sprintf("queue stopped after %d requests", w.served))
}

// run is the queue's goroutine. It ends when the queue is stopped. It also ends when a successor
// has taken over, because this thread is unfit or stuck.
func (w *worker) run(ready chan<- error) {
	s := &shift{worker: w}
	thread, err := w.handler.StartThread(fuse.Hooks{Alone: w.alone, MayLinger: s.mayLinger, Stuck: s.relieve})
	if ready != nil {
		ready <- err
	}
	if err != nil {
		if ready == nil { // a successor: the queue has no thread any more
			w.log.Error("queue stopped: no new thread", "error", err)
			w.broken = true
			go w.idle()
		}
		return
	}
	s.thread = thread
	debug.SetPanicOnFault(true)
	for kicked := false; ; {
		timeout := w.batch(s)
		if s.late != nil {
			thread.Stop()
			return
		}
		if kicked && w.served == 0 {
			w.kickedInVain()
		}
		if w.stopping.Load() && len(w.waiting) == 0 && w.again == nil {
			thread.Stop()
			close(w.exited)
			return
		}
		if thread.Broken() {
			thread.Stop()
			go w.run(nil)
			return
		}
		if !w.counted && w.served > seldomServed {
			w.count(true)
		}
		if w.vring.Kick < 0 {
			timeout = pollInterval
		}
		kicked = w.waker.wait(timeout)
		if w.spin.found = false; w.cells.ring != nil && !w.spin.gapping {
			w.clock.look() // otherwise the next request does
		}
	}
}

// yieldInterval is less than the 10 ms after which the Go scheduler wants to run
// something else on a worker's processor.
const yieldInterval = 8 * time.Millisecond

// yieldFlushes is after how many publications in the middle of a batch the worker reads its clock.
const yieldFlushes = 4

// yield reads the clock, and lets the Go scheduler see the worker pass by now and then. Its
// monitor thread takes the processor away from a goroutine that has been in system calls, short
// ones included, for 10 ms on end without having been scheduled; it does so again at each
// look, every 20 us, and each time looks again as soon.
func (w *worker) yield() {
	if now := w.clock.look(); now-w.yielded >= yieldInterval {
		runtime.Gosched()
		w.yielded = now
	}
}

// pollInterval is how often a ring without a kick eventfd is checked, in
// milliseconds.
const pollInterval = 1

// idle replaces run when no thread can serve. It only returns requests that
// still wait, and ends with the queue.
func (w *worker) idle() {
	for !w.stopping.Load() || len(w.waiting) > 0 {
		w.batch(&shift{worker: w})
		w.waker.wait(-1)
	}
	close(w.exited)
}

// batch serves all that is in the ring and returns how long the worker may
// sleep at most, in milliseconds, or -1. After it the queue may be another thread's.
func (w *worker) batch(s *shift) (timeout int) {
	if err := w.queue.Begin(); err != nil {
		// The ring's memory is not mapped at the moment. The front-end may be
		// about to map it elsewhere; a kick of meanwhile is not repeated.
		w.ringGone.Do(func() { w.log.Warn("ring memory is gone; waiting for it", "error", err) })
		if w.again.cantSort(); w.stopping.Load() {
			w.abandon()
		}
		w.dropDone()
		return 100
	}
	defer s.endBatch()
	err := w.drain(s)
	if errors.Is(err, virtqueue.ErrRingGone) {
		return 0 // to Begin, which waits for it
	}
	if err != nil {
		w.broken = true
		w.log.Error("queue stopped; it serves again after the front-end has set it up anew", "error", err)
		w.vring.Err.Notify()
		w.dropDone() // requests that were taken to be returned; no other wake-up comes for them
	}
	if s.late != nil {
		return -1 // the queue is another's
	}
	return w.timeout()
}

// drain serves until the ring is empty. Its error means that the queue can't go
// on: the driver wrote nonsense in the ring, or guest memory is gone.
func (w *worker) drain(s *shift) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.fault(r)
		}
	}()
	defer s.startBrief() // if the ring is gone, nothing else starts it
	for {
		if w.broken {
			w.abandon()
			w.dropDone()
			return nil
		}
		w.queue.DisableKicks()
		if w.again != nil {
			if err := w.takeOver(s); err != nil {
				w.flush()
				return err
			}
			if s.late != nil {
				return nil
			}
		}
		for w.takesMore(s) {
			if w.hasDone.Load() || len(w.finished) > 0 {
				w.reap()
			}
			more, err := w.queue.Pop(&s.chain)
			if err != nil && !errors.Is(err, virtqueue.ErrBadChain) {
				w.flush()
				return err
			}
			if err != nil {
				w.refuse(s, err)
			} else if !more {
				w.short.followed(false)
				if w.finishBrief(s) {
					continue
				}
				break
			} else {
				w.spin.arrived(&w.clock)
				if offered := w.queue.Offered(); offered != w.seen {
					w.seen = offered
					w.underWay = max(w.underWay, w.offered())
				}
				w.serve(s)
			}
		}
		if s.late != nil {
			return nil
		}
		if !w.endBatch(s) {
			return nil
		}
	}
}

// endBatch publishes what is done, and reports whether this thread checks the ring again at once: it spins,
// or something has come meanwhile.
func (w *worker) endBatch(s *shift) (more bool) {
	w.startBrief()
	if w.stopping.Load() {
		w.cancelWaiting()
	}
	w.reap()
	w.flush()
	w.yield()
	if w.again != nil && w.again.canGoOn(s) {
		return true
	}
	if !s.ending() && !w.holds() && w.spin.poll(&w.clock, w.queue, w.called) {
		return true
	}
	return w.queue.EnableKicks() && !s.ending() && !w.holds()
}

// takesMore reports whether this thread takes another request.
func (w *worker) takesMore(s *shift) bool {
	if s.late == nil && w.again == nil && !w.stopping.Load() && !s.thread.Broken() { // as nearly always
		return true
	}
	return !s.ending() && !w.holds() || w.queue.Owes() && s.fit()
}

// called reports whether there is something else to do than to wait for requests.
func (w *worker) called() bool { return w.hasDone.Load() || w.stopping.Load() }

// serve serves the chain that was popped.
func (w *worker) serve(s *shift) {
	s.message.Set(s.chain.Readable(), s.chain.Writable())
	if w.cells.ring != nil {
		s.message.Cell = w.cells.take(&s.message, s.chain.Head, w.queue.Base())
	}
	w.handle(s)
}

// handle has the request in the shift's message answered. If it has to wait, handle returns it.
func (w *worker) handle(s *shift) *waiting {
	reply, pending := s.thread.Handle(&s.message)
	if s.late != nil {
		s.handBack(reply, pending)
		return nil
	}
	if w.short.watching() {
		w.short.served(pending == nil, w.queue)
	}
	if pending != nil {
		return w.park(s, pending)
	}
	w.push(&s.chain, s.message.Cell, reply.Len)
	return nil
}

// alone reports whether the request that is served is the only one of the queue, and may
// wait. It may be called while a request is served.
func (w *worker) alone() bool {
	return w.unflushed == 0 && len(w.waiting) == 0 && w.again == nil && !w.queue.More() && w.short.ask()
}

// refuse returns a chain that is malformed.
func (w *worker) refuse(s *shift, err error) {
	w.badChain.Do(func() { w.log.Warn("guest sent a malformed descriptor chain", "error", err) })
	s.message.Set(s.chain.Readable(), s.chain.Writable())
	if w.cells.ring != nil {
		s.message.Cell = w.cells.take(&s.message, s.chain.Head, w.queue.Base())
	}
	reply := s.thread.Refuse(&s.message, unix.EIO)
	w.push(&s.chain, s.message.Cell, reply.Len)
}

// push puts a chain in the used ring and publishes if the batch is large. cell is that of its
// request, or nil.
func (w *worker) push(c *virtqueue.Chain, cell *fuse.Cell, written uint32) {
	if cell != nil {
		w.cells.done(cell, written, w.queue.NextUsed())
	}
	w.queue.Push(c, written)
	w.cells.reached(faultPushed)
	w.served++
	w.unflushed++
	w.bytes += uint64(written)
	if w.flushNow() {
		w.flush()
		if w.flushes++; w.flushes%yieldFlushes == 0 {
			w.yield()
		}
	}
}

// offered is how many requests the driver has offered that do not wait for something.
func (w *worker) offered() int { return w.queue.UnderWay() - len(w.waiting) }

// flushNow reports whether to publish before the batch ends. Where wake-ups take long, it
// is when half of what the driver has under way is done: it sees to that half then, and
// sends the next, while the other half is served, and neither side has to sleep. Elsewhere
// a driver that is called twice for a batch only has to run twice.
func (w *worker) flushNow() bool {
	return w.unflushed >= flushRequests || w.bytes >= mostBytes ||
		w.bytes >= flushBytes && 4*w.unflushed >= w.underWay ||
		w.unflushed >= w.underWay/2 && w.spin.slowWakeups()
}

// flush publishes what was pushed and calls the driver if it wants that.
func (w *worker) flush() {
	if w.unflushed == 0 {
		return
	}
	w.unflushed, w.bytes = 0, 0
	if offered := w.offered(); w.underWay > offered {
		w.underWay--
	} else {
		w.underWay = offered
	}
	call := w.queue.Flush()
	if w.cells.ring != nil {
		w.cells.published()
	}
	if call {
		w.vring.Call.Notify()
	}
	w.cells.reached(faultCalled)
}
