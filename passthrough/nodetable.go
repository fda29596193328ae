package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
)

// nodeTable has the nodes that the client knows, with their places and descriptors. A node is found in
// it by its number or by its file; how a file is found by its node is a matter of locator.
type nodeTable struct {
	*nodes.Table[key, inode]
	root    *inode
	fds     *descriptors
	mounts  *mountTable
	sweeper *sweeper
}

// newInode is a node that is not in the table yet.
func (t *nodeTable) newInode(st *unix.Statx_t) *inode {
	mount := t.mounts.get(keyOf(st).onMount())
	b := birthOf(st)
	n := &inode{bornSec: b.sec, bornNsec: b.nsec, kind: uint8(b.kind >> kindShift), local: mount != nil && mount.local}
	n.fd.Store(-1)
	return n
}

// release drops a reference.
func (t *nodeTable) release(n *inode) { t.Release(n) }

// locate notes where a node was last seen, to find it again when it has no
// descriptor.
func (t *nodeTable) locate(n, parent *inode, name fp.Name) {
	if t.Place(n, parent, name) && n.fd.Load() >= 0 {
		t.sweeper.arm() // it can be found again
	}
}

// known finds a node by its identity and adds one to its lookup count. The caller
// gets a reference.
func (t *nodeTable) known(ts *threadState, st *unix.Statx_t) *inode { return t.seen(ts, st, 1) }

// seen is known that adds lookups to the lookup count.
func (t *nodeTable) seen(ts *threadState, st *unix.Statx_t, lookups uint64) *inode {
	return t.Find(ts.cell, keyOf(st), lookups, func(n *inode) bool { return n.same(st) })
}

// intern returns the node of st with its lookup count raised and a reference taken,
// making it when it is new. fd, if not -1, becomes the node's descriptor or is
// closed. by is the request that gives it to the client, or nil.
func (t *nodeTable) intern(by *fuse.Cell, st *unix.Statx_t, fd int, parent *inode, name fp.Name) (*inode, unix.Errno) {
	isNew := false
	n := t.Intern(by, keyOf(st),
		func(n *inode) bool { return n.same(st) },
		func() *inode {
			n := t.newInode(st)
			if parent != nil {
				t.PlaceNew(n, parent, name)
				isNew = true
			}
			return n
		})
	if n == nil {
		if fd >= 0 {
			t.fds.close(fd)
		}
		return nil, unix.ENOMEM
	}
	if fd >= 0 && !t.setFD(n, fd) {
		t.fds.close(fd)
	}
	switch {
	case isNew:
		t.SetHint(parent, name, n) // soon: until then it can't be found by its name
	case parent != nil:
		t.locate(n, parent, name)
	}
	return n, 0
}

// setFD gives the node a descriptor, unless it has one. The caller has a reference, so
// that the evictor does not close it before it is in the table of owners.
func (t *nodeTable) setFD(n *inode, fd int) bool {
	if !n.fd.CompareAndSwap(-1, int32(fd)) {
		return false
	}
	n.touched.Store(true)
	t.fds.owners.set(uint32(fd), n)
	if n.ID() != fp.RootID {
		t.sweeper.arm()
	}
	return true
}

// dropFD closes the node's descriptor and reports whether it had one.
func (t *nodeTable) dropFD(n *inode) bool {
	fd := n.fd.Swap(-1)
	if fd < 0 {
		return false
	}
	t.fds.owners.set(uint32(fd), nil) // before the number is another file's
	t.fds.close(int(fd))
	return true
}

// unnamed notes that name in parent is gone. n is the node that had it; nil is none.
func (t *nodeTable) unnamed(n, parent *inode, name fp.Name) {
	t.SetHint(parent, name, nil)
	if n != nil {
		t.DisplaceAt(n, parent, name)
	}
}

// nodeAt finds the node of the file that is called name in the directory dirfd, if the
// client knows it, with a reference. It takes a system call.
func (t *nodeTable) nodeAt(ts *threadState, dirfd int, name fp.Name) *inode {
	if sysStatx(dirfd, name.CString(), 0, &ts.st) != 0 {
		return nil
	}
	return t.seen(ts, &ts.st, 0)
}

// renamed notes the new place of a node; nil is none.
func (t *nodeTable) renamed(n, parent *inode, name fp.Name) {
	if n == nil || n == parent {
		return
	}
	t.locate(n, parent, name)
	t.SetHint(parent, name, n)
}

// restoreAll makes the nodes of a predecessor that were not used yet. It is a round of the sweeper.
func (t *nodeTable) restoreAll() (more bool) {
	t.RestoreAll()
	return false
}

// isForgotten reports whether the client has no number for the node any more.
func (t *nodeTable) isForgotten(n *inode) bool { return t.Lookups(n) == 0 }

// path is where the node was last seen, from the share's root on; nothing when that is
// not known.
func (t *nodeTable) path(n *inode) (names []string) {
	n.Hold()
	for n.ID() != fp.RootID {
		n.Lock()
		parent, name := n.Parent(), n.Name()
		if parent == nil || len(names) > maxDepth {
			n.Unlock()
			names = nil
			break
		}
		parent.Hold()
		n.Unlock()
		names = append(names, name.String())
		t.Unhold(n)
		n = parent
	}
	t.Unhold(n)
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return names
}
