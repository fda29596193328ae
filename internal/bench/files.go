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
	outsSize   = 512 << 20
)

// files are what the workloads work on, in a directory of their own in the shared one.
type files struct {
	path  string       // on the host
	name  string       // in the shared directory
	made  []string     // directories and large files in it
	many  int          // files in the directory "many"
	cold  int64        // size of the file "cold"
	outs  int          // files to write to, see needOut
	alive func() error // whether to go on making files
}

// need is a set of the files that a workload works on.
type need uint

// The files that prepare makes, in addition to a directory "tmp" for the
// workloads' own files.
const (
	needSmall need = 1 << iota // small/: 1,000 files of 4 KiB
	needList                   // list/: 1,000 empty files
	needMany                   // many/: Options.Files empty files, whose nodes are looked up and forgotten
	needBig                    // big: 64 MiB, in the page cache
	needCold                   // cold: Options.ColdSize bytes, not in the page cache
	needOut                    // big-1, ...: a file to write to for each queue of each guest; the first has big
)

// prepare makes the files that the workloads need. It calls alive now and then, and stops at an
// error.
func prepare(o *Options, alive func() error) (f *files, err error) {
	f = &files{many: o.Files, cold: o.ColdSize, outs: o.Guests * o.Queues, alive: alive}
	if f.path, err = os.MkdirTemp(o.Dir, "govirtiofs-bench-"); err != nil {
		return nil, fmt.Errorf("prepare files: %w", err)
	}
	f.name = filepath.Base(f.path)
	if err := f.prepare(o.Workloads); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare files: %w", err), f.remove())
	}
	return f, nil
}

func (f *files) prepare(workloads []Workload) error {
	var all need
	for _, w := range workloads {
		all |= w.needs
	}
	type part struct {
		name string
		need need
		make func(name string) error
	}
	parts := []part{
		{"small", needSmall, func(name string) error { return f.fill(name, smallFiles, smallSize) }},
		{"list", needList, func(name string) error { return f.fill(name, listFiles, 0) }},
		{"many", needMany, func(name string) error { return f.fill(name, f.many, 0) }},
		{"big", needBig, func(name string) error { return f.big(name, bigSize, false) }},
		{"cold", needCold, func(name string) error { return f.big(name, f.cold, true) }},
		{"tmp", 0, func(name string) error { return f.fill(name, 0, 0) }},
	}
	for i := 1; i < f.outs; i++ {
		parts = append(parts, part{outName(i), needOut, func(name string) error { return f.big(name, f.outSize(), false) }})
	}
	for _, part := range parts {
		if part.need&all != part.need {
			continue
		}
		if err := part.make(part.name); err != nil {
			return err
		}
		f.made = append(f.made, part.name)
	}
	return nil
}

// outName is the file of writer i. Each writer has a file of its own, because writers of one
// file wait for each other in the host's kernel.
func outName(i int) string {
	if i == 0 {
		return "big"
	}
	return fmt.Sprintf("big-%d", i)
}

// outSize is the size of the part of its file that a writer writes to. It is the whole file,
// unless all files together would exceed outsSize.
func (f *files) outSize() int64 {
	return max(4<<20, min(bigSize, outsSize/int64(f.outs)&^(1<<20-1)))
}

func fileName(i int) string { return fmt.Sprintf("file-%06d", i) }

// fill makes a directory of n files.
func (f *files) fill(dir string, n, size int) error {
	if err := os.Mkdir(filepath.Join(f.path, dir), 0o755); err != nil {
		return err
	}
	data := make([]byte, size)
	for i := range n {
		if err := os.WriteFile(filepath.Join(f.path, dir, fileName(i)), data, 0o644); err != nil {
			return err
		}
		if i%64 == 0 {
			if err := f.alive(); err != nil {
				return err
			}
		}
	}
	return nil
}

// bigPart is the number of bytes that are written at a time.
const bigPart = 4 << 20

// big writes a file that no file system compresses or stores as holes. With disk it also writes
// the file to its disk, because only such pages can leave the page cache. It does this part by
// part, so that it can end soon when it is interrupted.
func (f *files) big(name string, size int64, disk bool) error {
	w, err := os.OpenFile(filepath.Join(f.path, name), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer w.Close()
	data := &noise{1}
	for at := int64(0); at < size; at += bigPart {
		n := min(bigPart, size-at)
		if _, err := io.CopyN(w, data, n); err != nil {
			return err
		}
		if disk { // Sync reports an error of this
			_ = unix.SyncFileRange(int(w.Fd()), at, n,
				unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
		}
		if err := f.alive(); err != nil {
			return err
		}
	}
	if disk {
		return w.Sync()
	}
	return nil
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
