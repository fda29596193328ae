package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vfs"
)

// member is a file of a tar archive, or a directory.
type member struct {
	attr   vfs.Attr
	target string            // of a symbolic link
	data   *io.SectionReader // of a regular file
	names  map[string]*member
}

// maxMembers is how many files there may be in an archive, and maxDepth how many directories above one
// of them.
const (
	maxMembers = 10 << 20
	maxDepth   = 1000
)

// index is a tar archive that is being read.
type index struct {
	root    *member
	members int
}

// readTar reads the headers of a tar archive, and skips what is in the files. The file stays open.
func readTar(f *os.File) (*member, error) {
	x := index{root: newDir()}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return x.root, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if x.members == 0 {
				return nil, fmt.Errorf("%w (%w)", errNoArchive, err)
			}
			return nil, fmt.Errorf("the tar archive is damaged behind its file %d: %w", x.members, err)
		}
		at, err := f.Seek(0, io.SeekCurrent) // where the data of the file begins
		if err != nil {
			return nil, err
		}
		if err := x.add(h, io.NewSectionReader(f, at, h.Size)); err != nil {
			return nil, fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

func newDir() *member {
	return &member{attr: vfs.Attr{Mode: fs.ModeDir | 0o755, Nlink: 2}, names: make(map[string]*member)}
}

// add adds a file. A later one with the same name takes its place, as when it is unpacked.
func (x *index) add(h *tar.Header, data *io.SectionReader) error {
	name := path.Clean("/" + h.Name)[1:] // "..", too, ends at the root
	if x.members++; x.members > maxMembers {
		return errors.New("too many files")
	}
	if name == "" {
		x.root.set(h)
		return nil
	}
	dir, base, err := x.parent(name)
	if err != nil {
		return err
	}
	m := &member{}
	m.set(h)
	switch h.Typeflag {
	case tar.TypeDir:
		if old := dir.names[base]; old != nil && old.names != nil {
			old.set(h)
			return nil
		}
		m.names = make(map[string]*member)
	case tar.TypeLink:
		if m = x.find(path.Clean("/" + h.Linkname)[1:]); m == nil || m.names != nil {
			return fmt.Errorf("a link to %q, which is not there", h.Linkname)
		}
		m.attr.Nlink++
	case tar.TypeSymlink:
		m.target, m.attr.Size = h.Linkname, int64(len(h.Linkname))
	case tar.TypeReg:
		m.data = data
		for record := range h.PAXRecords {
			if strings.HasPrefix(record, "GNU.sparse.") {
				m.data = nil // where its data is, only package archive/tar knows
			}
		}
	}
	if old := dir.names[base]; old != nil && old != m && old.names == nil {
		old.attr.Nlink--
	}
	dir.names[base] = m
	return nil
}

// set sets the attributes that a header says.
func (m *member) set(h *tar.Header) {
	info := h.FileInfo()
	m.attr = vfs.AttrOf(info)
	m.attr.UID, m.attr.GID, m.attr.Nlink = uint32(h.Uid), uint32(h.Gid), 1
	m.attr.Rdev = uint32(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	m.attr.Atime, m.attr.Ctime = h.AccessTime, h.ChangeTime
	if info.IsDir() {
		m.attr.Nlink = 2
	}
}

// parent is the directory of a name, which is made if it is not there.
func (x *index) parent(name string) (dir *member, base string, err error) {
	parts := strings.Split(name, "/")
	if len(parts) > maxDepth {
		return nil, "", errors.New("too many directories above it")
	}
	dir = x.root
	for _, part := range parts[:len(parts)-1] {
		below := dir.names[part]
		if below == nil || below.names == nil { // a file is replaced, and a link is not followed
			if x.members++; x.members > maxMembers {
				return nil, "", errors.New("too many files")
			}
			below = newDir()
			dir.names[part] = below
		}
		dir = below
	}
	return dir, parts[len(parts)-1], nil
}

// find is the file with a name, or nil.
func (x *index) find(name string) *member {
	m := x.root
	for _, part := range strings.Split(name, "/") {
		if m = m.names[part]; m == nil {
			return nil
		}
	}
	return m
}

func (m *member) Attr(context.Context) (vfs.Attr, error) { return m.attr, nil }

func (m *member) Lookup(_ context.Context, name string) (vfs.Node, error) {
	if child := m.names[name]; child != nil {
		return child, nil
	}
	return nil, fs.ErrNotExist
}

func (m *member) ReadDir(context.Context) (list []vfs.DirEntry, _ error) {
	if m.names == nil {
		return nil, unix.ENOTDIR
	}
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		list = append(list, vfs.DirEntry{Name: name, Type: m.names[name].attr.Mode.Type(), Node: m.names[name]})
	}
	return list, nil
}

func (m *member) Readlink(context.Context) (string, error) {
	if m.attr.Mode.Type() != fs.ModeSymlink {
		return "", unix.EINVAL
	}
	return m.target, nil
}

func (m *member) ReadAt(p []byte, off int64) (int, error) {
	if m.data == nil {
		return 0, unix.EOPNOTSUPP
	}
	return m.data.ReadAt(p, off)
}
