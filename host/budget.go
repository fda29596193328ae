package host

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrBudget says that a budget has no part left for another share.
var ErrBudget = errors.New("the shares of this process have all of it")

// Budget is an amount of something that the shares of a process have in common. What they
// take together is never more. Safe for concurrent use, without locks.
type Budget struct {
	what string
	free atomic.Int64 // neither promised to a part nor taken by one
}

func newBudget(what string, size int64) *Budget {
	b := &Budget{what: what}
	b.free.Store(size)
	return b
}

// Part is what one share has of a budget: an amount of its own, which nobody else gets, and
// of what is promised to nobody as much as is free. A nil Part refuses nothing.
type Part struct {
	budget   *Budget
	own      int64
	promised int64         // of own, what the budget is less by
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

// Close gives the part back, with all that is taken. It must not be used any more.
func (p *Part) Close() {
	if p != nil {
		taken, kept := split(p.state.Swap(0))
		p.budget.free.Add(p.promised + p.beyond(taken, kept))
	}
}

// draw takes what is free; false, and nothing, if there is not as much.
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

// Take takes n; false when there is not as much.
func (p *Part) Take(n int64) bool { return p.change(n, 0) }

// Put gives back n of what Take has taken.
func (p *Part) Put(n int64) { p.change(-n, 0) }

// Keep says that of what is taken, or is about to be, n may stay for as long as the client
// likes. It is refused when nothing is free and the part would have less than a sixteenth of
// its own left for what is given back soon.
func (p *Part) Keep(n int64) bool { return p.change(0, n) }

// Unkeep takes back n of what was said with Keep.
func (p *Part) Unkeep(n int64) { p.change(0, -n) }

// Taken is how much is taken at the moment.
func (p *Part) Taken() int64 {
	taken, _ := split(p.state.Load())
	return taken
}

// beyond is how much of the budget's free amount a part has that has taken and keeps so much.
func (p *Part) beyond(taken, kept int64) int64 {
	if kept > 0 {
		taken = max(taken, kept+p.own/16)
	}
	return max(0, taken-p.own)
}

// change never fails if it only gives back.
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
