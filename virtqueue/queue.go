package virtqueue

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// ErrBrokenRing is wrapped by Pop's error if the indexes of the available ring are
// impossible. The queue must be set up again.
var ErrBrokenRing = errors.New("broken ring")

// MaxSize is the largest number of entries of a split ring (virtio 1.2, 2.7).
const MaxSize = 32768

// Config is the configuration of one ring, by SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE
// and the negotiated features.
type Config struct {
	Size              uint16
	Desc, Avail, Used uint64 // front-end addresses
	Base              uint16 // next index of the available ring to read
	EventIdx          bool   // VIRTIO_F_EVENT_IDX
	Indirect          bool   // VIRTIO_F_INDIRECT_DESC
	Inflight          []byte // this queue's part of the INFLIGHT_SHMFD area, or nil
	// Resume is where another queue of this ring has stopped. It goes before Base, and before what
	// the in-flight area says. The caller has checked its Heads, which must be less than Size.
	//
	// Without it, if another process has used the in-flight area, the queue first pops the
	// chains that were under way there. Then it continues behind them, whatever Base is.
	Resume *Position
}

// Queue is the device's side of one ring. It belongs to one goroutine at a time,
// except for SetLog and Stats.
type Queue struct {
	space    *Space
	cfg      Config
	mem      *Memory // from Begin to End
	resolved *Memory // the Memory that ring's addresses are of
	ring     ring
	table    []desc // scratch for indirect tables
	near     int    // the region of the last buffer, see region
	inflight *inflight
	log      atomic.Pointer[logTarget]
	lastLog  *logTarget // the log that was last written to; SetLog may have replaced it since

	nextAvail uint16 // next entry of the available ring to read
	availIdx  uint16 // driver's index when it was last read
	nextUsed  uint16 // next entry of the used ring to write
	published uint16 // the index that the driver can see
	usedKnown bool   // nextUsed was read from the ring
	called    bool   // a first call was considered since the start
	inherited bool   // another process may not have marked the used ring's index in the dirty log
	popped    int    // chains between Pop and Push
	taken     uint64 // chains popped so far

	again     []uint16    // chains that were popped before, to be popped first
	abandoned atomic.Bool // the front-end is gone
	givenUp   []givenUp

	badChains atomic.Uint64
	badHeads  atomic.Uint64
}

// Stats counts what a driver did wrong.
type Stats struct {
	BadChains uint64 // chains that were malformed
	BadHeads  uint64 // entries of the available ring that name no descriptor
}

// New makes a queue for a ring in the memory that space holds now. It continues at the used
// index that is in the ring's memory.
func New(space *Space, cfg Config) (*Queue, error) {
	if cfg.Size == 0 || cfg.Size > MaxSize || cfg.Size&(cfg.Size-1) != 0 {
		return nil, fmt.Errorf("virtqueue: size %d: want a power of two up to %d", cfg.Size, MaxSize)
	}
	q := &Queue{space: space, cfg: cfg, nextAvail: cfg.Base, availIdx: cfg.Base}
	if err := q.openInflight(); err != nil {
		return nil, err
	}
	if err := q.Begin(); err != nil {
		return nil, err
	}
	q.End()
	return q, nil
}

// openInflight starts using the in-flight area.
func (q *Queue) openInflight() (err error) {
	if q.cfg.Inflight == nil {
		return nil
	}
	defer q.catch(&err)
	q.inflight, err = newInflight(q.cfg.Inflight, q.cfg.Size)
	return err
}

// Begin takes the current Memory for a batch. It fails if the ring is not in this Memory. The
// caller must not call End then.
func (q *Queue) Begin() error {
	m := q.space.Load()
	if m == nil {
		return errors.New("virtqueue: no shared memory")
	}
	if m != q.resolved {
		r, err := resolve(m, &q.cfg)
		if err != nil {
			m.Release()
			return err
		}
		q.ring, q.resolved = r, m
	}
	q.mem = m
	if q.usedKnown {
		return nil
	}
	if err := q.resumeUsed(); err != nil {
		q.End()
		return err
	}
	return nil
}

// ErrRingGone is wrapped by Pop's error if the Memory was replaced and the ring is not in the
// new one. Pop took nothing. Begin succeeds when the ring is in the current Memory again.
var ErrRingGone = errors.New("the ring is not in memory any more")

// reloadMemory takes the current Memory during a batch. On error the batch keeps the old one.
func (q *Queue) reloadMemory() error {
	old := q.mem
	if err := q.Begin(); err != nil {
		return fmt.Errorf("%w: %w", ErrRingGone, err)
	}
	old.Release()
	return nil
}

// resumeUsed continues in the used ring where an earlier back-end has stopped.
func (q *Queue) resumeUsed() (err error) {
	defer q.catch(&err)
	q.nextUsed = q.ring.usedIdx()
	q.published = q.nextUsed
	if q.inflight != nil {
		q.inflight.sync(q.nextUsed)
	}
	q.resume()
	q.usedKnown = true
	return nil
}

// catch is for defer. It turns a fault in the front-end's memory into an error.
func (q *Queue) catch(err *error) {
	if r := recover(); r != nil {
		if !q.IsMemoryFault(r) {
			panic(r)
		}
		*err = fmt.Errorf("virtqueue: %w: %v", ErrMemoryGone, r)
	}
}

// ErrMemoryGone is wrapped by the error of New and Begin if the front-end has truncated the
// file behind memory that it shares. Such a fault is an error only in a goroutine with
// debug.SetPanicOnFault. In another goroutine it ends the process.
var ErrMemoryGone = errors.New("shared memory is gone")

// IsMemoryFault reports whether a recovered panic is a fault at an address that the front-end
// shares with this queue: guest memory of the batch, the dirty log or the in-flight area. The
// front-end has caused such a fault; it is not a bug of this process.
func (q *Queue) IsMemoryFault(recovered any) bool {
	fault, ok := recovered.(interface{ Addr() uintptr })
	if !ok {
		return false
	}
	addr := fault.Addr()
	return q.mem != nil && q.mem.Contains(addr) || within(q.cfg.Inflight, addr) ||
		q.lastLog != nil && q.lastLog.log.contains(addr)
}

// within reports whether an address lies in b.
func within(b []byte, addr uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return addr >= start && addr-start < uintptr(len(b))
}

// End releases the Memory. Until the next Begin the caller must not use the ring, nor a Chain
// that has no reference of its own.
func (q *Queue) End() {
	m := q.mem
	q.mem = nil
	m.Release()
}

// Memory is the Memory of the batch. Outside of a batch it is nil.
func (q *Queue) Memory() *Memory { return q.mem }

// Size is the number of entries of the ring.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// Base is the next index of the available ring to read. GET_VRING_BASE returns it.
func (q *Queue) Base() uint16 { return q.nextAvail }

// NextUsed is the index in the used ring that the next Push gives its chain. Before the first
// Push it is the index that the driver can see.
func (q *Queue) NextUsed() uint16 { return q.nextUsed }

// Stats may be called from any goroutine.
func (q *Queue) Stats() Stats {
	return Stats{BadChains: q.badChains.Load(), BadHeads: q.badHeads.Load()}
}

// Offered is the driver's index in the available ring when it was last read.
func (q *Queue) Offered() uint16 { return q.availIdx }

// UnderWay is the number of chains that the driver has made available and that are not yet
// published in the used ring: not popped (by the last index that was read, or once before),
// popped, or pushed.
func (q *Queue) UnderWay() int {
	return int(q.availIdx-q.nextAvail) + q.popped + int(q.nextUsed-q.published) + len(q.again)
}

// Pop fills c with the next available chain. It returns false if the ring is empty. With
// ErrBadChain, c.Head is valid and c has the buffers before the mistake; the caller returns
// the chain with Push. With ErrBrokenRing, Pop took nothing.
//
// It skips entries whose head is not a descriptor of the ring, at most as many as the ring
// has entries. So a driver that writes such entries without end can't keep the caller from
// stopping the queue.
//
// First come the chains that were popped before this queue was made, see Config.Resume.
func (q *Queue) Pop(c *Chain) (bool, error) {
	if len(q.again) > 0 {
		head := q.again[0]
		q.again = q.again[1:]
		return true, q.Retake(c, head)
	}
	for range int(q.cfg.Size) + 1 {
		if q.nextAvail == q.availIdx {
			idx := q.ring.availIdx()
			if idx == q.nextAvail {
				return false, nil
			}
			if n := idx - q.nextAvail; n > q.cfg.Size {
				return false, fmt.Errorf("%w: %d new entries in a ring of %d", ErrBrokenRing, n, q.cfg.Size)
			}
			q.availIdx = idx
			// On a busy ring a batch does not end, so the chains may lie in memory that
			// was added since Begin. The front-end adds memory before the driver uses it,
			// so it is enough to take the current Memory after reading idx.
			if q.space.current.Load() != q.mem {
				if err := q.reloadMemory(); err != nil {
					q.availIdx = q.nextAvail // they are read again
					return false, err
				}
			}
		}
		// A driver can't have more requests under way than the ring has entries, unless
		// it uses a descriptor twice. Without this check the driver could repeat a
		// waiting request any number of times.
		if q.popped >= int(q.cfg.Size) {
			return false, fmt.Errorf("%w: more requests than descriptors", ErrBrokenRing)
		}
		head := q.ring.availEntry(q.nextAvail)
		q.nextAvail++
		if head >= q.cfg.Size {
			q.badHeads.Add(1)
			continue
		}
		return true, q.take(c, head)
	}
	return false, fmt.Errorf("%w: %d entries in a row that name no descriptor", ErrBrokenRing, q.cfg.Size)
}

// take walks the chain at head.
func (q *Queue) take(c *Chain, head uint16) error {
	c.reset(head)
	if cap(q.table) > keptBuffers {
		q.table = nil
	}
	q.popped++
	q.taken++
	c.order = q.taken
	if q.inflight != nil {
		q.inflight.begin(head)
	}
	if err := q.walk(c); err != nil {
		q.badChains.Add(1)
		return err
	}
	return nil
}

// Push adds the chain to the used ring, with the number of bytes written to its
// device-writable buffers. The driver sees it after Flush.
func (q *Queue) Push(c *Chain, written uint32) {
	if target := q.log.Load(); target != nil {
		q.lastLog = target
		target.markChain(q.mem, c, written)
	}
	if q.inflight != nil {
		q.inflight.push(c.Head)
	}
	q.ring.elems[q.nextUsed&(q.cfg.Size-1)] = usedElem{id: uint32(c.Head), len: written}
	q.nextUsed++
	q.popped--
}

// Flush publishes the pushed chains and reports whether the driver wants a call (virtio 1.2,
// 2.7.7.2 and 2.7.10).
func (q *Queue) Flush() (notify bool) {
	old, now := q.published, q.nextUsed
	if q.inherited {
		q.inherited = false
		if target := q.log.Load(); target != nil { // the other process may have died before it did that
			q.lastLog = target
			target.markIndex()
		}
	}
	if old == now {
		return false
	}
	if target := q.log.Load(); target != nil {
		q.lastLog = target
		target.markUsed(q.cfg.Size, old, now)
	}
	q.ring.setUsed(0, now)
	if target := q.log.Load(); target != nil {
		target.markIndex() // the front-end may have copied the page in between
	}
	q.published = now
	if q.inflight != nil {
		q.inflight.flushed(now)
	}
	if !q.cfg.EventIdx {
		return q.ring.availFlags()&availNoInterrupt == 0
	}
	event := q.ring.usedEvent()
	if !q.called {
		// It is not known which calls the driver got from an earlier back-end.
		q.called = true
		return true
	}
	return needEvent(event, now, old)
}

// DisableKicks tells the driver not to kick, because the caller will call Pop anyway. With
// EVENT_IDX the driver does not kick because avail_event has an old index.
func (q *Queue) DisableKicks() {
	if !q.cfg.EventIdx {
		q.ring.setUsed(usedNoNotify, q.published)
	}
}

// EnableKicks asks for a kick at the next chain. It reports whether a chain has arrived
// meanwhile; the caller then calls Pop again. The load of avail.idx comes after the store, so
// either this process sees the chain or the driver sees that it must kick.
func (q *Queue) EnableKicks() (more bool) {
	if q.cfg.EventIdx {
		q.ring.setAvailEvent(q.nextAvail)
	} else {
		q.ring.setUsed(0, q.published)
	}
	return q.More()
}

// More reports whether there are chains to pop.
func (q *Queue) More() bool { return q.ring.availIdx() != q.nextAvail || len(q.again) > 0 }
