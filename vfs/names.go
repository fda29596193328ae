package vfs

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Lookup implements server.FileSystem.
func (f *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.use(r, func(ctx context.Context, dir Node) error {
		n, err := Lookup(ctx, dir, name.String())
		if f.opts.NegativeTimeout > 0 && errors.Is(err, fs.ErrNotExist) {
			out.EntryValid, out.EntryValidNsec = seconds(f.opts.NegativeTimeout)
			return nil // an entry without a node
		}
		if err != nil {
			return err
		}
		return f.answer(ctx, r, n, out)
	})
}

// Mkdir implements server.FileSystem.
func (f *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		n, err := Mkdir(ctx, dir, name.String(), FileMode(in.Mode&0o7777|unix.S_IFDIR))
		if err != nil {
			return err
		}
		return f.answer(ctx, r, n, out)
	})
}

// Mknod implements server.FileSystem.
func (f *FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		switch in.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
		default:
			return unix.EINVAL
		}
		n, err := Mknod(ctx, dir, name.String(), FileMode(in.Mode), in.Rdev)
		if err != nil {
			return err
		}
		return f.answer(ctx, r, n, out)
	})
}

// Symlink implements server.FileSystem.
func (f *FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		n, err := Symlink(ctx, dir, target.String(), name.String())
		if err != nil {
			return err
		}
		return f.answer(ctx, r, n, out)
	})
}

// Link implements server.FileSystem.
func (f *FS) Link(r *server.Request, in *fp.LinkIn, newName fp.Name, out *fp.EntryOut) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		old := f.nodes.Acquire(in.OldNodeID)
		if old == nil {
			return unix.ESTALE
		}
		defer f.nodes.Release(old)
		if err := Link(ctx, dir, old.Key(), newName.String()); err != nil {
			return err
		}
		return f.answer(ctx, r, old.Key(), out)
	})
}

// Unlink implements server.FileSystem.
func (f *FS) Unlink(r *server.Request, name fp.Name) unix.Errno { return f.remove(r, name, false) }

// Rmdir implements server.FileSystem.
func (f *FS) Rmdir(r *server.Request, name fp.Name) unix.Errno { return f.remove(r, name, true) }

func (f *FS) remove(r *server.Request, name fp.Name, dir bool) unix.Errno {
	return f.change(r, func(ctx context.Context, n Node) error {
		return Remove(ctx, n, name.String(), dir)
	})
}

// Rename implements server.FileSystem.
func (f *FS) Rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	return f.change(r, func(ctx context.Context, dir Node) error {
		to := f.nodes.Acquire(in.NewDir)
		if to == nil {
			return unix.ESTALE
		}
		defer f.nodes.Release(to)
		return Rename(ctx, dir, oldName.String(), to.Key(), newName.String(), in.Flags)
	})
}
