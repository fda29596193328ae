// Package iofs serves any fs.FS (a zip archive, embedded files, a database) as a read-only file
// system: to guests with govirtiofs.ListenAndServe, and to this machine with fusedev.
//
//	archive, err := zip.OpenReader("archive.zip")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(govirtiofs.ListenAndServe("/run/archive.sock", "archive", iofs.New(archive)))
//
// A file is what its path says: the inode number is made of the path, and stays the same when the
// program starts again. Owners are root. Names that are no UTF-8 do not exist, as in every fs.FS.
//
// # Reading
//
// A client reads anywhere in a file. A file that is an io.ReaderAt is read there. One that is an
// io.Seeker seeks. Any other file can be read from the start on only: a window of what was read last
// is kept in memory, and for what is before it the file is opened again. So a compressed file is
// read fast from the start to the end, and slowly backwards. [Options].MaxWindows bounds the memory of all windows.
//
// # Symbolic links
//
// Links come from fs.ReadLinkFS. If the file system is none, and says that a file is a link, the
// target is what is in the file, as in archive/zip.
package iofs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vfs"
)

// Options are for NewWith. All may be left out.
type Options struct {
	// Immutable says that the file system does not change while it is served: the client asks only
	// once for names, attributes and data, and keeps them for as long as it likes. Otherwise changes
	// are seen when a file is opened and after a second.
	Immutable bool
	// NonBlocking says that the file system waits for nothing, such as one in memory. See
	// vfs.Options.
	NonBlocking bool
	// MaxWindows is how many bytes of files that can't be read at an offset are kept in memory;
	// 0 is 64 MiB.
	MaxWindows int64
}

// New serves a file system of Go.
func New(fsys fs.FS) *vfs.FS { return NewWith(fsys, Options{}) }

// NewWith is New with options.
func NewWith(fsys fs.FS, o Options) *vfs.FS {
	v := vfs.Options{ReadOnly: true, Immutable: o.Immutable, NonBlocking: o.NonBlocking}
	if !o.Immutable {
		v.EntryTimeout, v.AttrTimeout = second, second
	}
	return vfs.New(Root(fsys, o), v)
}

// Root is the root node of a file system of Go, to be decorated or to be a part of another file
// system.
func Root(fsys fs.FS, o Options) vfs.Node {
	return file{&shared{fsys: fsys, windows: newWindows(o.MaxWindows)}, "."}
}

// shared is what all nodes of a file system have in common.
type shared struct {
	fsys    fs.FS
	windows *windows
}

// file is a node: the same one whenever the path is the same.
type file struct {
	*shared
	path string
}

// Attr implements vfs.Node.
func (f file) Attr(context.Context) (vfs.Attr, error) {
	info, err := fs.Lstat(f.fsys, f.path)
	if err != nil {
		return vfs.Attr{}, err
	}
	a := vfs.AttrOf(info)
	a.Ino = inode(f.path)
	return a, nil
}

// inode is the inode number of a path.
func inode(p string) uint64 {
	if p == "." {
		return 1
	}
	sum := sha256.Sum256([]byte(p))
	return max(binary.LittleEndian.Uint64(sum[:]), 2)
}

// Lookup implements vfs.Lookuper.
func (f file) Lookup(_ context.Context, name string) (vfs.Node, error) {
	child := file{f.shared, path.Join(f.path, name)}
	if !fs.ValidPath(child.path) {
		return nil, fs.ErrNotExist
	}
	if _, err := fs.Lstat(f.fsys, child.path); err != nil {
		return nil, err
	}
	return child, nil
}

// ReadDir implements vfs.ReadDirer.
func (f file) ReadDir(context.Context) ([]vfs.DirEntry, error) {
	entries, err := fs.ReadDir(f.fsys, f.path)
	if err != nil {
		return nil, err
	}
	list := make([]vfs.DirEntry, 0, len(entries))
	for _, e := range entries {
		p := path.Join(f.path, e.Name())
		if !fs.ValidPath(p) || e.Name() == "." || e.Name() == ".." {
			continue // the client could not look it up
		}
		list = append(list, vfs.DirEntry{Name: e.Name(), Type: e.Type(), Ino: inode(p), Node: file{f.shared, p}})
	}
	return list, nil
}

// maxTarget is how long the target of a link can be, in bytes (PATH_MAX).
const maxTarget = 4095

// Readlink implements vfs.Readlinker.
func (f file) Readlink(context.Context) (string, error) {
	if l, ok := f.fsys.(fs.ReadLinkFS); ok {
		return l.ReadLink(f.path)
	}
	info, err := fs.Lstat(f.fsys, f.path)
	switch {
	case err != nil:
		return "", err
	case info.Mode()&fs.ModeSymlink == 0:
		return "", unix.EINVAL
	}
	r, err := f.fsys.Open(f.path)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	target, err := io.ReadAll(io.LimitReader(r, maxTarget+1))
	if err == nil && len(target) > maxTarget {
		err = unix.ENAMETOOLONG
	}
	return string(target), err
}

// Open implements vfs.Opener.
func (f file) Open(context.Context, int) (vfs.Handle, error) {
	opened, err := f.fsys.Open(f.path)
	if err != nil {
		return nil, err
	}
	switch r := opened.(type) {
	case io.ReaderAt:
		return opened, nil
	case io.ReadSeeker:
		return &seeker{file: opened, r: r}, nil
	}
	return newStream(f, opened), nil
}

var errCount = errors.New("a Read has returned a wrong count")
