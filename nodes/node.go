package nodes

import (
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Node is the part of a node that a [Table] knows. A file system's type of nodes, N,
// begins with it. K identifies a file: two nodes with one key are one file. A client
// may know millions of nodes, so a Node is small: 56 bytes and K.
//
// Its lock, Lock, guards the node's place and file handle. The file system may guard its
// own part with it, too.
type Node[K comparable, N any] struct {
	// What a request reads that comes with the node's number is behind this, next to the
	// file system's own part.
	mu     sync.Mutex
	parent *N    // held; nil for the root and for files without a name
	name   *byte // ends with NUL, see setName; its bytes are never changed

	id  uint64
	key K

	// refs counts in its lower half the requests that use the node, and in units of
	// refHold what holds it (the table, children, open files). At 0 the node is gone.
	refs atomic.Int64

	lookups uint64 // guarded by the shard of key
	next    uint32 // slot of the next node in the shard's list; guarded by the shard
	linked  bool   // in the shard's list; guarded by the shard
	listed  bool   // has a slot, the lower half of id; does not change when others can see it

	nameLen   uint8 // of the name, without its NUL; guarded by mu
	handleLen uint8 // of the file handle behind the name; guarded by mu
}

const (
	refHold      = 1 << 32
	refExclusive = 1 << 31 // see TryExclusive
)

// base is the part of n that the table knows. New has checked that n begins with it.
func base[K comparable, N any](n *N) *Node[K, N] { return (*Node[K, N])(unsafe.Pointer(n)) }

// ID is the client's number for the node. It does not change. 0 means that the client has
// no number for the node, see Table.Prepare.
func (n *Node[K, N]) ID() uint64 { return n.id }

// Key identifies the node's file. It does not change.
func (n *Node[K, N]) Key() K { return n.key }

// Acquire takes a reference for a request, which Table.Release drops. It returns false
// when the node is gone. Requests find nodes with Table.Acquire; this method is for nodes
// that were found in another way.
func (n *Node[K, N]) Acquire() bool {
	for {
		v := n.refs.Load()
		switch {
		case v == 0:
			return false
		case v&refExclusive != 0:
			runtime.Gosched()
		case n.refs.CompareAndSwap(v, v+1):
			return true
		}
	}
}

// Hold keeps the node alive until Table.Unhold. The caller has a reference or a hold.
func (n *Node[K, N]) Hold() { n.refs.Add(refHold) }

// TryExclusive keeps requests from getting references until Table.EndExclusive. They wait
// meanwhile, so it must be short. It fails when a request uses the node, or when the node
// is gone. The caller has no reference, and no other thread calls it for this node. Until EndExclusive
// the caller asks the table for no node: it could have to wait for a request that waits for this one.
func (n *Node[K, N]) TryExclusive() bool {
	v := n.refs.Load()
	return v != 0 && v&(refHold-1) == 0 && n.refs.CompareAndSwap(v, v|refExclusive)
}

// Gone reports whether nothing refers to the node any more.
func (n *Node[K, N]) Gone() bool { return n.refs.Load() == 0 }

// Lock locks the node's place and file handle.
func (n *Node[K, N]) Lock() { n.mu.Lock() }

// TryLock is Lock that does not wait; it reports whether the node is locked now.
func (n *Node[K, N]) TryLock() bool { return n.mu.TryLock() }

// Unlock unlocks what Lock has locked.
func (n *Node[K, N]) Unlock() { n.mu.Unlock() }

// Parent is the directory where the node was last seen. It is nil for the root and when
// no name of the node is known. The caller has locked the node, which holds its parent.
func (n *Node[K, N]) Parent() *N { return n.parent }

// Name is the node's last known name in Parent; nil when it has no name. It is not
// changed in place: it stays valid when the node gets another name. The caller has
// locked the node.
func (n *Node[K, N]) Name() fp.Name {
	if n.parent == nil {
		return nil
	}
	return n.keptName()
}

// FileHandle is what SetFileHandle has stored; nil means none. It is not changed in
// place. The caller has locked the node.
func (n *Node[K, N]) FileHandle() []byte {
	if n.handleLen == 0 {
		return nil
	}
	at := addBytes(n.name, int(n.nameLen)+1)
	return unsafe.Slice(at, int(n.handleLen))
}

// HasFileHandle reports whether there is a file handle. The caller has locked
// the node.
func (n *Node[K, N]) HasFileHandle() bool { return n.handleLen != 0 }

// setName replaces the name with its NUL, which may be nil and has fp.NameMax bytes at most, and the file handle behind it.
// It does not change the old bytes, because another thread may be reading them. n.mu is
// held.
func (n *Node[K, N]) setName(name fp.Name, handle []byte) {
	if len(name) == 0 && len(handle) > 0 {
		name = noName
	}
	b := make([]byte, 0, len(name)+len(handle))
	b = append(append(b, name...), handle...)
	if len(b) == 0 {
		n.name = nil
	} else {
		n.name = unsafe.SliceData(b)
	}
	n.nameLen, n.handleLen = uint8(max(len(name), 1)-1), uint8(len(handle))
}

var noName = fp.Name{0}

// keptName is the name with its NUL; nil is none. n.mu is held.
func (n *Node[K, N]) keptName() fp.Name {
	if n.name == nil {
		return nil
	}
	return unsafe.Slice(n.name, int(n.nameLen)+1)
}

// sameName compares a kept name, which may be nil, with one that has its NUL.
func sameName(kept *byte, name fp.Name) bool {
	if kept == nil {
		return false
	}
	for i, c := range name {
		// It has no byte after its NUL, which is the last of name's too.
		if b := *addBytes(kept, i); b != c || b == 0 {
			return b == c
		}
	}
	return false
}

func addBytes(p *byte, n int) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(p), n)) }
