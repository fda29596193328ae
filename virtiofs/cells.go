package virtiofs

import (
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
	unfreed   uint                           // entries of pushed
	clock     *clock                         // the worker's: a request need not know exactly when it was taken
	began     int64                          // CLOCK_MONOTONIC in ns when clock showed 0
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
func (c *cells) note(ring *ledger.Queue, by *clock) {
	if ring == nil {
		return
	}
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	c.ring, c.clock, c.began = ring, by, ts.Nano()-int64(by.look())
}

// take notes the request of the chain at head, which was popped, and returns its cell. next is the index of
// the available ring behind it. If the driver already has a request under way with this head, the
// second one gets no cell: only the thread that serves a request may write its cell. ring is not nil.
func (c *cells) take(m *fuse.Message, head, next uint16) *fuse.Cell {
	if c.interrupt != nil {
		return c.takeAtPoints(m, head, next)
	}
	cell := c.ring.Cell(head)
	if cell.Phase() == fuse.PhaseFree {
		cell.Taken(cell.Prepare(&m.Header, c.ring.Order(), next-1, c.began+int64(c.clock.now)))
	} else {
		cell = nil
	}
	c.ring.SetNext(next)
	return cell
}

// takeAtPoints is take with the fault points of tests, which would cost each request something. It does the same, see
// TestNotedAtPoints.
func (c *cells) takeAtPoints(m *fuse.Message, head, next uint16) *fuse.Cell {
	c.interrupt(c.index, faultPopped)
	cell := c.ring.Cell(head)
	if cell.Phase() == fuse.PhaseFree {
		cell.Take(&m.Header, c.ring.Order(), next-1, c.began+int64(c.clock.now))
	} else {
		cell = nil
	}
	c.interrupt(c.index, faultTaken)
	c.ring.SetNext(next)
	c.interrupt(c.index, faultNoted)
	return cell
}

// done notes that the reply of a request is in the guest's memory, and that the next Push, which gets
// the index used, is that of its chain. cell is not nil.
func (c *cells) done(cell *fuse.Cell, written uint32, used uint16) {
	c.pushed[c.unfreed%pushedMost] = cell
	c.unfreed++
	if c.interrupt != nil {
		c.interrupt(c.index, faultHandled)
		cell.Done(written, used)
		c.interrupt(c.index, faultDone)
		return
	}
	cell.Finish(written, used)
	cell.Finished()
}

// published frees the cells of all chains that were pushed: the driver can see them. ring is not nil.
func (c *cells) published() {
	c.reached(faultPublished)
	for _, cell := range c.pushed[:min(c.unfreed, pushedMost)] {
		cell.Free()
	}
	c.unfreed = 0
	c.reached(faultFreed)
}
