package passthrough

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A table that comes from another daemon may have few entries far apart, and may have been
// made up so: a page for each would be 64 KiB an entry, and 4 GiB a table. So put makes few
// pages at once, and others when they have as many entries as make them worth while; until
// then their entries are in few. Whatever the numbers are, that is at most about 300 bytes
// an entry, which is what a node takes beside its slot.
const (
	firstPages = 256 // 16 MiB
	fewSlots   = 256 // a page is 256 bytes for each of so many
)

// few are the slots of pages with few of them. The zero few is empty. Changes are made with
// the table's mu held.
type few[T any] struct {
	pages int         // that put had made
	some  atomic.Bool // there are some: who finds a page usually need not look here

	mu    sync.RWMutex // guards the following; a leaf
	slots map[uint32]map[uint32]*slot[T]
}

// takes reports whether a slot of a page that there is none of goes here.
func (f *few[T]) takes(page uint32) bool {
	if f.pages < firstPages {
		f.pages++
		return false
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.slots[page]) < fewSlots
}

// add makes a slot.
func (f *few[T]) add(number uint32) *slot[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slots == nil {
		f.slots = make(map[uint32]map[uint32]*slot[T])
	}
	page := f.slots[number>>slotBits]
	if page == nil {
		page = make(map[uint32]*slot[T], 1)
		f.slots[number>>slotBits] = page
	}
	e := new(slot[T])
	page[number] = e
	f.some.Store(true)
	return e
}

// find is a slot, or nil.
func (f *few[T]) find(number uint32) *slot[T] {
	if !f.some.Load() {
		return nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.slots[number>>slotBits][number]
}

// of are the numbers of a page's slots, in order.
func (f *few[T]) of(page uint32) []uint32 {
	if !f.some.Load() {
		return nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Sorted(maps.Keys(f.slots[page]))
}

// copyTo copies a page's slots to p. Whoever has found one here goes on with what it was.
func (f *few[T]) copyTo(page uint32, p *slotsPage[T]) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for number, e := range f.slots[page] {
		to := &p[number%slotPage]
		to.generation.Store(e.generation.Load())
		to.value.Store(e.value.Load())
	}
}

// forget drops a page's slots.
func (f *few[T]) forget(page uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.slots, page)
}
