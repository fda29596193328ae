package ledger

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
)

// queueRecord is what is recorded of a ring in addition to its cells.
type queueRecord struct {
	taken uint64 // order of the last request that was taken<<16 | next index of the available ring
	start uint32 // which start of the ring this is about; 0 is none
	_     [13]uint32
}

const queueSize = int64(unsafe.Sizeof(queueRecord{}))

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
	q.order = atomic.LoadUint64(&q.record.taken) >> 16
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
// its cell.
func (q *Queue) SetNext(next uint16) {
	if q != nil {
		q.record.taken = q.order<<16 | uint64(next)
	}
}

// Begin makes this the part of a ring that starts at an index of the available ring, with no
// request under way. start tells this start from all others since Forget; it is not 0.
func (q *Queue) Begin(start uint32, base uint16) {
	if q == nil {
		return
	}
	q.Forget()
	for _, c := range q.Unfinished {
		c.Free()
	}
	q.SetNext(base)
	atomic.StoreUint32(&q.record.start, start)
}

// GoOn is Begin without forgetting anything: the ring has stopped, and goes on where it was with the requests that are under
// way.
func (q *Queue) GoOn(start uint32) {
	if q != nil {
		atomic.StoreUint32(&q.record.start, start)
	}
}

// Start is that of the last Begin; 0 is none.
func (q *Queue) Start() uint32 {
	if q == nil {
		return 0
	}
	return atomic.LoadUint32(&q.record.start)
}

// Forget says that nothing is known of the ring.
func (q *Queue) Forget() {
	if q != nil {
		atomic.StoreUint32(&q.record.start, 0)
	}
}

// ForgetQueues is Queue.Forget for all rings. No ring may be in use.
func (l *Ledger) ForgetQueues() error {
	if l == nil {
		return nil
	}
	if err := l.need(queuesAt, MaxQueues*queueSize); err != nil {
		return err
	}
	for i := range int64(MaxQueues) {
		atomic.StoreUint32(&(*queueRecord)(l.at(queuesAt+i*queueSize)).start, 0)
	}
	return nil
}

// ForgetRequests forgets the requests under way of all rings. No ring may be in use: then no thread has one of these requests any
// more, also none that hung. A ring stops when all its requests have ended, and a successor is started when no thread of the
// dead process runs any more.
func (l *Ledger) ForgetRequests() error {
	return l.unfinished((*fuse.Cell).Free)
}

// Next is the next index of the available ring to read: the one that was noted, or the one behind
// a request that has its cell and whose index was not noted any more. There is at most one.
func (q *Queue) Next() uint16 {
	if q == nil {
		return 0
	}
	taken := atomic.LoadUint64(&q.record.taken)
	next := uint16(taken)
	for _, c := range q.Unfinished {
		if c.Order()&orderMask > taken>>16 {
			next = c.Avail() + 1
		}
	}
	return next
}

// Resume is Next for the process that continues with the ring. It also notes the index,
// because the cells that contain it are freed now.
func (q *Queue) Resume() uint16 {
	next := q.Next()
	q.SetNext(next)
	return next
}

// orderMask is the part of an order that fits next to an index.
const orderMask = 1<<48 - 1

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
