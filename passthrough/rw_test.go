package passthrough

import (
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

func TestReadAtTheEnd(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	for _, c := range []struct {
		size, off, want int
		calls           int64
	}{
		{size: 5, off: 0, want: 100, calls: 1},
		{size: 5, off: 2, want: 100, calls: 1},
		{size: 5, off: 5, want: 100, calls: 1},
		{size: 5, off: 500, want: 100, calls: 1},
		{size: 4097, off: 0, want: 128 << 10, calls: 1},
		{size: 8192, off: 0, want: 8192, calls: 1},
		// The end is where a page ends too: one more call has to tell them apart.
		{size: 8192, off: 0, want: 128 << 10, calls: 2},
		{size: 0, off: 0, want: 4096, calls: 1},
		{size: 300 << 10, off: 1, want: 256 << 10, calls: 1},
	} {
		text := strings.Repeat("0123456789", c.size/10+1)[:c.size]
		node, fh := g.openName("f", text, unix.O_RDONLY)
		if _, errno := g.readAt(node, fh, 0, max(c.size, 1)); errno != 0 { // file systems without RWF_NOWAIT are known then
			t.Fatal(errno)
		}
		var got string
		var errno unix.Errno
		n := countCalls(func() { got, errno = g.readAt(node, fh, uint64(c.off), c.want) })
		want := text[min(c.off, c.size):min(c.off+c.want, c.size)]
		if got != want || errno != 0 || n != c.calls {
			t.Errorf("%+v: got %d bytes, %v, %d calls", c, len(got), errno, n)
		}
		g.release(node, fh)
	}
}

func TestOffsets(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", "hello", unix.O_RDWR)
	for _, off := range []uint64{1 << 63, math.MaxUint64, math.MaxInt64, math.MaxInt64 - 2} {
		_, errno := g.readAt(node, fh, off, 4)
		wantErrno(t, "read", errno, unix.EINVAL)
		_, errno = g.writeAt(node, fp.WriteIn{Fh: fh, Offset: off}, "abcd")
		wantErrno(t, "write", errno, unix.EINVAL)
	}
	if got, errno := g.readAt(node, fh, math.MaxInt64-4, 4); got != "" || errno != 0 {
		t.Errorf("read at the last offset: %q, %v", got, errno)
	}
	if n, errno := g.fs.Read(g.on(node), &fp.ReadIn{Fh: fh}, nil); n != 0 || errno != 0 {
		t.Errorf("read of nothing: %d, %v", n, errno)
	}
	if n, errno := g.fs.Write(g.on(node), &fp.WriteIn{Fh: fh}, nil); n != 0 || errno != 0 {
		t.Errorf("write of nothing: %d, %v", n, errno)
	}
}

// TestManyBuffers moves data in more buffers than one call takes, of sizes that do not
// divide a page.
func TestManyBuffers(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	const size = 300_007
	for _, buffer := range []int{13, 100, 291, 4096} {
		in, out := make([]byte, size), make([]byte, size)
		for i := range in {
			in[i] = byte(i*7 + buffer)
		}
		n, errno := g.fs.Write(g.on(node), &fp.WriteIn{Fh: fh, Offset: 3, Size: size}, vector(in, buffer))
		if n != size || errno != 0 {
			t.Fatalf("wrote %d, %v", n, errno)
		}
		errno = g.patient(node, func(r *server.Request) (errno unix.Errno) {
			n, errno = g.fs.Read(r, &fp.ReadIn{Fh: fh, Offset: 3, Size: size}, vector(out, buffer))
			return errno
		})
		if n != size || errno != 0 || string(in) != string(out) {
			t.Errorf("buffers of %d: read %d, %v, same %v", buffer, n, errno, string(in) == string(out))
		}
		runtime.KeepAlive(in)
	}
}

// TestColdRead reads what is not in memory: the queue's thread must not wait for it.
func TestColdRead(t *testing.T) {
	s := shareDir(t, diskDir(t), nil, 0)
	g := s.guest()
	const size = 1 << 20
	node, fh := g.openName("f", strings.Repeat("x", size), unix.O_RDONLY)
	evictPages(t, s.path("f"))
	// The first page is in memory, what follows is not.
	if _, errno := g.readAt(node, fh, 0, 1); errno != 0 {
		t.Fatal(errno)
	}
	evictPages(t, s.path("f"))
	before := g.waits
	got, errno := g.readAt(node, fh, 0, size)
	if len(got) != size || errno != 0 {
		t.Fatalf("%d bytes, %v", len(got), errno)
	}
	if g.fs.mounts.of(g.fs.nodes.Get(node).Key(), 0).noNowait.Load() {
		t.Skip("this file system can't say whether it would wait")
	}
	if g.waits == before {
		t.Error("a cold read did not ask for leave to wait")
	}
	before = g.waits
	wantCalls(t, "warm read", 1, func() { _, errno = g.readAt(node, fh, 0, size) })
	if g.waits != before || errno != 0 {
		t.Errorf("a warm read wants to wait: %v", errno)
	}
}

// diskDir is a temporary directory that is not in memory.
func diskDir(t testing.TB) string {
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("the temporary directory is a tmpfs")
	}
	return dir
}

// evictPages writes a file to its disk and drops it from memory.
func evictPages(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// TestNoNowait reads from a file system without RWF_NOWAIT, which is asked once.
func TestNoNowait(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "govirtiofs")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	g := shareDir(t, dir, nil, 0).guest()
	node, fh := g.openName("f", "hello", unix.O_RDONLY)
	for range 2 {
		if got, errno := g.readAt(node, fh, 0, 100); got != "hello" || errno != 0 {
			t.Fatalf("%q, %v", got, errno)
		}
	}
	wantCalls(t, "read", 1, func() { g.readAt(node, fh, 0, 100) })
	node, fh = g.openName("other", "hello", unix.O_RDONLY)
	wantCalls(t, "first read of another file", 1, func() { g.readAt(node, fh, 0, 100) })
}

func TestAppend(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, a := g.openName("f", "", unix.O_WRONLY|unix.O_APPEND)
	b := g.open(node, unix.O_WRONLY|unix.O_APPEND)
	appending := func(fh uint64, flags, writeFlags uint32, off uint64, s string) {
		t.Helper()
		in := fp.WriteIn{Fh: fh, Offset: off, Flags: flags, WriteFlags: writeFlags}
		wantCalls(t, "write", 1, func() {
			if n, errno := g.writeAt(node, in, s); n != len(s) || errno != 0 {
				t.Errorf("wrote %d, %v", n, errno)
			}
		})
	}
	// Both believe that the file is empty.
	appending(a, unix.O_WRONLY|unix.O_APPEND, 0, 0, "one")
	appending(b, unix.O_WRONLY|unix.O_APPEND, 0, 0, "two")
	if got := g.content("f"); got != "onetwo" {
		t.Errorf("two writers made %q", got)
	}
	// fcntl(F_SETFL) took O_APPEND away.
	appending(a, unix.O_WRONLY, 0, 0, "ONE")
	// A page of a shared mapping, through whichever file is open for writing.
	appending(b, unix.O_WRONLY|unix.O_APPEND, fp.WriteCache, 3, "TWO")
	if got := g.content("f"); got != "ONETWO" {
		t.Errorf("got %q, want ONETWO", got)
	}
}

func TestAppendWriteback(t *testing.T) {
	g := newShare(t, nil, fp.InitWritebackCache).guest()
	node, fh := g.openName("f", "0123456789", unix.O_WRONLY|unix.O_APPEND)
	in := fp.WriteIn{Fh: fh, Offset: 2, Flags: unix.O_WRONLY | unix.O_APPEND}
	if _, errno := g.writeAt(node, in, "ab"); errno != 0 {
		t.Fatal(errno)
	}
	if got := g.content("f"); got != "01ab456789" {
		t.Errorf("got %q: with a cache that writes back the guest knows the end", got)
	}
	if got, errno := g.readAt(node, fh, 0, 4); got != "01ab" || errno != 0 {
		t.Errorf("the guest could not read what it opened for writing: %q, %v", got, errno)
	}
}

// TestWaitingWrites finds the writes that end when a disk has the data.
func TestWaitingWrites(t *testing.T) {
	s := shareDir(t, diskDir(t), nil, 0)
	g := s.guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	for _, c := range []struct {
		flags uint32
		waits int
	}{{0, 0}, {unix.O_DSYNC, 1}, {unix.O_SYNC, 1}} {
		before := g.waits
		if n, errno := g.writeAt(node, fp.WriteIn{Fh: fh, Flags: c.flags}, "data"); n != 4 || errno != 0 {
			t.Errorf("%#x: %d, %v", c.flags, n, errno)
		}
		if g.waits-before != c.waits {
			t.Errorf("%#x: waited %d times, want %d", c.flags, g.waits-before, c.waits)
		}
	}
}

func TestDirectIO(t *testing.T) {
	s := shareDir(t, diskDir(t), nil, 0)
	g := s.guest()
	s.write("f", strings.Repeat("d", 8192))
	node := g.lookup(fp.RootID, "f")
	out, errno := g.tryOpen(node, unix.O_RDWR|unix.O_DIRECT)
	if errno != 0 {
		t.Skip(errno)
	}
	mem, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	n := 0
	errno = g.patient(node, func(r *server.Request) (errno unix.Errno) {
		n, errno = g.fs.Read(r, &fp.ReadIn{Fh: out.Fh, Size: 8192, Flags: unix.O_DIRECT}, vector(mem, 4096))
		return errno
	})
	if n != 8192 || errno != 0 || mem[8191] != 'd' || g.waits != 1 {
		t.Errorf("read %d, %v, waited %d times", n, errno, g.waits)
	}
}

// TestWriteKillsSetuid writes to a setuid file with and without leave to keep the bits.
func TestWriteKillsSetuid(t *testing.T) {
	needRoot(t)
	g := newShare(t, nil, fp.InitHandleKillprivV2).guest()
	node, fh := g.openName("f", "x", unix.O_RDWR)
	mode := func() os.FileMode {
		st, err := os.Stat(g.path("f"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode() & (os.ModeSetuid | os.ModeSetgid)
	}
	both := os.ModeSetuid | os.ModeSetgid
	reset := func() {
		if err := os.Chmod(g.path("f"), 0o777|both); err != nil {
			t.Fatal(err)
		}
	}
	as := func(uid uint32) *server.Request {
		r := g.on(node)
		r.Header.UID = uid
		return r
	}
	for _, c := range []struct {
		name string
		keep bool
		do   func() unix.Errno
	}{
		{"write", true, func() unix.Errno { _, e := g.writeAt(node, fp.WriteIn{Fh: fh}, "y"); return e }},
		{"write, kill", false, func() unix.Errno {
			_, e := g.writeAt(node, fp.WriteIn{Fh: fh, WriteFlags: fp.WriteKillSuidgid}, "y")
			return e
		}},
		{"fallocate by root", true, func() unix.Errno {
			return g.fs.Fallocate(as(0), &fp.FallocateIn{Fh: fh, Length: 100})
		}},
		{"fallocate by a user", false, func() unix.Errno {
			return g.fs.Fallocate(as(1000), &fp.FallocateIn{Fh: fh, Length: 100})
		}},
		{"open, truncate", true, func() unix.Errno {
			return g.fs.Open(as(0), &fp.OpenIn{Flags: unix.O_WRONLY | unix.O_TRUNC}, &fp.OpenOut{})
		}},
		{"open, truncate, kill", false, func() unix.Errno {
			return g.fs.Open(as(0), &fp.OpenIn{Flags: unix.O_WRONLY | unix.O_TRUNC, OpenFlags: fp.OpenKillSuidgid}, &fp.OpenOut{})
		}},
	} {
		reset()
		wantErrno(t, c.name, c.do(), 0)
		want := os.FileMode(0)
		if c.keep {
			want = both
		}
		if got := mode(); got != want {
			t.Errorf("%s: bits %v, want %v", c.name, got, want)
		}
	}
}

func TestDataAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", strings.Repeat("x", 8192), unix.O_RDWR)
	b := make([]byte, 4096)
	iov := vector(b, 1024)
	list := make([]unix.Iovec, len(iov))
	rin, win := &fp.ReadIn{Fh: fh, Size: 4096}, &fp.WriteIn{Fh: fh, Size: 4096}
	r := g.on(node)
	for what, f := range map[string]func(){
		"Read":  func() { copy(list, iov); g.fs.Read(r, rin, list) },
		"Write": func() { copy(list, iov); g.fs.Write(r, win, list) },
		"Flush": func() { g.fs.Flush(r, &fp.FlushIn{Fh: fh}) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(byteSize(size), func(b *testing.B) {
			g := newShare(b, nil, 0).guest()
			node, fh := g.openName("f", strings.Repeat("x", size), unix.O_RDONLY)
			mem := make([]byte, size)
			iov := vector(mem, 4096)
			list := make([]unix.Iovec, len(iov))
			in := &fp.ReadIn{Fh: fh, Size: uint32(size)}
			r := g.on(node)
			b.SetBytes(int64(size))
			for b.Loop() {
				copy(list, iov)
				if n, errno := g.fs.Read(r, in, list); n != size {
					b.Fatal(n, errno)
				}
			}
		})
	}
}

func byteSize(n int) string {
	if n >= 1<<20 {
		return "1M"
	}
	return map[int]string{4 << 10: "4K", 128 << 10: "128K"}[n]
}

// TestWaitsAlone: a request that is alone waits for a quick disk on its own thread, and
// no other does.
func TestWaitsAlone(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", strings.Repeat("x", 8192), unix.O_RDWR|unix.O_DIRECT)
	f, errno := g.fs.openFiles.of(node, fh)
	wantErrno(t, "open file", errno, 0)
	defer g.fs.openFiles.release(f)
	if !f.direct {
		t.Skip("no direct I/O in the temporary directory")
	}
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	iov := []unix.Iovec{{Base: &buf[0], Len: 4096}}
	for _, c := range []struct {
		what         string
		alone, local bool
		disk         time.Duration
		want         unix.Errno
	}{
		{"a disk that nothing is known of", true, true, 0, server.WouldBlock},
		{"alone, a quick disk", true, true, quickDisk / 4, 0},
		{"alone, a slow disk", true, true, 2 * quickDisk, server.WouldBlock},
		{"alone, a network file system", true, false, quickDisk / 4, server.WouldBlock},
		{"not alone", false, true, quickDisk / 4, server.WouldBlock},
	} {
		g.thread.Alone = func() bool { return c.alone }
		f.mount.local = c.local
		f.mount.reads.average.Store(int64(c.disk))
		_, errno := g.fs.Read(g.on(node), &fp.ReadIn{Fh: fh, Size: 4096, Flags: unix.O_DIRECT}, slices.Clone(iov))
		wantErrno(t, "READ, "+c.what, errno, c.want)
		f.mount.reads.average.Store(int64(c.disk))
		_, errno = g.fs.Write(g.on(node), &fp.WriteIn{Fh: fh, Size: 4096, Flags: unix.O_DIRECT}, slices.Clone(iov))
		wantErrno(t, "WRITE, "+c.what, errno, c.want)
	}
}

// TestSyncsAlone: an fsync that is alone is done on its own thread when those before it
// were quick and there is not much to write.
func TestSyncsAlone(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	f, errno := g.fs.openFiles.of(node, fh)
	wantErrno(t, "open file", errno, 0)
	defer g.fs.openFiles.release(f)
	for _, c := range []struct {
		what         string
		alone, local bool
		disk         time.Duration
		written      int64
		want         unix.Errno
	}{
		{"a disk that nothing is known of", true, true, 0, 4096, server.WouldBlock},
		{"alone, a quick disk", true, true, quickDisk / 4, 4096, 0},
		{"alone, a slow disk", true, true, 2 * quickDisk, 4096, server.WouldBlock},
		{"alone, a network file system", true, false, quickDisk / 4, 4096, server.WouldBlock},
		{"much to write", true, true, quickDisk / 4, quickBytes + 1, server.WouldBlock},
		{"not alone", false, true, quickDisk / 4, 4096, server.WouldBlock},
		{"not alone, next to no wait", false, true, instant / 2, 4096, 0},
		{"next to no wait, a network file system", false, false, instant / 2, 4096, server.WouldBlock},
	} {
		g.thread.Alone = func() bool { return c.alone }
		f.mount.local = c.local
		f.mount.syncs.average.Store(int64(c.disk))
		f.unsynced.Store(c.written)
		wantErrno(t, "FSYNC, "+c.what, g.fs.Fsync(g.on(node), &fp.FsyncIn{Fh: fh}), c.want)
		if left := f.unsynced.Load(); c.want == 0 != (left == 0) {
			t.Errorf("%s: %d bytes are taken for not synced", c.what, left)
		}
	}
}

// TestKernelReads: which reads that the kernel has begun a queue's thread may wait for.
func TestKernelReads(t *testing.T) {
	for _, c := range []struct {
		what  string
		local bool
		disk  time.Duration
		size  int64
		want  unix.Errno
	}{
		{"a disk that nothing is known of", true, 0, 4096, server.WouldBlock},
		{"a quick disk", true, quickDisk / 4, 4096, server.WouldBlockBriefly},
		{"a slow disk", true, quickDisk, 4096, server.WouldBlock},
		{"a network file system", false, quickDisk / 4, 4096, server.WouldBlock},
		{"a large read", true, quickDisk / 4, quickBytes + 1, server.WouldBlock},
	} {
		m := &mountInfo{local: c.local}
		m.reads.average.Store(int64(c.disk))
		wantErrno(t, c.what, m.wouldBlock(c.size), c.want)
	}
}

// TestDiskAverage: a disk is slow after the second slow read in a row, or the first other
// slow wait, and quick again after some quick ones.
func TestDiskAverage(t *testing.T) {
	m := &diskTime{}
	if m.quick() {
		t.Error("quick before the first wait")
	}
	waits := func(quick bool, list ...time.Duration) {
		t.Helper()
		for _, wait := range list {
			m.tookToRead(wait)
		}
		if m.quick() != quick {
			t.Errorf("after %v: %v, quick is %v", list, time.Duration(m.average.Load()), m.quick())
		}
	}
	const usual, slow = quickDisk / 4, 10 * time.Millisecond
	waits(false, slow)
	waits(true, 0, 0, 0, 0, 0, 0, usual, usual, usual)
	waits(true, slow)
	waits(false, slow)
	waits(false, time.Minute, time.Minute)
	waits(true, usual, usual, usual, usual, usual, usual)
	waits(true, slow, usual, usual, usual, slow)
	m.took(slow)
	if m.quick() {
		t.Error("quick after a slow wait that was no read")
	}
}
