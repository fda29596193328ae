package passthrough

import (
	"sync/atomic"

	"github.com/govirtiofs/govirtiofs/internal/paged"
)

// owners tells which node has a descriptor, by the descriptor's number. It makes the
// evictor's work independent of how many nodes there are without one, and finds nodes
// too that the client has forgotten, which have no number any more.
type owners struct {
	nodes paged.Array[atomic.Pointer[inode]]
	past  atomic.Uint32 // one more than the largest number that was set
}

// maxOwned bounds the table: descriptors beyond 64 million are never closed to make room.
const maxOwned = 1 << 26

// set notes that n has the descriptor; nil is none.
func (o *owners) set(fd uint32, n *inode) {
	if fd >= maxOwned {
		return
	}
	o.nodes.Make(fd).Store(n)
	for past := o.past.Load(); past <= fd && !o.past.CompareAndSwap(past, fd+1); past = o.past.Load() {
	}
}

// at is the node that has a descriptor, or nil.
func (o *owners) at(fd uint32) *inode {
	if n := o.nodes.At(fd); n != nil {
		return n.Load()
	}
	return nil
}

func (o *owners) end() uint32 { return o.past.Load() }
