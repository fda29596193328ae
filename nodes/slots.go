package nodes

import (
	"sync"
	"sync/atomic"

	"github.com/govirtiofs/govirtiofs/internal/paged"
)

// maxSlots is 268 million entries.
const maxSlots = 1 << 28

// slots hands out numbers for values and finds a value by its number without a lock. A
// number is a slot and the slot's generation, so it is not used twice: a client that
// keeps, guesses or forges one finds nothing.
//
// retire ends a number. The slot keeps the value, and is not used again before
// release: a slot stands for one value as long as anything refers to it.
type slots[T any] struct {
	slots paged.Array[slot[T]]

	mu   sync.Mutex // guards the following, and changes; a leaf
	next uint32     // first slot that was never used, or 0 for 1
	free []uint32

	// Slots from swept to settled are those of another table that sweep has not examined yet.
	// The free ones among them are not in the list yet. All slots below settled are used in
	// generation fresh or a later one.
	swept, settled uint32
	fresh          uint32
	left           bitmap // those among them whose values are not made yet, see Table.Restore

	first uint32 // generation of slots that were never used
}

// slot is 16 bytes, side by side because they are read together.
type slot[T any] struct {
	value      atomic.Pointer[T]
	generation atomic.Uint32
	retired    atomic.Bool // value is there, but its number has ended
}

// add adds v and returns its number; 0 when the table is full. It calls set with the number
// before v can be found. If set returns false, v is not added. The first number is 1.
func (s *slots[T]) add(v *T, set func(number uint64) bool) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var slot uint32
	if len(s.free) == 0 {
		s.sweep()
	}
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		slot = max(s.next, 1)
		if slot == maxSlots {
			return 0
		}
		s.next = slot + 1
		s.slots.Make(slot).generation.Store(s.first)
	}
	e := s.slots.Make(slot)
	number := uint64(e.generation.Load())<<32 | uint64(slot)
	if !set(number) {
		s.free = append(s.free, slot)
		return 0
	}
	e.value.Store(v)
	return number
}

// startAt has slots that were never used begin in this generation.
func (s *slots[T]) startAt(generation uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = generation
}

// get finds a value; nil when there is none with this number. When the number is retired
// at the same time, get may return another value. The caller has to compare that value's
// number.
func (s *slots[T]) get(number uint64) *T {
	e := s.slots.At(uint32(number))
	if e == nil || uint64(e.generation.Load()) != number>>32 {
		return nil
	}
	return e.value.Load()
}

// retire ends a number. It returns false when the number is not in use, so only one of two
// callers gets true.
func (s *slots[T]) retire(number uint64) bool {
	e := s.slots.At(uint32(number))
	generation := uint32(number >> 32)
	if e == nil || e.value.Load() == nil || !e.generation.CompareAndSwap(generation, generation+1) {
		return false
	}
	e.retired.Store(true)
	return true
}

// release makes the slot of v, whose number was retired, usable again. It calls gone
// before that. It does neither when put has given the slot away.
func (s *slots[T]) release(slot uint32, v *T, gone func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.slots.At(slot)
	if e.value.Load() != v {
		return
	}
	gone()
	e.value.Store(nil)
	e.retired.Store(false)
	if slot < s.settled {
		if slot >= s.swept {
			return // sweep finds it
		}
		if g := e.generation.Load(); g != 0 {
			e.generation.Store(max(g, s.fresh))
		}
	}
	// A slot whose generations are used up is not used again.
	if e.generation.Load() != 0 {
		s.free = append(s.free, slot)
	}
}

// end is one more than the largest slot in use.
func (s *slots[T]) end() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.next, 1)
}

// at is the value in a slot, if there is one; its number may be retired.
func (s *slots[T]) at(slot uint32) *T {
	if e := s.slots.At(slot); e != nil {
		return e.value.Load()
	}
	return nil
}

// all yields the values with the numbers that their slots have now. The number of a
// retired value differs from its own. Values may be removed meanwhile.
func (s *slots[T]) all(yield func(number uint64, v *T) bool) {
	end := s.end()
	for page := range (end + paged.PageSize - 1) / paged.PageSize {
		p := s.slots.Page(page)
		if p == nil {
			continue
		}
		for i := range p {
			generation := p[i].generation.Load()
			v := p[i].value.Load()
			if v != nil && !yield(uint64(generation)<<32|uint64(page*paged.PageSize)+uint64(i), v) {
				return
			}
		}
	}
}

// put adds v under a number of another table, before settle. It returns false when the
// number is taken or invalid. Slots from limit on are refused: the sender of the numbers
// decides where they are, and one number alone makes a page of slots. It calls set before
// v can be found. If a request still uses a value whose number was retired, that value
// loses its slot, and gone is called.
func (s *slots[T]) put(number uint64, limit uint32, v *T, set func() bool, gone func(*T)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := uint32(number)
	if at == 0 || at >= min(limit, maxSlots) {
		return false
	}
	e := s.slots.Make(at)
	if old := e.value.Load(); old != nil {
		if !e.retired.Load() {
			return false
		}
		gone(old)
		e.value.Store(nil)
	}
	e.generation.Store(uint32(number >> 32))
	if !set() {
		return false
	}
	e.retired.Store(false)
	e.value.Store(v)
	s.next = max(s.next, at+1)
	return true
}

// settle makes the slots usable that no number was put in, in a generation after all that
// were used in the other table. end and generations are those of that table.
func (s *slots[T]) settle(end, generations uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, min(end, maxSlots), 1)
	s.free = s.free[:0]
	s.swept, s.settled, s.fresh = 1, s.next, generations+1
}

// sweep looks for free slots among those that were there when settle was called, one page at
// a time: there may be many, and few of them may ever be needed. s.mu is held.
func (s *slots[T]) sweep() {
	for len(s.free) == 0 && s.swept < s.settled && s.fresh != 0 {
		end := min(s.swept|(paged.PageSize-1)+1, s.settled)
		for ; s.swept < end; s.swept++ {
			if s.left.has(s.swept) {
				continue
			}
			e := s.slots.Make(s.swept)
			if e.value.Load() == nil {
				e.generation.Store(s.fresh)
				s.free = append(s.free, s.swept)
			}
		}
	}
}

// generations is the largest generation of any slot.
func (s *slots[T]) generations() (most uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled > 1 {
		most = s.fresh
	}
	for page := range (s.next + paged.PageSize - 1) / paged.PageSize {
		p := s.slots.Page(page)
		if p == nil {
			continue
		}
		for i := range p {
			most = max(most, p[i].generation.Load())
		}
	}
	return most
}
