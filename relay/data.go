package relay

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Read implements server.FileSystem. A program that takes less at once than the client is asked several times.
func (fs *FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (n int, errno unix.Errno) {
	if in.Offset > math.MaxInt64-uint64(in.Size) {
		return 0, unix.EINVAL
	}
	errno = fs.withFile(r, in.Fh, false, func(at *node, f *file) (errno unix.Errno) {
		if !r.MayWait { // it is parked, or was
			if in.Size > fs.link.Load().maxRead && resumedCall(r) == nil {
				return server.WouldBlockInGo
			}
			n, errno = fs.read(r, at, f, in, 0, in.Size, dst)
			return errno
		}
		for n < int(in.Size) {
			size := min(in.Size-uint32(n), fs.link.Load().maxRead)
			part := dst
			if n > 0 || size < in.Size {
				part = dst.Cut(nil, uint64(n), uint64(size))
			}
			got, errno := fs.read(r, at, f, in, uint64(n), size, part)
			if errno != 0 && n == 0 {
				return errno
			}
			n += got
			if errno != 0 || got < int(size) {
				break
			}
		}
		return 0
	})
	return n, errno
}

// read is one READ of the program.
func (fs *FS) read(r *server.Request, at *node, f *file, in *fp.ReadIn, skip uint64, size uint32, dst fuse.Buffers) (int, unix.Errno) {
	c := fs.newCall(r, fp.OpRead, at)
	defer c.free()
	*bodyOf[fp.ReadIn](c) = fp.ReadIn{Offset: in.Offset + skip, Size: size, Flags: in.Flags,
		ReadFlags: in.ReadFlags & fp.ReadLockowner, LockOwner: in.LockOwner}
	c.setFile(f, 0)
	c.form, c.dst = formData, dst
	if errno := fs.ask(r, c); errno != 0 {
		return 0, errno
	}
	if c.bounce != nil {
		dst.CopyFrom(c.bounce, 0)
	}
	return c.n, 0
}

// Write implements server.FileSystem.
func (fs *FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (n int, errno unix.Errno) {
	if in.Offset > math.MaxInt64-uint64(in.Size) {
		return 0, unix.EINVAL
	}
	errno = fs.withFile(r, in.Fh, false, func(at *node, f *file) unix.Errno {
		c := fs.newCall(r, fp.OpWrite, at)
		defer c.free()
		*bodyOf[fp.WriteIn](c) = fp.WriteIn{Offset: in.Offset, Size: in.Size, Flags: in.Flags,
			WriteFlags: in.WriteFlags & (fp.WriteCache | fp.WriteLockowner), LockOwner: in.LockOwner}
		c.setFile(f, 0)
		c.data = src
		c.form, c.fixedSize = formFixed, fp.Size[fp.WriteOut]()
		if f != nil && c.parked == nil {
			f.written.Add(1)
		}
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		size := replyOf[fp.WriteOut](c).Size
		if size > in.Size {
			return fs.lie("more bytes than were to be written")
		}
		n = int(size)
		return 0
	})
	return n, errno
}

// reportLost reports, once for each file, that a program which has ended may not have written all.
func (f *file) reportLost() unix.Errno {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		f.lost = false
		return unix.EIO
	}
	return 0
}

// Flush implements server.FileSystem.
func (fs *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	return fs.withFile(r, in.Fh, false, func(n *node, f *file) unix.Errno {
		c := fs.newCall(r, fp.OpFlush, n)
		defer c.free()
		bodyOf[fp.FlushIn](c).LockOwner = in.LockOwner
		c.setFile(f, 0)
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		return f.reportLost()
	})
}

// Fsync implements server.FileSystem.
func (fs *FS) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno { return fs.fsync(r, fp.OpFsync, in) }

// Fsyncdir implements server.FileSystem.
func (fs *FS) Fsyncdir(r *server.Request, in *fp.FsyncIn) unix.Errno {
	return fs.fsync(r, fp.OpFsyncdir, in)
}

func (fs *FS) fsync(r *server.Request, op fp.Opcode, in *fp.FsyncIn) unix.Errno {
	return fs.withFile(r, in.Fh, op == fp.OpFsyncdir, func(n *node, f *file) unix.Errno {
		c := fs.newCall(r, op, n)
		defer c.free()
		bodyOf[fp.FsyncIn](c).FsyncFlags = in.FsyncFlags & fp.FsyncFdatasync
		c.setFile(f, 0)
		written := uint64(0)
		if f != nil {
			written = f.written.Load()
		}
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		if f != nil {
			f.synced.Store(written)
		}
		return f.reportLost()
	})
}

// Fallocate implements server.FileSystem.
func (fs *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	if in.Length == 0 || in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return unix.EINVAL
	}
	return fs.withFile(r, in.Fh, false, func(n *node, f *file) unix.Errno {
		c := fs.newCall(r, fp.OpFallocate, n)
		defer c.free()
		*bodyOf[fp.FallocateIn](c) = fp.FallocateIn{Offset: in.Offset, Length: in.Length, Mode: in.Mode}
		c.setFile(f, 0)
		if f != nil {
			f.written.Add(1)
		}
		return fs.ask(r, c)
	})
}

// Lseek implements server.FileSystem.
func (fs *FS) Lseek(r *server.Request, in *fp.LseekIn, out *fp.LseekOut) unix.Errno {
	if in.Whence > unix.SEEK_HOLE || in.Offset > math.MaxInt64 {
		return unix.EINVAL
	}
	return fs.withFile(r, in.Fh, false, func(n *node, f *file) unix.Errno {
		c := fs.newCall(r, fp.OpLseek, n)
		defer c.free()
		*bodyOf[fp.LseekIn](c) = fp.LseekIn{Offset: in.Offset, Whence: in.Whence}
		c.setFile(f, 0)
		c.form, c.fixedSize = formFixed, fp.Size[fp.LseekOut]()
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		*out = *replyOf[fp.LseekOut](c)
		if out.Offset > math.MaxInt64 {
			return fs.lie("an impossible offset")
		}
		return 0
	})
}

// CopyFileRange implements server.FileSystem.
func (fs *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (copied uint64, errno unix.Errno) {
	length := min(in.Len, math.MaxUint32&^0xfff) // what the reply can say
	if in.Flags != 0 || in.OffIn > math.MaxInt64-length || in.OffOut > math.MaxInt64-length {
		return 0, unix.EINVAL
	}
	errno = fs.withFile(r, in.FhIn, false, func(n *node, f *file) unix.Errno {
		to := fs.nodes.Acquire(in.NodeIDOut)
		if to == nil {
			return unix.ESTALE
		}
		defer fs.nodes.Release(to)
		out, errno := fs.optionalFile(to, true, in.FhOut)
		if errno != 0 {
			return errno
		}
		c := fs.newCall(r, fp.OpCopyFileRange, n)
		defer c.free()
		*bodyOf[fp.CopyFileRangeIn](c) = fp.CopyFileRangeIn{OffIn: in.OffIn, OffOut: in.OffOut, Len: length}
		c.setFile(f, 0)
		c.other, c.otherAt = to, 16
		if out != nil {
			defer fs.files.Release(out)
			c.otherFile, c.otherFileAt = out, 24
			out.written.Add(1)
		}
		c.form, c.fixedSize = formFixed, fp.Size[fp.WriteOut]()
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		if copied = uint64(replyOf[fp.WriteOut](c).Size); copied > length {
			return fs.lie("more bytes than were to be copied")
		}
		return 0
	})
	return copied, errno
}

// ioctlMax bounds the data of an ioctl, each way: what Linux sends of an ioctl whose command says how long it is.
const ioctlMax = 1 << 14

// Ioctl implements server.FileSystem. A program can't ask for more of the client's memory than the command says.
func (fs *FS) Ioctl(r *server.Request, in *fp.IoctlIn, data []byte, out *fp.IoctlOut, dst []byte) (n int, errno unix.Errno) {
	if in.Flags&fp.IoctlUnrestricted != 0 || len(data) > ioctlMax || len(dst) > ioctlMax {
		return 0, unix.EPERM
	}
	errno = fs.withFile(r, in.Fh, in.Flags&fp.IoctlDir != 0, func(at *node, f *file) unix.Errno {
		c := fs.newCall(r, fp.OpIoctl, at)
		defer c.free()
		*bodyOf[fp.IoctlIn](c) = fp.IoctlIn{Flags: in.Flags & (fp.IoctlCompat | fp.Ioctl32bit | fp.IoctlDir | fp.IoctlCompatX32),
			Cmd: in.Cmd, Arg: in.Arg, InSize: uint32(len(data)), OutSize: uint32(len(dst))}
		c.setFile(f, 0)
		c.tail = data
		head := fp.Size[fp.IoctlOut]()
		c.form, c.out = formBytes, make([]byte, head+len(dst))
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		if c.n < head {
			return fs.lie("an answer to IOCTL that is too short")
		}
		copy(fp.Bytes(out), c.out)
		if out.Flags&fp.IoctlRetry != 0 {
			return unix.EIO // only for UNRESTRICTED
		}
		*out = fp.IoctlOut{Result: out.Result}
		n = copy(dst, c.out[head:c.n])
		return 0
	})
	return n, errno
}

// Getlk implements server.FileSystem.
func (fs *FS) Getlk(r *server.Request, in *fp.LkIn, out *fp.LkOut) unix.Errno {
	return fs.withFile(r, in.Fh, false, func(n *node, f *file) unix.Errno {
		c := fs.lockCall(r, fp.OpGetlk, in, n, f)
		defer c.free()
		c.form, c.fixedSize = formFixed, fp.Size[fp.LkOut]()
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		*out = *replyOf[fp.LkOut](c)
		out.Lk.PID = 0 // the host's
		return 0
	})
}

func (fs *FS) lockCall(r *server.Request, op fp.Opcode, in *fp.LkIn, n *node, f *file) *call {
	c := fs.newCall(r, op, n)
	*bodyOf[fp.LkIn](c) = fp.LkIn{Owner: in.Owner, Lk: fp.FileLock{Start: in.Lk.Start, End: in.Lk.End, Type: in.Lk.Type},
		LkFlags: in.LkFlags & fp.LkFlock}
	c.setFile(f, 0)
	return c
}

// Setlk implements server.FileSystem.
func (fs *FS) Setlk(r *server.Request, in *fp.LkIn, wait bool) unix.Errno {
	switch in.Lk.Type {
	case unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK:
	default:
		return unix.EINVAL
	}
	return fs.withFile(r, in.Fh, false, func(n *node, f *file) unix.Errno {
		op := fp.OpSetlk
		if wait {
			op = fp.OpSetlkw
		}
		c := fs.lockCall(r, op, in, n, f)
		defer c.free()
		errno := fs.ask(r, c)
		if errno == 0 && f != nil && in.Lk.Type != unix.F_UNLCK {
			f.mu.Lock()
			f.locked = true
			f.mu.Unlock()
		}
		return errno
	})
}
