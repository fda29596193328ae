package host

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrBudget means that a budget has nothing left for another share.
var ErrBudget = errors.New("the shares of this process have all of it")

// Budget is an amount of a resource that the shares of a process have in common. Together
// they never take more. It is safe for concurrent use, without locks.
type Budget struct {
	what string
	free atomic.Int64 // neither promised to a part nor taken by one
}

func newBudget(what string, size int64) *Budget {
	b := &Budget{what: what}
	b.free.Store(size)
	return b
}

// Part is the part of a budget that one share has. It has an amount of its own, which no
// other share can take. In addition it can take from the amount that is promised to no
// part, as much as is free. A nil Part refuses nothing.
type Part struct {
	budget   *Budget
	own      int64
	promised int64         // taken off the budget for own
	state    atomic.Uint64 // taken in the lower half, kept in the upper
}

// NewPart makes a part with an amount of its own, at most 1<<31-1. The error is ErrBudget.
func (b *Budget) NewPart(own int64) (*Part, error) {
	if own < 0 || own > 1<<31-1 {
		return nil, fmt.Errorf("host: a part of %d %s", own, b.what)
	}
	if !b.draw(own) {
		return nil, fmt.Errorf("host: %d %s for one more share: %w", own, b.what, ErrBudget)
	}
	return &Part{budget: b, own: own, promised: own}, nil
}

// Close gives the part back, with all that is taken. The Part must not be used any
// more.
func (p *Part) Close() {
	if p != nil {
		taken, kept := split(p.state.Swap(0))
		p.budget.free.Add(p.promised + p.beyond(taken, kept))
	}
}

// draw takes n from the free amount. If there is less, it takes nothing and
// returns false.
func (b *Budget) draw(n int64) bool {
	for {
		free := b.free.Load()
		if free < n {
			return false
		}
		if b.free.CompareAndSwap(free, free-n) {
			return true
		}
	}
}

// Take takes n. It returns false if there is not as much.
func (p *Part) Take(n int64) bool { return p.change(n, 0) }

// Put returns n of what Take has taken.
func (p *Part) Put(n int64) { p.change(-n, 0) }

// Keep says that n of what is taken, or is about to be, may stay as long as the client
// likes. Keep is refused when nothing is free and the part would have less than a sixteenth
// of its own amount left for short uses.
func (p *Part) Keep(n int64) bool { return p.change(0, n) }

// Unkeep reverses Keep for n.
func (p *Part) Unkeep(n int64) { p.change(0, -n) }

// Taken is the amount that is taken at the moment.
func (p *Part) Taken() int64 {
	taken, _ := split(p.state.Load())
	return taken
}

// beyond is the amount that a part with these values has from the budget's free amount.
func (p *Part) beyond(taken, kept int64) int64 {
	if kept > 0 {
		taken = max(taken, kept+p.own/16)
	}
	return max(0, taken-p.own)
}

// change never fails if both amounts only go down.
func (p *Part) change(taken, kept int64) bool {
	if p == nil {
		return true
	}
	var drawn int64
	for {
		old := p.state.Load()
		t, k := split(old)
		more := p.beyond(t+taken, k+kept) - p.beyond(t, k)
		if more > drawn {
			if !p.budget.draw(more - drawn) {
				p.budget.free.Add(drawn)
				return false
			}
			drawn = more
		}
		if p.state.CompareAndSwap(old, join(t+taken, k+kept)) {
			p.budget.free.Add(drawn - more)
			return true
		}
	}
}

func split(state uint64) (taken, kept int64) { return int64(uint32(state)), int64(state >> 32) }
func join(taken, kept int64) uint64          { return uint64(kept)<<32 | uint64(uint32(taken)) }
