package relay

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// What the client knows. Package events uses it to tell a guest what the program's notifications say.

// Known reports whether the client has the node.
func (fs *FS) Known(id uint64) bool { return fs.nodes.Get(id) != nil }

// Nodes yields the nodes that the client has.
func (fs *FS) Nodes(yield func(id uint64, dir bool) bool) {
	for n := range fs.nodes.All {
		if !yield(n.ID(), n.kind == unix.S_IFDIR) {
			return
		}
	}
}

// Child is the node that name in the directory was last seen to be, and its type (S_IFMT); 0 if that is not known.
func (fs *FS) Child(parent uint64, name fp.Name) (id uint64, kind uint32) {
	dir := fs.nodes.Acquire(parent)
	if dir == nil {
		return 0, 0
	}
	defer fs.nodes.Release(dir)
	n := fs.nodes.Placed(dir, name)
	if n == nil {
		return 0, 0
	}
	defer fs.nodes.Release(n)
	if !fs.Known(n.ID()) {
		return 0, 0
	}
	return n.ID(), n.kind
}

// Place is where a node was last seen; false if that is not known.
func (fs *FS) Place(id uint64) (parent uint64, name fp.Name, ok bool) {
	n := fs.nodes.Acquire(id)
	if n == nil {
		return 0, nil, false
	}
	defer fs.nodes.Release(n)
	dir, name := fs.nodes.Location(n)
	if dir == nil {
		return 0, nil, false
	}
	defer fs.nodes.Release(dir)
	return dir.ID(), name, fs.Known(dir.ID())
}

// Grant is a LOOKUP that finds this node, whatever its name stands for now. If the program does not have its file any
// more, the attributes are of its type only.
func (fs *FS) Grant(r *server.Request, id uint64, out *fp.EntryOut) unix.Errno {
	n := fs.nodes.Acquire(id)
	if n == nil {
		return unix.ESTALE
	}
	defer fs.nodes.Release(n)
	if !r.MayWait {
		return server.WouldBlockInGo
	}
	c := fs.newCall(r, fp.OpGetattr, n)
	defer c.free()
	bodyOf[fp.GetattrIn](c)
	var a fp.AttrOut
	if fs.attributes(r, c, n, &a) == 0 {
		out.Attr = a.Attr
	} else {
		out.Attr = fp.Attr{Ino: id, Mode: n.kind | 0o600, Nlink: 1, Blksize: pageSize}
	}
	if !fs.nodes.Grant(nil, n) {
		return unix.ESTALE
	}
	out.NodeID = n.ID()
	return 0
}

// Look is what the program has for a name in a directory now, and whether it is the node with the number id. It changes
// nothing of what is known. It waits for the program until r.Canceled is closed.
func (fs *FS) Look(r *server.Request, parent uint64, name fp.Name, id uint64) (st unix.Statx_t, same bool, errno unix.Errno) {
	dir := fs.nodes.Acquire(parent)
	if dir == nil {
		return st, false, unix.ESTALE
	}
	defer fs.nodes.Release(dir)
	if dir.kind != unix.S_IFDIR {
		return st, false, unix.ENOTDIR
	}
	p := fs.patience(r)
	defer p.stop()
	p.session, p.canceled = r.Canceled, nil // who has made the request is not the client, and may give up at once
	l, errno := fs.current(&p)
	if errno != 0 {
		return st, false, errno
	}
	c := newCall() // for number, which notes there if the program ends
	defer c.free()
	if _, errno = fs.number(l, &p, c, dir); errno != 0 {
		return st, false, errno
	}
	look, errno := fs.lookAt(l, &p, dir, name)
	defer look.free()
	if errno != 0 {
		return st, false, errno
	}
	e := replyOf[fp.EntryOut](look)
	l.forget(e.NodeID, 1)
	if e.NodeID == fp.RootID || !validAttr(&e.Attr) {
		return st, false, fs.lie("the root directory, or impossible attributes, for a name")
	}
	st.Mode, st.Mask = uint16(e.Attr.Mode), unix.STATX_TYPE|unix.STATX_MODE|unix.STATX_MTIME|unix.STATX_CTIME
	st.Mtime = unix.StatxTimestamp{Sec: int64(e.Attr.Mtime), Nsec: e.Attr.MtimeNsec}
	st.Ctime = unix.StatxTimestamp{Sec: int64(e.Attr.Ctime), Nsec: e.Attr.CtimeNsec}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.byID[e.NodeID]
	same = n != nil && n.epoch.Load() == l.epoch && n.kind == e.Attr.Mode&unix.S_IFMT && n.ID() == id
	return st, same, 0
}

// Vanished notes that the client was told that a name in a directory is gone.
func (fs *FS) Vanished(parent uint64, name fp.Name) {
	dir := fs.nodes.Acquire(parent)
	if dir == nil {
		return
	}
	defer fs.nodes.Release(dir)
	n := fs.nodes.Placed(dir, name)
	if n == nil {
		return
	}
	defer fs.nodes.Release(n)
	fs.nodes.SetHint(dir, name, nil)
	fs.nodes.DisplaceAt(n, dir, name)
	if n.kind != unix.S_IFDIR {
		return
	}
	// For the client's kernel this directory is removed for good: if the program has it again, it has to be another node.
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if id := n.id.Load(); fs.byID[id] == n {
		delete(fs.byID, id)
	}
}

// Relocated notes that the client was told that a name has become another one.
func (fs *FS) Relocated(parent uint64, name fp.Name, newParent uint64, newName fp.Name) {
	from, to := fs.nodes.Acquire(parent), fs.nodes.Acquire(newParent)
	if from != nil && to != nil {
		fs.moved(from, name, to, newName, false)
	}
	for _, dir := range []*node{from, to} {
		if dir != nil {
			fs.nodes.Release(dir)
		}
	}
}
