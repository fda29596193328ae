package ledger

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
)

// tables runs a benchmark with and without a ledger.
func tables(b *testing.B, f func(b *testing.B, s *share, by *fuse.Cell)) {
	b.Run("none", func(b *testing.B) {
		s := &share{nodes: nodes.New(nodes.Config[Identity, file]{Hash: func(i Identity) uint64 { return i.Ino * 0x9e3779b97f4a7c15 }})}
		s.opens = nodes.NewOpenFiles(nodes.OpenConfig[opened]{})
		s.root = s.nodes.Intern(nil, idOf(0), nil, func() *file { return new(file) })
		f(b, s, nil)
	})
	b.Run("ledger", func(b *testing.B) {
		l, err := Create()
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		q, err := l.Queue(1, 8)
		if err != nil {
			b.Fatal(err)
		}
		q.Cell(1).Take(&fp.InHeader{Opcode: uint32(fp.OpLookup)}, 1, 1, 0)
		f(b, begin(b, l), q.Cell(1))
	})
}

// BenchmarkCount is a LOOKUP of a node that is known, and its FORGET.
func BenchmarkCount(b *testing.B) {
	tables(b, func(b *testing.B, s *share, by *fuse.Cell) {
		h := fp.InHeader{Opcode: uint32(fp.OpForget)}
		s.nodes.Release(s.nodes.Intern(nil, idOf(5), nil, func() *file { return new(file) }))
		key := idOf(5)
		b.ReportAllocs()
		for b.Loop() {
			if by != nil {
				by.Take(&h, 1, 1, 0)
			}
			s.nodes.Release(s.nodes.Find(by, key, 1, nil))
			if by != nil {
				by.Take(&h, 1, 1, 0)
			}
			n := s.nodes.Acquire(2)
			s.nodes.Forget(by, n, 1)
			s.nodes.Release(n)
		}
	})
}

// BenchmarkTake is what BenchmarkCount does with the cell.
func BenchmarkTake(b *testing.B) {
	h := fp.InHeader{Opcode: uint32(fp.OpForget)}
	var c fuse.Cell
	for b.Loop() {
		c.Take(&h, 1, 1, 0)
		c.Take(&h, 1, 1, 0)
	}
}

// BenchmarkNew is a LOOKUP of a node that is new, with its place, 100,000 of them.
func BenchmarkNew(b *testing.B) {
	const count = 100_000
	name := fp.Name("a-file-name.txt\x00")
	tables(b, func(b *testing.B, s *share, by *fuse.Cell) {
		h := fp.InHeader{Opcode: uint32(fp.OpLookup)}
		files := make([]file, count)
		forget := func() {
			for n := range s.nodes.All {
				s.nodes.Forget(nil, n, 1)
			}
			clear(files)
		}
		add := func() {
			for i := range files {
				if by != nil {
					by.Take(&h, 1, 1, 0)
				}
				n := s.nodes.Intern(by, idOf(uint64(i+1)), nil, func() *file { return &files[i] })
				s.nodes.Place(n, s.root, name)
				s.nodes.Release(n)
			}
		}
		b.ReportAllocs()
		used := time.Duration(0)
		for b.Loop() {
			begin := cpuTime(b)
			add()
			used += cpuTime(b) - begin
			forget()
		}
		b.ReportMetric(float64(used)/float64(b.N)/count, "cpu-ns/node")
	})
}

// BenchmarkRestore fills the tables of a successor with 100,000 nodes.
func BenchmarkRestore(b *testing.B) {
	const count = 100_000
	l, err := Create()
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	s := begin(b, l)
	dir := s.root
	for i := range count {
		n := s.nodes.Intern(nil, idOf(uint64(i+1)), nil, func() *file { return new(file) })
		s.nodes.Place(n, dir, fp.Name(fmt.Sprintf("file-%d.txt\x00", i)))
		if i%100 == 0 {
			dir = n
		}
		s.nodes.Release(n)
	}
	b.ReportAllocs()
	used := cpuTime(b)
	for b.Loop() {
		begin(b, l)
	}
	b.ReportMetric(float64(cpuTime(b)-used)/float64(b.N)/1e6, "cpu-ms/op")
}

// cpuTime is the processor time of all threads of this process.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
