package virtiofs

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// cells is where a worker notes its requests for a successor of the process. It belongs to the
// worker's goroutine. The zero value notes nothing.
//
// ARCHITECTURE.md, "One request's way through its cell", has the order of all stores.
type cells struct {
	ring      *ledger.Queue                  // nil: nothing is noted
	pushed    [pushedMost]*fuse.Cell         // those of chains that are not published yet
	unfreed   int                            // entries of pushed
	began     time.Time                      // monotonic, when the system's clock showed beganAt
	beganAt   int64                          // CLOCK_MONOTONIC in ns
	now       int64                          // the same, when it was last looked at; it need not be exact
	interrupt func(queue int, at faultPoint) // of tests; nil otherwise
	index     int                            // of the queue, for interrupt
}

// pushedMost is a power of two, and more than are pushed before they are published.
const (
	pushedMost = 16
	_          = uint(pushedMost - flushRequests)
)

// faultPoint is a place on a request's way at which a test ends the process.
type faultPoint int

// The places, in their order.
const (
	faultPopped faultPoint = iota
	faultTaken
	faultNoted
	faultHandled
	faultDone
	faultPushed
	faultPublished
	faultFreed
	faultCalled
	faultPoints // how many there are
)

// reached tells a test where the worker is.
func (c *cells) reached(p faultPoint) {
	if c.interrupt != nil {
		c.interrupt(c.index, p)
	}
}

// note begins to note a ring's requests.
func (c *cells) note(ring *ledger.Queue) {
	if ring == nil {
		return
	}
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	c.ring, c.began, c.beganAt = ring, time.Now(), ts.Nano()
	c.now = c.beganAt
}

// look looks at the clock, once for many requests.
func (c *cells) look() {
	if c.ring != nil {
		c.at(time.Now())
	}
}

// at is look for a caller that has just called look.
func (c *cells) at(now time.Time) {
	if c.ring != nil {
		c.now = c.beganAt + int64(now.Sub(c.began))
	}
}

// take notes the request of the chain at head, which was popped. next is the index of the
// available ring behind it. If the driver already has a request under way with this head, the
// second one gets no cell: only the thread that serves a request may write its cell.
func (c *cells) take(m *fuse.Message, head, next uint16) {
	if c.ring == nil {
		return
	}
	c.reached(faultPopped)
	m.Cell = nil
	if cell := c.ring.Cell(head); cell.Phase() == fuse.PhaseFree {
		cell.Take(&m.Header, c.ring.Order(), next-1, c.now)
		m.Cell = cell
	}
	c.reached(faultTaken)
	c.ring.SetNext(next)
	c.reached(faultNoted)
}

// done notes that the reply of a request is in the guest's memory, and that the next Push, which gets
// the index used, is that of its chain.
func (c *cells) done(cell *fuse.Cell, written uint32, used uint16) {
	if cell == nil {
		return
	}
	c.reached(faultHandled)
	cell.Done(written, used)
	c.pushed[c.unfreed%pushedMost] = cell
	c.unfreed++
	c.reached(faultDone)
}

// published frees the cells of all chains that were pushed: the driver can see them.
func (c *cells) published() {
	if c.ring == nil {
		return
	}
	c.reached(faultPublished)
	for _, cell := range c.pushed[:min(c.unfreed, pushedMost)] {
		cell.Free()
	}
	c.unfreed = 0
	c.reached(faultFreed)
}
