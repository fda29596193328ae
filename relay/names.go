package relay

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Lookup implements server.FileSystem.
func (fs *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, fp.OpLookup, dir)
		defer c.free()
		c.names[0], c.form = name, formEntry
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		e := replyOf[fp.EntryOut](c)
		if e.NodeID == 0 { // the name stands for nothing, and the client may remember that
			*out = fp.EntryOut{EntryValid: e.EntryValid, EntryValidNsec: e.EntryValidNsec}
			fs.capEntry(out)
			return 0
		}
		return fs.found(c, dir, name, out)
	})
}

// found answers with the entry in the call's reply.
func (fs *FS) found(c *call, dir *node, name fp.Name, out *fp.EntryOut) unix.Errno {
	e := replyOf[fp.EntryOut](c)
	if e.NodeID == 0 {
		return fs.lie("no node for a file that was made")
	}
	n, errno := fs.entry(c.link, e, dir, name)
	if errno != 0 {
		return errno
	}
	fs.nodes.Release(n)
	*out = *e
	return 0
}

// Mknod implements server.FileSystem.
func (fs *FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, fp.OpMknod, dir)
		defer c.free()
		*bodyOf[fp.MknodIn](c) = fp.MknodIn{Mode: in.Mode, Rdev: in.Rdev, Umask: in.Umask}
		return fs.make(r, c, dir, name, in.Mode, out)
	})
}

// Mkdir implements server.FileSystem.
func (fs *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, fp.OpMkdir, dir)
		defer c.free()
		*bodyOf[fp.MkdirIn](c) = *in
		return fs.make(r, c, dir, name, unix.S_IFDIR, out)
	})
}

// Symlink implements server.FileSystem.
func (fs *FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, fp.OpSymlink, dir)
		defer c.free()
		c.names[1] = target
		return fs.make(r, c, dir, name, unix.S_IFLNK, out)
	})
}

// make asks for a new file, and answers with it if it is of the kind that was asked for.
func (fs *FS) make(r *server.Request, c *call, dir *node, name fp.Name, mode uint32, out *fp.EntryOut) unix.Errno {
	c.names[0], c.form = name, formEntry
	if errno := fs.ask(r, c); errno != 0 {
		return errno
	}
	e := replyOf[fp.EntryOut](c)
	if kind := mode & unix.S_IFMT; kind != 0 && e.Attr.Mode&unix.S_IFMT != kind {
		fs.undo(c.link, c)
		return fs.lie("a file of another kind than was asked for")
	}
	return fs.found(c, dir, name, out)
}

// Link implements server.FileSystem.
func (fs *FS) Link(r *server.Request, in *fp.LinkIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		old := fs.nodes.Acquire(in.OldNodeID)
		if old == nil {
			return unix.ESTALE
		}
		defer fs.nodes.Release(old)
		if old.kind == unix.S_IFDIR {
			return unix.EPERM
		}
		c := fs.newCall(r, fp.OpLink, dir)
		defer c.free()
		bodyOf[fp.LinkIn](c)
		c.other, c.otherAt = old, 0
		return fs.make(r, c, dir, name, old.kind, out)
	})
}

// Unlink implements server.FileSystem.
func (fs *FS) Unlink(r *server.Request, name fp.Name) unix.Errno {
	return fs.remove(r, fp.OpUnlink, name)
}

// Rmdir implements server.FileSystem.
func (fs *FS) Rmdir(r *server.Request, name fp.Name) unix.Errno {
	return fs.remove(r, fp.OpRmdir, name)
}

func (fs *FS) remove(r *server.Request, op fp.Opcode, name fp.Name) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		c := fs.newCall(r, op, dir)
		defer c.free()
		c.names[0] = name
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		if n := fs.nodes.Placed(dir, name); n != nil {
			fs.nodes.Displace(n)
			fs.nodes.Release(n)
		}
		return 0
	})
}

// Rename implements server.FileSystem.
func (fs *FS) Rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	return fs.withDir(r, func(dir *node) unix.Errno {
		to := fs.nodes.Acquire(in.NewDir)
		if to == nil {
			return unix.ESTALE
		}
		defer fs.nodes.Release(to)
		if to.kind != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		op := fp.OpRename
		if in.Flags != 0 {
			op = fp.OpRename2
		}
		c := fs.newCall(r, op, dir)
		defer c.free()
		if op == fp.OpRename {
			bodyOf[fp.RenameIn](c)
		} else {
			bodyOf[fp.Rename2In](c).Flags = in.Flags
		}
		c.other, c.otherAt = to, 0
		c.names = [2]fp.Name{oldName, newName}
		errno := fs.ask(r, c)
		if errno == unix.ENOSYS && in.Flags != 0 {
			return unix.EINVAL // as the kernel says it
		}
		if errno == 0 {
			fs.moved(dir, oldName, to, newName, in.Flags&unix.RENAME_EXCHANGE != 0)
		}
		return errno
	})
}

// moved notes the new places of what was renamed.
func (fs *FS) moved(dir *node, oldName fp.Name, to *node, newName fp.Name, exchange bool) {
	n, over := fs.nodes.Placed(dir, oldName), fs.nodes.Placed(to, newName)
	if over != nil {
		if exchange {
			fs.nodes.Place(over, dir, oldName)
			fs.nodes.SetHint(dir, oldName, over)
		} else if over != n {
			fs.nodes.Displace(over)
		}
		fs.nodes.Release(over)
	}
	if n != nil {
		fs.nodes.Place(n, to, newName)
		fs.nodes.SetHint(to, newName, n)
		fs.nodes.Release(n)
	}
}
