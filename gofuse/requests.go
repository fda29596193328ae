package gofuse

import (
	"math"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// entry sends a request that is answered with an entry.
func (f *FS) entry(r *server.Request, op fp.Opcode, out *fp.EntryOut, in ...[]byte) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		if _, errno := c.send(op, in, [][]byte{fp.Bytes(out)}); errno != 0 {
			return errno
		}
		return c.intern(out)
	})
}

// plain sends a request whose answer has nothing but a header.
func (f *FS) plain(r *server.Request, op fp.Opcode, in ...[]byte) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		_, errno := c.send(op, in, [][]byte{})
		return errno
	})
}

// Lookup implements server.FileSystem.
func (f *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.entry(r, fp.OpLookup, out, name)
}

// Mknod implements server.FileSystem.
func (f *FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.entry(r, fp.OpMknod, out, fp.Bytes(in), name)
}

// Mkdir implements server.FileSystem.
func (f *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.entry(r, fp.OpMkdir, out, fp.Bytes(in), name)
}

// Symlink implements server.FileSystem.
func (f *FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	return f.entry(r, fp.OpSymlink, out, name, target)
}

// Link implements server.FileSystem.
func (f *FS) Link(r *server.Request, in *fp.LinkIn, newName fp.Name, out *fp.EntryOut) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		old := f.nodes.Acquire(in.OldNodeID)
		if old == nil {
			return unix.ESTALE
		}
		defer f.nodes.Release(old)
		inner := fp.LinkIn{OldNodeID: old.Key()}
		if _, errno := c.send(fp.OpLink, [][]byte{fp.Bytes(&inner), newName}, [][]byte{fp.Bytes(out)}); errno != 0 {
			return errno
		}
		return c.intern(out)
	})
}

// Unlink implements server.FileSystem.
func (f *FS) Unlink(r *server.Request, name fp.Name) unix.Errno { return f.plain(r, fp.OpUnlink, name) }

// Rmdir implements server.FileSystem.
func (f *FS) Rmdir(r *server.Request, name fp.Name) unix.Errno { return f.plain(r, fp.OpRmdir, name) }

// Rename implements server.FileSystem.
func (f *FS) Rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		to := f.nodes.Acquire(in.NewDir)
		if to == nil {
			return unix.ESTALE
		}
		defer f.nodes.Release(to)
		inner := fp.Rename2In{NewDir: to.Key(), Flags: in.Flags}
		_, errno := c.send(fp.OpRename2, [][]byte{fp.Bytes(&inner), oldName, newName}, [][]byte{})
		return errno
	})
}

// Statfs implements server.FileSystem.
func (f *FS) Statfs(r *server.Request, out *fp.Kstatfs) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		_, errno := c.send(fp.OpStatfs, nil, [][]byte{fp.Bytes(out)})
		return errno
	})
}

// Getattr implements server.FileSystem.
func (f *FS) Getattr(r *server.Request, in *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		var inner fp.GetattrIn
		if in.GetattrFlags&fp.GetattrFh != 0 {
			if o := c.acquire(c.node, in.Fh); o != nil {
				defer f.open.Release(o)
				inner = fp.GetattrIn{GetattrFlags: fp.GetattrFh, Fh: o.fh}
			}
		}
		_, errno := c.send(fp.OpGetattr, [][]byte{fp.Bytes(&inner)}, [][]byte{fp.Bytes(out)})
		return errno
	})
}

// Setattr implements server.FileSystem.
func (f *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		inner := *in
		inner.Valid &^= fp.FattrFh
		if in.Valid&fp.FattrFh != 0 {
			o := c.acquire(c.node, in.Fh)
			if o == nil {
				return unix.EBADF
			}
			defer f.open.Release(o)
			inner.Valid |= fp.FattrFh
			inner.Fh = o.fh
		}
		_, errno := c.send(fp.OpSetattr, [][]byte{fp.Bytes(&inner)}, [][]byte{fp.Bytes(out)})
		return errno
	})
}

// Access implements server.FileSystem.
func (f *FS) Access(r *server.Request, in *fp.AccessIn) unix.Errno {
	return f.plain(r, fp.OpAccess, fp.Bytes(in))
}

// Readlink implements server.FileSystem.
func (f *FS) Readlink(r *server.Request, dst []byte) (n int, _ unix.Errno) {
	errno := f.call(r, func(c *call) (errno unix.Errno) {
		n, errno = c.send(fp.OpReadlink, nil, [][]byte{dst})
		return errno
	})
	return n, errno
}

// Open implements server.FileSystem.
func (f *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return f.openAny(r, fp.OpOpen, in, out)
}

// Opendir implements server.FileSystem.
func (f *FS) Opendir(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return f.openAny(r, fp.OpOpendir, in, out)
}

func (f *FS) openAny(r *server.Request, op fp.Opcode, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		if _, errno := c.send(op, [][]byte{fp.Bytes(in)}, [][]byte{fp.Bytes(out)}); errno != 0 {
			return errno
		}
		return c.opening(r.Header.NodeID, out, in.Flags, op == fp.OpOpendir)
	})
}

// Create implements server.FileSystem.
func (f *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		if _, errno := c.send(fp.OpCreate, [][]byte{fp.Bytes(in), name}, [][]byte{fp.Bytes(out)}); errno != 0 {
			return errno
		}
		inner := out.Entry.NodeID
		if errno := c.intern(&out.Entry); errno != 0 {
			rel := fp.ReleaseIn{Fh: out.Open.Fh, Flags: in.Flags}
			f.send(fp.InHeader{Opcode: uint32(fp.OpRelease), NodeID: inner}, [][]byte{fp.Bytes(&rel)}, [][]byte{})
			return errno
		}
		errno := c.opening(out.Entry.NodeID, &out.Open, in.Flags, false)
		if errno != 0 {
			f.Forget(r.Cell, out.Entry.NodeID, 1)
		}
		return errno
	})
}

// Release implements server.FileSystem.
func (f *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	return f.useOpen(r, in.Fh, func(_ *call, o *openFile) unix.Errno {
		f.release(o)
		return 0
	})
}

// Releasedir implements server.FileSystem.
func (f *FS) Releasedir(r *server.Request, in *fp.ReleaseIn) unix.Errno { return f.Release(r, in) }

// plainOpen is plain for an open file: inner makes the body with go-fuse's number for it.
func (f *FS) plainOpen(r *server.Request, op fp.Opcode, fh uint64, inner func(fh uint64) []byte) unix.Errno {
	return f.useOpen(r, fh, func(c *call, o *openFile) unix.Errno {
		_, errno := c.send(op, [][]byte{inner(o.fh)}, [][]byte{})
		return errno
	})
}

// Flush implements server.FileSystem.
func (f *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	return f.plainOpen(r, fp.OpFlush, in.Fh, func(fh uint64) []byte {
		return fp.Bytes(&fp.FlushIn{Fh: fh, LockOwner: in.LockOwner})
	})
}

// Fsync implements server.FileSystem.
func (f *FS) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno {
	return f.plainOpen(r, fp.OpFsync, in.Fh, func(fh uint64) []byte {
		return fp.Bytes(&fp.FsyncIn{Fh: fh, FsyncFlags: in.FsyncFlags})
	})
}

// Fsyncdir implements server.FileSystem.
func (f *FS) Fsyncdir(r *server.Request, in *fp.FsyncIn) unix.Errno {
	return f.plainOpen(r, fp.OpFsyncdir, in.Fh, func(fh uint64) []byte {
		return fp.Bytes(&fp.FsyncIn{Fh: fh, FsyncFlags: in.FsyncFlags})
	})
}

// Fallocate implements server.FileSystem.
func (f *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	return f.plainOpen(r, fp.OpFallocate, in.Fh, func(fh uint64) []byte {
		return fp.Bytes(&fp.FallocateIn{Fh: fh, Offset: in.Offset, Length: in.Length, Mode: in.Mode})
	})
}

// Lseek implements server.FileSystem.
func (f *FS) Lseek(r *server.Request, in *fp.LseekIn, out *fp.LseekOut) unix.Errno {
	return f.useOpen(r, in.Fh, func(c *call, o *openFile) unix.Errno {
		inner := fp.LseekIn{Fh: o.fh, Offset: in.Offset, Whence: in.Whence}
		_, errno := c.send(fp.OpLseek, [][]byte{fp.Bytes(&inner)}, [][]byte{fp.Bytes(out)})
		return errno
	})
}

// CopyFileRange implements server.FileSystem.
func (f *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (n uint64, _ unix.Errno) {
	errno := f.useOpen(r, in.FhIn, func(c *call, from *openFile) unix.Errno {
		to := f.open.Acquire(in.FhOut)
		if to == nil {
			return unix.EBADF
		}
		defer f.open.Release(to)
		if to.node.ID() != in.NodeIDOut {
			return unix.EBADF
		}
		inner := *in
		inner.FhIn, inner.FhOut, inner.NodeIDOut = from.fh, to.fh, to.node.Key()
		inner.Len = min(in.Len, math.MaxUint32&^0xfff) // what the answer can say
		var out fp.WriteOut
		_, errno := c.send(fp.OpCopyFileRange, [][]byte{fp.Bytes(&inner)}, [][]byte{fp.Bytes(&out)})
		n = uint64(out.Size)
		return errno
	})
	return n, errno
}

// chunk is how much data is moved at once. The file system gets memory of ours: the client can change its
// own at any time.
const chunk = 128 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Read implements server.FileSystem.
func (f *FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (n int, _ unix.Errno) {
	errno := f.useOpen(r, in.Fh, func(c *call, o *openFile) unix.Errno {
		b := chunks.Get().(*[chunk]byte)
		defer chunks.Put(b)
		for n < int(in.Size) {
			inner := *in
			inner.Fh, inner.Offset, inner.Size = o.fh, in.Offset+uint64(n), min(in.Size-uint32(n), chunk)
			k, errno := c.send(fp.OpRead, [][]byte{fp.Bytes(&inner)}, [][]byte{b[:inner.Size]})
			if errno != 0 && n == 0 {
				return errno
			}
			n += dst.CopyFrom(b[:k], uint64(n))
			if errno != 0 || k < int(inner.Size) {
				break // the next READ says what is wrong
			}
		}
		return 0
	})
	return n, errno
}

// Write implements server.FileSystem.
func (f *FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (n int, _ unix.Errno) {
	errno := f.useOpen(r, in.Fh, func(c *call, o *openFile) unix.Errno {
		b := chunks.Get().(*[chunk]byte)
		defer chunks.Put(b)
		for n < int(in.Size) {
			inner := *in
			data := b[:src.CopyTo(b[:min(int(in.Size)-n, chunk)], uint64(n))]
			inner.Fh, inner.Offset, inner.Size = o.fh, in.Offset+uint64(n), uint32(len(data))
			var out fp.WriteOut
			_, errno := c.send(fp.OpWrite, [][]byte{fp.Bytes(&inner), data}, [][]byte{fp.Bytes(&out)})
			if errno != 0 && n == 0 {
				return errno
			}
			if errno != 0 || out.Size == 0 || int(out.Size) > len(data) {
				break
			}
			if n += int(out.Size); int(out.Size) < len(data) {
				break
			}
		}
		return 0
	})
	return n, errno
}

// listing reads a part of a directory that has room bytes at most, and calls add for each entry, with what
// precedes it in READDIRPLUS.
func (f *FS) listing(r *server.Request, op fp.Opcode, in *fp.ReadIn, room int, add func(c *call, e *fp.EntryOut, d *fp.Dirent, name []byte)) unix.Errno {
	return f.useOpen(r, in.Fh, func(c *call, o *openFile) unix.Errno {
		inner := *in
		inner.Fh, inner.Size = o.fh, uint32(room)
		words := make([]uint64, (room+7)/8)
		buf := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), room)
		n, errno := c.send(op, [][]byte{fp.Bytes(&inner)}, [][]byte{buf})
		if errno != 0 {
			return errno
		}
		for left := buf[:n]; len(left) > 0; {
			var e *fp.EntryOut
			rest, ok := left, true
			if op == fp.OpReaddirplus {
				e, rest, ok = fp.View[fp.EntryOut](rest)
			}
			var d *fp.Dirent
			if ok {
				d, rest, ok = fp.View[fp.Dirent](rest)
			}
			if !ok || uint64(d.NameLen) > uint64(len(rest)) {
				return unix.EIO
			}
			add(c, e, d, rest[:d.NameLen])
			used := fp.DirentAlign(len(left) - len(rest) + int(d.NameLen))
			left = left[min(used, len(left)):]
		}
		return 0
	})
}

// Readdir implements server.FileSystem.
func (f *FS) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return f.listing(r, fp.OpReaddir, in, out.Room(), func(_ *call, _ *fp.EntryOut, d *fp.Dirent, name []byte) {
		out.Add(d.Ino, d.Off, d.Type, name)
	})
}

// Readdirplus implements server.FileSystem.
func (f *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	return f.listing(r, fp.OpReaddirplus, in, out.Room(), func(c *call, e *fp.EntryOut, d *fp.Dirent, name []byte) {
		dots := string(name) == "." || string(name) == ".."
		if dots || c.intern(e) != 0 {
			*e = fp.EntryOut{} // the client looks it up
		}
		out.AddPlus(e, d.Ino, d.Off, d.Type, name)
	})
}

// Getxattr implements server.FileSystem.
func (f *FS) Getxattr(r *server.Request, name fp.Name, dst []byte) (int, unix.Errno) {
	return f.xattr(r, fp.OpGetxattr, dst, name)
}

// Listxattr implements server.FileSystem.
func (f *FS) Listxattr(r *server.Request, dst []byte) (int, unix.Errno) {
	return f.xattr(r, fp.OpListxattr, dst)
}

func (f *FS) xattr(r *server.Request, op fp.Opcode, dst []byte, name ...[]byte) (n int, _ unix.Errno) {
	errno := f.call(r, func(c *call) (errno unix.Errno) {
		in := fp.GetxattrIn{Size: uint32(len(dst))}
		body := append([][]byte{fp.Bytes(&in)}, name...)
		if len(dst) > 0 {
			n, errno = c.send(op, body, [][]byte{dst})
			return errno
		}
		var out fp.GetxattrOut
		_, errno = c.send(op, body, [][]byte{fp.Bytes(&out)})
		n = int(out.Size)
		return errno
	})
	return n, errno
}

// Setxattr implements server.FileSystem. go-fuse has not agreed on SETXATTR_EXT: the body is the short one.
func (f *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	body := fp.Bytes(in)[:shortSetxattr]
	return f.plain(r, fp.OpSetxattr, body, name, value)
}

// shortSetxattr is FUSE_COMPAT_SETXATTR_IN_SIZE.
const shortSetxattr = 8

// Removexattr implements server.FileSystem.
func (f *FS) Removexattr(r *server.Request, name fp.Name) unix.Errno {
	return f.plain(r, fp.OpRemovexattr, name)
}
