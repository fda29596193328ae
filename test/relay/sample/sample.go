// Package sample is a tree of files whose contents follow from their names: a program that sees the tree can check it, in a
// guest as well.
package sample

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Omit says what a file system can't do.
type Omit struct {
	Modes, Times, Links bool // of the sample
	Big                 bool // its largest file
	Rename, Truncate    bool // of Write
}

// Time is when the files of a sample were changed.
var Time = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

const (
	mode     = 0o640 // of the file "one"
	manyDir  = "many"
	linkName = "link"
	linked   = "dir/sub/deep"
	written  = "written"
	kept     = 1000 // bytes of what was written
	bigSize  = 64 << 20
)

// Names of files.
const (
	Big  = "big" // the largest one
	Mega = "mega"
)

// sizes of the files.
var sizes = map[string]int{
	"empty": 0, "one": 1, "page": 4096, "odd": 4097, "chunk": 128 << 10, "chunk1": 128<<10 + 1, Mega: 1<<20 + 3,
	Big: bigSize, linked: 5,
}

func init() {
	for i := range 150 {
		sizes[fmt.Sprintf("%s/name-%03d", manyDir, i)] = i
	}
}

// content is what is in a file.
func content(name string, size int) io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(name))), int64(size))
}

// Make makes the sample.
func Make(dir string, o Omit) error {
	for name, size := range sizes {
		if o.Big && name == Big {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := write(path, name, size); err != nil {
			return err
		}
		if !o.Times {
			if err := os.Chtimes(path, Time, Time); err != nil {
				return err
			}
		}
	}
	if !o.Modes {
		if err := os.Chmod(filepath.Join(dir, "one"), mode); err != nil {
			return err
		}
	}
	if o.Links {
		return nil
	}
	return os.Symlink(linked, filepath.Join(dir, linkName))
}

func write(path, name string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content(name, size))
	return errors.Join(err, f.Close())
}

// Check compares what is in dir with the sample.
func Check(dir string, o Omit) error {
	var errs []error
	for name, size := range sizes {
		if o.Big && name == Big {
			continue
		}
		errs = append(errs, checkFile(dir, name, size, o))
	}
	if !o.Modes {
		if st, err := os.Stat(filepath.Join(dir, "one")); err != nil || st.Mode() != mode {
			errs = append(errs, fmt.Errorf("one: mode %v, %v, want %o", st, err, mode))
		}
	}
	if !o.Links {
		if s, err := os.Readlink(filepath.Join(dir, linkName)); err != nil || s != linked {
			errs = append(errs, fmt.Errorf("%s: %q, %v", linkName, s, err))
		}
		errs = append(errs, checkFile(dir, linkName, sizes[linked], Omit{Times: true}))
	}
	names, err := list(filepath.Join(dir, manyDir))
	if err != nil || len(names) != 150 || names[0] != "name-000" || names[149] != "name-149" {
		errs = append(errs, fmt.Errorf("%s: %d names, %v", manyDir, len(names), err))
	}
	var st unix.Statfs_t
	errs = append(errs, unix.Statfs(dir, &st))
	if _, err := os.Lstat(filepath.Join(dir, "no-such-file")); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("a file that does not exist: %v", err))
	}
	return errors.Join(errs...)
}

// BigContent is what is in the largest file.
func BigContent() io.Reader { return content(Big, bigSize) }

// CheckMega compares the file Mega.
func CheckMega(dir string) error { return checkFile(dir, Mega, sizes[Mega], Omit{}) }

func list(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".wh.") { // a union's own mark
			continue
		}
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, err
}

func checkFile(dir, name string, size int, o Omit) error {
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != int64(size) {
		return fmt.Errorf("%s: %v with %d bytes, want a file with %d", name, st.Mode(), st.Size(), size)
	}
	if d := st.ModTime().Sub(Time); !o.Times && d.Abs() > 2*time.Second {
		return fmt.Errorf("%s: changed at %v, want %v", name, st.ModTime(), Time)
	}
	if name == linkName {
		name = linked
	}
	return same(f, content(name, size))
}

// CheckOver reads one half of the largest file, Tells the host in a directory to end a server, and reads on: what happens in
// between must not be noticed.
func CheckOver(dir, asked string) error {
	f, err := os.Open(filepath.Join(dir, "big"))
	if err != nil {
		return err
	}
	defer f.Close()
	want := content("big", sizes["big"])
	if err := sameNext(f, want, int64(sizes["big"]/2)); err != nil {
		return err
	}
	if err := Tell(asked, "kill"); err != nil {
		return err
	}
	return same(f, want)
}

// sameNext compares the next n bytes.
func sameNext(f *os.File, want io.Reader, n int64) error {
	a, b := sha256.New(), sha256.New()
	if _, err := io.CopyN(a, f, n); err != nil {
		return err
	}
	if _, err := io.CopyN(b, want, n); err != nil {
		return err
	}
	if !bytes.Equal(a.Sum(nil), b.Sum(nil)) {
		return fmt.Errorf("%s: the first %d bytes are others", f.Name(), n)
	}
	return nil
}

// same compares contents.
func same(f *os.File, want io.Reader) error {
	a, b := sha256.New(), sha256.New()
	n, err := io.Copy(a, f)
	if err != nil {
		return err
	}
	if _, err := io.Copy(b, want); err != nil {
		return err
	}
	if !bytes.Equal(a.Sum(nil), b.Sum(nil)) {
		return fmt.Errorf("%s: %d bytes that are others", f.Name(), n)
	}
	return nil
}

// Patience is how long is waited for what is sure to happen.
const Patience = 2 * time.Minute

// Write creates, writes, renames, truncates and removes files in dir. Each name has the suffix, so that it can be done
// again. stored is nil, or is called for each file that was written and closed, with its name in dir and its size; it returns
// when the program has stored the file. A program needs it that stores files at RELEASE and is confused by a file that
// goes away meanwhile: the kernel does not wait for RELEASE.
func Write(dir, suffix string, o Omit, stored func(name string, size int) error) error {
	d := filepath.Join(dir, written+suffix)
	at := func(name string) string { return filepath.Join(d, name) }
	write := func(name, seed string, size int) error {
		if err := write(at(name), seed, size); err != nil || stored == nil {
			return err
		}
		return stored(filepath.Join(written+suffix, name), size)
	}
	steps := []func() error{
		func() error { return os.Mkdir(d, 0o755) },
		func() error { return write("new", written, 300_000) },
		func() error { return checkWritten(at("new"), 300_000) },
		func() error { return write("gone", "gone", 5) },
		func() error { return os.Remove(at("gone")) },
		func() error { return os.Mkdir(at("dir"), 0o755) },
		func() error { return os.Remove(at("dir")) },
		func() error {
			if o.Rename {
				return nil
			}
			return os.Rename(at("new"), at("renamed"))
		},
		func() error {
			if o.Truncate {
				return nil
			}
			return os.Truncate(at(o.final()), kept)
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	// A file that was removed while the program had it open (RELEASE was still to come) may be hidden under another name
	// for a while, by libfuse for example.
	return Until(func() error { return CheckWritten(dir, suffix, o) })
}

// Until repeats a check until it succeeds, and returns its last error if it does not in time.
func Until(check func() error) error {
	for deadline := time.Now().Add(Patience); ; time.Sleep(20 * time.Millisecond) {
		if err := check(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// final is the name of what Write leaves.
func (o Omit) final() string {
	if o.Rename {
		return "new"
	}
	return "renamed"
}

// CheckWritten looks for what Write has left.
func CheckWritten(dir, suffix string, o Omit) error {
	d := filepath.Join(dir, written+suffix)
	names, err := list(d)
	if err != nil || len(names) != 1 || names[0] != o.final() {
		return fmt.Errorf("%s: %v, %v, want only %s", d, names, err, o.final())
	}
	size := kept
	if o.Truncate {
		size = 300_000
	}
	return checkWritten(filepath.Join(d, o.final()), size)
}

// Written is the name and the content of what Write has left.
func Written(suffix string, o Omit) (name string, data []byte) {
	size := kept
	if o.Truncate {
		size = 300_000
	}
	data, _ = io.ReadAll(content(written, size))
	return filepath.Join(written+suffix, o.final()), data
}

func checkWritten(path string, size int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != int64(size) {
		return fmt.Errorf("%s: %v, %v, want %d bytes", path, st, err, size)
	}
	return same(f, content(written, size))
}
