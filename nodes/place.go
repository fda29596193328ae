package nodes

import fp "github.com/govirtiofs/govirtiofs/fuseproto"

// Place stores where a node was last seen, to find it again: as name in parent. It
// reports whether the node had no place before. The root has no place. The caller has
// references on both nodes. name is copied.
func (t *Table[K, N]) Place(n, parent *N, name fp.Name) (first bool) {
	b := base[K](n)
	b.mu.Lock()
	if b.parent == parent && sameName(b.name, name) || b.id == fp.RootID {
		b.mu.Unlock()
		return false
	}
	old := b.parent
	base[K](parent).Hold()
	b.parent = parent
	b.setName(name, b.FileHandle())
	t.placed(n)
	t.SetHint(parent, name, n)
	b.mu.Unlock()
	if old != nil {
		t.Unhold(old)
	}
	return old == nil
}

// PlaceNew is Place for a node that is not in the table yet: for the function that Intern calls to make one. The recorder is
// told of both at once. The caller has a reference on parent. There is no hint for the name yet, see SetHint.
func (t *Table[K, N]) PlaceNew(n, parent *N, name fp.Name) {
	base[K](parent).Hold()
	b := base[K](n)
	b.parent = parent
	b.setName(name, nil)
}

// Displace notes that a node's name was removed.
func (t *Table[K, N]) Displace(n *N) { t.displace(n, func(*Node[K, N]) bool { return true }) }

// DisplaceAt is Displace if the node's place is name in parent: a file may have other names.
func (t *Table[K, N]) DisplaceAt(n, parent *N, name fp.Name) {
	t.displace(n, func(b *Node[K, N]) bool { return b.parent == parent && sameName(b.name, name) })
}

func (t *Table[K, N]) displace(n *N, ok func(*Node[K, N]) bool) {
	b := base[K](n)
	b.mu.Lock()
	parent := b.parent
	if parent != nil && !ok(b) {
		parent = nil
	}
	if parent != nil {
		b.parent = nil
		b.setName(nil, b.FileHandle())
		t.placed(n)
	}
	b.mu.Unlock()
	if parent != nil {
		t.Unhold(parent)
	}
}

// placed records a node's place. The node is locked.
func (t *Table[K, N]) placed(n *N) {
	if t.recorder != nil && base[K](n).listed {
		t.recorder.Placed(n)
	}
}

// Location is where a node was last seen, with a reference on the parent for the caller.
// It is nil when that is not known. The name stays valid.
func (t *Table[K, N]) Location(n *N) (parent *N, name fp.Name) {
	b := base[K](n)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.parent == nil || !base[K](b.parent).Acquire() {
		return nil, nil
	}
	return b.parent, b.keptName()
}

// TryLocation is Location that does not wait for the node's lock: the thread that holds it may
// wait for the host. ok is false if the node was locked. parent is nil for the root and for a
// node without a name.
func (t *Table[K, N]) TryLocation(n *N) (parent *N, name fp.Name, ok bool) {
	b := base[K](n)
	if !b.mu.TryLock() {
		return nil, nil, false
	}
	defer b.mu.Unlock()
	if b.parent == nil {
		return nil, nil, true
	}
	if !base[K](b.parent).Acquire() {
		return nil, nil, false
	}
	return b.parent, b.keptName(), true
}

// MaxFileHandle is the maximum length of a file handle in bytes.
const MaxFileHandle = 255

// SetFileHandle stores the file handle by which the file system finds a node's file again,
// under any name (name_to_handle_at(2)). It is copied. The caller has locked the node.
func (t *Table[K, N]) SetFileHandle(n *N, handle []byte) {
	b := base[K](n)
	b.setName(b.keptName(), handle[:min(len(handle), MaxFileHandle)])
	t.placed(n)
}
