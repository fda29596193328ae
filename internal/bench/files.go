package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Sizes of what is prepared in the shared directory.
const (
	smallFiles = 1000
	smallSize  = 4 << 10
	listFiles  = 1000
	bigSize    = 64 << 20
)

// files are what the workloads work on, in a directory of their own in the shared one.
type files struct {
	path string // on the host
	name string // in the shared directory
	many int    // files in the directory "many"
	cold int64  // size of the file "cold"
}

// prepare makes the files:
//
//	small/    1,000 files of 4 KiB
//	list/     1,000 empty files
//	many/     o.Files empty files, whose nodes are looked up and forgotten
//	big       64 MiB, in the page cache
//	cold      o.ColdSize bytes, not in the page cache
//	tmp/      what a workload makes itself
func prepare(o *Options) (f *files, err error) {
	f = &files{many: o.Files, cold: o.ColdSize}
	if f.path, err = os.MkdirTemp(o.Dir, "govirtiofs-bench-"); err != nil {
		return nil, fmt.Errorf("prepare files: %w", err)
	}
	f.name = filepath.Base(f.path)
	defer func() {
		if err != nil {
			f.remove()
			err = fmt.Errorf("prepare files: %w", err)
		}
	}()
	for _, dir := range []string{"small", "list", "many", "tmp"} {
		if err := os.Mkdir(filepath.Join(f.path, dir), 0o755); err != nil {
			return nil, err
		}
	}
	return f, errors.Join(
		f.fill("small", smallFiles, smallSize), f.fill("list", listFiles, 0), f.fill("many", f.many, 0),
		f.big("big", bigSize), f.big("cold", f.cold), f.sync("cold"))
}

func fileName(i int) string { return fmt.Sprintf("file-%06d", i) }

func (f *files) fill(dir string, n, size int) error {
	data := make([]byte, size)
	for i := range n {
		if err := os.WriteFile(filepath.Join(f.path, dir, fileName(i)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// big writes a file of bytes that no file system compresses or stores as holes.
func (f *files) big(name string, size int64) error {
	w, err := os.OpenFile(filepath.Join(f.path, name), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = io.CopyN(w, &noise{1}, size)
	return err
}

// sync writes a file to its disk: what is not there cannot leave the page cache.
func (f *files) sync(name string) error {
	fd, err := unix.Open(filepath.Join(f.path, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

// noise is an endless xorshift sequence.
type noise struct{ x uint64 }

func (r *noise) next() uint64 {
	r.x ^= r.x << 13
	r.x ^= r.x >> 7
	r.x ^= r.x << 17
	return r.x
}

// below is a number less than n.
func (r *noise) below(n int) int { return int(r.next() >> 1 % uint64(n)) }

func (r *noise) Read(b []byte) (int, error) {
	for i := 0; i+8 <= len(b); i += 8 {
		v := r.next()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return len(b), nil
}

// dropCache takes the file "cold" out of the page cache.
func (f *files) dropCache() error {
	fd, err := unix.Open(filepath.Join(f.path, "cold"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("drop the page cache: %w", err)
	}
	defer unix.Close(fd)
	return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
}

func (f *files) remove() error { return os.RemoveAll(f.path) }
