package events

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Requests of the helper's thread: those that were announced are answered as if done.

// change is a change of the host, and the phantom that tells the guest of it.
type change struct {
	op      wire.Op
	kind    uint32 // S_IFMT
	dir     uint64
	name    string
	newDir  uint64
	newName string

	seq, nonce uint64
	node       uint64    // that the helper was told of for the name; 0 is none
	at         time.Time // when it was noticed
}

// isHelper reports whether a request comes from the helper's thread.
func (fs *FS) isHelper(r *server.Request) bool {
	pid := fs.helper.Load()
	return pid != 0 && r.Header.PID == pid
}

// hasToWait reports whether a request of the helper's is to be made again when it may wait, before anything is decided: a share
// that tells of changes itself waits for a program in most of what it does.
func (fs *FS) hasToWait(r *server.Request) bool { return fs.watched == nil && !r.MayWait }

// announced finds the first of the announced changes that f is true for, which is not performed yet.
// It is a copy; those before count as performed if performed is set, and this one too.
func (fs *FS) announced(performed bool, f func(c *change) bool) (change, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.session
	if s == nil {
		return change{}, false
	}
	s.heard = time.Now()
	for i := s.next; i < len(s.batch); i++ {
		if c := &s.batch[i]; f(c) {
			if performed {
				s.next = i + 1
			}
			return *c, true
		}
	}
	return change{}, false
}

// lookupPhantom is a LOOKUP of the helper's thread. It is told what the guest has been told so far.
func (fs *FS) lookupPhantom(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	parent, text := r.Header.NodeID, name.String()
	c, ok := fs.announced(false, func(c *change) bool {
		return c.dir == parent && c.name == text || c.op == wire.Move && c.newDir == parent && c.newName == text
	})
	switch {
	case !ok:
		return fs.lookupPast(r, name, out)
	case c.op == wire.Make:
		return unix.ENOENT
	case c.op == wire.Check:
		errno := fs.Share.Lookup(r, name, out)
		fs.told(r, parent, out, errno)
		return errno
	case c.op == wire.Move && c.dir == controlDir && parent == controlDir:
		return fs.lookupArriving(r, &c, out)
	case c.op == wire.Move && c.newDir == parent && c.newName == text:
		return fs.lookupTarget(r, name, &c, out)
	case c.op == wire.Move, c.op == wire.Remove:
		return fs.lookupSource(r, name, &c, out)
	}
	errno := fs.Share.Lookup(r, name, out)
	if errno != 0 || out.NodeID == 0 {
		*out = fp.EntryOut{}
		if errno = fs.newGhost(c.kind, out); errno != 0 {
			return errno
		}
	} else {
		fs.told(r, parent, out, 0)
	}
	fs.noteNode(c.seq, out.NodeID)
	return 0
}

// noteNode notes which node the helper was told of.
func (fs *FS) noteNode(seq, id uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if s := fs.session; s != nil {
		for i := range s.batch {
			if s.batch[i].seq == seq {
				s.batch[i].node = id
			}
		}
	}
}

// lookupPast is for a name that nothing was announced of: a directory on the way.
func (fs *FS) lookupPast(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	if isOwn(r.Header.NodeID) {
		return unix.ENOENT
	}
	if id, _ := fs.Share.Child(r.Header.NodeID, name); id != 0 {
		return fs.Share.Grant(r, id, out)
	}
	errno := fs.Share.Lookup(r, name, out)
	fs.told(r, r.Header.NodeID, out, errno)
	return errno
}

// hasType reports whether a node can be what a change is about, for the kernel.
func (c *change) hasType(kind uint32) bool { return (kind == unix.S_IFDIR) == (c.kind == unix.S_IFDIR) }

// lookupSource is for a name that is gone: what was there, if the guest knows it.
func (fs *FS) lookupSource(r *server.Request, name fp.Name, c *change, out *fp.EntryOut) unix.Errno {
	if id, kind := fs.Share.Child(c.dir, name); id != 0 && c.hasType(kind) {
		return fs.Share.Grant(r, id, out)
	}
	if id, kind := fs.arrived(r, c); id != 0 && c.hasType(kind) {
		return fs.Share.Grant(r, id, out)
	}
	return fs.newGhost(c.kind, out)
}

// arrived is the node at the new name of a rename, if somebody else in the guest has found the file
// there already; 0 is none.
func (fs *FS) arrived(r *server.Request, c *change) (id uint64, kind uint32) {
	if c.op != wire.Move || isOwn(c.newDir) {
		return 0, 0
	}
	name := nameOf(c.newName)
	if id, kind = fs.Share.Child(c.newDir, name); id != 0 {
		if _, same, errno := fs.Share.Look(r, c.newDir, name, id); errno == 0 && same {
			return id, kind
		}
	}
	return 0, 0
}

// lookupTarget is for the new name of a rename: what was there before, if the guest knows it.
func (fs *FS) lookupTarget(r *server.Request, name fp.Name, c *change, out *fp.EntryOut) unix.Errno {
	id, kind := fs.Share.Child(r.Header.NodeID, name)
	if known, _ := fs.arrived(r, c); id == 0 || id == known || id == c.node || !c.hasType(kind) {
		return unix.ENOENT
	}
	return fs.Share.Grant(r, id, out)
}

// lookupArriving is for the old name of what has come from a directory that is not watched: the file
// is at its new place already.
func (fs *FS) lookupArriving(r *server.Request, c *change, out *fp.EntryOut) unix.Errno {
	r.Header.NodeID = c.newDir
	errno := fs.Share.Lookup(r, nameOf(c.newName), out)
	r.Header.NodeID = controlDir
	if errno == 0 && out.NodeID != 0 && c.hasType(out.Attr.Mode&unix.S_IFMT) {
		fs.told(r, c.newDir, out, 0)
		fs.noteNode(c.seq, out.NodeID)
		return 0
	}
	if errno == 0 && out.NodeID != 0 {
		fs.Share.Forget(r.Cell, out.NodeID, 1)
	}
	*out = fp.EntryOut{}
	return fs.newGhost(c.kind, out)
}

func nameOf(s string) fp.Name { return append([]byte(s), 0) }

// made is a request that makes a name. ok is false if it is no phantom.
func (fs *FS) made(r *server.Request, name fp.Name, kind uint32, out *fp.EntryOut) (errno unix.Errno, ok bool) {
	if fs.refuses(r) {
		return errRefused, true
	}
	if isOwn(r.Header.NodeID) {
		return unix.EPERM, true
	}
	if !fs.isHelper(r) {
		return 0, false
	}
	if fs.hasToWait(r) {
		return server.WouldBlockInGo, true
	}
	parent, text := r.Header.NodeID, name.String()
	c, ok := fs.announced(true, func(c *change) bool {
		return c.dir == parent && c.name == text && (c.op == wire.Check || c.op == wire.Make && c.kind == kind)
	})
	if !ok {
		return 0, false
	}
	if c.op == wire.Check {
		return unix.EEXIST, true
	}
	errno = fs.Share.Lookup(r, name, out)
	if errno == 0 && out.NodeID != 0 && out.Attr.Mode&unix.S_IFMT == kind {
		fs.told(r, parent, out, 0)
		return 0, true
	}
	if errno == 0 && out.NodeID != 0 {
		fs.Share.Forget(r.Cell, out.NodeID, 1)
	}
	*out = fp.EntryOut{}
	return fs.newGhost(kind, out), true
}

// Mknod implements server.Names.
func (fs *FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	if errno, ok := fs.made(r, name, in.Mode&unix.S_IFMT, out); ok {
		return errno
	}
	fs.watch(r, r.Header.NodeID)
	fs.own.name(r.Header.NodeID, name)
	errno := fs.Share.Mknod(r, in, name, out)
	fs.told(r, r.Header.NodeID, out, errno)
	return errno
}

// Mkdir implements server.Names.
func (fs *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	if errno, ok := fs.made(r, name, unix.S_IFDIR, out); ok {
		return errno
	}
	fs.watch(r, r.Header.NodeID)
	fs.own.name(r.Header.NodeID, name)
	errno := fs.Share.Mkdir(r, in, name, out)
	fs.told(r, r.Header.NodeID, out, errno)
	return errno
}

// Symlink implements server.Names.
func (fs *FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	if errno, ok := fs.made(r, name, unix.S_IFLNK, out); ok {
		return errno
	}
	fs.watch(r, r.Header.NodeID)
	fs.own.name(r.Header.NodeID, name)
	errno := fs.Share.Symlink(r, name, target, out)
	fs.told(r, r.Header.NodeID, out, errno)
	return errno
}

// removed is a request that removes a name; false if it is no phantom.
func (fs *FS) removed(r *server.Request, name fp.Name, dir bool) (errno unix.Errno, ok bool) {
	if fs.refuses(r) {
		return errRefused, true
	}
	if !fs.isHelper(r) {
		return 0, false
	}
	parent, text := r.Header.NodeID, name.String()
	_, ok = fs.announced(true, func(c *change) bool {
		return c.op == wire.Remove && c.dir == parent && c.name == text && (c.kind == unix.S_IFDIR) == dir
	})
	if ok {
		fs.Share.Vanished(parent, name)
	}
	return 0, ok
}

// Unlink implements server.Names.
func (fs *FS) Unlink(r *server.Request, name fp.Name) unix.Errno {
	if errno, ok := fs.removed(r, name, false); ok {
		return errno
	}
	fs.own.name(r.Header.NodeID, name)
	return fs.Share.Unlink(r, name)
}

// Rmdir implements server.Names.
func (fs *FS) Rmdir(r *server.Request, name fp.Name) unix.Errno {
	if errno, ok := fs.removed(r, name, true); ok {
		return errno
	}
	fs.own.name(r.Header.NodeID, name)
	return fs.Share.Rmdir(r, name)
}

// Rename implements server.Names.
func (fs *FS) Rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	if fs.refuses(r) {
		return errRefused
	}
	if !fs.isHelper(r) {
		return fs.rename(r, in, oldName, newName)
	}
	dir, from, to := r.Header.NodeID, oldName.String(), newName.String()
	c, ok := fs.announced(true, func(c *change) bool {
		return c.op == wire.Move && in.Flags == 0 && c.dir == dir && c.name == from && c.newDir == in.NewDir && c.newName == to
	})
	switch {
	case !ok:
		return fs.rename(r, in, oldName, newName)
	case isOwn(c.newDir):
		fs.Share.Vanished(dir, oldName)
	case !isOwn(dir):
		fs.Share.Relocated(dir, oldName, in.NewDir, newName)
	}
	return 0
}

// rename is a RENAME that is no phantom.
func (fs *FS) rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	fs.own.name(r.Header.NodeID, oldName)
	fs.own.name(in.NewDir, newName)
	return fs.Share.Rename(r, in, oldName, newName)
}

// Setattr implements server.Attributes.
func (fs *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	if fs.refuses(r) {
		return errRefused
	}
	if fs.isHelper(r) && fs.hasToWait(r) {
		return server.WouldBlockInGo
	}
	if fs.isHelper(r) && in.Valid&fp.FattrMtime != 0 && in.Valid&(fp.FattrSize|fp.FattrMode|fp.FattrUID|fp.FattrGID) == 0 {
		_, ok := fs.announced(true, func(c *change) bool {
			return (c.op == wire.Modify || c.op == wire.Attributes) && c.nonce == in.Mtime
		})
		if ok {
			return fs.attributes(r, out)
		}
	}
	if isOwn(r.Header.NodeID) {
		return unix.EPERM
	}
	fs.own.node(r.Header.NodeID)
	errno := fs.Share.Setattr(r, in, out)
	if errno == 0 {
		fs.validAttr(r.Header.NodeID, fs.parent(r.Header.NodeID), &out.Attr, &out.AttrValid, &out.AttrValidNsec)
	}
	return errno
}

// attributes answers a phantom with the attributes that the host has.
func (fs *FS) attributes(r *server.Request, out *fp.AttrOut) unix.Errno {
	errno := fs.Getattr(r, &fp.GetattrIn{}, out)
	if errno == 0 || isOwn(r.Header.NodeID) {
		return errno
	}
	// The file is gone, which is told next.
	var e fp.EntryOut
	if errno = fs.Share.Grant(r, r.Header.NodeID, &e); errno == 0 {
		fs.Share.Forget(r.Cell, e.NodeID, 1)
		*out = fp.AttrOut{Attr: e.Attr}
	}
	return errno
}

// performClose reports whether the helper's OPEN of a node for writing was announced.
func (fs *FS) performClose(id uint64) bool {
	_, ok := fs.announced(true, func(c *change) bool {
		if c.op != wire.Close {
			return false
		}
		// Not by Share.Child, whose memory of names may have lost this one.
		dir, name, ok := fs.Share.Place(id)
		return c.node == id || ok && dir == c.dir && name.String() == c.name
	})
	return ok
}

// ghost is a file that is gone, for a name that the guest is to be told of.
type ghost struct {
	kind    uint32
	lookups uint64
}

func (g *ghost) attr(id uint64) fp.Attr {
	return fp.Attr{Ino: id, Nlink: 1, Mode: g.kind | 0o600, Blksize: 4096}
}

// newGhost answers a LOOKUP with one.
func (fs *FS) newGhost(kind uint32, out *fp.EntryOut) unix.Errno {
	if kind == 0 {
		kind = unix.S_IFREG
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.ghosts) >= maxGhosts {
		return unix.ENOMEM
	}
	for {
		if fs.ghostID++; fs.ghostID < ghostBase {
			fs.ghostID = ghostBase
		}
		if id := ownBase | uint64(fs.ghostID); fs.ghosts[id] == nil {
			g := &ghost{kind: kind, lookups: 1}
			fs.ghosts[id] = g
			out.NodeID, out.Attr = id, g.attr(id)
			return 0
		}
	}
}

func (fs *FS) forgetGhost(id, lookups uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if g := fs.ghosts[id]; g != nil {
		if g.lookups -= min(lookups, g.lookups); g.lookups == 0 {
			delete(fs.ghosts, id)
		}
	}
}
