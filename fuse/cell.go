package fuse

import (
	"sync/atomic"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// CellSize is the size of a Cell in bytes: two cache lines.
const CellSize = 128

// Phase is the progress of a request, as stored in its Cell.
type Phase uint8

// The phases, in the order in which a request goes through them. Most requests have no
// PhaseIntent.
const (
	PhaseFree   Phase = iota // no request
	PhaseTaken               // it was taken from the ring; nothing was changed for it
	PhaseIntent              // the coming change was noted: it may have happened or not
	PhaseDone                // its reply is in the client's memory, and must not be made again
)

// EvidenceWords is the number of words in an Evidence.
const EvidenceWords = 5

// Evidence is what a request has noted before it changed something. It is enough to find out
// later whether the change happened. The FileSystem defines the meaning of the words, for
// each opcode.
type Evidence [EvidenceWords]uint64

// Cell is what the process knows of one request under way, in memory that outlives the process
// (package ledger). It has no pointers. One thread at a time writes it: the thread that serves
// the request. A nil *Cell means that nothing is noted of a request.
//
// Its words are stored in the order of the program. Go's compiler keeps the order of stores. It only drops one
// that another store to the same word follows, which set prevents. The processor's order does not matter: a
// thread that is killed has executed a part of its program from the start on, and all of its stores
// up to there are in memory.
//
// The successor must check all of a Cell that another process has written.
type Cell struct {
	state   uint64 // phase, opcode, tries and step, see cellState
	unique  uint64
	node    uint64
	order   uint64 // counts the requests of a queue in the order in which they are taken
	written uint32 // length of the reply, from PhaseDone on
	avail   uint16 // index in the available ring
	used    uint16 // index in the used ring, from PhaseDone on
	started int64  // when it was taken, CLOCK_MONOTONIC in ns; 0 is not known
	grant   uint32 // phase of the last change, and where grants are, see setGrant
	making  uint16 // see GrantWords

	interrupted uint8 // not 0: the client has asked to end the request; see Interrupt
	_           uint8

	// Requests that change nothing, and grant one thing at most, leave the second cache line alone. It
	// begins with the second grant.
	grants     [EarlyGrants]uint64 // of a FORGET: a node, see Lowering
	grantAfter uint64              // see Returning
	stamp      int64               // CLOCK_REALTIME_COARSE in ns, not long before PhaseIntent

	evidence Evidence
}

var _ = [1]struct{}{}[unsafe.Sizeof(Cell{})-CellSize]

// cellState is phase | opcode<<8 | tries<<24 | step<<32.
const (
	opcodeShift = 8
	triesShift  = 24
	stepShift   = 32
)

// set stores the state. It is not inlined, because functions that call it store the state more than once.
//
//go:noinline
func (c *Cell) set(state uint64) {
	storing.Note()
	c.store(state)
	storing.Note()
}

// store is one plain store, which is whole on all machines, and which UnderWay may see at any time.
func (c *Cell) store(state uint64) {
	if raceEnabled {
		atomic.StoreUint64(&c.state, state)
		return
	}
	c.state = state
}

// put is set for functions that store the state once, and that each request comes through.
func (c *Cell) put(state uint64) {
	if storing.Watched() {
		c.set(state)
		return
	}
	c.store(state)
}

// Phase is the progress of the request.
func (c *Cell) Phase() Phase { return Phase(c.state) }

// Opcode is the request's opcode.
func (c *Cell) Opcode() fp.Opcode { return fp.Opcode(uint16(c.state >> opcodeShift)) }

// A request that is under way when a process dies may be the cause of it. After ApartAfter deaths it is
// served apart from others, and after MostDied it is answered EIO. A process that was killed from outside has
// not died of a request, unless it took all memory: then it takes MostKilled deaths.
const (
	ApartAfter = 2
	MostDied   = 3
	MostKilled = 10
)

// MostDeaths is after how many deaths a request is given up. killed says that the last process was killed
// from outside.
func MostDeaths(killed bool) int {
	if killed {
		return MostKilled
	}
	return MostDied
}

// Tries is the number of processes that have died while they served the
// request.
func (c *Cell) Tries() int { return int(uint8(c.state >> triesShift)) }

// Step is the number of changes that a request with several changes has made; see
// SetStep.
func (c *Cell) Step() int { return int(uint32(c.state >> stepShift)) }

// Order tells which of two requests of a queue was taken first.
func (c *Cell) Order() uint64 { return c.order }

// Unique and Node are those of the request's header.
func (c *Cell) Unique() uint64 { return c.unique }
func (c *Cell) Node() uint64   { return c.node }

// UnderWay reports whether the cell is that of the request with this order, and its reply is not in the client's memory
// yet. Any thread may call it, of a cell that others write.
func (c *Cell) UnderWay(order uint64) bool {
	p := Phase(atomic.LoadUint64(&c.state))
	return (p == PhaseTaken || p == PhaseIntent) && atomic.LoadUint64(&c.order) == order
}

// Avail is the request's index in the available ring.
func (c *Cell) Avail() uint16 { return c.avail }

// Started is the time when the request was taken, in nanoseconds of CLOCK_MONOTONIC; 0
// means that it is not known.
func (c *Cell) Started() int64 { return c.started }

// Take notes a request that was taken from the ring at index avail. It is Prepare and Taken.
func (c *Cell) Take(h *fp.InHeader, order uint64, avail uint16, started int64) {
	c.Taken(c.Prepare(h, order, avail, started))
}

// Prepare is the first half of Take. After it the cell still has no request. It returns what Taken needs. The
// halves are small enough to be inlined.
func (c *Cell) Prepare(h *fp.InHeader, order uint64, avail uint16, started int64) (state uint64) {
	c.unique, c.node, c.avail, c.started = h.Unique, h.NodeID, avail, started
	if raceEnabled {
		atomic.StoreUint64(&c.order, order)
	} else {
		c.order = order
	}
	c.grant, c.making, c.interrupted = 0, 0, 0
	return uint64(PhaseTaken) | uint64(uint16(h.Opcode))<<opcodeShift
}

// Taken is the second half.
func (c *Cell) Taken(state uint64) { c.put(state) }

// TakeAgain notes that a successor serves the request, after one more process has died while it
// served it. Evidence and phase stay.
func (c *Cell) TakeAgain(avail uint16) {
	c.avail = avail
	tries := min(c.Tries()+1, 0xff)
	c.set(c.state&^(0xff<<triesShift) | uint64(tries)<<triesShift)
}

// Forgive sets Tries to 0. The request only waits for another client or the host, so a process
// that dies from now on does not die because of it. nil does nothing.
func (c *Cell) Forgive() {
	if c != nil {
		c.set(c.state &^ (0xff << triesShift))
	}
}

// Same reports whether a request is the one that the cell was taken for. The client could have
// written another request in its place.
func (c *Cell) Same(h *fp.InHeader) bool {
	return c.unique == h.Unique && c.node == h.NodeID && c.Opcode() == fp.Opcode(h.Opcode)
}

// Intend notes what a successor needs to find out whether the following change has happened.
// stamp is the time before it, by CLOCK_REALTIME_COARSE in ns. nil does nothing.
func (c *Cell) Intend(stamp int64, e Evidence) {
	if c == nil {
		return
	}
	if taken := c.state&(1<<stepShift-1)&^0xff | uint64(PhaseTaken); c.state != taken {
		c.set(taken) // while the evidence is half an old one's
	}
	c.stamp, c.evidence = stamp, e
	c.toPhase(PhaseIntent)
}

// Begin is Intend for a change about which a successor has to know only that it may have happened. The
// evidence is that of another request, and means nothing.
func (c *Cell) Begin() {
	if c != nil {
		c.put(c.state&^0xff | uint64(PhaseIntent))
	}
}

// Amend replaces word i of the evidence of the last Intend. nil does nothing.
func (c *Cell) Amend(i int, word uint64) {
	if c != nil {
		c.amend(i, word)
	}
}

//go:noinline
func (c *Cell) amend(i int, word uint64) {
	storing.Note()
	c.evidence[i] = word
	storing.Note()
}

// Changed notes that the change of the last Intend has certainly been made. nil does nothing.
func (c *Cell) Changed() { c.SetStep(1) }

// Unchanged notes that the change of the last Intend was not made. nil does
// nothing.
func (c *Cell) Unchanged() {
	if c != nil {
		c.toPhase(PhaseTaken)
	}
}

// toPhase changes the phase alone.
func (c *Cell) toPhase(p Phase) { c.put(c.state&^0xff | uint64(p)) }

// SetStep notes that a request has made n of its changes. Intend sets it to 0 again. nil does
// nothing.
func (c *Cell) SetStep(n int) {
	if c != nil {
		c.put(c.state&(1<<stepShift-1) | uint64(uint32(n))<<stepShift)
	}
}

// Interrupt notes that the client has asked to end the request. It is the only method that
// threads other than the request's may call. nil does nothing.
func (c *Cell) Interrupt() {
	if c != nil {
		c.interrupted = 1
	}
}

// Interrupted reports whether Interrupt was called.
func (c *Cell) Interrupted() bool { return c != nil && c.interrupted != 0 }

// Intent is what the last Intend has noted. ok is false if there was no Intend.
func (c *Cell) Intent() (stamp int64, e Evidence, ok bool) {
	if c == nil || c.Phase() != PhaseIntent {
		return 0, Evidence{}, false
	}
	return c.stamp, c.evidence, true
}

// Done notes that the reply of written bytes is in the client's memory. The chain gets index
// used in the used ring. It is Finish and Finished.
func (c *Cell) Done(written uint32, used uint16) {
	c.Finish(written, used)
	c.Finished()
}

// Finish is the first half of Done. It changes nothing yet.
func (c *Cell) Finish(written uint32, used uint16) { c.written, c.used = written, used }

// Finished is the second half.
func (c *Cell) Finished() { c.put(c.state&^0xff | uint64(PhaseDone)) }

// Reply is what Done has noted.
func (c *Cell) Reply() (written uint32, used uint16) { return c.written, c.used }

// Free notes that the client can see the reply. The cell can be used for another request.
func (c *Cell) Free() { c.put(0) }
