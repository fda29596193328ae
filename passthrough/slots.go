package passthrough

import (
	"sync"
	"sync/atomic"
)

const (
	slotBits = 12
	slotPage = 1 << slotBits
	maxPages = 1 << 16 // 268 million entries
)

// slots hands out numbers for values and finds a value by its number without a
// lock. A number is a slot and the slot's generation, so it is not used twice: a
// client that keeps, guesses or forges one finds nothing.
type slots[T any] struct {
	pages []atomic.Pointer[slotsPage[T]]

	mu   sync.Mutex // guards the following, and changes
	next uint32     // first slot that was never used
	free []uint32
}

type slotsPage[T any] [slotPage]slot[T]

// slot is 16 bytes, side by side because they are looked at together.
type slot[T any] struct {
	value      atomic.Pointer[T]
	generation atomic.Uint32
}

// newSlots makes a table whose first number is 1.
func newSlots[T any]() *slots[T] {
	return &slots[T]{pages: make([]atomic.Pointer[slotsPage[T]], maxPages), next: 1}
}

// add puts v in and returns its number; 0 when the table is full.
func (s *slots[T]) add(v *T, set func(number uint64)) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var slot uint32
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		if s.next == maxPages*slotPage {
			return 0
		}
		slot = s.next
		s.next++
	}
	e := &s.page(slot)[slot%slotPage]
	number := uint64(e.generation.Load())<<32 | uint64(slot)
	set(number)
	e.value.Store(v)
	return number
}

// get finds a value; nil when there is none with this number.
func (s *slots[T]) get(number uint64) *T {
	slot := uint32(number)
	if slot>>slotBits >= maxPages {
		return nil
	}
	p := s.pages[slot>>slotBits].Load()
	if p == nil {
		return nil
	}
	e := &p[slot%slotPage]
	if uint64(e.generation.Load()) != number>>32 {
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
	e := &s.pages[slot>>slotBits].Load()[slot%slotPage]
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
	if p := s.pages[slot>>slotBits].Load(); p != nil {
		return p[slot%slotPage].value.Load()
	}
	return nil
}

// put puts v in under a number of another table's, before settle; false when the number
// is taken or can't be one.
func (s *slots[T]) put(number uint64, v *T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := uint32(number)
	if slot == 0 || slot>>slotBits >= maxPages || s.at(slot) != nil {
		return false
	}
	e := &s.page(slot)[slot%slotPage]
	e.generation.Store(uint32(number >> 32))
	e.value.Store(v)
	s.next = max(s.next, slot+1)
	return true
}

// page is the page of a slot, made if it is not there. s.mu is held.
func (s *slots[T]) page(slot uint32) *slotsPage[T] {
	p := &s.pages[slot>>slotBits]
	if p.Load() == nil {
		p.Store(new(slotsPage[T]))
	}
	return p.Load()
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
		p := s.pages[slot>>slotBits].Load()
		if p == nil {
			slot |= slotPage - 1 // there is nothing in this page: leave it alone
			continue
		}
		e := &p[slot%slotPage]
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
	for slot := uint32(0); slot < s.next; slot++ {
		if p := s.pages[slot>>slotBits].Load(); p != nil {
			most = max(most, p[slot%slotPage].generation.Load())
		}
	}
	return most
}
