package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// What the guest knows. Package events uses it to tell the guest of the host's
// changes.

// UseFD calls f with the node's O_PATH descriptor, which is borrowed.
func (fs *FS) UseFD(r *server.Request, id uint64, f func(fd int) error) error {
	n, errno := fs.enterNode(id, intentStat)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	fd, errno := fs.find.fdOf(threadOf(r), n)
	if errno != 0 {
		return errno
	}
	return f(fd)
}

// Known reports whether the guest has the node.
func (fs *FS) Known(id uint64) bool { return fs.nodes.Get(id) != nil }

// Child is the node that name in the directory was last seen to be, and the type in its mode; 0 if
// that is not known. It may be another one by now.
func (fs *FS) Child(parent uint64, name fp.Name) (id uint64, kind uint32) {
	dir := fs.nodes.Acquire(parent)
	if dir == nil {
		return 0, 0
	}
	defer fs.nodes.release(dir)
	n := fs.nodes.Placed(dir, name)
	if n == nil {
		return 0, 0
	}
	defer fs.nodes.release(n)
	if fs.nodes.Get(n.ID()) != n {
		return 0, 0 // the guest has forgotten it
	}
	return n.ID(), uint32(n.mode())
}

// Place is where a node was last seen; false if that is not known.
func (fs *FS) Place(id uint64) (parent uint64, name fp.Name, ok bool) {
	n := fs.nodes.Acquire(id)
	if n == nil {
		return 0, nil, false
	}
	defer fs.nodes.release(n)
	dir, name := fs.nodes.Location(n)
	if dir == nil {
		return 0, nil, false
	}
	defer fs.nodes.release(dir)
	return dir.ID(), name, fs.nodes.Get(dir.ID()) == dir
}

// Grant is a LOOKUP that finds this node, wherever it is on the host. If its file is gone there, the
// attributes are of its type only.
func (fs *FS) Grant(r *server.Request, id uint64, out *fp.EntryOut) unix.Errno {
	n, errno := fs.enterNode(id, intentLookup)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	ts := threadOf(r)
	if errno := fs.attrs.stat(ts, n); errno == 0 {
		fs.attrs.fill(n.ID(), &ts.st, &out.Attr)
		fs.dax.note(n, &out.Attr)
	} else {
		out.Attr = fp.Attr{Ino: n.Key().ino, Mode: uint32(n.mode()) | 0o600, Nlink: 1, Blksize: 4096}
	}
	if !fs.nodes.Grant(ts.cell, n) {
		return unix.ESTALE
	}
	out.NodeID = n.ID()
	return 0
}

// Vanished notes that the guest was told that a name in a directory is gone.
func (fs *FS) Vanished(parent uint64, name fp.Name) {
	dir := fs.nodes.Acquire(parent)
	if dir == nil {
		return
	}
	defer fs.nodes.release(dir)
	n := fs.nodes.Placed(dir, name)
	fs.nodes.unnamed(n, dir, name)
	if n != nil {
		fs.nodes.release(n)
	}
}

// Relocated notes that the guest was told that a name has become another one.
func (fs *FS) Relocated(parent uint64, name fp.Name, newParent uint64, newName fp.Name) {
	fs.Vanished(newParent, newName)
	from, to := fs.nodes.Acquire(parent), fs.nodes.Acquire(newParent)
	if from != nil && to != nil {
		if n := fs.nodes.Placed(from, name); n != nil {
			fs.nodes.SetHint(from, name, nil)
			fs.nodes.renamed(n, to, newName)
			fs.nodes.release(n)
		}
	}
	for _, dir := range []*inode{from, to} {
		if dir != nil {
			fs.nodes.release(dir)
		}
	}
}

// Look is what a name in a directory is on the host now: the bits of its mode, and whether it is
// the node with the number id. It changes nothing of what is known.
func (fs *FS) Look(r *server.Request, parent uint64, name fp.Name, id uint64) (st unix.Statx_t, same bool, errno unix.Errno) {
	ts, dir, fd, errno := fs.enterName(r, name, intentLookup)
	if errno != 0 {
		return st, false, errno
	}
	defer fs.nodes.release(dir)
	if errno = sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
		return st, false, errno
	}
	st = ts.st
	if n := fs.nodes.Acquire(id); id != 0 && n != nil {
		same = keyOf(&st) == n.Key() && n.same(&st)
		fs.nodes.release(n)
	}
	return st, same, 0
}

// Nodes yields the nodes that the guest has.
func (fs *FS) Nodes(yield func(id uint64, dir bool) bool) {
	for n := range fs.nodes.All {
		if !yield(n.ID(), n.isDir()) {
			return
		}
	}
}
