package virtqueue

import (
	"cmp"
	"slices"
)

// Position is the state of a queue in its ring. A later queue continues there.
type Position struct {
	Avail uint16 // next index of the available ring to read
	Used  uint16 // index in the used ring that the driver can see
	// Heads are chains that were popped and not returned, in the order in which they were popped.
	Heads []uint16
}

// givenUp is a chain that GiveUp has taken.
type givenUp struct {
	order uint64 // of Pop
	head  uint16
}

// Abandon says that the front-end is gone and may come back: see GiveUp. It may be called from any
// goroutine.
func (q *Queue) Abandon() { q.abandoned.Store(true) }

// GiveUp replaces Push for a popped chain whose request had no effect. The driver does not get
// it back: the queue that continues at Position serves it again. GiveUp works only after
// Abandon, and returns false otherwise.
func (q *Queue) GiveUp(c *Chain) bool {
	if !q.abandoned.Load() {
		return false
	}
	q.givenUp = append(q.givenUp, givenUp{c.order, c.Head})
	q.popped--
	return true
}

// Owes reports whether there are chains of Config.Resume or of the in-flight area that were not
// popped yet. They must be served before a queue stops, unless it was abandoned: Base does not
// tell of them.
func (q *Queue) Owes() bool { return len(q.again) > 0 && !q.abandoned.Load() }

// Position is where a queue has stopped. ok is false if it has chains that it has neither
// returned nor given up. Then no other queue can continue.
func (q *Queue) Position() (p Position, ok bool) {
	p = Position{Avail: q.nextAvail, Used: q.nextUsed}
	slices.SortFunc(q.givenUp, func(a, b givenUp) int { return cmp.Compare(a.order, b.order) })
	for _, g := range q.givenUp {
		p.Heads = append(p.Heads, g.head)
	}
	// While again has a chain, all that were given up came before it.
	p.Heads = append(p.Heads, q.again...)
	return p, q.popped == 0 && q.nextUsed == q.published
}

// resume sets what to pop first, and from where on. The ring's used index is known.
func (q *Queue) resume() {
	if p := q.cfg.Resume; p != nil {
		q.SetBase(p.Avail)
		q.again = slices.Clone(p.Heads)
	} else if q.inflight != nil && q.inflight.used {
		heads := q.inflight.heads()
		q.SetBase(q.nextUsed + uint16(len(heads)))
		q.again = heads
	}
}
