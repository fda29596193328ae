package dax

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

const (
	unit      = passthrough.DAXUnit
	benchSize = 64 << 20 // of the file that is read
)

// openBench serves a file of random bytes with a window that has room for it, and opens
// it.
func openBench(b *testing.B, w frontend.WindowOptions) (s *share, node, fh uint64) {
	b.Helper()
	s = openShare(b, w, func(s *share) { s.cfg.DAX.Table = dax.NewTable(2*benchSize, unit) })
	data := make([]byte, benchSize)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(data); i += 4 {
		v := r.Uint32()
		data[i], data[i+1], data[i+2], data[i+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "file"), data, 0o644); err != nil {
		b.Fatal(err)
	}
	node = s.find("file")
	s.probed()
	return s, node, s.mustOpen(node, unix.O_RDWR)
}

func mapAll(b *testing.B, s *share, node uint64) {
	b.Helper()
	for off := uint64(0); off < benchSize; off += unit {
		if err := s.SetupMapping(node, anyHandle, off, unit, off, forReading); err != nil {
			b.Fatal(err)
		}
	}
	s.settle()
}

// BenchmarkMapping maps a range of 2 MiB and removes the mapping, one after the other.
func BenchmarkMapping(b *testing.B) {
	for name, opts := range map[string]frontend.WindowOptions{"plain": {}, "as-memory": {MemReg: true}} {
		b.Run(name, func(b *testing.B) {
			s, node, _ := openBench(b, opts)
			n := uint64(0)
			for b.Loop() {
				off := n % (benchSize / unit) * unit
				n++
				if err := s.SetupMapping(node, anyHandle, off, unit, off, forReading); err != nil {
					b.Fatal(err)
				}
				if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Moffset: off, Len: unit}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "mappings/s")
		})
	}
}

// BenchmarkSequential reads the file from begin to end, by READ of 1 MiB and as copies
// from the window.
func BenchmarkSequential(b *testing.B) { benchmarkReads(b, 1<<20, false) }

// BenchmarkRandom reads 4 KiB at random.
func BenchmarkRandom(b *testing.B) { benchmarkReads(b, page, true) }

func benchmarkReads(b *testing.B, size int, random bool) {
	next := func(n int) uint64 {
		if random {
			return rand.Uint64N(benchSize/uint64(size)) * uint64(size)
		}
		return uint64(n*size) % benchSize
	}
	b.Run("READ", func(b *testing.B) {
		s, node, fh := openBench(b, frontend.WindowOptions{})
		b.SetBytes(int64(size))
		n := 0
		for b.Loop() {
			if got, err := s.Read(node, fh, next(n), size); err != nil || len(got) != size {
				b.Fatal(len(got), err)
			}
			n++
		}
	})
	b.Run("window", func(b *testing.B) {
		s, node, _ := openBench(b, frontend.WindowOptions{})
		mapAll(b, s, node)
		mem, buf := s.Window.Memory(), make([]byte, size)
		b.SetBytes(int64(size))
		n := 0
		for b.Loop() {
			off := next(n)
			copy(buf, mem[off:off+uint64(size)])
			n++
		}
	})
	if random {
		return
	}
	b.Run("window-cold", func(b *testing.B) {
		// The mapping is made and removed for each 2 MiB, as for a file that is read
		// once.
		s, node, _ := openBench(b, frontend.WindowOptions{})
		mem, buf := s.Window.Memory(), make([]byte, size)
		b.SetBytes(unit)
		n := uint64(0)
		for b.Loop() {
			off := n % (benchSize / unit) * unit
			n++
			if err := s.SetupMapping(node, anyHandle, off, unit, off, forReading); err != nil {
				b.Fatal(err)
			}
			for i := 0; i < unit; i += size {
				copy(buf, mem[off+uint64(i):])
			}
			if err := s.RemoveMapping(rootNode, fp.RemoveMappingOne{Moffset: off, Len: unit}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
