package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/nodes"
)

// leftNodes implements nodes.Left. The ledger may be forged, so each record is checked when it is used.
type leftNodes struct {
	here   *mountTable
	store  *ledger.Store
	mounts map[uint64]uint64 // ids here of mounts by their numbers in the ledger
	read   func(slot uint32) *ledger.Node

	root  mountKey
	local bool            // the root is on a local file system
	open  map[uint32]bool // slots of nodes that are open
	made  []inode         // to be used
}

// lostMount is set in the id of a mount that is not there any more: no file has such a one, so the
// nodes are not found again.
const lostMount = 1 << 63

// key is the identity here of a node of the ledger's.
func (l *leftNodes) key(i *ledger.Identity) key {
	if i.Mount == rootMount { // most of them
		return key{mount: l.root.mount, dev: i.Dev, ino: i.Ino}
	}
	id, ok := l.mounts[i.Mount]
	if !ok {
		id = i.Mount | lostMount
	}
	return key{mount: id, dev: i.Dev, ino: i.Ino}
}

// Keys implements nodes.Left.
func (l *leftNodes) Keys(yield func(*nodes.LeftKey[key])) {
	var out nodes.LeftKey[key]
	l.store.Keys(func(k *ledger.NodeKey) {
		out = nodes.LeftKey[key]{ID: k.ID, Key: l.key(&k.Identity), Found: k.Found, Parent: k.Parent, Name: k.Name}
		yield(&out)
	})
}

// Key implements nodes.Left.
func (l *leftNodes) Key(slot uint32) key {
	i := l.store.Key(slot)
	return l.key(&i)
}

// IsDir implements nodes.Left.
func (l *leftNodes) IsDir(n *inode) bool { return n.isDir() }

// batch is how many nodes are made at once, as one object of the allocator. If the guest forgets all of
// them but one, that one keeps the memory of all.
const batch = 8

// Make implements nodes.Left.
func (l *leftNodes) Make(slot uint32) (*inode, nodes.LeftNode) {
	rec := l.read(slot)
	if rec == nil {
		return nil, nodes.LeftNode{}
	}
	if len(l.made) == 0 {
		l.made = make([]inode, batch)
	}
	n := &l.made[0]
	l.made = l.made[1:]
	n.bornSec, n.bornNsec, n.kind = rec.BirthSec, rec.BirthNsec, rec.Kind&(unix.S_IFMT>>kindShift)
	if k := l.key(&rec.Identity).onMount(); k == l.root {
		n.local = l.local
	} else if m := l.here.get(k); m != nil {
		n.local = m.local
	}
	n.fd.Store(-1)
	if !n.isDir() {
		n.marks = markLinked // it may be
	}
	// What is not to be found again is gone for good: a new file may have its inode number, and its
	// time of birth if that is a tick of the clock.
	gone := rec.Parent == 0 && len(rec.FileHandle) == 0 && !l.open[slot]
	if len(rec.FileHandle) > handleHeader+maxHandle {
		rec.FileHandle = nil
	}
	if len(rec.FileHandle) > 0 {
		n.fileHandle = handleOfLedger
	}
	if rec.StandIn != 0 {
		rec.Parent, rec.Name = 0, nil // another file has the name
	}
	return n, nodes.LeftNode{ID: rec.ID, Lookups: rec.Lookups, Unkeyed: rec.Unkeyed || gone,
		Parent: rec.Parent, Name: rec.Name, FileHandle: rec.FileHandle}
}
