package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// make makes a name in the first part of a directory, unless it is in another one. do makes it there, and
// chmod says that it has permissions.
func (n *node) make(ctx context.Context, name string, mode fs.FileMode, do func(dir int) error) (vfs.Node, error) {
	defer runtime.KeepAlive(n)
	if !n.dir {
		return nil, unix.ENOTDIR
	}
	found, err := n.find(name)
	if err == nil {
		closeParts(found)
		return nil, unix.EEXIST
	}
	if !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	p := n.all()[0]
	if err := do(p.fd); err != nil {
		return nil, err
	}
	fd, err := openPath(p.fd, name)
	if err != nil {
		return nil, err
	}
	if err := n.own(ctx, p.fd, fd, mode); err != nil {
		_ = unix.Close(fd)
		flags := 0
		if mode.IsDir() {
			flags = unix.AT_REMOVEDIR
		}
		return nil, errors.Join(err, unix.Unlinkat(p.fd, name, flags))
	}
	return made(n.union.node([]part{{p.branch, fd}}))
}

// own gives a new file to the caller, or to the group of its directory if that has the bit for it, and then its
// permissions: chown(2) takes some away.
func (n *node) own(ctx context.Context, dir, fd int, m fs.FileMode) error {
	who := vfs.CallerOf(ctx)
	gid := int(who.GID)
	if mode(dir)&unix.S_ISGID != 0 {
		gid = -1
		if m.IsDir() {
			m |= fs.ModeSetgid
		}
	}
	if err := unix.Fchownat(fd, "", int(who.UID), gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if m&fs.ModeSymlink != 0 {
		return nil
	}
	return unix.Chmod(part{fd: fd}.path(), server.ModeOf(m)&0o7777)
}

// Create implements vfs.Creator.
func (n *node) Create(ctx context.Context, name string, flags int, mode fs.FileMode) (vfs.Node, vfs.Handle, error) {
	var fd int
	child, err := n.make(ctx, name, mode, func(dir int) (err error) {
		fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags&openFlags, 0o600)
		return err
	})
	switch {
	case err != nil && fd > 0:
		_ = unix.Close(fd)
		fallthrough
	case err != nil:
		return nil, nil, err
	}
	return child, &file{os.NewFile(uintptr(fd), name)}, nil
}

// Tmpfile implements vfs.Tmpfiler.
func (n *node) Tmpfile(ctx context.Context, flags int, mode fs.FileMode) (vfs.Node, vfs.Handle, error) {
	defer runtime.KeepAlive(n)
	p := n.all()[0]
	fd, err := unix.Openat(p.fd, ".", unix.O_TMPFILE|unix.O_CLOEXEC|flags&openFlags, 0o600)
	if err != nil {
		return nil, nil, err
	}
	f := &file{os.NewFile(uintptr(fd), "")}
	again, err := unix.Open(part{fd: fd}.path(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = n.own(ctx, p.fd, fd, mode)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	child, err := n.union.node([]part{{p.branch, again}})
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return child, f, nil
}

// Mkdir implements vfs.Mkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode fs.FileMode) (vfs.Node, error) {
	return n.make(ctx, name, mode|fs.ModeDir, func(dir int) error { return unix.Mkdirat(dir, name, 0o700) })
}

// Mknod implements vfs.Mknoder.
func (n *node) Mknod(ctx context.Context, name string, mode fs.FileMode, rdev uint32) (vfs.Node, error) {
	return n.make(ctx, name, mode, func(dir int) error {
		return unix.Mknodat(dir, name, server.ModeOf(mode)&unix.S_IFMT|0o600, int(rdev))
	})
}

// Symlink implements vfs.Symlinker.
func (n *node) Symlink(ctx context.Context, target, name string) (vfs.Node, error) {
	return n.make(ctx, name, fs.ModeSymlink, func(dir int) error { return unix.Symlinkat(target, dir, name) })
}

// Link implements vfs.Linker.
func (n *node) Link(_ context.Context, old vfs.Node, name string) error {
	defer runtime.KeepAlive(n)
	defer runtime.KeepAlive(old)
	if found, err := n.find(name); err == nil {
		closeParts(found)
		return unix.EEXIST
	}
	from := old.(*node).all()[0]
	to, ok := n.in(from.branch)
	if !ok {
		return unix.EXDEV
	}
	return unix.Linkat(unix.AT_FDCWD, from.path(), to.fd, name, unix.AT_SYMLINK_FOLLOW)
}

// Remove implements vfs.Remover.
func (n *node) Remove(_ context.Context, name string, dir bool) error {
	defer runtime.KeepAlive(n)
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
		if err := n.empty(name); err != nil {
			return err
		}
	}
	removed := false
	for _, p := range n.all() {
		err := unix.Unlinkat(p.fd, name, flags)
		switch {
		case err == nil:
			removed = true
		case errors.Is(err, unix.ENOENT):
		case removed && (errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR)):
			return nil // it was hidden below the name
		default:
			return err
		}
	}
	if !removed {
		return unix.ENOENT
	}
	return nil
}

// empty says why a name is no directory without names in all its parts.
func (n *node) empty(name string) error {
	found, err := n.find(name)
	if err != nil {
		return err
	}
	defer closeParts(found)
	for _, p := range found {
		d, err := os.Open(p.path())
		if err != nil {
			return err
		}
		_, err = d.ReadDir(1)
		_ = d.Close()
		switch {
		case err == nil:
			return unix.ENOTEMPTY
		case !errors.Is(err, io.EOF):
			return err
		}
	}
	return nil
}

// Rename implements vfs.Renamer.
func (n *node) Rename(_ context.Context, oldName string, newDir vfs.Node, newName string, flags uint32) error {
	to := newDir.(*node)
	defer runtime.KeepAlive(n)
	defer runtime.KeepAlive(to)
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	moved, err := n.find(oldName)
	if err != nil {
		return err
	}
	defer closeParts(moved)
	there, err := to.find(newName)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	defer closeParts(there)
	switch {
	case len(there) > 0 && flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case flags&unix.RENAME_EXCHANGE != 0:
		return n.exchange(oldName, moved, to, newName, there)
	case len(there) > 0 && isDir(moved) && isDir(there):
		if err := to.empty(newName); err != nil {
			return err
		}
	}
	for _, p := range moved { // before anything is moved
		if _, ok := to.in(p.branch); !ok {
			return unix.EXDEV
		}
	}
	done := make(map[int]bool)
	for _, p := range moved {
		from, _ := n.in(p.branch)
		dst, _ := to.in(p.branch)
		if err := unix.Renameat2(from.fd, oldName, dst.fd, newName, uint(flags)); err != nil {
			return err
		}
		done[p.branch] = true
	}
	// What was replaced, and what was hidden below the old name, is not to come to light.
	to.clear(newName, done, isDir(there))
	n.clear(oldName, done, isDir(moved))
	return nil
}

func isDir(found []part) bool {
	return len(found) > 0 && mode(found[0].fd)&unix.S_IFMT == unix.S_IFDIR
}

// clear removes a name from the parts where nothing was done. What can't be removed, as a directory with
// files that was hidden, stays.
func (n *node) clear(name string, done map[int]bool, dir bool) {
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	for _, p := range n.all() {
		if !done[p.branch] {
			_ = unix.Unlinkat(p.fd, name, flags)
		}
	}
}

// exchange is RENAME_EXCHANGE, which can be done only in one branch.
func (n *node) exchange(oldName string, moved []part, to *node, newName string, there []part) error {
	if len(there) == 0 {
		return unix.ENOENT
	}
	if len(moved) != 1 || len(there) != 1 || moved[0].branch != there[0].branch {
		return unix.EXDEV
	}
	from, ok := n.in(moved[0].branch)
	dst, ok2 := to.in(moved[0].branch)
	if !ok || !ok2 {
		return unix.EXDEV
	}
	return unix.Renameat2(from.fd, oldName, dst.fd, newName, unix.RENAME_EXCHANGE)
}

// openFlags are those that the host's file is opened with: the client has found the end for O_APPEND, and its
// buffers are not aligned for O_DIRECT.
const openFlags = unix.O_ACCMODE | unix.O_DSYNC | unix.O_SYNC | unix.O_NOATIME

// Open implements vfs.Opener.
func (n *node) Open(_ context.Context, flags int) (vfs.Handle, error) {
	defer runtime.KeepAlive(n)
	fd, err := unix.Open(n.all()[0].path(), flags&openFlags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &file{os.NewFile(uintptr(fd), "")}, nil
}

// file is an open file of the host.
type file struct{ *os.File }

// Allocate implements vfs.Allocater.
func (f *file) Allocate(_ context.Context, mode uint32, off, length int64) error {
	return unix.Fallocate(int(f.Fd()), mode, off, length)
}

// FindHole implements vfs.HoleFinder.
func (f *file) FindHole(_ context.Context, off int64, hole bool) (int64, error) {
	whence := unix.SEEK_DATA
	if hole {
		whence = unix.SEEK_HOLE
	}
	return unix.Seek(int(f.Fd()), off, whence)
}

// Fsync implements vfs.Syncer.
func (f *file) Fsync(_ context.Context, dataOnly bool) error {
	if dataOnly {
		return unix.Fdatasync(int(f.Fd()))
	}
	return unix.Fsync(int(f.Fd()))
}

// CopyFrom implements vfs.CopyReceiver.
func (f *file) CopyFrom(_ context.Context, off int64, src vfs.Handle, srcOff, n int64) (int64, error) {
	from, ok := src.(*file)
	if !ok {
		return 0, unix.EXDEV
	}
	k, err := unix.CopyFileRange(int(from.Fd()), &srcOff, int(f.Fd()), &off, int(n), 0)
	return int64(max(k, 0)), err
}
