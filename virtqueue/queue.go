package virtqueue

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// ErrBrokenRing is wrapped by Pop's error when the available ring itself makes no
// sense. The queue must be set up anew.
var ErrBrokenRing = errors.New("broken ring")

// MaxSize is the largest number of entries of a split ring (virtio 1.2, 2.7).
const MaxSize = 32768

// Config is what SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE and the negotiated
// features say about one ring.
type Config struct {
	Size              uint16
	Desc, Avail, Used uint64 // front-end addresses
	Base              uint16 // next index of the available ring to read
	EventIdx          bool   // VIRTIO_F_EVENT_IDX
	Indirect          bool   // VIRTIO_F_INDIRECT_DESC
	Inflight          []byte // this queue's part of the INFLIGHT_SHMFD area, or nil
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
	inflight *inflight
	log      atomic.Pointer[logTarget]
	marking  *logTarget // the last that was written to; SetLog may have replaced it

	nextAvail uint16 // next entry of the available ring to read
	availIdx  uint16 // driver's index when it was last read
	nextUsed  uint16 // next entry of the used ring to write
	published uint16 // the index that the driver can see
	usedKnown bool   // nextUsed was read from the ring
	called    bool   // a first call was considered since the start
	popped    int    // chains between Pop and Push

	badChains atomic.Uint64
	badHeads  atomic.Uint64
}

// Stats counts what a driver did wrong.
type Stats struct {
	BadChains uint64 // chains that were malformed
	BadHeads  uint64 // entries of the available ring that name no descriptor
}

// New makes a queue of a ring in the memory that space holds now. The used index
// goes on where the ring's memory says.
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

// openInflight takes the in-flight area into use.
func (q *Queue) openInflight() (err error) {
	if q.cfg.Inflight == nil {
		return nil
	}
	defer q.catch(&err)
	q.inflight, err = newInflight(q.cfg.Inflight, q.cfg.Size)
	return err
}

// Begin takes the current Memory for a batch. It fails when the ring is not in it, and
// then there is nothing to End.
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
	if err := q.adopt(); err != nil {
		q.End()
		return err
	}
	return nil
}

// ErrRingGone is wrapped by Pop's error when the memory was exchanged and the ring is
// not in the new one. Nothing was taken; Begin tells when it is back.
var ErrRingGone = errors.New("the ring is not in memory any more")

// renew takes the current Memory in a batch. On error the batch still has the old one.
func (q *Queue) renew() error {
	old := q.mem
	if err := q.Begin(); err != nil {
		return fmt.Errorf("%w: %w", ErrRingGone, err)
	}
	old.Release()
	return nil
}

// adopt goes on in the used ring where the device before us has stopped.
func (q *Queue) adopt() (err error) {
	defer q.catch(&err)
	q.nextUsed = q.ring.usedIdx()
	q.published = q.nextUsed
	if q.inflight != nil {
		q.inflight.sync(q.nextUsed)
	}
	q.usedKnown = true
	return nil
}

// catch, deferred, turns a fault in the front-end's memory into an error.
func (q *Queue) catch(err *error) {
	if r := recover(); r != nil {
		if !q.IsMemoryFault(r) {
			panic(r)
		}
		*err = fmt.Errorf("virtqueue: %w: %v", ErrMemoryGone, r)
	}
}

// ErrMemoryGone is wrapped by the error of New and Begin when the front-end has cut off
// the file behind memory that it shares. Such a fault is an error only in a goroutine
// with debug.SetPanicOnFault; elsewhere it ends the process.
var ErrMemoryGone = errors.New("shared memory is gone")

// IsMemoryFault reports whether a recovered panic is a fault at an address that the
// front-end shares with this queue: guest memory of the batch, the dirty log or the
// in-flight area. It is then the front-end's doing and no mistake of ours.
func (q *Queue) IsMemoryFault(recovered any) bool {
	fault, ok := recovered.(interface{ Addr() uintptr })
	if !ok {
		return false
	}
	addr := fault.Addr()
	return q.mem != nil && q.mem.Contains(addr) || within(q.cfg.Inflight, addr) ||
		q.marking != nil && q.marking.log.contains(addr)
}

// within reports whether an address lies in b.
func within(b []byte, addr uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return addr >= start && addr-start < uintptr(len(b))
}

// End gives the Memory back. Nothing of the ring or of a Chain may be touched
// until the next Begin, Chains with a reference of their own excepted.
func (q *Queue) End() {
	m := q.mem
	q.mem = nil
	m.Release()
}

// Memory is the Memory of the batch; nil outside one.
func (q *Queue) Memory() *Memory { return q.mem }

// Size is the number of entries of the ring.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// Base is the next index of the available ring to read: what GET_VRING_BASE
// answers.
func (q *Queue) Base() uint16 { return q.nextAvail }

// Stats may be called from any goroutine.
func (q *Queue) Stats() Stats {
	return Stats{BadChains: q.badChains.Load(), BadHeads: q.badHeads.Load()}
}

// UnderWay is how many chains the driver has offered that it has not seen in the used
// ring: those not popped, as far as is known, those popped and those pushed but not
// published.
func (q *Queue) UnderWay() int {
	return int(q.availIdx-q.nextAvail) + q.popped + int(q.nextUsed-q.published)
}

// Pop fills c with the next available chain; false when the ring is empty. With
// ErrBadChain c.Head is valid, and c holds the buffers before the mistake; the
// caller gives the chain back with Push. With ErrBrokenRing nothing was taken.
//
// It passes over entries that name no descriptor, as many as a ring has: a driver that
// writes them without end must not keep the caller from stopping the queue.
func (q *Queue) Pop(c *Chain) (bool, error) {
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
			// The chains may lie in memory that was added since Begin: a busy ring's
			// batch has no end. Memory comes before the chains that use it, so to look
			// after idx was read is early enough.
			if q.space.current.Load() != q.mem {
				if err := q.renew(); err != nil {
					q.availIdx = q.nextAvail // they are read again
					return false, err
				}
			}
		}
		// A driver with as many requests under way as the ring has entries can't
		// have another one, unless it uses a descriptor twice. Without this a
		// request that waits could be had any number of times.
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
		q.marking = target
		target.markChain(q.mem, c, written)
	}
	if q.inflight != nil {
		q.inflight.push(c.Head)
	}
	q.ring.elems[q.nextUsed&(q.cfg.Size-1)] = usedElem{id: uint32(c.Head), len: written}
	q.nextUsed++
	q.popped--
}

// Flush publishes what was pushed and reports whether the driver wants to be
// called (virtio 1.2, 2.7.7.2 and 2.7.10).
func (q *Queue) Flush() (notify bool) {
	old, now := q.published, q.nextUsed
	if old == now {
		return false
	}
	if target := q.log.Load(); target != nil {
		q.marking = target
		target.markUsed(q.cfg.Size, old, now)
	}
	q.ring.setUsed(0, now)
	q.published = now
	if q.inflight != nil {
		q.inflight.flushed(now)
	}
	if !q.cfg.EventIdx {
		return q.ring.availFlags()&availNoInterrupt == 0
	}
	event := q.ring.usedEvent()
	if !q.called {
		// What the driver was told before we took over the ring is not known.
		q.called = true
		return true
	}
	return needEvent(event, now, old)
}

// DisableKicks tells the driver that it need not kick: the caller is about to look
// anyway. With EVENT_IDX avail_event, left behind, says so.
func (q *Queue) DisableKicks() {
	if !q.cfg.EventIdx {
		q.ring.setUsed(usedNoNotify, q.published)
	}
}

// EnableKicks asks for a kick at the next chain and reports whether one arrived
// meanwhile; the caller then polls again. The load of avail.idx comes after the
// store, so that either we see the chain or the driver sees that it must kick.
func (q *Queue) EnableKicks() (more bool) {
	if q.cfg.EventIdx {
		q.ring.setAvailEvent(q.nextAvail)
	} else {
		q.ring.setUsed(0, q.published)
	}
	return q.More()
}

// More reports whether the driver has offered chains that were not popped.
func (q *Queue) More() bool { return q.ring.availIdx() != q.nextAvail }
