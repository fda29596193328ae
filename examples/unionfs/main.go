// Unionfs shows several directories of this machine as one, read-only: what mergerfs does, without
// writing. A name that is in several of them is that of the first, and directories are merged.
//
//	unionfs --mount=/mnt DIR1 DIR2...
//
// It is an fs.FS, and package iofs does the rest.
package main

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/iofs"
	"github.com/govirtiofs/govirtiofs/server"
)

// union is file systems on top of each other, the first on top.
type union []fs.FS

// first calls do for each file system until one has the name.
func first[T any](u union, do func(fs.FS) (T, error)) (v T, err error) {
	err = fs.ErrNotExist
	for _, f := range u {
		v, err = do(f)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return v, err
}

// Open implements fs.FS.
func (u union) Open(name string) (fs.File, error) {
	f, err := first(u, func(f fs.FS) (fs.File, error) { return f.Open(name) })
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return &dir{File: f, union: u, name: name}, nil
	}
	return f, nil
}

// Stat implements fs.StatFS.
func (u union) Stat(name string) (fs.FileInfo, error) {
	return first(u, func(f fs.FS) (fs.FileInfo, error) { return fs.Stat(f, name) })
}

// Lstat implements fs.ReadLinkFS.
func (u union) Lstat(name string) (fs.FileInfo, error) {
	return first(u, func(f fs.FS) (fs.FileInfo, error) { return fs.Lstat(f, name) })
}

// ReadLink implements fs.ReadLinkFS.
func (u union) ReadLink(name string) (string, error) {
	return first(u, func(f fs.FS) (string, error) { return fs.ReadLink(f, name) })
}

// ReadDir implements fs.ReadDirFS: the names of all directories, from the top down to the first
// thing of this name that is no directory.
func (u union) ReadDir(name string) (list []fs.DirEntry, err error) {
	seen := make(map[string]bool)
	found := false
	for _, f := range u {
		info, err := fs.Lstat(f, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && !info.IsDir() {
			if !found {
				return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
			}
			break
		}
		entries, err := fs.ReadDir(f, name)
		if err != nil {
			return nil, err
		}
		found = true
		for _, e := range entries {
			if !seen[e.Name()] {
				seen[e.Name()] = true
				list = append(list, e)
			}
		}
	}
	if !found {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return list, nil
}

// dir is an open directory.
type dir struct {
	fs.File
	union union
	name  string
	list  []fs.DirEntry
	read  bool
}

// ReadDir implements fs.ReadDirFile.
func (d *dir) ReadDir(n int) (list []fs.DirEntry, err error) {
	if !d.read {
		if d.list, err = d.union.ReadDir(d.name); err != nil {
			return nil, err
		}
		d.read = true
	}
	if n > 0 && len(d.list) == 0 {
		return nil, io.EOF
	}
	if n <= 0 {
		n = len(d.list)
	}
	n = min(n, len(d.list))
	list, d.list = d.list[:n:n], d.list[n:]
	return list, nil
}

func newUnion(dirs []string) (server.FileSystem, error) {
	var u union
	for _, d := range dirs {
		root, err := os.OpenRoot(d) // links of the host's directory lead nowhere else
		if err != nil {
			return nil, err
		}
		u = append(u, root.FS())
	}
	return iofs.New(u), nil
}

func main() {
	p := cli.Program{Args: "DIR1 DIR2...", NArgs: 1, MaxArgs: 100, New: newUnion}
	p.Main()
}
