package ledger

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
)

// queueRecord is what is known of a ring beside its cells.
type queueRecord struct {
	next uint32 // next index of the available ring to read | queueKnown
	_    [15]uint32
}

const (
	queueSize  = int64(unsafe.Sizeof(queueRecord{}))
	queueKnown = 1 << 16
)

// Queue is the part of a ledger for one ring. It belongs to the thread that serves the ring.
type Queue struct {
	record *queueRecord
	cells  []fuse.Cell // by the head of the request's chain
	order  uint64
}

// Queue returns the part for a ring of size entries. An error is want of memory or a wrong number.
func (l *Ledger) Queue(index int, size uint16) (*Queue, error) {
	if l == nil {
		return nil, nil
	}
	if index < 0 || index >= MaxQueues || size == 0 || size > MaxQueueSize {
		return nil, fmt.Errorf("ledger: ring %d of %d entries", index, size)
	}
	at := queuesAt + int64(index)*queueSize
	cells := cellsAt + int64(index)*MaxQueueSize*fuse.CellSize
	if err := l.need(at, queueSize); err != nil {
		return nil, err
	}
	if err := l.need(cells, int64(size)*fuse.CellSize); err != nil {
		return nil, err
	}
	q := &Queue{record: (*queueRecord)(l.at(at)), cells: unsafe.Slice((*fuse.Cell)(l.at(cells)), size)}
	for _, c := range q.Unfinished {
		q.order = max(q.order, c.Order())
	}
	return q, nil
}

// Cell is that of the request whose chain begins at head, which is less than the ring's size.
func (q *Queue) Cell(head uint16) *fuse.Cell {
	if q == nil {
		return nil
	}
	return &q.cells[head]
}

// Order counts a request of this ring that is taken.
func (q *Queue) Order() uint64 {
	q.order++
	return q.order
}

// SetNext notes the next index of the available ring to read, when the request before it has
// its cell. It is not inlined for the same reason as with fuse.Cell.
//
//go:noinline
func (q *Queue) SetNext(next uint16) {
	if q != nil {
		q.record.next = uint32(next) | queueKnown
	}
}

// Forget notes that the ring is not in use: it is stopped, and nothing of it is under way.
func (q *Queue) Forget() {
	if q == nil {
		return
	}
	atomic.StoreUint32(&q.record.next, 0)
}

// Next is the next index to read: beyond the one that was noted, and beyond those of all
// requests that have a cell. ok is false if none was noted.
func (q *Queue) Next() (next uint16, ok bool) {
	if q == nil {
		return 0, false
	}
	v := atomic.LoadUint32(&q.record.next)
	if v&queueKnown == 0 {
		return 0, false
	}
	next = uint16(v)
	for i := range q.cells {
		c := &q.cells[i]
		if after := c.Avail() + 1; c.Phase() != fuse.PhaseFree && int16(after-next) > 0 {
			next = after
		}
	}
	return next, true
}

// Unfinished yields the requests that have a cell, with the heads of their chains. The cells come
// from another process, and say what they like.
func (q *Queue) Unfinished(yield func(head uint16, c *fuse.Cell) bool) {
	if q == nil {
		return
	}
	for i := range q.cells {
		if c := &q.cells[i]; c.Phase() != fuse.PhaseFree && !yield(uint16(i), c) {
			return
		}
	}
}
