package passthrough

import (
	"sync/atomic"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A table of hints has minHints places, and grows with the nodes up to maxHints, which
// is 512 KiB: names are spread over all of it, so that a large one would cost a daemon
// whose guest does little a page of memory for each name.
const (
	minHints = 1 << 8
	maxHints = 1 << 16
)

// hintTable has a length that is a power of two.
type hintTable []atomic.Uint64

// hint is the place that remembers which node a name was last seen to be. It may be
// wrong in any way; it only decides which of two correct ways is tried first, and
// finds the node whose name a RENAME changes.
func (fs *FS) hint(parent *inode, name fp.Name) *atomic.Uint64 {
	const prime = 0x100000001b3
	h := parent.id ^ 0xcbf29ce484222325
	for _, c := range name {
		h = (h ^ uint64(c)) * prime
	}
	t := *fs.hints.Load()
	return &t[(h^h>>32)%uint64(len(t))]
}

// growHints makes the table of hints larger if a node's slot says that there are, or were,
// more nodes than half its places. A hint goes to all places that its name may have now.
// One that is written meanwhile is lost.
func (fs *FS) growHints(slot uint32) {
	old := fs.hints.Load()
	n := len(*old)
	if n == maxHints || int(slot) <= n/2 {
		return
	}
	t := make(hintTable, 4*n)
	for i := range *old {
		if id := (*old)[i].Load(); id != 0 {
			for k := i; k < len(t); k += n {
				t[k].Store(id)
			}
		}
	}
	fs.hints.CompareAndSwap(old, &t)
}

// hinted is the node that the hint names, if it is alive; the caller has no
// reference on it.
func (fs *FS) hinted(parent *inode, name fp.Name) *inode {
	return fs.nodes.get(fs.hint(parent, name).Load())
}
