package events

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Requests of everybody: what the guest learns of is watched first, and times are shortened.

// Lookup implements server.Names.
func (fs *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	parent := r.Header.NodeID
	helper := fs.isHelper(r)
	if r.Parked() != nil { // the share has asked for it already, when the thread was not the helper's
		helper = false
	}
	switch {
	case helper && fs.hasToWait(r):
		return server.WouldBlockInGo
	case isControl(parent, name):
		controlEntry(controlDir, out)
		return 0
	case parent == controlDir:
		return fs.lookupControl(r, name, out)
	case isOwn(parent):
		return unix.ESTALE
	case helper:
		return fs.lookupPhantom(r, name, out)
	}
	fs.watch(r, parent)
	errno := fs.Share.Lookup(r, name, out)
	fs.told(r, parent, out, errno)
	return errno
}

// told is called when the guest is told of a name.
func (fs *FS) told(r *server.Request, parent uint64, out *fp.EntryOut, errno unix.Errno) {
	if errno != 0 {
		return
	}
	if out.NodeID != 0 && out.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
		fs.watch(r, out.NodeID)
	}
	fs.validEntry(parent, out)
	if fs.watched == nil && out.NodeID == 0 && out.EntryValid >= 1 { // when all is checked it can't be known which these are
		out.EntryValid, out.EntryValidNsec = 1, 0
	}
}

// Forget implements server.Names.
func (fs *FS) Forget(by *fuse.Cell, nodeID, lookups uint64) {
	if isOwn(nodeID) {
		fs.forgetGhost(nodeID, lookups)
		return
	}
	fs.Share.Forget(by, nodeID, lookups)
	fs.unwatch(nodeID)
}

// Link implements server.Names.
func (fs *FS) Link(r *server.Request, in *fp.LinkIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	fs.watch(r, r.Header.NodeID)
	fs.own.name(r.Header.NodeID, name)
	fs.own.node(in.OldNodeID)
	errno := fs.Share.Link(r, in, name, out)
	fs.told(r, r.Header.NodeID, out, errno)
	return errno
}

// Create implements server.Files.
func (fs *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	if isControl(r.Header.NodeID, name) {
		return unix.EEXIST
	}
	fs.watch(r, r.Header.NodeID)
	fs.own.name(r.Header.NodeID, name)
	errno := fs.Share.Create(r, in, name, out)
	fs.told(r, r.Header.NodeID, &out.Entry, errno)
	return errno
}

// Getattr implements server.Attributes.
func (fs *FS) Getattr(r *server.Request, in *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	if isOwn(r.Header.NodeID) {
		return fs.ownAttr(r.Header.NodeID, &out.Attr)
	}
	errno := fs.Share.Getattr(r, in, out)
	if errno == 0 {
		fs.validAttr(r.Header.NodeID, fs.parent(r.Header.NodeID), &out.Attr, &out.AttrValid, &out.AttrValidNsec)
	}
	return errno
}

// parent is the directory of a node, if it matters.
func (fs *FS) parent(id uint64) uint64 {
	if fs.partial.Load() == 0 {
		return 0
	}
	dir, _, _ := fs.Share.Place(id)
	return dir
}

// Statx implements server.Attributes.
func (fs *FS) Statx(r *server.Request, in *fp.StatxIn, out *fp.StatxOut) unix.Errno {
	if isOwn(r.Header.NodeID) {
		var a fp.Attr
		errno := fs.ownAttr(r.Header.NodeID, &a)
		o := &out.Stat
		o.Mask, o.Mode, o.Nlink, o.Ino, o.Blksize = unix.STATX_BASIC_STATS, uint16(a.Mode), a.Nlink, a.Ino, a.Blksize
		return errno
	}
	errno := fs.Share.Statx(r, in, out)
	if errno == 0 {
		a := fp.Attr{Nlink: out.Stat.Nlink, Mode: uint32(out.Stat.Mode)}
		fs.validAttr(r.Header.NodeID, fs.parent(r.Header.NodeID), &a, &out.AttrValid, &out.AttrValidNsec)
	}
	return errno
}

// Opendir implements server.Directories.
func (fs *FS) Opendir(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	if isOwn(r.Header.NodeID) {
		return unix.EACCES // there is nothing to see
	}
	fs.watch(r, r.Header.NodeID)
	return fs.Share.Opendir(r, in, out)
}

// Readdirplus implements server.Directories.
func (fs *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	fs.watch(r, r.Header.NodeID)
	errno := fs.Share.Readdirplus(r, in, out)
	if errno == 0 {
		fs.toldAll(r, out.Bytes())
	}
	return errno
}

// toldAll is told for the entries of a listing, which FS.Share has written.
func (fs *FS) toldAll(r *server.Request, b []byte) {
	const head = int(unsafe.Sizeof(fp.Direntplus{}))
	for len(b) >= head {
		e := (*fp.EntryOut)(unsafe.Pointer(unsafe.SliceData(b)))
		d := (*fp.Dirent)(unsafe.Pointer(&b[unsafe.Sizeof(*e)]))
		size := fp.DirentAlign(head + int(d.NameLen))
		if size > len(b) {
			return
		}
		name := b[head : head+int(d.NameLen)]
		if string(name) == "." || string(name) == ".." {
			fs.validEntry(r.Header.NodeID, e)
		} else {
			fs.told(r, r.Header.NodeID, e, 0)
		}
		b = b[size:]
	}
}
