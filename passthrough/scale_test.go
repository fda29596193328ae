package passthrough

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// maxInodeBytes is the limit of what a known node costs, tables and name included.
const maxInodeBytes = 200

// know makes n nodes as a listing does, in directories of 1000, and forgets none.
func know(t testing.TB, fs *FS, n int) {
	t.Helper()
	parent := fs.nodes.root
	st := unix.Statx_t{Mode: unix.S_IFDIR | 0o755, Mnt_id: 1, Dev_major: 8}
	for i := range n {
		st.Ino, st.Mode = uint64(1<<20+i), unix.S_IFREG|0o644
		if i%1000 == 0 {
			st.Mode = unix.S_IFDIR | 0o755
		}
		node, errno := fs.nodes.intern(nil, &st, -1, parent, fmt.Appendf(nil, "file-%07d\x00", i))
		if errno != 0 {
			t.Fatal(errno)
		}
		if i%1000 == 0 {
			parent = node // its reference is kept
			continue
		}
		fs.nodes.release(node)
	}
}

func heapBytes() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestInodeSize: what a million known nodes cost the daemon.
func TestInodeSize(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's allocator is another")
	}
	if got := unsafe.Sizeof(inode{}); got > 112 {
		t.Errorf("an inode has %d bytes: the next class of the allocator is 128", got)
	}
	s := newShare(t, nil, 0)
	const nodes = 1_000_000
	before := heapBytes()
	know(t, s.guest().fs, nodes)
	got := float64(heapBytes()-before) / nodes
	t.Logf("%.0f bytes a node, with tables and a name of 12 bytes", got)
	if got > maxInodeBytes {
		t.Errorf("%.0f bytes a node, want at most %d", got, maxInodeBytes)
	}
	runtime.KeepAlive(s)
}

// BenchmarkKnown is what LOOKUP of a known name does beside its system call, with more
// and more nodes: by number for the parent and by identity for the file.
func BenchmarkKnown(b *testing.B) {
	for _, n := range []int{10, 10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newShare(b, nil, 0)
			fs := s.guest().fs
			know(b, fs, n)
			st := unix.Statx_t{Mode: unix.S_IFREG, Mnt_id: 1, Dev_major: 8}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i = (i + 7919) % n
				if i%1000 == 0 {
					i = (i + 1) % n
				}
				st.Ino = uint64(1<<20 + i)
				if node := fs.nodes.known(new(threadState), &st); node != nil {
					_, _ = fs.get(node.ID())
					fs.nodes.release(node)
					fs.nodes.release(node)
				}
			}
		})
	}
}

// TestEvictionIsBounded: among any number of nodes that can't be evicted, the search
// looks at few, and one that can be is found in the end.
func TestEvictionIsBounded(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	fs := g.fs
	const files = 1000
	nodes := make([]*inode, files)
	for i := range nodes {
		s.write(fmt.Sprint(i), "x")
		n, errno := fs.get(g.lookup(fp.RootID, fmt.Sprint(i)))
		if errno != 0 {
			t.Fatal(errno)
		}
		if _, errno := fs.find.fdOf(threadOf(g.on(n.ID())), n); errno != 0 {
			t.Fatal(errno)
		}
		nodes[i] = n // in use from here on
	}
	know(t, fs, 10_000) // without descriptors: they are not even looked at
	for range 3 {
		before := fs.fds.evictor.hand
		if n := fs.fds.evict(1); n != 0 {
			t.Fatalf("%d descriptors closed that are in use", n)
		}
		if moved := (fs.fds.evictor.hand + fs.fds.owners.end() - before) % fs.fds.owners.end(); moved != evictLook {
			t.Errorf("%d descriptors looked at, want %d", moved, evictLook)
		}
	}
	defer func() { // else they stay open, and tests after this one have other numbers
		for i, n := range nodes {
			if i != files/2 {
				fs.nodes.release(n)
			}
		}
	}()
	fs.nodes.release(nodes[files/2])
	for range fs.fds.owners.end()/evictLook + 1 {
		if fs.fds.evict(1) == 1 {
			if nodes[files/2].fd.Load() >= 0 {
				t.Error("another node's descriptor was closed")
			}
			return
		}
	}
	t.Error("the only descriptor that can be closed was not found")
}
