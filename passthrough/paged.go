package passthrough

import (
	"sync"
	"sync/atomic"
)

// paged is an array that grows when it is used. Elements are found without a lock, do not
// move, and are 0 at first. An array that is not used has no memory of its own: a process
// may have hundreds of shares.
type paged[T any] struct {
	pages atomic.Pointer[[]atomic.Pointer[[elementsOfPage]T]]
	mu    sync.Mutex // one addition of a page at a time; a leaf
}

const (
	pageBits       = 8
	elementsOfPage = 1 << pageBits
)

// at is an element; nil if its page was never made.
func (p *paged[T]) at(i uint32) *T {
	if page := p.page(i >> pageBits); page != nil {
		return &page[i%elementsOfPage]
	}
	return nil
}

// page is one page; nil if it was never made.
func (p *paged[T]) page(i uint32) *[elementsOfPage]T {
	if pages := p.pages.Load(); pages != nil && uint64(i) < uint64(len(*pages)) {
		return (*pages)[i].Load()
	}
	return nil
}

// make is at that makes the page. The caller bounds i: the list of pages takes 8 bytes for
// each page up to the last.
func (p *paged[T]) make(i uint32) *T {
	if e := p.at(i); e != nil {
		return e
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	page := p.entry(i >> pageBits)
	if page.Load() == nil {
		page.Store(new([elementsOfPage]T))
	}
	return &page.Load()[i%elementsOfPage]
}

// entry is the place of a page in the list, which grows to twice its length if it has to.
// p.mu is held: nobody stores in the old list meanwhile.
func (p *paged[T]) entry(page uint32) *atomic.Pointer[[elementsOfPage]T] {
	var old []atomic.Pointer[[elementsOfPage]T]
	if pages := p.pages.Load(); pages != nil {
		old = *pages
	}
	if int(page) < len(old) {
		return &old[page]
	}
	list := make([]atomic.Pointer[[elementsOfPage]T], max(int(page)+1, 2*len(old)))
	for i := range old {
		list[i].Store(old[i].Load())
	}
	p.pages.Store(&list)
	return &list[page]
}
