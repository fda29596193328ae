package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// sums prints the SHA-256 of every file below a directory as sha256sum does, read by
// read(2), and fails where mmap(2) gives other bytes.
func sums(args []string) error {
	n, dax := 0, 0
	err := filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		sum, err := sumFile(path)
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
		name, _ := filepath.Rel(args[0], path)
		fmt.Printf("%x  %s\n", sum, name)
		return nil
	})
	fmt.Printf("# %d files, %d with DAX\n", n, dax)
	return err
}

// sumFile is the sum of one file.
func sumFile(path string) (sum [sha256.Size]byte, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return sum, err
	}
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	if len(data) > 0 {
		b, err := mapping(f, len(data), false)
		if err != nil {
			return sum, err
		}
		if !bytes.Equal(b, data) {
			return sum, fmt.Errorf("%s: mmap and read differ %s", path, firstDifference(b, data))
		}
	}
	return sha256.Sum256(data), nil
}

// firstDifference says where.
func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("at %#x of %#x: %#x, %#x", i, len(b), a[i], b[i])
		}
	}
	return fmt.Sprintf("in length: %d, %d", len(a), len(b))
}

// randomSize prefers sizes at the limits of pages and of 2 MiB ranges.
func randomSize(r *rand.Rand, most int) int {
	switch r.IntN(6) {
	case 0:
		return r.IntN(5000)
	case 1:
		return min(most, r.IntN(64)<<12+r.IntN(3)-1+1)
	case 2:
		return min(most, (1+r.IntN(max(1, most>>21)))<<21)
	case 3:
		return min(most, max(0, (1+r.IntN(max(1, most>>21)))<<21+r.IntN(3)-1))
	default:
		return r.IntN(most)
	}
}

// makeFiles makes files whose contents come from the seed and prints their sums.
func makeFiles(args []string) error {
	dir, seed, count, most := args[0], uint64(number(args[1])), number(args[2]), number(args[3])
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range count {
		data := make([]byte, randomSize(r, most))
		fill(data, r.Uint64())
		name := filepath.Join(dir, fmt.Sprintf("f%04d", i))
		if err := writeFile(name, data, i%4); err != nil {
			return fmt.Errorf("%s, %d bytes, way %d: %w", name, len(data), i%4, err)
		}
	}
	return sums(args[:1])
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
// that was made long enough before, and half so and half by write(2).
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
	return err
}
