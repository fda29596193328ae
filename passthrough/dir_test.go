package passthrough

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// listed is one entry of a reply.
type listed struct {
	name  string
	ino   uint64
	off   uint64
	typ   uint32
	entry fp.EntryOut
}

// parseListing reads a reply of READDIR or READDIRPLUS.
func parseListing(b []byte, plus bool) (list []listed) {
	for len(b) > 0 {
		var l listed
		head := 0
		if plus {
			l.entry = *(*fp.EntryOut)(unsafe.Pointer(&b[0]))
			head = int(unsafe.Sizeof(l.entry))
		}
		d := (*fp.Dirent)(unsafe.Pointer(&b[head]))
		start := head + int(unsafe.Sizeof(*d))
		l.name = string(b[start : start+int(d.NameLen)])
		l.ino, l.off, l.typ = d.Ino, d.Off, d.Type
		list = append(list, l)
		b = b[fp.DirentAlign(start+int(d.NameLen)):]
	}
	return list
}

// list is one request.
func (g *guest) list(node, fh, off uint64, size int, plus bool) ([]listed, unix.Errno) {
	words := make([]uint64, (size+7)/8)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)
	w := server.NewDirWriter(buf)
	in := &fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)}
	call := g.fs.Readdir
	if plus {
		call = g.fs.Readdirplus
	}
	errno := call(g.on(node), in, w)
	return parseListing(w.Bytes(), plus), errno
}

// listAll lists the root from the start.
func (g *guest) listAll(fh uint64, size int, plus bool) (names []string, all []listed) {
	g.t.Helper()
	for off := uint64(0); ; {
		list, errno := g.list(fp.RootID, fh, off, size, plus)
		if errno != 0 {
			g.t.Fatalf("listing at %d: %v", off, errno)
		}
		if len(list) == 0 {
			return names, all
		}
		for _, l := range list {
			names = append(names, l.name)
		}
		all = append(all, list...)
		off = list[len(list)-1].off
	}
}

func TestListing(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	want := []string{".", ".."}
	for i := range 500 {
		n := fmt.Sprintf("file-%d-%s", i, strings.Repeat("x", i%240))
		g.write(n, "")
		want = append(want, n)
	}
	slices.Sort(want)
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	for _, size := range []int{512, 1000, 4096, 128 << 10} {
		for _, plus := range []bool{false, true} {
			names, all := g.listAll(fh, size, plus)
			slices.Sort(names)
			if !slices.Equal(names, want) {
				t.Errorf("size %d, plus %v: %d names, want %d", size, plus, len(names), len(want))
			}
			for _, l := range all {
				dots := l.name == "." || l.name == ".."
				if plus && (l.entry.NodeID == 0) != dots {
					t.Errorf("%q has node %d", l.name, l.entry.NodeID)
				}
			}
		}
	}
	_, errno := g.list(fp.RootID, fh, 0, 40, true)
	wantErrno(t, "no room for one entry", errno, unix.EINVAL)
}

// TestListingCalls counts: one getdents64 a request, one statx a name, and nothing to
// find the position.
func TestListingCalls(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	for i := range 11 {
		g.write(fmt.Sprint(i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	var list []listed
	wantCalls(t, "READDIRPLUS of 11 names", 1+11, func() { list, _ = g.list(fp.RootID, fh, 0, 4096, true) })
	wantCalls(t, "READDIRPLUS at the end", 1, func() { g.list(fp.RootID, fh, list[12].off, 4096, true) })
	wantCalls(t, "READDIRPLUS of 11 names again", 2+11, func() { g.list(fp.RootID, fh, 0, 4096, true) })
	wantCalls(t, "OPENDIR", 1, func() { g.open(fp.RootID, unix.O_DIRECTORY) })
	// What does not fit waits in memory.
	list, _ = g.list(fp.RootID, fh, 0, 200, false)
	wantCalls(t, "READDIR of the rest", 0, func() { g.list(fp.RootID, fh, list[len(list)-1].off, 200, false) })
}

// TestSeek goes back to the middle of a directory, as a guest does with seekdir and
// after a reply that it could not use up.
func TestSeek(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	for i := range 300 {
		g.write(fmt.Sprintf("%0100d", i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	names, all := g.listAll(fh, 4096, false)
	for range 200 {
		i := rand.IntN(len(all) - 1)
		list, errno := g.list(fp.RootID, fh, all[i].off, 300+rand.IntN(2000), rand.IntN(2) == 0)
		if errno != 0 || len(list) == 0 || list[0].name != names[i+1] {
			t.Fatalf("after entry %d: %v, %v", i, list, errno)
		}
	}
}

// TestShortPositions: with Config.ShortPositions each position fits a 32-bit program, and a listing
// can go on from each, also in a process that has not read the directory before.
func TestShortPositions(t *testing.T) {
	s := newShare(t, func(c *Config) { c.ShortPositions = true }, 0)
	for i := range 2000 {
		s.write(fmt.Sprintf("%0100d", i), "")
	}
	g := s.guest()
	names, all := g.listAll(g.open(fp.RootID, unix.O_DIRECTORY), 4096, false)
	if len(names) != 2002 {
		t.Errorf("%d names", len(names))
	}
	fresh := g.open(fp.RootID, unix.O_DIRECTORY)
	for n, fh := range []uint64{fresh, g.open(fp.RootID, unix.O_DIRECTORY), fresh} {
		for range 100 {
			i := rand.IntN(len(all) - 1)
			if all[i].off >= 1<<31 {
				t.Fatalf("entry %d is at %#x", i, all[i].off)
			}
			list, errno := g.list(fp.RootID, fh, all[i].off, 300+rand.IntN(2000), n == 1)
			// Names with the same hash come again.
			first := i + 1
			for ; first > 0 && all[first-1].off == all[i].off && first <= i && errno == 0 && list[0].name != names[first]; first-- {
			}
			if errno != 0 || len(list) == 0 || list[0].name != names[first] {
				t.Fatalf("after entry %d: %v, %v", i, list, errno)
			}
		}
	}
}

// TestDotDotOfTheRoot checks that nothing above the share is seen.
func TestDotDotOfTheRoot(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	if err := os.Mkdir(g.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	var root unix.Stat_t
	if err := unix.Stat(g.dir, &root); err != nil {
		t.Fatal(err)
	}
	d := g.lookup(fp.RootID, "d")
	for _, node := range []uint64{fp.RootID, d} {
		list, _ := g.list(node, g.open(node, unix.O_DIRECTORY), 0, 4096, true)
		for _, l := range list {
			if l.name == ".." && l.ino != root.Ino {
				t.Errorf("node %d: the inode above is %d, want the share's own %d", node, l.ino, root.Ino)
			}
		}
	}
}

// TestListingOfUnreachable lists names whose attributes can't be had.
func TestListingOfUnreachable(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	for i := range 20 {
		g.write(fmt.Sprint(i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	// The names are read into the open file's buffer, then they vanish.
	list, _ := g.list(fp.RootID, fh, 0, 200, true)
	for i := range 20 {
		if err := os.Remove(g.path(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	rest, errno := g.list(fp.RootID, fh, list[len(list)-1].off, 16<<10, true)
	if errno != 0 || len(list)+len(rest) != 22 {
		t.Errorf("%d and %d names, %v", len(list), len(rest), errno)
	}
	for _, l := range rest {
		if l.entry.NodeID != 0 {
			t.Errorf("%q, which is gone, has node %d", l.name, l.entry.NodeID)
		}
	}
}

// TestListingCounts checks that each node listed has one lookup, and one that did not
// fit has none.
func TestListingCounts(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	for i := range 50 {
		g.write(fmt.Sprint(i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	const rounds = 3
	counts := map[uint64]uint64{}
	for range rounds {
		_, all := g.listAll(fh, 700, true)
		for _, l := range all {
			counts[l.entry.NodeID]++
		}
	}
	delete(counts, 0)
	if len(counts) != 50 {
		t.Errorf("%d nodes, want 50", len(counts))
	}
	for id, n := range counts {
		if n != rounds {
			t.Errorf("node %d was listed %d times", id, n)
		}
		g.fs.Forget(nil, id, n)
		if g.fs.nodes.Get(id) != nil {
			t.Errorf("node %d has more lookups than were given out", id)
		}
	}
}

// TestHugeListing lists 100,000 names while others come and go.
func TestHugeListing(t *testing.T) {
	names := 100_000
	if testing.Short() || raceEnabled {
		names = 10_000
	}
	g := newShare(t, nil, 0).guest()
	dirfd, err := unix.Open(g.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dirfd)
	touch := func(n string) {
		if err := unix.Mknodat(dirfd, n, unix.S_IFREG|0o644, 0); err != nil && err != unix.EEXIST {
			t.Error(err)
		}
	}
	for i := range names {
		touch(fmt.Sprintf("stable-%d", i))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			touch(fmt.Sprintf("changing-%d", i%1000))
			_ = unix.Unlinkat(dirfd, fmt.Sprintf("changing-%d", (i+500)%1000), 0)
		}
	}()
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	for _, plus := range []bool{false, true} {
		seen := make(map[string]int, names)
		list, all := g.listAll(fh, 4096, plus)
		for i, n := range list {
			if strings.HasPrefix(n, "stable-") {
				seen[n]++
			}
			if id := all[i].entry.NodeID; id != 0 {
				g.fs.Forget(nil, id, 1)
			}
		}
		if len(seen) != names {
			t.Errorf("plus %v: %d names that were there all the time, want %d", plus, len(seen), names)
		}
		for n, times := range seen {
			if times != 1 {
				t.Errorf("plus %v: %q was listed %d times", plus, n, times)
			}
		}
	}
	close(stop)
	<-stopped
}

// TestManyListings has more directories half read than may keep a buffer.
func TestManyListings(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	for i := range 100 {
		g.write(fmt.Sprint(i), "")
	}
	var fhs, offs []uint64
	for range maxDirBuffers + 50 {
		fh := g.open(fp.RootID, unix.O_DIRECTORY)
		list, errno := g.list(fp.RootID, fh, 0, 200, false)
		if errno != 0 {
			t.Fatal(errno)
		}
		fhs, offs = append(fhs, fh), append(offs, list[len(list)-1].off)
	}
	if n := g.fs.io.dirBuffers.Load(); n > maxDirBuffers {
		t.Errorf("%d buffers are kept", n)
	}
	want, _ := g.list(fp.RootID, fhs[0], offs[0], 400, false)
	last := len(fhs) - 1
	got, _ := g.list(fp.RootID, fhs[last], offs[last], 400, false)
	if !slices.Equal(got, want) {
		t.Errorf("without a buffer kept: %v, want %v", got, want)
	}
	for _, fh := range fhs {
		wantErrno(t, "release", g.fs.Releasedir(g.on(fp.RootID), &fp.ReleaseIn{Fh: fh}), 0)
	}
	if n := g.fs.io.dirBuffers.Load(); n != 0 {
		t.Errorf("%d buffers are left", n)
	}
}

func TestListingAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	g := newShare(t, nil, 0).guest()
	for i := range 200 {
		g.write(fmt.Sprint(i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	g.listAll(fh, 64<<10, true)
	buf := make([]uint64, 8<<10)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), 64<<10)
	r, in := g.on(fp.RootID), &fp.ReadIn{Fh: fh, Size: 64 << 10}
	n := testing.AllocsPerRun(20, func() {
		if errno := g.fs.Readdirplus(r, in, server.NewDirWriter(bytes)); errno != 0 {
			t.Fatal(errno)
		}
	})
	if n > 2 { // a request may need a buffer; a name may not
		t.Errorf("a listing of 200 names allocates %v times", n)
	}
}

func BenchmarkReaddirplus(b *testing.B) {
	g := newShare(b, nil, 0).guest()
	const names = 200
	for i := range names {
		g.write(fmt.Sprint(i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	buf := make([]uint64, 8<<10)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), 64<<10)
	r, in := g.on(fp.RootID), &fp.ReadIn{Fh: fh, Size: 64 << 10}
	b.ReportAllocs()
	for b.Loop() {
		g.fs.Readdirplus(r, in, server.NewDirWriter(bytes))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/names, "ns/name")
}

// TestSharedListing has several threads list with one open file, forget what they got and
// close the open file in the end. Each reply is good by itself: it goes on where it was
// asked to.
func TestSharedListing(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	for i := range 300 {
		g.write(fmt.Sprint(i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	_, all := g.listAll(fh, 4096, false)
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			g := s.guest()
			for range 200 {
				i := rand.IntN(len(all) - 1)
				list, errno := g.list(fp.RootID, fh, all[i].off, 2000, worker != 0)
				if errno == unix.EBADF {
					return // the open file was closed
				}
				if errno != 0 || len(list) == 0 || list[0].name != all[i+1].name {
					t.Errorf("after %q: %v, %v", all[i].name, list, errno)
					return
				}
				for _, l := range list {
					if l.entry.NodeID != 0 {
						g.fs.Forget(nil, l.entry.NodeID, 1)
					}
				}
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	wantErrno(t, "release", g.fs.Releasedir(g.on(fp.RootID), &fp.ReleaseIn{Fh: fh}), 0)
	wg.Wait()
	if n := g.fs.io.dirBuffers.Load(); n != 0 {
		t.Errorf("%d buffers are left", n)
	}
}

// patientList is list as the server serves it: again, when it has to wait.
func (g *guest) patientList(fh, off uint64, size int, plus bool) (list []listed, errno unix.Errno) {
	words := make([]uint64, (size+7)/8)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)
	var w *server.DirWriter
	errno = g.patient(fp.RootID, func(r *server.Request) unix.Errno {
		w = server.NewDirWriter(buf)
		if in := (&fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)}); plus {
			return g.fs.Readdirplus(r, in, w)
		} else {
			return g.fs.Readdir(r, in, w)
		}
	})
	return parseListing(w.Bytes(), plus), errno
}

// TestCookiesBeyondLseek: a file system whose cookies have the highest bit set, as NFS has
// those of some servers, which lseek does not take.
func TestCookiesBeyondLseek(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	g.fs.io.editDirents = func(b []byte) {
		for len(b) > 0 {
			_, size := parseDirent(b)
			off := binary.NativeEndian.Uint64(b[8:])
			binary.NativeEndian.PutUint64(b[8:], off|1<<63)
			b = b[size:]
		}
	}
	for i := range 2000 {
		g.write(fmt.Sprintf("%0100d", i), "")
	}
	fh := g.open(fp.RootID, unix.O_DIRECTORY)
	names, all := g.listAll(fh, 4096, false)
	if len(names) != 2002 || g.waits != 0 {
		t.Fatalf("%d names, waited %d times: what follows on needs no search", len(names), g.waits)
	}
	for range 50 {
		i := rand.IntN(len(all) - 1)
		list, errno := g.patientList(fh, all[i].off, 300+rand.IntN(2000), rand.IntN(2) == 0)
		if errno != 0 || len(list) == 0 || list[0].name != names[i+1] {
			t.Fatalf("after entry %d: %v, %v", i, list, errno)
		}
	}
	// Another listing goes on where this one was.
	other := g.open(fp.RootID, unix.O_DIRECTORY)
	list, errno := g.patientList(other, all[17].off, 4096, false)
	if errno != 0 || list[0].name != names[18] {
		t.Errorf("with another open file: %v, %v", list, errno)
	}
	before := g.waits
	if more, errno := g.patientList(other, list[len(list)-1].off, 4096, false); errno != 0 || len(more) == 0 || g.waits != before {
		t.Errorf("the next: %d entries, %v, waited %d times", len(more), errno, g.waits-before)
	}
	if list, errno := g.patientList(other, all[len(all)-1].off, 4096, false); errno != 0 || len(list) != 0 {
		t.Errorf("after the last: %v, %v", list, errno)
	}
	_, errno = g.patientList(other, 1<<63|12345, 4096, false)
	wantErrno(t, "a cookie that there is not", errno, unix.EINVAL)
	if list, errno := g.patientList(other, 0, 4096, false); errno != 0 || len(list) == 0 || list[0].name != names[0] {
		t.Errorf("from the start: %v, %v", list, errno)
	}
	r := g.on(fp.RootID)
	done := make(chan struct{})
	close(done)
	r.MayWait, r.Canceled = true, done
	wantErrno(t, "nobody waits", g.fs.Readdir(r, &fp.ReadIn{Fh: other, Offset: all[900].off, Size: 4096}, server.NewDirWriter(make([]byte, 4096))), unix.EINTR)
}
