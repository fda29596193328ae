package main

import (
	"context"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vfs"
)

// hour is how long the client may believe what it knows: nobody else changes anything.
const hour = time.Hour

// memory is the whole file system. Its lock guards the names and attributes of all nodes.
type memory struct {
	root      *node
	max       int64 // bytes
	maxFiles  int64
	bytes     atomic.Int64 // that are taken
	files     atomic.Int64
	lastInode atomic.Uint64

	mu sync.RWMutex
}

// node is a file of any kind.
type node struct {
	fs   *memory
	kind fs.FileMode // the type bits of the mode, which do not change

	attr   vfs.Attr         // all but Size and Blocks; Nlink is 0 when it was removed
	names  map[string]*node // of a directory
	parent *node            // of a directory
	target string           // of a symbolic link
	xattrs map[string][]byte
	known  bool // the client has a number for it
	// nameless is set for an O_TMPFILE, which may get its first name though it has no link.
	nameless bool
	ended    bool // it takes nothing any more

	data data // of a regular file, with a lock of its own
}

// newMemory is an empty file system of at most so many bytes and files.
func newMemory(size, files int64) *memory {
	m := &memory{max: size, maxFiles: max(files, 1)}
	m.root, _ = m.newNode(vfs.Caller{}, nil, fs.ModeDir|0o755, 0)
	m.root.parent = m.root
	return m
}

// take counts n more bytes, or less.
func (m *memory) take(n int64) error {
	if m.bytes.Add(n) > m.max && n > 0 {
		m.bytes.Add(-n)
		return unix.ENOSPC
	}
	return nil
}

// nodeCost is what a node takes beside its data, in bytes.
const nodeCost = 512

// newNode makes a node for a directory. m.mu is held.
func (m *memory) newNode(who vfs.Caller, dir *node, mode fs.FileMode, rdev uint32) (*node, error) {
	if m.files.Add(1) > m.maxFiles {
		m.files.Add(-1)
		return nil, unix.ENOSPC
	}
	if err := m.take(nodeCost); err != nil {
		m.files.Add(-1)
		return nil, err
	}
	now := time.Now()
	n := &node{fs: m, kind: mode.Type(), attr: vfs.Attr{Ino: m.lastInode.Add(1), Mode: mode, Nlink: 1, UID: who.UID, GID: who.GID, Rdev: rdev, Atime: now, Mtime: now, Ctime: now, Btime: now}}
	if mode.IsDir() {
		n.names, n.attr.Nlink = make(map[string]*node), 2
	}
	if dir != nil && dir.attr.Mode&fs.ModeSetgid != 0 {
		n.attr.GID = dir.attr.GID
		if mode.IsDir() {
			n.attr.Mode |= fs.ModeSetgid
		} else if mode&fs.ModeSetgid != 0 && mode&0o010 != 0 && who.UID != 0 && who.GID != n.attr.GID && !slices.Contains(who.Groups, n.attr.GID) {
			n.attr.Mode &^= fs.ModeSetgid
		}
	}
	n.data.fs = m
	return n, nil
}

// insert gives child, which may be an old node, a name in n. m.mu is held.
func (n *node) insert(name string, child *node) {
	n.names[name] = child
	if child.names != nil {
		child.parent = n
		n.attr.Nlink++
	}
	n.changed()
}

// take takes a name away from n. m.mu is held.
func (n *node) take(name string) {
	if n.names[name].names != nil {
		n.attr.Nlink--
	}
	delete(n.names, name)
	n.changed()
}

// changed says that the data of a node has changed now.
func (n *node) changed() {
	n.attr.Mtime = time.Now()
	n.attr.Ctime = n.attr.Mtime
}

// unlinked takes one link away from n. The last one is the end of it, if the client does not know it.
func (n *node) unlinked() {
	if n.names != nil {
		n.attr.Nlink = 0
	} else {
		n.attr.Nlink--
	}
	n.attr.Ctime = time.Now()
	n.end()
}

// end frees what n takes, if nothing leads to it any more.
func (n *node) end() {
	if n.attr.Nlink != 0 || n.known || n.ended {
		return
	}
	m := n.fs
	for name := range n.xattrs {
		_ = n.setXattr(name, nil)
	}
	n.data.end()
	m.files.Add(-1)
	_ = m.take(-nodeCost)
	n.ended = true
}

// Remember implements vfs.Rememberer.
func (n *node) Remember() {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	n.known = true
}

// Forget implements vfs.Forgetter.
func (n *node) Forget() {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	n.known = false
	n.end()
}

// Attr implements vfs.Node.
func (n *node) Attr(context.Context) (vfs.Attr, error) {
	m := n.fs
	m.mu.RLock()
	defer m.mu.RUnlock()
	a := n.attr
	if a.Nlink == 0 {
		a.Nlink = vfs.NoLinks
	}
	switch {
	case n.kind == 0:
		n.data.attr(&a)
	case n.names != nil:
		a.Size = int64(len(n.names)) + 2
	default:
		a.Size = int64(len(n.target))
	}
	return a, nil
}

// SetAttr implements vfs.AttrSetter.
func (n *node) SetAttr(_ context.Context, set vfs.SetAttr) error {
	m := n.fs
	if set.Size != nil {
		if n.kind != 0 {
			return unix.EINVAL
		}
		if err := n.data.truncate(*set.Size); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &n.attr
	a.Ctime = time.Now()
	if set.Size != nil {
		a.Mtime = a.Ctime
	}
	if set.Mode != nil {
		a.Mode = n.kind | *set.Mode
	}
	if set.UID != nil {
		a.UID = *set.UID
	}
	if set.GID != nil {
		a.GID = *set.GID
	}
	if set.Atime != nil {
		a.Atime = *set.Atime
	}
	if set.Mtime != nil {
		a.Mtime = *set.Mtime
	}
	return nil
}

// Lookup implements vfs.Lookuper.
func (n *node) Lookup(_ context.Context, name string) (vfs.Node, error) {
	m := n.fs
	m.mu.RLock()
	defer m.mu.RUnlock()
	if n.names == nil {
		return nil, unix.ENOTDIR
	}
	if child := n.names[name]; child != nil {
		return child, nil
	}
	return nil, unix.ENOENT
}

// ReadDir implements vfs.ReadDirer.
func (n *node) ReadDir(context.Context) ([]vfs.DirEntry, error) {
	m := n.fs
	m.mu.RLock()
	defer m.mu.RUnlock()
	if n.names == nil {
		return nil, unix.ENOTDIR
	}
	list := make([]vfs.DirEntry, 0, len(n.names))
	for name, child := range n.names {
		list = append(list, vfs.DirEntry{Name: name, Type: child.kind, Ino: child.attr.Ino, Node: child})
	}
	return list, nil
}

// Readlink implements vfs.Readlinker.
func (n *node) Readlink(context.Context) (string, error) {
	if n.kind != fs.ModeSymlink {
		return "", unix.EINVAL
	}
	return n.target, nil
}

// make makes a node with a name.
func (n *node) make(ctx context.Context, name string, mode fs.FileMode, rdev uint32, target string) (*node, error) {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := n.free(name); err != nil {
		return nil, err
	}
	child, err := m.newNode(vfs.CallerOf(ctx), n, mode, rdev)
	if err != nil {
		return nil, err
	}
	child.target = target
	n.insert(name, child)
	return child, nil
}

// free says why a name can't be made in n. m.mu is held.
func (n *node) free(name string) error {
	switch {
	case n.names == nil:
		return unix.ENOTDIR
	case n.attr.Nlink == 0:
		return unix.ENOENT // the directory was removed
	case n.names[name] != nil:
		return unix.EEXIST
	}
	return nil
}

// Create implements vfs.Creator.
func (n *node) Create(ctx context.Context, name string, _ int, mode fs.FileMode) (vfs.Node, vfs.Handle, error) {
	child, err := n.make(ctx, name, mode&^fs.ModeType, 0, "")
	if err != nil {
		return nil, nil, err
	}
	return child, child, nil
}

// Tmpfile implements vfs.Tmpfiler.
func (n *node) Tmpfile(ctx context.Context, _ int, mode fs.FileMode) (vfs.Node, vfs.Handle, error) {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.names == nil {
		return nil, nil, unix.ENOTDIR
	}
	file, err := m.newNode(vfs.CallerOf(ctx), n, mode&^fs.ModeType, 0)
	if err != nil {
		return nil, nil, err
	}
	file.attr.Nlink, file.nameless = 0, true
	return file, file, nil
}

// Mkdir implements vfs.Mkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode fs.FileMode) (vfs.Node, error) {
	return made(n.make(ctx, name, mode|fs.ModeDir, 0, ""))
}

// Mknod implements vfs.Mknoder.
func (n *node) Mknod(ctx context.Context, name string, mode fs.FileMode, rdev uint32) (vfs.Node, error) {
	return made(n.make(ctx, name, mode, rdev, ""))
}

// Symlink implements vfs.Symlinker.
func (n *node) Symlink(ctx context.Context, target, name string) (vfs.Node, error) {
	return made(n.make(ctx, name, fs.ModeSymlink|0o777, 0, target))
}

// made keeps a nil *node from becoming a vfs.Node.
func made(n *node, err error) (vfs.Node, error) {
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Link implements vfs.Linker.
func (n *node) Link(_ context.Context, old vfs.Node, name string) error {
	file := old.(*node)
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := n.free(name); err != nil {
		return err
	}
	if file.names != nil {
		return unix.EPERM
	}
	if file.attr.Nlink == 0 && (!file.nameless || file.ended) {
		return unix.ENOENT // it was removed, and may be at its end
	}
	n.insert(name, file)
	file.nameless = false
	file.attr.Nlink++
	file.attr.Ctime = time.Now()
	return nil
}

// Remove implements vfs.Remover.
func (n *node) Remove(_ context.Context, name string, dir bool) error {
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	child := n.names[name]
	if err := removable(child, dir); err != nil {
		return err
	}
	n.take(name)
	child.unlinked()
	return nil
}

// removable says why a node can't be removed as a directory, or as none.
func removable(n *node, dir bool) error {
	switch {
	case n == nil:
		return unix.ENOENT
	case dir && n.names == nil:
		return unix.ENOTDIR
	case !dir && n.names != nil:
		return unix.EISDIR
	case len(n.names) > 0:
		return unix.ENOTEMPTY
	}
	return nil
}

// Rename implements vfs.Renamer.
func (n *node) Rename(_ context.Context, oldName string, newDir vfs.Node, newName string, flags uint32) error {
	to := newDir.(*node)
	m := n.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	moved, there := n.names[oldName], to.names[newName]
	switch {
	case flags != 0 && flags != unix.RENAME_NOREPLACE && flags != unix.RENAME_EXCHANGE:
		return unix.EINVAL
	case moved == nil || to.attr.Nlink == 0 || flags == unix.RENAME_EXCHANGE && there == nil:
		return unix.ENOENT
	case to.names == nil:
		return unix.ENOTDIR
	case flags == unix.RENAME_NOREPLACE && there != nil:
		return unix.EEXIST
	case moved == there:
		return nil
	case to.below(moved) || flags == unix.RENAME_EXCHANGE && n.below(there):
		return unix.EINVAL
	}
	if flags == unix.RENAME_EXCHANGE {
		n.take(oldName)
		to.take(newName)
		n.insert(oldName, there)
		to.insert(newName, moved)
		there.attr.Ctime = time.Now()
		moved.attr.Ctime = there.attr.Ctime
		return nil
	}
	if there != nil {
		if err := removable(there, moved.names != nil); err != nil {
			return err
		}
		to.take(newName)
		there.unlinked()
	}
	n.take(oldName)
	to.insert(newName, moved)
	moved.attr.Ctime = time.Now()
	return nil
}

// below reports whether n is dir, or somewhere in it.
func (n *node) below(dir *node) bool {
	for {
		if n == dir {
			return true
		}
		if n == n.parent || n.parent == nil {
			return false
		}
		n = n.parent
	}
}

// StatFS implements vfs.StatFSer.
func (n *node) StatFS(context.Context) (vfs.StatFS, error) {
	m := n.fs
	free := uint64(max(m.max-m.bytes.Load(), 0)) / blockUnit
	return vfs.StatFS{
		BlockSize: blockUnit, Blocks: uint64(m.max) / blockUnit, BlocksFree: free, BlocksUsable: free,
		Files: uint64(m.maxFiles), FilesFree: uint64(max(m.maxFiles-m.files.Load(), 0)),
	}, nil
}

const blockUnit = 4096
