package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vfs"
)

// Value is what a file shows.
type Value struct {
	Get func() (string, error)
	// Set is called with what was written, when the file is closed; nil is a file that can't be
	// written. An error is that of close(2).
	Set func(string) error
}

// directory is made of the paths of values.
type directory struct {
	started time.Time
	names   map[string]vfs.Node
}

// newTree makes the directories of the values' paths.
func newTree(values map[string]Value) (*directory, error) {
	now := time.Now()
	newDir := func() *directory { return &directory{started: now, names: make(map[string]vfs.Node)} }
	root := newDir()
	for _, p := range slices.Sorted(maps.Keys(values)) {
		if !fs.ValidPath(p) {
			return nil, &fs.PathError{Op: "livefs", Path: p, Err: fs.ErrInvalid}
		}
		dir := root
		above, name := path.Split(p)
		for _, part := range strings.FieldsFunc(above, func(c rune) bool { return c == '/' }) {
			below, ok := dir.names[part].(*directory)
			if !ok {
				if dir.names[part] != nil {
					return nil, fmt.Errorf("%s: %s is a value already", p, part)
				}
				below = newDir()
				dir.names[part] = below
			}
			dir = below
		}
		if dir.names[name] != nil {
			return nil, fmt.Errorf("%s is a directory already", p)
		}
		dir.names[name] = &file{Value: values[p], started: now}
	}
	return root, nil
}

func (d *directory) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: fs.ModeDir | 0o555, Mtime: d.started}, nil
}

func (d *directory) Lookup(_ context.Context, name string) (vfs.Node, error) {
	if n := d.names[name]; n != nil {
		return n, nil
	}
	return nil, fs.ErrNotExist
}

func (d *directory) ReadDir(context.Context) (list []vfs.DirEntry, _ error) {
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		n := d.names[name]
		var kind fs.FileMode
		if _, ok := n.(*directory); ok {
			kind = fs.ModeDir
		}
		list = append(list, vfs.DirEntry{Name: name, Type: kind, Node: n})
	}
	return list, nil
}

// file is a value.
type file struct {
	Value
	started time.Time
}

func (f *file) Attr(context.Context) (vfs.Attr, error) {
	a := vfs.Attr{Mode: 0o444, Mtime: f.started}
	if f.Set != nil {
		a.Mode = 0o644
	}
	return a, nil
}

// SetAttr does nothing: ">" of a shell truncates, and what is written replaces the value anyway.
func (f *file) SetAttr(_ context.Context, set vfs.SetAttr) error {
	if set.Mode != nil || set.UID != nil || set.GID != nil {
		return unix.EPERM
	}
	return nil
}

func (f *file) Open(_ context.Context, flags int) (vfs.Handle, error) {
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		text, err := f.Get()
		return reading(text), err
	}
	if f.Set == nil {
		return nil, unix.EACCES
	}
	return &writing{set: f.Set}, nil
}

// reading is what the value was when the file was opened.
type reading string

func (reading) OpenOptions() vfs.OpenOptions { return vfs.OpenOptions{DirectIO: true} }

func (s reading) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader(string(s)).ReadAt(p, off)
}

// maxText is how long a new value can be, in bytes.
const maxText = 64 << 10

// writing collects a new value.
type writing struct {
	set  func(string) error
	mu   sync.Mutex
	text []byte
	done bool
}

func (*writing) OpenOptions() vfs.OpenOptions { return vfs.OpenOptions{DirectIO: true} }

func (w *writing) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if off > maxText || int(off)+len(p) > maxText {
		return 0, unix.EFBIG
	}
	if end := int(off) + len(p); end > len(w.text) {
		w.text = append(w.text, make([]byte, end-len(w.text))...)
	}
	w.done = false
	return copy(w.text[off:], p), nil
}

// Flush is called for each close(2): a shell closes a copy of the descriptor before it writes.
func (w *writing) Flush(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done || len(w.text) == 0 {
		return nil
	}
	w.done = true
	if err := w.set(string(w.text)); err != nil {
		return errors.Join(err, unix.EINVAL)
	}
	return nil
}
