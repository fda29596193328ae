package vfs

import (
	"context"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// Wrapper is a node around another one. It has the methods that it changes; all others are
// the inner node's.
//
// A wrapper is compared like any node: struct{ vfs.Node } is the same file whenever the inner
// node is.
type Wrapper interface {
	Node
	// Unwrap is the inner node.
	Unwrap() Node
	// Wrap makes the outer node of a child that a method of the inner node has returned under
	// a name.
	Wrap(name string, child Node) Node
}

// HandleWrapper is an open file around another one, as Wrapper is for nodes.
type HandleWrapper interface {
	UnwrapHandle() Handle
}

// maxWrappers bounds how many nodes may be around each other: a wrapper whose Unwrap returns
// itself is a mistake.
const maxWrappers = 64

// As is n, or the outermost node inside it, that has the methods of T.
func As[T any](n Node) (t T, ok bool) {
	t, _, ok = find[T](n)
	return t, ok
}

// find is As; depth is how many wrappers are around the node.
func find[T any](n Node) (t T, depth int, ok bool) {
	for depth = 0; depth < maxWrappers; depth++ {
		if t, ok = n.(T); ok {
			return t, depth, true
		}
		w, wraps := n.(Wrapper)
		if !wraps {
			break
		}
		n = w.Unwrap()
	}
	return t, depth, false
}

// asHandle is As for open files, which may be nodes.
func asHandle[T any](h Handle) (t T, ok bool) {
	for range maxWrappers {
		if t, ok = h.(T); ok {
			return t, true
		}
		if h, ok = unwrapHandle(h); !ok {
			break
		}
	}
	return t, false
}

// rewrap puts the outer depth wrappers of n around its child.
func rewrap(n Node, depth int, name string, child Node) Node {
	if depth == 0 || child == nil {
		return child
	}
	w := n.(Wrapper) // find has seen that it is one
	return w.Wrap(name, rewrap(w.Unwrap(), depth-1, name, child))
}

// unwrap takes depth wrappers away; nil if there are fewer.
func unwrap(n Node, depth int) Node {
	for range depth {
		w, ok := n.(Wrapper)
		if !ok {
			return nil
		}
		n = w.Unwrap()
	}
	return n
}

// Lookup finds a name in a directory; ENOTDIR if n is no Lookuper.
func Lookup(ctx context.Context, n Node, name string) (Node, error) {
	l, depth, ok := find[Lookuper](n)
	if !ok {
		return nil, unix.ENOTDIR
	}
	child, err := l.Lookup(ctx, name)
	return made(n, depth, name, child, err)
}

// made is what the method of a directory has returned, wrapped.
func made(n Node, depth int, name string, child Node, err error) (Node, error) {
	if err != nil {
		return nil, err
	}
	if child == nil {
		return nil, unix.ENOENT
	}
	return rewrap(n, depth, name, child), nil
}

// ReadDir lists a directory; ENOTDIR if n is neither a ReadDirer nor a DirStreamer. The list is the
// caller's. A DirStreamer with more than a million names is ENOMEM.
func ReadDir(ctx context.Context, n Node) ([]DirEntry, error) {
	l, depth, ok := find[ReadDirer](n)
	if !ok {
		return readAll(ctx, n)
	}
	list, err := l.ReadDir(ctx)
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list) // it may be the node's own
	for i := range list {
		list[i].Node = rewrap(n, depth, list[i].Name, list[i].Node)
	}
	return list, nil
}

// readAll is ReadDir for a DirStreamer.
func readAll(ctx context.Context, n Node) (list []DirEntry, _ error) {
	s, depth, ok := find[DirStreamer](n)
	if !ok {
		return nil, unix.ENOTDIR
	}
	full := false
	err := s.ReadDirFrom(ctx, 0, func(e DirEntry, _ uint64) bool {
		e.Node = rewrap(n, depth, e.Name, e.Node)
		list = append(list, e)
		full = len(list) > 1_000_000
		return !full
	})
	if full && err == nil {
		err = unix.ENOMEM
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Readlink is the target of a symbolic link; EINVAL if n is no Readlinker.
func Readlink(ctx context.Context, n Node) (string, error) {
	if l, ok := As[Readlinker](n); ok {
		return l.Readlink(ctx)
	}
	return "", unix.EINVAL
}

// Open opens a file. n is its own Handle if it is no Opener, or if that returns nil.
func Open(ctx context.Context, n Node, flags int) (Handle, error) {
	o, ok := As[Opener](n)
	if !ok {
		return n, nil
	}
	h, err := o.Open(ctx, flags)
	if err == nil && h == nil {
		h = n
	}
	return h, err
}

// SetAttrOf changes attributes; EPERM if n is no AttrSetter.
func SetAttrOf(ctx context.Context, n Node, set SetAttr) error {
	if s, ok := As[AttrSetter](n); ok {
		return s.SetAttr(ctx, set)
	}
	return unix.EPERM
}

// Create makes a file in a directory and opens it; EACCES if n is no Creator.
func Create(ctx context.Context, n Node, name string, flags int, mode fs.FileMode) (Node, Handle, error) {
	c, depth, ok := find[Creator](n)
	if !ok {
		return nil, nil, unix.EACCES
	}
	child, h, err := c.Create(ctx, name, flags, mode)
	child, err = made(n, depth, name, child, err)
	if err == nil && h == nil {
		h, err = Open(ctx, child, flags)
	}
	return child, h, err
}

// Tmpfile makes a file without a name and opens it; EOPNOTSUPP if n is no Tmpfiler.
func Tmpfile(ctx context.Context, n Node, flags int, mode fs.FileMode) (Node, Handle, error) {
	t, depth, ok := find[Tmpfiler](n)
	if !ok {
		return nil, nil, unix.EOPNOTSUPP
	}
	child, h, err := t.Tmpfile(ctx, flags, mode)
	child, err = made(n, depth, "", child, err)
	if err == nil && h == nil {
		h, err = Open(ctx, child, flags)
	}
	return child, h, err
}

// Access says whether the caller may use a node; everybody may if it is no Accesser.
func Access(ctx context.Context, n Node, mask uint32) error {
	if a, ok := As[Accesser](n); ok {
		return a.Access(ctx, mask)
	}
	return nil
}

// Mkdir makes a directory in another one; EPERM if n is no Mkdirer.
func Mkdir(ctx context.Context, n Node, name string, mode fs.FileMode) (Node, error) {
	m, depth, ok := find[Mkdirer](n)
	if !ok {
		return nil, unix.EPERM
	}
	child, err := m.Mkdir(ctx, name, mode|fs.ModeDir)
	return made(n, depth, name, child, err)
}

// Mknod makes a node of another kind in a directory; EPERM if n is no Mknoder.
func Mknod(ctx context.Context, n Node, name string, mode fs.FileMode, rdev uint32) (Node, error) {
	m, depth, ok := find[Mknoder](n)
	if ok {
		child, err := m.Mknod(ctx, name, mode, rdev)
		return made(n, depth, name, child, err)
	}
	if !mode.IsRegular() {
		return nil, unix.EPERM
	}
	child, h, err := Create(ctx, n, name, unix.O_WRONLY, mode)
	if err == nil {
		err = Close(h)
	}
	return child, err
}

// Symlink makes a symbolic link in a directory; EPERM if n is no Symlinker.
func Symlink(ctx context.Context, n Node, target, name string) (Node, error) {
	s, depth, ok := find[Symlinker](n)
	if !ok {
		return nil, unix.EPERM
	}
	child, err := s.Symlink(ctx, target, name)
	return made(n, depth, name, child, err)
}

// CopyFrom copies data from one open file to another one, as CopyReceiver says; EOPNOTSUPP if h is
// none, EXDEV if src is not in as many wrappers as h.
func CopyFrom(ctx context.Context, h Handle, off int64, src Handle, srcOff, n int64) (int64, error) {
	for range maxWrappers {
		if c, ok := h.(CopyReceiver); ok {
			return c.CopyFrom(ctx, off, src, srcOff, n)
		}
		inner, ok := unwrapHandle(h)
		if !ok {
			break
		}
		h = inner
		if src, ok = unwrapHandle(src); !ok {
			return 0, unix.EXDEV
		}
	}
	return 0, unix.EOPNOTSUPP
}

// unwrapHandle is what an open file is around.
func unwrapHandle(h Handle) (Handle, bool) {
	switch w := h.(type) {
	case HandleWrapper:
		return w.UnwrapHandle(), true
	case Wrapper:
		return w.Unwrap(), true
	}
	return nil, false
}

// Link gives old another name in a directory; EPERM if n is no Linker, EXDEV if old is not in as
// many wrappers as n.
func Link(ctx context.Context, n, old Node, name string) error {
	l, depth, ok := find[Linker](n)
	if !ok {
		return unix.EPERM
	}
	if old = unwrap(old, depth); old == nil {
		return unix.EXDEV
	}
	return l.Link(ctx, old, name)
}

// Remove removes a name from a directory; EPERM if n is no Remover.
func Remove(ctx context.Context, n Node, name string, dir bool) error {
	if r, ok := As[Remover](n); ok {
		return r.Remove(ctx, name, dir)
	}
	return unix.EPERM
}

// Rename moves a name from one directory to another; EPERM if n is no Renamer, EXDEV if newDir is not
// in as many wrappers as n.
func Rename(ctx context.Context, n Node, oldName string, newDir Node, newName string, flags uint32) error {
	r, depth, ok := find[Renamer](n)
	if !ok {
		return unix.EPERM
	}
	if newDir = unwrap(newDir, depth); newDir == nil {
		return unix.EXDEV
	}
	return r.Rename(ctx, oldName, newDir, newName, flags)
}

// Read reads from an open file, as Reader says; EINVAL if it is neither a Reader nor an
// io.ReaderAt.
func Read(ctx context.Context, h Handle, p []byte, off int64) (int, error) {
	if r, ok := asHandle[Reader](h); ok {
		return r.Read(ctx, p, off)
	}
	if r, ok := asHandle[io.ReaderAt](h); ok {
		return r.ReadAt(p, off)
	}
	return 0, unix.EINVAL
}

// Write writes to an open file, as Writer says; EBADF if it is neither a Writer nor an
// io.WriterAt.
func Write(ctx context.Context, h Handle, p []byte, off int64) (int, error) {
	if w, ok := asHandle[Writer](h); ok {
		return w.Write(ctx, p, off)
	}
	if w, ok := asHandle[io.WriterAt](h); ok {
		return w.WriteAt(p, off)
	}
	return 0, unix.EBADF
}

// writable reports whether Write can do something.
func writable(h Handle) bool {
	if _, ok := asHandle[Writer](h); ok {
		return true
	}
	_, ok := asHandle[io.WriterAt](h)
	return ok
}

// Flush tells an open file of a close(2), if it is a Flusher.
func Flush(ctx context.Context, h Handle) error {
	if f, ok := asHandle[Flusher](h); ok {
		return f.Flush(ctx)
	}
	return nil
}

// Fsync puts an open file on disk, if it is a Syncer or has Sync.
func Fsync(ctx context.Context, h Handle, dataOnly bool) error {
	if s, ok := asHandle[Syncer](h); ok {
		return s.Fsync(ctx, dataOnly)
	}
	if s, ok := asHandle[interface{ Sync() error }](h); ok {
		return s.Sync()
	}
	return nil
}

// Close closes an open file, if it is an io.Closer and no node.
func Close(h Handle) error {
	for range maxWrappers {
		if _, ok := h.(Node); ok {
			break
		}
		if c, ok := h.(io.Closer); ok {
			return c.Close()
		}
		w, ok := h.(HandleWrapper)
		if !ok {
			break
		}
		h = w.UnwrapHandle()
	}
	return nil
}
