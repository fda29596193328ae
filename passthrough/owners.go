package passthrough

import "sync/atomic"

// owners tells which node has a descriptor, by the descriptor's number. It makes the
// evictor's work independent of how many nodes there are without one, and finds nodes
// too that the client has forgotten, which have no number any more.
type owners struct {
	pages [ownerPages]atomic.Pointer[[ownerPage]atomic.Pointer[inode]]
	past  atomic.Uint32 // one more than the largest number that was set
}

const (
	ownerPage  = 1 << 13
	ownerPages = 1 << 13 // descriptors beyond 64 million are never closed to make room
)

// set notes that n has the descriptor; nil is none.
func (o *owners) set(fd uint32, n *inode) {
	if fd >= ownerPage*ownerPages {
		return
	}
	page := &o.pages[fd/ownerPage]
	if page.Load() == nil {
		page.CompareAndSwap(nil, new([ownerPage]atomic.Pointer[inode]))
	}
	page.Load()[fd%ownerPage].Store(n)
	for past := o.past.Load(); past <= fd && !o.past.CompareAndSwap(past, fd+1); past = o.past.Load() {
	}
}

// at is the node that has a descriptor, or nil.
func (o *owners) at(fd uint32) *inode {
	if page := o.pages[fd/ownerPage].Load(); page != nil {
		return page[fd%ownerPage].Load()
	}
	return nil
}

func (o *owners) end() uint32 { return o.past.Load() }
