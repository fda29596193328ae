package main

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

	"golang.org/x/sys/unix"
)

// sums prints the SHA-256 of every file below a directory as sha256sum does. It reads
// with read(2) and fails where mmap(2) gives other bytes. For a file that can't be
// read to its end, it prints the error in place of the sum.
func sums(args []string) error {
	n, dax := 0, 0
	err := filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(args[0], path)
		sum, err := sumFile(path)
		if errors.Is(err, unix.EIO) {
			fmt.Printf("EIO  %s\n", name)
			return nil
		}
		if err != nil {
			return err
		}
		is, err := isDAX(path)
		if err != nil {
			return err
		}
		n++
		if is {
			dax++
		}
		fmt.Printf("%x  %s\n", sum, name)
		return nil
	})
	fmt.Printf("# %d files, %d with DAX\n", n, dax)
	return err
}

// buffer is kept: under emulation a page fault costs more than the bytes.
var buffer = make([]byte, 256<<10)

// sumFile is the sum of one file.
func sumFile(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return sum, err
	}
	var mapped []byte
	if st.Size() > 0 {
		if mapped, err = mapping(f, int(st.Size()), false); err != nil {
			return sum, err
		}
		defer unix.Munmap(mapped)
	}
	h := sha256.New()
	for at := 0; ; {
		n, err := f.Read(buffer)
		if errors.Is(err, io.EOF) && at == len(mapped) {
			return [sha256.Size]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, fmt.Errorf("%s at %#x of %#x: %w", path, at, len(mapped), err)
		}
		if want := mapped[at:min(at+n, len(mapped))]; !bytes.Equal(buffer[:n], want) {
			return sum, fmt.Errorf("%s at %#x: mmap and read differ %s", path, at, firstDifference(want, buffer[:n]))
		}
		h.Write(buffer[:n])
		at += n
	}
}

// firstDifference describes the first place where a and b differ.
func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("at %#x of %#x: %#x, %#x", i, len(b), a[i], b[i])
		}
	}
	return fmt.Sprintf("in length: %d, %d", len(a), len(b))
}

// randomSize prefers sizes at the limits of pages and of 2 MiB ranges, and is mostly
// small.
func randomSize(r *rand.Rand, most int) int {
	switch r.IntN(20) {
	case 0, 1:
		return (1 + r.IntN(max(1, most>>21))) << 21
	case 2:
		return (1+r.IntN(max(1, most>>21)))<<21 + 2*r.IntN(2) - 1
	case 3:
		return r.IntN(most)
	case 4, 5, 6, 7:
		return r.IntN(64)<<12 + r.IntN(3)
	case 8:
		return 0
	default:
		return r.IntN(20_000)
	}
}

// makeFiles makes files whose contents come from the seed, and prints their sums. It
// does not read the files back.
func makeFiles(args []string) error {
	dir, seed, count, most := args[0], uint64(number(args[1])), number(args[2]), number(args[3])
	r := rand.New(rand.NewPCG(seed, 1))
	room := make([]byte, most+2<<20)
	for i := range count {
		data := room[:randomSize(r, most)]
		fill(data, r.Uint64())
		name := fmt.Sprintf("f%04d", i)
		way := i % 4
		if args[4] == "plain" {
			way %= 2
		}
		if err := writeFile(filepath.Join(dir, name), data, way); err != nil {
			return fmt.Errorf("%s, %d bytes, way %d: %w", name, len(data), way, err)
		}
		fmt.Printf("%x  %s\n", sha256.Sum256(data), name)
	}
	return nil
}

// fill makes contents in which no page is like another.
func fill(b []byte, seed uint64) {
	for i := range b {
		if i%8 == 0 {
			seed = seed*6364136223846793005 + 1442695040888963407
		}
		b[i] = byte(seed >> (8 * (i % 8)))
	}
}

// writeFile writes in one of four ways: at once, in pieces, through a mapping of a file
// that already has its full length, or one half so and the other by write(2).
func writeFile(name string, data []byte, way int) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	switch {
	case way == 0 || len(data) == 0:
		_, err = f.Write(data)
		return err
	case way == 1:
		for b := data; len(b) > 0 && err == nil; {
			n := min(len(b), 100_001)
			_, err = f.Write(b[:n])
			b = b[n:]
		}
		return err
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	b, err := mapping(f, len(data), true)
	if err != nil {
		return err
	}
	half := len(data) / 2
	if way == 2 {
		half = 0
	}
	copy(b[half:], data[half:])
	_, err = f.WriteAt(data[:half], 0)
	return errors.Join(err, unix.Munmap(b))
}
