package passthrough

import (
	"sync/atomic"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// hintCount is the size of the table of hints: 512 KiB.
const hintCount = 1 << 16

// hint is the place that remembers which node a name was last seen to be. It may be
// wrong in any way; it only decides which of two correct ways is tried first, and
// finds the node whose name a RENAME changes.
func (fs *FS) hint(parent *inode, name fp.Name) *atomic.Uint64 {
	const prime = 0x100000001b3
	h := parent.id ^ 0xcbf29ce484222325
	for _, c := range name {
		h = (h ^ uint64(c)) * prime
	}
	return &fs.hints[(h^h>>32)%hintCount]
}

// hinted is the node that the hint names, if it is alive; the caller has no
// reference on it.
func (fs *FS) hinted(parent *inode, name fp.Name) *inode {
	return fs.nodes.get(fs.hint(parent, name).Load())
}
