// Package tree is a server.FileSystem of files that a program makes up: directories and names
// are kept in memory, and what is in a file is the program's own [Content]. Add puts files
// in; with [Config].NewFile the client can make files, too.
//
//	t := tree.New(tree.Config{})
//	err := t.Add("etc/motd", 0o444, strings.NewReader("Hello\n"))
//	handler := server.New(t, server.Options{})
//
// The client's kernel checks permissions. There are no links, no extended attributes, and the
// tree can't move to another process.
//
// # Locks
//
// FS.mu guards the tree and the attributes. entry.mu is held while a content is called, and
// is taken without FS.mu.
package tree

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// Content is what is in a file. One method is called at a time. ReadAt gets the client's own
// memory, see fuse.Buffers.Fill. Errors go to the client by server.Errno.
type Content interface {
	io.ReaderAt
	Size() int64 // in bytes
}

// Writable is a Content that the client can change. Offsets and sizes are the client's, up to
// the largest int64: a Writable has a limit, and says unix.ENOSPC or unix.EFBIG.
//
// If it is an io.Closer, Close is called when the file was removed and the client has
// forgotten it.
type Writable interface {
	Content
	io.WriterAt
	Truncate(size int64) error
}

// Config describes a tree.
type Config struct {
	// NewFile makes the content of a file that the client creates. nil is a tree in which
	// the client can make, remove and rename nothing (EROFS). It is called with the tree
	// locked, and must not use it.
	NewFile func() Writable
	// MaxFiles is how many files and directories there may be, those included that were
	// removed and that the client has not forgotten; 0 is 65536.
	MaxFiles int
}

// FS is a tree. It is safe for concurrent use.
type FS struct {
	server.NotImplemented
	config Config
	nodes  *nodes.Table[*entry, node]

	mu    sync.Mutex
	root  *entry
	last  uint64 // inode number that was given out
	files int
}

// node is what the client knows of an entry.
type node struct{ nodes.Node[*entry, node] }

// entry is a file or directory.
type entry struct {
	name   string
	attr   fp.Attr // but for the size; Nlink is 0 when it was removed
	parent *entry
	list   []*entry          // of a directory, by inode number
	names  map[string]*entry // of a directory
	known  int               // nodes of this entry

	mu      sync.Mutex
	content Content // nil in a directory
}

var _ server.FileSystem = (*FS)(nil)

// New returns a tree with an empty root directory.
func New(c Config) *FS {
	if c.MaxFiles == 0 {
		c.MaxFiles = 1 << 16
	}
	t := &FS{config: c}
	t.nodes = nodes.New(nodes.Config[*entry, node]{Gone: t.gone})
	t.root, _ = t.newEntry(unix.S_IFDIR|0o755, 0, 0, nil)
	t.intern(t.root)
	return t
}

// Add puts a file in, and the directories of its path that are not there. The path is one of
// io/fs (see fs.ValidPath). Of mode only the permissions count. A nil content is a directory.
func (t *FS) Add(path string, mode fs.FileMode, c Content) error {
	if !fs.ValidPath(path) || path == "." {
		return &fs.PathError{Op: "add", Path: path, Err: fs.ErrInvalid}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	dir := t.root
	for left := path; ; {
		name, below, more := strings.Cut(left, "/")
		_, rest, errno := fp.ParseName([]byte(name + "\x00"))
		if errno == 0 && len(rest) > 0 { // a NUL in the name
			errno = unix.EINVAL
		}
		if errno != 0 {
			return &fs.PathError{Op: "add", Path: path, Err: errno}
		}
		e := dir.names[name]
		var err error
		switch {
		case e != nil && !more:
			err = fs.ErrExist
		case e != nil && e.names == nil:
			err = unix.ENOTDIR
		case e == nil && more:
			e, err = t.make(dir, name, unix.S_IFDIR|0o755, nil)
		case e == nil && c == nil:
			e, err = t.make(dir, name, unix.S_IFDIR|uint32(mode.Perm()), nil)
		case e == nil:
			e, err = t.make(dir, name, unix.S_IFREG|uint32(mode.Perm()), c)
		}
		if err != nil {
			return &fs.PathError{Op: "add", Path: path, Err: err}
		}
		if !more {
			return nil
		}
		dir, left = e, below
	}
}

// newEntry makes an entry without a name. Its content is made when there is room for it; nil
// is none. t.mu is held.
func (t *FS) newEntry(mode, uid, gid uint32, content func() Content) (*entry, error) {
	if t.files >= t.config.MaxFiles {
		return nil, fmt.Errorf("a tree of %d files: %w", t.files, unix.ENOSPC)
	}
	var c Content
	if content != nil {
		c = content()
	}
	t.files++
	t.last++
	e := &entry{content: c, attr: fp.Attr{Ino: t.last, Mode: mode, Nlink: 1, UID: uid, GID: gid, Blksize: 4096}}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		e.attr.Nlink, e.names = 2, make(map[string]*entry)
	}
	now := time.Now()
	e.setTimes(now, now, now)
	return e, nil
}

// make makes an entry of root's in dir. t.mu is held.
func (t *FS) make(dir *entry, name string, mode uint32, c Content) (*entry, error) {
	e, err := t.newEntry(mode, 0, 0, func() Content { return c })
	if err == nil {
		e.insert(dir, name)
	}
	return e, err
}

func (e *entry) setTimes(atime, mtime, ctime time.Time) {
	e.attr.Atime, e.attr.AtimeNsec = uint64(atime.Unix()), uint32(atime.Nanosecond())
	e.attr.Mtime, e.attr.MtimeNsec = uint64(mtime.Unix()), uint32(mtime.Nanosecond())
	e.attr.Ctime, e.attr.CtimeNsec = uint64(ctime.Unix()), uint32(ctime.Nanosecond())
}

// touch says that the directory or file has changed now.
func (e *entry) touch() {
	now := time.Now()
	e.attr.Mtime, e.attr.MtimeNsec = uint64(now.Unix()), uint32(now.Nanosecond())
	e.attr.Ctime, e.attr.CtimeNsec = e.attr.Mtime, e.attr.MtimeNsec
}

func byIno(e *entry, ino uint64) int { return cmp.Compare(e.attr.Ino, ino) }

// insert gives e a name in dir, which is free.
func (e *entry) insert(dir *entry, name string) {
	i, _ := slices.BinarySearchFunc(dir.list, e.attr.Ino, byIno)
	dir.list = slices.Insert(dir.list, i, e)
	dir.names[name] = e
	e.name, e.parent = name, dir
	dir.touch()
}

// take takes e's name away.
func (e *entry) take() {
	dir := e.parent
	if i, ok := slices.BinarySearchFunc(dir.list, e.attr.Ino, byIno); ok {
		dir.list = slices.Delete(dir.list, i, i+1)
	}
	delete(dir.names, e.name)
	e.parent = nil
	dir.touch()
}

// intern is the client's node of e. It has one more lookup and must be released. It is nil
// when no id is left. t.mu is held.
func (t *FS) intern(e *entry) *node {
	return t.nodes.Intern(nil, e, nil, func() *node {
		e.known++
		return new(node)
	})
}

// gone is told by the table that nothing refers to a node any more.
func (t *FS) gone(n *node) {
	e := n.Key()
	t.mu.Lock()
	e.known--
	end := t.ended(e)
	t.mu.Unlock()
	end()
}

// ended returns what has to be called without t.mu: it ends e if neither a name nor the client
// leads to it any more. t.mu is held.
func (t *FS) ended(e *entry) func() {
	if e.attr.Nlink != 0 || e.known != 0 {
		return func() {}
	}
	t.files--
	return func() {
		if c, ok := e.content.(io.Closer); ok {
			_ = c.Close()
		}
	}
}

// use calls do with the request's entry, and keeps it meanwhile.
func (t *FS) use(r *server.Request, do func(e *entry) error) unix.Errno {
	n := t.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return unix.ESTALE // the client may send any number
	}
	defer t.nodes.Release(n)
	return server.Errno(do(n.Key()))
}

// locked is use with t.mu held.
func (t *FS) locked(r *server.Request, do func(e *entry) error) unix.Errno {
	return t.use(r, func(e *entry) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		return do(e)
	})
}

// writable is e's content, if the client can change it.
func (e *entry) writable() (Writable, error) {
	if w, ok := e.content.(Writable); ok {
		return w, nil
	}
	if e.content == nil {
		return nil, unix.EISDIR
	}
	return nil, unix.EACCES
}
