// Package treemodel changes a tree of files in every way and knows what must be in it then: tests of
// what is lost or done twice when something fails in between.
package treemodel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// threads is how many directories are changed at the same time.
const threads = 4

// Run makes directories in dir and changes them, each from a goroutine of its own, until stop says so or an
// operation has not the result that it must have. done is counted up with the operations. It returns what must
// be in the directories then, for Check.
func Run(dir string, stop func() bool, done *atomic.Int64) ([]Model, error) {
	models, errs := make([]Model, threads), make(chan error, threads)
	var failed atomic.Bool
	for i := range threads {
		w, err := newWorker(filepath.Join(dir, fmt.Sprint(i)), uint64(i))
		if err != nil {
			return nil, err
		}
		go func() {
			var err error
			for err == nil && !failed.Load() && !stop() {
				if err = w.step(); err != nil {
					err = fmt.Errorf("operation %d: %w", done.Load(), err)
					failed.Store(true)
				}
				done.Add(1)
			}
			models[i] = w.m
			errs <- err
		}()
	}
	var all error
	for range threads {
		all = errors.Join(all, <-errs)
	}
	return models, all
}

// Check compares the directories that Run has made in dir with what must be in them.
func Check(dir string, models []Model) error {
	for i := range models {
		var got Model
		if err := readModel(filepath.Join(dir, fmt.Sprint(i)), &got); err != nil {
			return err
		}
		if err := same(got, models[i]); err != nil {
			return fmt.Errorf("directory %d: %w", i, err)
		}
	}
	return nil
}

// Model is what a directory has to contain: files with their content, directories, and
// symbolic links with their target.
type Model struct {
	Files map[string]string
	Dirs  map[string]bool
	Links map[string]string
}

// worker changes one directory, and knows what must be in it. An operation that is done twice, or
// is lost, fails at once or shows in the end.
type worker struct {
	root  string
	r     *rand.Rand
	m     Model
	names int
	big   []byte
}

func newWorker(root string, seed uint64) (*worker, error) {
	w := &worker{root: root, r: rand.New(rand.NewPCG(seed, 1)), big: make([]byte, 300<<10),
		m: Model{Files: map[string]string{}, Dirs: map[string]bool{}, Links: map[string]string{}}}
	return w, os.Mkdir(root, 0o755)
}

func (w *worker) path(name string) string { return filepath.Join(w.root, name) }

func (w *worker) fresh() string {
	w.names++
	return fmt.Sprintf("n%d", w.names)
}

// one is any key of a map, in no special order; "" if there is none.
func one[V any](m map[string]V) string {
	for k := range m {
		return k
	}
	return ""
}

// step does one operation.
func (w *worker) step() error {
	file, dir, link := one(w.m.Files), one(w.m.Dirs), one(w.m.Links)
	switch n := w.r.IntN(12); {
	case n <= 1 || file == "":
		return w.create(w.fresh())
	case n <= 3:
		return w.append(file)
	case n == 4:
		return w.rename(file, w.fresh())
	case n == 5 && len(w.m.Files) > 1:
		return w.overwrite(file)
	case n == 6:
		delete(w.m.Files, file)
		return os.Remove(w.path(file))
	case n == 7:
		d := w.fresh()
		w.m.Dirs[d] = true
		return os.Mkdir(w.path(d), 0o700)
	case n == 8 && dir != "":
		delete(w.m.Dirs, dir)
		return unix.Rmdir(w.path(dir))
	case n == 9:
		l := w.fresh()
		w.m.Links[l] = file
		return os.Symlink(file, w.path(l))
	case n == 10 && link != "":
		delete(w.m.Links, link)
		return os.Remove(w.path(link))
	}
	return w.check(file)
}

func (w *worker) text() string {
	n := w.r.IntN(300)
	if w.r.IntN(8) == 0 {
		n = w.r.IntN(len(w.big))
	}
	for i := range w.big[:n] {
		w.big[i] = byte('a' + w.r.IntN(26))
	}
	return string(w.big[:n])
}

func (w *worker) create(name string) error {
	f, err := os.OpenFile(w.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s := w.text()
	_, err = f.WriteString(s)
	w.m.Files[name] = s
	return errors.Join(err, f.Close())
}

func (w *worker) append(name string) error {
	f, err := os.OpenFile(w.path(name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	s := w.text()
	_, err = f.WriteString(s)
	w.m.Files[name] += s
	return errors.Join(err, f.Close())
}

func (w *worker) rename(from, to string) error {
	w.m.Files[to] = w.m.Files[from]
	delete(w.m.Files, from)
	return unix.Renameat2(unix.AT_FDCWD, w.path(from), unix.AT_FDCWD, w.path(to), unix.RENAME_NOREPLACE)
}

func (w *worker) overwrite(from string) error {
	for to := range w.m.Files {
		if to != from {
			w.m.Files[to] = w.m.Files[from]
			delete(w.m.Files, from)
			return os.Rename(w.path(from), w.path(to))
		}
	}
	return nil
}

// check reads a file past the cache.
func (w *worker) check(name string) error {
	f, err := os.Open(w.path(name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	b, err := io.ReadAll(f)
	if err == nil && string(b) != w.m.Files[name] {
		err = fmt.Errorf("%s has %d bytes that are not the %d it must have", name, len(b), len(w.m.Files[name]))
	}
	return err
}

// readModel reads what is in a directory.
func readModel(dir string, m *Model) error {
	*m = Model{Files: map[string]string{}, Dirs: map[string]bool{}, Links: map[string]string{}}
	list, err := os.ReadDir(dir)
	for _, e := range list {
		switch path := filepath.Join(dir, e.Name()); e.Type() {
		case fs.ModeDir:
			m.Dirs[e.Name()] = true
		case fs.ModeSymlink:
			m.Links[e.Name()], err = os.Readlink(path)
		default:
			var b []byte
			b, err = os.ReadFile(path)
			m.Files[e.Name()] = string(b)
		}
		if err != nil {
			return err
		}
	}
	return err
}

func same(got, want Model) error {
	if len(got.Files) != len(want.Files) || len(got.Dirs) != len(want.Dirs) || len(got.Links) != len(want.Links) {
		return fmt.Errorf("%d files, %d directories, %d links, want %d, %d, %d",
			len(got.Files), len(got.Dirs), len(got.Links), len(want.Files), len(want.Dirs), len(want.Links))
	}
	for name, text := range want.Files {
		if g, ok := got.Files[name]; !ok || g != text {
			return fmt.Errorf("%s has %d bytes (%v), want %d others", name, len(g), ok, len(text))
		}
	}
	for name := range want.Dirs {
		if !got.Dirs[name] {
			return fmt.Errorf("no directory %s", name)
		}
	}
	for name, to := range want.Links {
		if got.Links[name] != to {
			return fmt.Errorf("link %s to %q, want %q", name, got.Links[name], to)
		}
	}
	return nil
}
