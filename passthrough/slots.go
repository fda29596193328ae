package passthrough

import (
	"sync"
	"sync/atomic"

	"github.com/govirtiofs/govirtiofs/internal/paged"
)

// maxSlots is 268 million entries.
const maxSlots = 1 << 28

// slots hands out numbers for values and finds a value by its number without a
// lock. A number is a slot and the slot's generation, so it is not used twice: a
// client that keeps, guesses or forges one finds nothing.
type slots[T any] struct {
	slots paged.Array[slot[T]]

	mu   sync.Mutex // guards the following, and changes
	next uint32     // first slot that was never used
	free []uint32
}

// slot is 16 bytes, side by side because they are looked at together.
type slot[T any] struct {
	value      atomic.Pointer[T]
	generation atomic.Uint32
}

// newSlots makes a table whose first number is 1.
func newSlots[T any]() *slots[T] {
	return &slots[T]{next: 1}
}

// add puts v in and returns its number; 0 when the table is full.
func (s *slots[T]) add(v *T, set func(number uint64)) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var slot uint32
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		if s.next == maxSlots {
			return 0
		}
		slot = s.next
		s.next++
	}
	e := s.slots.Make(slot)
	number := uint64(e.generation.Load())<<32 | uint64(slot)
	set(number)
	e.value.Store(v)
	return number
}

// get finds a value; nil when there is none with this number.
func (s *slots[T]) get(number uint64) *T {
	e := s.slots.At(uint32(number))
	if e == nil || uint64(e.generation.Load()) != number>>32 {
		return nil
	}
	return e.value.Load()
}

// remove takes the value out and reports whether it was there.
func (s *slots[T]) remove(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.get(number) == nil {
		return false
	}
	slot := uint32(number)
	e := s.slots.At(slot)
	e.value.Store(nil)
	// A slot whose generations are used up is not used again.
	if e.generation.Add(1) != 0 {
		s.free = append(s.free, slot)
	}
	return true
}

// end is one more than the largest slot in use.
func (s *slots[T]) end() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// at is the value in a slot, if there is one.
func (s *slots[T]) at(slot uint32) *T {
	if e := s.slots.At(slot); e != nil {
		return e.value.Load()
	}
	return nil
}

// all yields the values, which may be removed meanwhile.
func (s *slots[T]) all(yield func(*T) bool) {
	end := s.end()
	for page := range (end + paged.PageSize - 1) / paged.PageSize {
		p := s.slots.Page(page)
		if p == nil {
			continue
		}
		for i := range p {
			if v := p[i].value.Load(); v != nil && !yield(v) {
				return
			}
		}
	}
}

// put puts v in under a number of another table's, before settle; false when the number
// is taken or can't be one. Slots from limit on are refused: whoever sends the numbers
// decides where they are, and one number alone makes a page of slots.
func (s *slots[T]) put(number uint64, limit uint32, v *T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := uint32(number)
	if at == 0 || at >= limit || s.at(at) != nil {
		return false
	}
	e := s.slots.Make(at)
	e.generation.Store(uint32(number >> 32))
	e.value.Store(v)
	s.next = max(s.next, at+1)
	return true
}

// maxFreed bounds the slots that settle looks at: a table may have few entries far apart.
const maxFreed = 1 << 20

// settle makes the slots usable that no number was put in, in a generation after all that
// were used in the other table, whose end and generations these are.
func (s *slots[T]) settle(end, generations uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, end)
	s.free = s.free[:0]
	for slot := uint32(1); slot < s.next && len(s.free) < maxFreed; slot++ {
		e := s.slots.At(slot)
		if e == nil {
			slot |= paged.PageSize - 1 // there is nothing in this page: leave it alone
			continue
		}
		if e.value.Load() != nil {
			continue
		}
		e.generation.Store(generations + 1)
		if generations+1 != 0 {
			s.free = append(s.free, slot)
		}
	}
}

// generations is the largest generation of any slot.
func (s *slots[T]) generations() (most uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
