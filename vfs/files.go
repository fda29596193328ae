package vfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// openFlags are those of open(2) that an Opener gets: how the file was opened, and how it is used.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_DIRECT | unix.O_DSYNC | unix.O_SYNC | unix.O_NONBLOCK | unix.O_NOATIME

// Open implements server.FileSystem.
func (f *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	writes := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	if writes && f.opts.ReadOnly {
		return unix.EROFS
	}
	return f.use(r, func(ctx context.Context, n Node) error {
		h, err := f.openIn(ctx, n, in.Flags)
		if err != nil {
			return err
		}
		if writes && !writable(h) {
			_ = Close(h)
			return unix.EACCES
		}
		return f.opening(r, r.Header.NodeID, &openFile{handle: h, writes: writes}, out)
	})
}

// opening gives the client a number for an open file of a node that it knows. It closes the
// handle if there is none.
func (f *FS) opening(r *server.Request, nodeID uint64, o *openFile, out *fp.OpenOut) error {
	n := f.nodes.Acquire(nodeID)
	if n == nil {
		_ = Close(o.handle)
		return unix.ESTALE
	}
	defer f.nodes.Release(n)
	if f.opened.Add(1) > int64(f.opts.MaxOpen) {
		f.opened.Add(-1)
		_ = Close(o.handle)
		return unix.ENFILE
	}
	n.Hold()
	o.node = n
	if o.writes {
		n.writers.Add(1)
	}
	fh := f.open.Add(r.Cell, o)
	if fh == 0 {
		f.closed(o)
		_ = Close(o.handle)
		return unix.ENFILE
	}
	out.Fh, out.OpenFlags = fh, f.openOut(o.handle)
	return nil
}

// openOut are the flags of OPEN's reply.
func (f *FS) openOut(h Handle) (flags uint32) {
	if _, ok := asHandle[Flusher](h); !ok && !f.opts.Locks {
		flags |= fp.FopenNoflush
	}
	if f.opts.Immutable {
		flags |= fp.FopenKeepCache
	}
	if o, ok := asHandle[OpenOptioner](h); ok {
		options := o.OpenOptions()
		for _, b := range [...]struct {
			on   bool
			flag uint32
		}{{options.DirectIO, fp.FopenDirectIO}, {options.KeepCache, fp.FopenKeepCache}, {options.Stream, fp.FopenStream | fp.FopenNonseekable}} {
			if b.on {
				flags |= b.flag
			}
		}
	}
	return flags
}

// Create implements server.FileSystem. Another name may have come between the client's LOOKUP and
// its CREATE: then the file is opened, unless it must be new.
func (f *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		n, h, err := Create(ctx, dir, name.String(), f.openMode(in.Flags), FileMode(in.Mode&0o7777))
		if errors.Is(err, fs.ErrExist) && in.Flags&unix.O_EXCL == 0 {
			n, h, err = f.openExisting(ctx, dir, name.String(), in)
		}
		if err != nil {
			return err
		}
		if err := f.answer(ctx, r, n, &out.Entry); err != nil {
			_ = Close(h)
			return err
		}
		return f.openingNew(r, h, out)
	})
}

// openingNew is opening for a node that the client gets with the same reply.
func (f *FS) openingNew(r *server.Request, h Handle, out *fp.CreateOut) error {
	err := f.opening(r, out.Entry.NodeID, &openFile{handle: h, writes: true}, &out.Open)
	if err != nil {
		f.Forget(r.Cell, out.Entry.NodeID, 1)
	}
	return err
}

// Tmpfile implements server.FileSystem.
func (f *FS) Tmpfile(r *server.Request, in *fp.CreateIn, out *fp.CreateOut) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		n, h, err := Tmpfile(ctx, dir, f.openMode(in.Flags), FileMode(in.Mode&0o7777))
		if err != nil {
			return err
		}
		if err := f.answer(ctx, r, n, &out.Entry); err != nil {
			_ = Close(h)
			return err
		}
		return f.openingNew(r, h, out)
	})
}

// openExisting opens what CREATE has found in place of a new file.
func (f *FS) openExisting(ctx context.Context, dir Node, name string, in *fp.CreateIn) (Node, Handle, error) {
	n, err := Lookup(ctx, dir, name)
	if err != nil {
		return nil, nil, err
	}
	attr, err := n.Attr(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case !attr.Mode.IsRegular():
		return nil, nil, unix.EEXIST // the client looks again
	}
	if in.Flags&unix.O_TRUNC != 0 {
		if err := f.truncateExisting(ctx, n, &attr, in.OpenFlags&fp.OpenKillSuidgid != 0); err != nil {
			return nil, nil, err
		}
	}
	h, err := f.openIn(ctx, n, in.Flags)
	return n, h, err
}

// Release implements server.FileSystem.
func (f *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	return f.call(r, func(context.Context) error {
		o := f.acquireOpen(r, in.Fh)
		if o == nil {
			return unix.EBADF
		}
		defer f.open.Release(o)
		f.release(o)
		return nil
	})
}

// release ends an open file, on which the caller has a reference. Its error is nobody's: FLUSH has
// the one that close(2) returns.
func (f *FS) release(o *openFile) {
	if !f.open.Close(o) {
		return
	}
	if f.opts.Locks {
		f.closedLocks(o)
	}
	_ = Close(o.handle)
}

// chunk is how much data is moved at once. User code gets memory of ours: the client can change
// its own at any time.
const chunk = 256 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Read implements server.FileSystem.
func (f *FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (n int, _ unix.Errno) {
	errno := f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		b := chunks.Get().(*[chunk]byte)
		defer chunks.Put(b)
		for left := uint64(in.Size); left > 0; {
			p := b[:min(left, chunk)]
			at := in.Offset + uint64(n)
			if at > math.MaxInt64 || at < in.Offset {
				break
			}
			k, err := Read(ctx, o.handle, p, int64(at))
			if k < 0 || k > len(p) {
				return unix.EIO
			}
			n += dst.CopyFrom(p[:k], uint64(n))
			left -= uint64(k)
			if errors.Is(err, io.EOF) || err == nil && k < len(p) {
				break
			}
			if err != nil {
				if n > 0 {
					break // the next READ says what is wrong
				}
				return err
			}
		}
		return nil
	})
	return n, errno
}

// Write implements server.FileSystem.
func (f *FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (n int, _ unix.Errno) {
	if f.opts.ReadOnly {
		return 0, unix.EROFS
	}
	if in.Offset > math.MaxInt64-uint64(in.Size) {
		return 0, unix.EFBIG
	}
	errno := f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		if !o.writes {
			return unix.EBADF
		}
		if err := f.changesData(ctx, o.node, in.WriteFlags&fp.WriteKillSuidgid != 0); err != nil {
			return err
		}
		b := chunks.Get().(*[chunk]byte)
		defer chunks.Put(b)
		for n < int(in.Size) {
			p := b[:src.CopyTo(b[:min(int(in.Size)-n, chunk)], uint64(n))]
			k, err := Write(ctx, o.handle, p, int64(in.Offset)+int64(n))
			if k < 0 || k > len(p) {
				return unix.EIO
			}
			n += k
			if err != nil && n == 0 {
				return err
			}
			if err != nil || k < len(p) || k == 0 {
				break // the next WRITE says what is wrong
			}
		}
		return nil
	})
	return n, errno
}

// Flush implements server.FileSystem.
func (f *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		err := Flush(ctx, o.handle)
		if f.opts.Locks {
			f.closing(ctx, o, in.LockOwner)
		}
		return err
	})
}

// Fsync implements server.FileSystem.
func (f *FS) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno {
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		return Fsync(ctx, o.handle, in.FsyncFlags&fp.FsyncFdatasync != 0)
	})
}

// Fallocate implements server.FileSystem.
func (f *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	if f.opts.ReadOnly {
		return unix.EROFS
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return unix.EFBIG
	}
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		a, ok := asHandle[Allocater](o.handle)
		switch {
		case !o.writes:
			return unix.EBADF
		case !ok:
			return unix.EOPNOTSUPP
		}
		// Linux before 6.1 sends no SETATTR first, but a user.
		if err := f.changesData(ctx, o.node, r.Header.UID != 0); err != nil {
			return err
		}
		return a.Allocate(ctx, in.Mode, int64(in.Offset), int64(in.Length))
	})
}

// Lseek implements server.FileSystem.
func (f *FS) Lseek(r *server.Request, in *fp.LseekIn, out *fp.LseekOut) unix.Errno {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return unix.EINVAL
	}
	if in.Offset > math.MaxInt64 {
		return unix.ENXIO
	}
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		off, err := findHole(ctx, o, int64(in.Offset), in.Whence == unix.SEEK_HOLE)
		out.Offset = uint64(off)
		return err
	})
}

func findHole(ctx context.Context, o *openFile, off int64, hole bool) (int64, error) {
	if h, ok := asHandle[HoleFinder](o.handle); ok {
		return h.FindHole(ctx, off, hole)
	}
	attr, err := o.node.Key().Attr(ctx)
	switch {
	case err != nil:
		return 0, err
	case off >= attr.Size:
		return 0, unix.ENXIO
	case hole:
		return attr.Size, nil
	}
	return off, nil
}
