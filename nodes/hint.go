package nodes

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A table of hints has minHints places at first and grows with the nodes up to
// maxHints, which is 512 KiB. Names are spread over all of it. If it began large, it
// would cost a daemon whose guest does little a page of memory for each name.
const (
	minHints = 1 << 8
	maxHints = 1 << 16
)

// hintTable has a length that is a power of two.
type hintTable []atomic.Uint64

// noNode marks a hint which says that a name is no node's any more. The rest of the word is a hash of the
// name. Ids do not have this bit, see maxSlots.
const noNode = 1 << 31

// hashName is a hash of a name in a directory.
func (t *Table[K, N]) hashName(parent *N, name fp.Name) uint64 {
	return HashName(base[K](parent).id, name.Bytes())
}

// HashName is a hash of a name without its NUL in the directory with the id parent. It takes a few nanoseconds: it
// looks at eight bytes at a time. It has no seed, so that a successor of the process finds what was noted by it.
func HashName(parent uint64, name []byte) uint64 {
	h := parent ^ uint64(len(name))<<56
	// The last word begins in the one before it where the name has no multiple of eight bytes.
	switch n := len(name); {
	case n >= 8:
		for at := 0; at < n-8; at += 8 {
			h = mix(h, binary.LittleEndian.Uint64(name[at:]))
		}
		h = mix(h, binary.LittleEndian.Uint64(name[n-8:]))
	case n >= 4:
		h = mix(h, uint64(binary.LittleEndian.Uint32(name))<<32|uint64(binary.LittleEndian.Uint32(name[n-4:])))
	default:
		var word uint64
		for _, c := range name {
			word = word<<8 | uint64(c)
		}
		h = mix(h, word)
	}
	return mix(h, 0) // the lower bits of short names would be alike
}

// mix has all bits of a word change all bits of a hash.
func mix(h, word uint64) uint64 {
	hi, lo := bits.Mul64(h^0x9e3779b97f4a7c15, word^0xd6e8feb86659fd93)
	return hi ^ lo
}

// hint is the place for a name with this hash. It says which node the name was last seen to be. It
// may be wrong in any way.
func (t *Table[K, N]) hint(hash uint64) *atomic.Uint64 {
	hints := *t.hints.Load()
	return &hints[hash%uint64(len(hints))]
}

// hinted is the id that the hint for a name says, or 0.
func (t *Table[K, N]) hinted(parent *N, name fp.Name) uint64 {
	if word := t.hint(t.hashName(parent, name)).Load(); word&noNode == 0 {
		return word
	}
	return 0
}

// growHints makes the table of hints larger if a node's slot says that there are, or were,
// more nodes than half its places. A hint is copied to all places that its name may have
// now. A hint that is written meanwhile is lost.
func (t *Table[K, N]) growHints(slot uint32) {
	old := t.hints.Load()
	n := len(*old)
	if n == maxHints || int(slot) <= n/2 {
		return
	}
	hints := make(hintTable, 4*n)
	for i := range *old {
		if id := (*old)[i].Load(); id != 0 {
			for k := i; k < len(hints); k += n {
				hints[k].Store(id)
			}
		}
	}
	t.hints.CompareAndSwap(old, &hints)
}

// SetHint notes that name in parent was seen to be n; nil says that it is no node's. A hint may
// get lost: it only decides which of two correct ways is tried first. The name itself is
// not stored.
func (t *Table[K, N]) SetHint(parent *N, name fp.Name, n *N) {
	hash := t.hashName(parent, name)
	word := hash | noNode
	if n != nil {
		word = base[K](n).id
	}
	t.hint(hash).Store(word)
}

// Hinted is the node that a name in parent was last seen to be, if the client has it. It
// may be the wrong node, and the caller has no reference on it.
func (t *Table[K, N]) Hinted(parent *N, name fp.Name) *N {
	return t.Get(t.hinted(parent, name))
}

// Unplaced reports whether it is certain that no node's place is name in parent. If it is not, Placed
// may miss such a node, as its hint may be lost.
func (t *Table[K, N]) Unplaced(parent *N, name fp.Name) bool {
	hash := t.hashName(parent, name)
	word := t.hint(hash).Load()
	return word == 0 || word == hash|noNode
}

// Placed finds the node whose place is name in parent, with a reference. It returns nil
// when no hint leads to it.
func (t *Table[K, N]) Placed(parent *N, name fp.Name) *N {
	n := t.Acquire(t.hinted(parent, name))
	if n == nil {
		return nil
	}
	b := base[K](n)
	b.mu.Lock()
	same := b.parent == parent && sameName(b.name, name)
	b.mu.Unlock()
	if !same {
		t.Release(n)
		return nil
	}
	return n
}

// TryPlaced is Placed without a reference and without waiting for the node's lock. It also
// returns nil if another thread holds the lock.
func (t *Table[K, N]) TryPlaced(parent *N, name fp.Name) *N {
	n := t.Hinted(parent, name)
	if n == nil {
		return nil
	}
	b := base[K](n)
	if !b.mu.TryLock() {
		return nil
	}
	defer b.mu.Unlock()
	if b.parent != parent || !sameName(b.name, name) {
		return nil
	}
	return n
}
