package relay

import (
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// node is what the client knows as a node. Its key is a number of ours: the program may have another one for the
// node when it was started again.
type node struct {
	nodes.Node[uint64, node]
	kind uint32 // S_IFMT bits; does not change

	// id is the program's number, valid for the program that epoch counts. id is stored first.
	id    atomic.Uint64
	epoch atomic.Uint32
	// counts is how many lookups the program has counted for id. Guarded by FS.mu.
	counts uint64
	// listing stands for an open directory if the program needs none; nil before the first READDIR. Guarded by FS.mu.
	listing *listing
}

// nodeGone tells the program that the node is forgotten.
func (fs *FS) nodeGone(n *node) {
	fs.nodeCount.Add(-1)
	l := fs.link.Load()
	fs.mu.Lock()
	id, counts := n.id.Load(), n.counts
	n.counts = 0
	if fs.byID[id] == n {
		delete(fs.byID, id)
	}
	listing := n.listing
	n.listing = nil
	fs.mu.Unlock()
	if listing != nil {
		listing.drop(fs)
	}
	if l != nil && n.epoch.Load() == l.epoch {
		l.forget(id, counts)
	}
}

// intern makes the client's node of an entry of the program's, whose lookup is counted, and places it. The caller
// releases it. An entry that can't be one of a name in dir is a lie, and gets an errno.
func (fs *FS) intern(l *link, e *fp.EntryOut, dir *node, name fp.Name) (*node, unix.Errno) {
	id := e.NodeID
	if id == fp.RootID || !validAttr(&e.Attr) {
		l.forget(id, 1)
		return nil, fs.lie("the root directory, or impossible attributes, for a name")
	}
	for {
		n, fresh := fs.known(l, id, e.Attr.Mode&unix.S_IFMT)
		if n == nil {
			l.forget(id, 1)
			return nil, unix.ENFILE
		}
		if !fresh && fs.nodes.Find(nil, n.Key(), 1, nil) == nil {
			// The client has forgotten it meanwhile; next time there will be a new one.
			fs.mu.Lock()
			n.counts--
			if fs.byID[id] == n {
				delete(fs.byID, id)
			}
			fs.mu.Unlock()
			fs.nodes.Release(n)
			continue
		}
		if !fresh {
			fs.nodes.Release(n) // known's reference; Find's is the caller's
		}
		if dir != nil {
			fs.nodes.Place(n, dir, name)
			fs.nodes.SetHint(dir, name, n)
		}
		return n, 0
	}
}

// known is the node with a number of the program's, which has counted a lookup, or a fresh one that has been looked up
// once. The caller has a reference. It is nil if there are too many.
func (fs *FS) known(l *link, id uint64, kind uint32) (n *node, fresh bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.byID[id]; n != nil && n.kind == kind && n.epoch.Load() == l.epoch && n.Acquire() {
		n.counts++
		return n, false
	}
	if fs.nodeCount.Add(1) > int64(fs.opts.MaxNodes) {
		fs.nodeCount.Add(-1)
		return nil, false
	}
	fs.keys++
	n = fs.nodes.Intern(nil, fs.keys, nil, func() *node { return &node{kind: kind, counts: 1} })
	if n == nil {
		fs.nodeCount.Add(-1)
		return nil, false
	}
	n.id.Store(id)
	n.epoch.Store(l.epoch)
	fs.byID[id] = n
	return n, true
}

// withNode calls f with the request's node when the request may wait.
func (fs *FS) withNode(r *server.Request, f func(n *node) unix.Errno) unix.Errno {
	if c := resumedCall(r); c != nil {
		return f(c.node)
	}
	n := fs.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return unix.ESTALE
	}
	defer fs.nodes.Release(n)
	if fs.waitsFirst(r) {
		return server.WouldBlockInGo
	}
	return f(n)
}

// withDir is withNode for a directory.
func (fs *FS) withDir(r *server.Request, f func(n *node) unix.Errno) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		if n.kind != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		return f(n)
	})
}

// attr checks and changes attributes on their way to the client.
func (fs *FS) attr(n *node, id uint64, a *fp.Attr) unix.Errno {
	if !validAttr(a) || a.Mode&unix.S_IFMT != n.kind {
		return fs.lie("attributes that are impossible, or another file's")
	}
	if a.Ino == id {
		a.Ino = hide(id, n)
	}
	a.Flags = 0
	fs.owned(&a.UID, &a.GID)
	return 0
}

// hide is an inode number instead of a number of the program's. Many programs have no other than their node ids, and
// some of these are addresses of their heap.
func hide(id uint64, n *node) uint64 {
	if id>>32 == 0 {
		return id
	}
	return n.ID()
}

// entry turns an entry of the program's into the client's.
func (fs *FS) entry(l *link, e *fp.EntryOut, dir *node, name fp.Name) (*node, unix.Errno) {
	id := e.NodeID
	n, errno := fs.intern(l, e, dir, name)
	if errno != 0 {
		return nil, errno
	}
	e.NodeID, e.Generation = n.ID(), 0
	if e.Attr.Ino == id {
		e.Attr.Ino = hide(id, n)
	}
	e.Attr.Flags = 0
	fs.owned(&e.Attr.UID, &e.Attr.GID)
	fs.capEntry(e)
	return n, 0
}

// path is where a node was last seen.
func (fs *FS) path(nodeID uint64) string {
	n := fs.nodes.Acquire(nodeID)
	if n == nil {
		return ""
	}
	var names []string
	for range 64 {
		if n.ID() == fp.RootID {
			fs.nodes.Release(n)
			if len(names) == 0 {
				return "."
			}
			for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
				names[i], names[j] = names[j], names[i]
			}
			return strings.Join(names, "/")
		}
		parent, name, ok := fs.nodes.TryLocation(n)
		fs.nodes.Release(n)
		if !ok || parent == nil {
			return ""
		}
		names = append(names, name.String())
		n = parent
	}
	fs.nodes.Release(n)
	return ""
}
