// Package paged has an array that allocates memory when it is used.
package paged

import (
	"sync"
	"sync/atomic"
)

// Array is an array whose elements are found without a lock, do not move, and are 0 at
// first. An Array that is not used has no memory of its own, because a process may
// have hundreds of shares. The zero value is ready for use.
type Array[T any] struct {
	pages atomic.Pointer[[]atomic.Pointer[[PageSize]T]]
	mu    sync.Mutex // one addition of a page at a time; a leaf
}

// PageSize is how many elements are made at once.
const (
	PageSize = 1 << pageBits
	pageBits = 8
)

// At is an element; nil if its page was never made.
func (p *Array[T]) At(i uint32) *T {
	if page := p.Page(i >> pageBits); page != nil {
		return &page[i%PageSize]
	}
	return nil
}

// Page is the page of the elements from i*PageSize on; nil if it was never made.
func (p *Array[T]) Page(i uint32) *[PageSize]T {
	if pages := p.pages.Load(); pages != nil && uint64(i) < uint64(len(*pages)) {
		return (*pages)[i].Load()
	}
	return nil
}

// Make is At, but makes the page if necessary. The caller bounds i: the list of pages
// takes 8 bytes for each page up to the last.
func (p *Array[T]) Make(i uint32) *T {
	if e := p.At(i); e != nil {
		return e
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	page := p.entry(i >> pageBits)
	if page.Load() == nil {
		page.Store(new([PageSize]T))
	}
	return &page.Load()[i%PageSize]
}

// entry is the place of a page in the list. If necessary it doubles the list's length.
// p.mu is held, so no other goroutine stores in the old list meanwhile.
func (p *Array[T]) entry(page uint32) *atomic.Pointer[[PageSize]T] {
	var old []atomic.Pointer[[PageSize]T]
	if pages := p.pages.Load(); pages != nil {
		old = *pages
	}
	if int(page) < len(old) {
		return &old[page]
	}
	list := make([]atomic.Pointer[[PageSize]T], max(int(page)+1, 2*len(old)))
	for i := range old {
		list[i].Store(old[i].Load())
	}
	p.pages.Store(&list)
	return &list[page]
}
