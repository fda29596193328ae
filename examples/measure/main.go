// Measure repeats the two measurements of the paper on puffs (Kantee, "puffs - Pass-to-Userspace
// Framework File System", AsiaBSDCon 2007) with the examples: extracting an archive of 2,000 files, one and two at a time, into memfs
// and tmpfs, through nullfs and into the directory below it; and reading a large file through nullfs.
//
//	go build -o bin/ ./examples/... && sudo bin/measure
//
// It needs root, /dev/fuse, tar(1), and the programs beside itself. Rounds are interleaved, the figures are
// medians. With -io-uring it also measures them with requests by io_uring, for which it sets fuse.enable_uring while it runs.
package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often everything is measured")
	files := flag.Int("files", 2000, "files in the archive")
	size := flag.Int64("size", 256<<20, "bytes of the large file")
	dir := flag.String("dir", os.TempDir(), "directory on the bare file system")
	ioUring := flag.Bool("io-uring", false, "also with requests by io_uring (Linux 6.14)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "measure: unexpected argument %q: every value belongs to an option\n", flag.Arg(0))
		os.Exit(2)
	}
	b := &bench{pairs: []pair{{"tmpfs", "memfs", nil}, {"bare", "nullfs", nil}}}
	if *ioUring {
		b.pairs = append(b.pairs, pair{"tmpfs", "memfs-io-uring", []string{"--io-uring"}}, pair{"bare", "nullfs-io-uring", []string{"--io-uring"}})
	}
	if err := b.run(*dir, *rounds, *files, *size, *ioUring); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

// bench is where everything is.
type bench struct {
	dir     string // a new directory
	archive string
	pairs   []pair
	ends    []func() error
}

// pair are two directories to compare: a bare file system, and one that an example serves with some options.
type pair struct {
	below, above string
	options      []string
}

func (b *bench) run(parent string, rounds, files int, size int64, ioUring bool) (err error) {
	dir, err := os.MkdirTemp(parent, "measure-")
	if err != nil {
		return err
	}
	b.dir, b.archive = dir, filepath.Join(dir, "archive.tar")
	defer func() {
		for _, end := range slices.Backward(b.ends) {
			err = errors.Join(err, end())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := b.setUp(files, size, ioUring); err != nil {
		return err
	}
	if err := b.extract(rounds); err != nil {
		return err
	}
	return b.read(rounds, size)
}

// setUp makes the archive, the large file, and the mounts.
func (b *bench) setUp(files int, size int64, ioUring bool) error {
	if err := makeArchive(b.archive, files); err != nil {
		return err
	}
	tmpfs, bare := filepath.Join(b.dir, "tmpfs"), filepath.Join(b.dir, "bare")
	if err := errors.Join(os.Mkdir(tmpfs, 0o755), os.Mkdir(bare, 0o755), unix.Mount("tmpfs", tmpfs, "tmpfs", 0, "mode=755")); err != nil {
		return err
	}
	b.ends = append(b.ends, func() error { return unix.Unmount(tmpfs, 0) })
	if ioUring {
		if err := b.enableIOUring(); err != nil {
			return err
		}
	}
	for _, p := range b.pairs {
		program, args := "memfs", []string{"--xattr=false"} // as dtfs
		if p.below == "bare" {
			program, args = "nullfs", []string{"--cache-always", bare}
		}
		if err := b.mount(p.above, program, append(p.options, args...)...); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(bare, "large"))
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Sync(), f.Close())
}

// enableIOUring has the kernel take requests by io_uring until the end.
func (b *bench) enableIOUring() error {
	const path = "/sys/module/fuse/parameters/enable_uring"
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("io_uring needs Linux 6.14: %w", err)
	}
	b.ends = append(b.ends, func() error { return os.WriteFile(path, old, 0) })
	return os.WriteFile(path, []byte("Y"), 0)
}

// mount starts an example, which serves a new directory.
func (b *bench) mount(dir, name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	target := filepath.Join(b.dir, dir)
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(self), name), append([]string{"--mount=" + target, "--queues=2"}, args...)...)
	cmd.Stderr = os.Stderr
	var before, after unix.Stat_t
	if err := errors.Join(unix.Stat(target, &before), cmd.Start()); err != nil {
		return err
	}
	b.ends = append(b.ends, func() error { return errors.Join(unix.Unmount(target, 0), cmd.Wait()) })
	for range 1000 {
		if err := unix.Stat(target, &after); err == nil && after.Dev != before.Dev {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New(name + " does not mount")
}

// makeArchive makes an archive like that of a source tree: 20 files a directory, of 100 bytes to 30 KiB.
func makeArchive(name string, files int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 1))
	w := tar.NewWriter(f)
	text := make([]byte, 32<<10)
	for i := range files {
		if i%20 == 0 {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%03d/", i/20), Typeflag: tar.TypeDir, Mode: 0o755}))
		}
		size := 100 << r.IntN(9)
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%03d/file%04d.c", i/20, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}))
		_, written := w.Write(text[:size])
		err = errors.Join(err, written)
	}
	return errors.Join(err, w.Close(), f.Close())
}

// untar extracts the archive n times at once into a directory.
func (b *bench) untar(name string, n int) (time.Duration, error) {
	dir := filepath.Join(b.dir, name, "extracted")
	var cmds []*exec.Cmd
	for i := range n {
		target := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(target, 0o755); err != nil {
			return 0, err
		}
		cmds = append(cmds, exec.Command("tar", "-x", "-f", b.archive, "-C", target))
	}
	start := time.Now()
	var err error
	for _, cmd := range cmds {
		err = errors.Join(err, cmd.Start())
	}
	for _, cmd := range cmds {
		err = errors.Join(err, cmd.Wait())
	}
	took := time.Since(start)
	return took, errors.Join(err, os.RemoveAll(dir))
}

// extract measures the extraction everywhere.
func (b *bench) extract(rounds int) error {
	names := []string{"tmpfs", "bare"}
	for _, p := range b.pairs {
		names = append(names, p.above)
	}
	for _, n := range []int{1, 2} {
		times := make(map[string][]time.Duration)
		for i := range rounds + 1 {
			for _, name := range names {
				d, err := b.untar(name, n)
				if err != nil {
					return fmt.Errorf("extract into %s: %w", name, err)
				}
				if i > 0 { // the first round warms up
					times[name] = append(times[name], d)
				}
			}
		}
		for _, p := range b.pairs {
			below, above := median(times[p.below]), median(times[p.above])
			fmt.Printf("extract, %d at once: %-5s %7.1f ms, %-15s %7.1f ms: %+.1f %%\n", n, p.below, ms(below), p.above, ms(above), 100*(float64(above)/float64(below)-1))
		}
	}
	return nil
}

// state is what is in memory when the large file is read.
type state struct {
	name        string
	file        string // below b.dir
	here, below bool   // in the client's cache, in that of the bare file system
}

// read measures how fast the large file is read.
func (b *bench) read(rounds int, size int64) error {
	states := []state{
		{"bare, uncached", "bare", false, false},
		{"nullfs, uncached", "nullfs", false, false},
		{"nullfs, cached by the back-end", "nullfs", false, true},
		{"bare, cached", "bare", true, true},
		{"nullfs, cached", "nullfs", true, true},
	}
	times := make([][]time.Duration, len(states))
	for range rounds {
		for i, s := range states {
			d, err := b.readOnce(s)
			if err != nil {
				return fmt.Errorf("read %s: %w", s.name, err)
			}
			times[i] = append(times[i], d)
		}
	}
	for i, s := range states {
		d := median(times[i])
		fmt.Printf("read, %-31s %7.1f ms, %6.0f MB/s\n", s.name+":", ms(d), float64(size)/1e6/d.Seconds())
	}
	return nil
}

func (b *bench) readOnce(s state) (time.Duration, error) {
	file, bare := filepath.Join(b.dir, s.file, "large"), filepath.Join(b.dir, "bare", "large")
	// First the bare file is in memory or not, then the client's cache is made what it has to be.
	if s.below {
		if _, err := readAll(bare); err != nil {
			return 0, err
		}
	}
	if s.here {
		if _, err := readAll(file); err != nil {
			return 0, err
		}
	} else if err := forget(file); err != nil {
		return 0, err
	}
	if !s.below {
		if err := forget(bare); err != nil {
			return 0, err
		}
	}
	return readAll(file)
}

// readAll reads a file with reads of 1 MiB.
func readAll(name string) (time.Duration, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 1<<20)
	start := time.Now()
	for {
		if _, err := f.Read(b); errors.Is(err, io.EOF) {
			return time.Since(start), nil
		} else if err != nil {
			return 0, err
		}
	}
}

// forget takes a file out of memory.
func forget(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
