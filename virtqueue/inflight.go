package virtqueue

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"
)

// The in-flight area records which requests are under way, in memory that the
// front-end keeps when the back-end dies (vhost-user, "Inflight I/O tracking",
// split virtqueue). The part of one queue is a header and one state for each descriptor.

type inflightHeader struct {
	features  uint64
	version   uint16
	descNum   uint16
	lastBatch uint16 // head of the list of the batch being published
	usedIdx   uint16 // used.idx when the last batch was cleared
}

type inflightState struct {
	inflight uint8
	_        [5]uint8
	next     uint16 // next head of the batch
	counter  uint64 // order in which the requests were taken
}

const (
	inflightVersion = 1
	inflightAlign   = 64
)

// InflightSize is the number of bytes of one queue's part for a ring of size.
func InflightSize(size uint16) uint64 {
	n := uint64(unsafe.Sizeof(inflightHeader{})) + uint64(size)*uint64(unsafe.Sizeof(inflightState{}))
	return (n + inflightAlign - 1) &^ (inflightAlign - 1)
}

// inflight is the part of the area for one queue.
type inflight struct {
	header  *inflightHeader
	states  []inflightState
	counter uint64
	batch   []uint16 // heads pushed and not yet published
	used    bool     // another process has used it before
}

// newInflight checks the area and prepares a fresh one (version 0).
func newInflight(b []byte, size uint16) (*inflight, error) {
	if uint64(len(b)) < InflightSize(size) {
		return nil, fmt.Errorf("virtqueue: in-flight area of %d bytes for a ring of %d: want %d", len(b), size, InflightSize(size))
	}
	base := unsafe.Pointer(unsafe.SliceData(b))
	in := &inflight{
		header: (*inflightHeader)(base),
		states: unsafe.Slice((*inflightState)(unsafe.Add(base, unsafe.Sizeof(inflightHeader{}))), size),
		batch:  make([]uint16, 0, size),
	}
	switch in.header.version {
	case 0:
		in.header.version, in.header.descNum = inflightVersion, size
	case inflightVersion:
		in.used = true
		if in.header.descNum != size {
			return nil, fmt.Errorf("virtqueue: in-flight area is for a ring of %d, not %d", in.header.descNum, size)
		}
	default:
		return nil, fmt.Errorf("virtqueue: in-flight area has version %d, want %d", in.header.version, inflightVersion)
	}
	for i := range in.states {
		in.counter = max(in.counter, in.states[i].counter)
	}
	return in, nil
}

// sync finishes a batch that was published but not cleared when the back-end died:
// its heads are not in flight any more.
func (in *inflight) sync(usedIdx uint16) {
	head := in.header.lastBatch
	for n := usedIdx - in.header.usedIdx; n > 0 && int(n) <= len(in.states) && int(head) < len(in.states); n-- {
		in.states[head].inflight = 0
		head = in.states[head].next
	}
	in.header.usedIdx = usedIdx
}

// begin records that a request was taken. One that was under way before keeps its place in the
// order.
func (in *inflight) begin(head uint16) {
	if in.states[head].inflight != 0 {
		return
	}
	in.counter++
	in.states[head].counter = in.counter
	in.states[head].inflight = 1
}

// push links a head into the batch, before it is written to the used ring.
func (in *inflight) push(head uint16) {
	in.states[head].next = in.header.lastBatch
	in.header.lastBatch = head
	in.batch = append(in.batch, head)
}

// flushed clears the batch, after the used ring's idx was published.
func (in *inflight) flushed(usedIdx uint16) {
	for _, head := range in.batch {
		in.states[head].inflight = 0
	}
	in.batch = in.batch[:0]
	// The clearing must be visible before usedIdx: header.lastBatch and usedIdx
	// share an aligned word, stored as one.
	word := (*uint32)(unsafe.Pointer(&in.header.lastBatch))
	atomic.StoreUint32(word, uint32(in.header.lastBatch)|uint32(usedIdx)<<16)
}

// heads are the chains that were popped and not published, in the order in which they were
// popped.
func (in *inflight) heads() (heads []uint16) {
	for i := range in.states {
		if in.states[i].inflight != 0 {
			heads = append(heads, uint16(i))
		}
	}
	slices.SortStableFunc(heads, func(a, b uint16) int { return cmp.Compare(in.states[a].counter, in.states[b].counter) })
	return heads
}
