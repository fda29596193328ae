package relay

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// capEntry and capAttr keep to what was promised at most since the program has notified.
func (fs *FS) capEntry(e *fp.EntryOut) {
	most := time.Duration(fs.most.Load())
	capTime(&e.EntryValid, &e.EntryValidNsec, most)
	capTime(&e.AttrValid, &e.AttrValidNsec, most)
}

func (fs *FS) capAttr(a *fp.AttrOut) {
	capTime(&a.AttrValid, &a.AttrValidNsec, time.Duration(fs.most.Load()))
}

// optionalFile is the open file that a request names beside its node, if it does; to be released.
func (fs *FS) optionalFile(n *node, named bool, fh uint64) (*file, unix.Errno) {
	if !named {
		return nil, 0
	}
	f := fs.files.Acquire(fh)
	if f == nil {
		if fh == 0 && (fs.noOpen.Load() || fs.noOpendir.Load()) {
			return nil, 0
		}
		return nil, unix.EBADF
	}
	if f.node != n {
		fs.files.Release(f)
		return nil, unix.EBADF
	}
	return f, 0
}

// Getattr implements server.FileSystem.
func (fs *FS) Getattr(r *server.Request, in *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		f, errno := fs.optionalFile(n, in.GetattrFlags&fp.GetattrFh != 0, in.Fh)
		if errno != 0 {
			return errno
		}
		c := fs.newCall(r, fp.OpGetattr, n)
		defer c.free()
		body := bodyOf[fp.GetattrIn](c)
		if f != nil {
			defer fs.files.Release(f)
			body.GetattrFlags = fp.GetattrFh
			c.setFile(f, 8)
		}
		return fs.attributes(r, c, n, out)
	})
}

// attributes asks for attributes, and answers with them.
func (fs *FS) attributes(r *server.Request, c *call, n *node, out *fp.AttrOut) unix.Errno {
	c.form = formAttr
	if errno := fs.ask(r, c); errno != 0 {
		return errno
	}
	reply := replyOf[fp.AttrOut](c)
	if errno := fs.attr(n, c.header.NodeID, &reply.Attr); errno != 0 {
		return errno
	}
	fs.capAttr(reply)
	*out = *reply
	return 0
}

// passedFattr are the bits of SETATTR that programs know. FATTR_KILL_SUIDGID needs a feature that is not offered.
const passedFattr = fp.FattrMode | fp.FattrUID | fp.FattrGID | fp.FattrSize | fp.FattrAtime | fp.FattrMtime |
	fp.FattrAtimeNow | fp.FattrMtimeNow | fp.FattrLockowner | fp.FattrCtime

// Setattr implements server.FileSystem.
func (fs *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		f, errno := fs.optionalFile(n, in.Valid&fp.FattrFh != 0, in.Fh)
		if errno != 0 {
			return errno
		}
		if f != nil {
			defer fs.files.Release(f)
		}
		if in.Valid&fp.FattrSize != 0 && (n.kind != unix.S_IFREG || int64(in.Size) < 0) {
			return unix.EINVAL
		}
		c := fs.newCall(r, fp.OpSetattr, n)
		defer c.free()
		body := bodyOf[fp.SetattrIn](c)
		*body = *in
		body.Valid, body.Fh = in.Valid&passedFattr, 0
		if errno := fs.owner(body); errno != 0 {
			return errno
		}
		if f != nil {
			body.Valid |= fp.FattrFh
			c.setFile(f, 8)
		}
		return fs.attributes(r, c, n, out)
	})
}

// Statx implements server.FileSystem.
func (fs *FS) Statx(r *server.Request, in *fp.StatxIn, out *fp.StatxOut) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		f, errno := fs.optionalFile(n, in.GetattrFlags&fp.GetattrFh != 0, in.Fh)
		if errno != 0 {
			return errno
		}
		c := fs.newCall(r, fp.OpStatx, n)
		defer c.free()
		body := bodyOf[fp.StatxIn](c)
		body.SxFlags, body.SxMask = in.SxFlags, in.SxMask
		if f != nil {
			defer fs.files.Release(f)
			body.GetattrFlags = fp.GetattrFh
			c.setFile(f, 8)
		}
		c.form, c.fixedSize = formFixed, fp.Size[fp.StatxOut]()
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		reply := replyOf[fp.StatxOut](c)
		if uint32(reply.Stat.Mode)&unix.S_IFMT != n.kind || int64(reply.Stat.Size) < 0 {
			return fs.lie("attributes that are impossible, or another file's")
		}
		if id := c.header.NodeID; reply.Stat.Ino == id {
			reply.Stat.Ino = hide(id, n)
		}
		fs.owned(&reply.Stat.UID, &reply.Stat.GID)
		capTime(&reply.AttrValid, &reply.AttrValidNsec, time.Duration(fs.most.Load()))
		*out = *reply
		return 0
	})
}

// Access implements server.FileSystem.
func (fs *FS) Access(r *server.Request, in *fp.AccessIn) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		if in.Mask&^7 != 0 {
			return unix.EINVAL
		}
		c := fs.newCall(r, fp.OpAccess, n)
		defer c.free()
		bodyOf[fp.AccessIn](c).Mask = in.Mask
		return fs.ask(r, c)
	})
}

// Readlink implements server.FileSystem.
func (fs *FS) Readlink(r *server.Request, dst []byte) (int, unix.Errno) {
	return fs.bytes(r, func(n *node) (*call, unix.Errno) {
		if n.kind != unix.S_IFLNK {
			return nil, unix.EINVAL
		}
		c := fs.newCall(r, fp.OpReadlink, n)
		c.out = dst
		return c, 0
	}, func(b []byte) unix.Errno {
		if len(b) == 0 || bytes.IndexByte(b, 0) >= 0 {
			return fs.lie("a symbolic link without a target, or with a byte that is 0")
		}
		return 0
	})
}

// bytes is a request whose reply is as long as the program likes, up to the call's out.
func (fs *FS) bytes(r *server.Request, ask func(n *node) (*call, unix.Errno), check func([]byte) unix.Errno) (n int, errno unix.Errno) {
	errno = fs.withNode(r, func(at *node) unix.Errno {
		c, errno := ask(at)
		if errno != 0 {
			return errno
		}
		defer c.free()
		c.form = formBytes
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		n = c.n
		return check(c.out[:n])
	})
	return n, errno
}

// Getxattr implements server.FileSystem.
func (fs *FS) Getxattr(r *server.Request, name fp.Name, dst []byte) (int, unix.Errno) {
	return fs.xattr(r, fp.OpGetxattr, name, dst)
}

// Listxattr implements server.FileSystem.
func (fs *FS) Listxattr(r *server.Request, dst []byte) (int, unix.Errno) {
	return fs.xattr(r, fp.OpListxattr, nil, dst)
}

// xattrMax is the longest value, and the longest list of names.
const xattrMax = 65536

func (fs *FS) xattr(r *server.Request, op fp.Opcode, name fp.Name, dst []byte) (int, unix.Errno) {
	if len(dst) > 0 {
		return fs.bytes(r, func(n *node) (*call, unix.Errno) {
			c := fs.newCall(r, op, n)
			bodyOf[fp.GetxattrIn](c).Size = uint32(len(dst))
			c.names[0], c.out = name, dst
			return c, 0
		}, func(b []byte) unix.Errno {
			if op == fp.OpListxattr && len(b) > 0 && b[len(b)-1] != 0 {
				return fs.lie("a list of names that does not end")
			}
			return 0
		})
	}
	size := 0
	errno := fs.withNode(r, func(n *node) unix.Errno {
		c := fs.newCall(r, op, n)
		defer c.free()
		bodyOf[fp.GetxattrIn](c)
		c.names[0] = name
		c.form, c.fixedSize = formFixed, fp.Size[fp.GetxattrOut]()
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		if size = int(replyOf[fp.GetxattrOut](c).Size); size > xattrMax {
			return fs.lie("a value that is too long")
		}
		return 0
	})
	return size, errno
}

// Setxattr implements server.FileSystem.
func (fs *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		if in.Flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
			return unix.EINVAL
		}
		c := fs.newCall(r, fp.OpSetxattr, n)
		defer c.free()
		body := bodyOf[fp.SetxattrIn](c)
		body.Size, body.Flags = uint32(len(value)), in.Flags
		c.bodySize = fp.CompatSetxattrInSize // SETXATTR_EXT is not offered
		c.names[0], c.tail = name, value
		return fs.ask(r, c)
	})
}

// Removexattr implements server.FileSystem.
func (fs *FS) Removexattr(r *server.Request, name fp.Name) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		c := fs.newCall(r, fp.OpRemovexattr, n)
		defer c.free()
		c.names[0] = name
		return fs.ask(r, c)
	})
}
