package passthrough

import (
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestSpecialFiles opens everything that is not a regular file: none of it may reach
// the host's devices, or block.
func TestSpecialFiles(t *testing.T) {
	needRoot(t)
	g := newShare(t, nil, 0).guest()
	for n, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "chr": unix.S_IFCHR, "blk": unix.S_IFBLK} {
		if err := unix.Mknod(g.path(n), mode|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", g.path("sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("/etc/passwd", g.path("link")); err != nil {
		t.Fatal(err)
	}
	want := map[string]unix.Errno{"fifo": unix.ENXIO, "chr": unix.ENXIO, "blk": unix.ENXIO, "sock": unix.ENXIO, "link": unix.ELOOP}
	start := time.Now()
	for n, errno := range want {
		node := g.lookup(fp.RootID, n)
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR | unix.O_TRUNC, unix.O_PATH} {
			_, got := g.tryOpen(node, flags)
			if flags == unix.O_PATH {
				errno = unix.EINVAL
			}
			wantErrno(t, "open of "+n, got, errno)
		}
		_, got := g.tryOpen(node, unix.O_DIRECTORY)
		wantErrno(t, "opendir of "+n, got, unix.ENOTDIR)
	}
	_, got := g.tryOpen(fp.RootID, unix.O_RDONLY)
	wantErrno(t, "open of a directory", got, unix.EISDIR)
	if d := time.Since(start); d > time.Minute { // nobody opens the other end of the FIFO
		t.Errorf("took %v", d)
	}
}

// TestFifoRace has a name change between a regular file and a FIFO while a guest looks
// it up and opens it. An open gets the regular file or an error, at once.
func TestFifoRace(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("regular", "data")
	if err := unix.Mkfifo(s.path("fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(s.path("regular"), s.path("n")); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; !stop.Load(); i++ {
			from := []string{"fifo", "regular"}[i%2]
			_ = os.Remove(s.path("tmp"))
			if os.Link(s.path(from), s.path("tmp")) == nil {
				_ = os.Rename(s.path("tmp"), s.path("n"))
			}
		}
	}()
	opened := 0
	begin := time.Now() // and go on until something was opened, which takes longer on a busy machine
	for d := time.Duration(0); d < 300*time.Millisecond || opened == 0 && d < 60*time.Second; d = time.Since(begin) {
		var e fp.EntryOut
		if errno := g.fs.Lookup(g.on(fp.RootID), name("n"), &e); errno != 0 {
			continue
		}
		start := time.Now()
		out, errno := g.tryOpen(e.NodeID, unix.O_RDWR)
		if d := time.Since(start); d > time.Minute {
			t.Errorf("an open took %v", d)
		}
		if errno == 0 {
			opened++
			if got, errno := g.readAt(e.NodeID, out.Fh, 0, 10); got != "data" || errno != 0 {
				t.Errorf("opened something that reads %q, %v", got, errno)
			}
			g.release(e.NodeID, out.Fh)
		}
		g.fs.Forget(nil, e.NodeID, 1)
	}
	stop.Store(true)
	<-stopped
	if opened == 0 {
		t.Error("nothing was opened")
	}
}

func TestOpenFlags(t *testing.T) {
	for _, c := range []struct {
		cache     CachePolicy
		file, dir uint32
	}{
		{CacheNever, fp.FopenDirectIO | fp.FopenParallelDirectWrites, 0},
		{CacheMetadata, fp.FopenDirectIO | fp.FopenParallelDirectWrites, fp.FopenKeepCache | fp.FopenCacheDir},
		{CacheAuto, 0, 0},
		{CacheAlways, fp.FopenKeepCache, fp.FopenKeepCache | fp.FopenCacheDir},
	} {
		g := newShare(t, func(cfg *Config) { cfg.Cache = c.cache }, 0).guest()
		g.write("f", "x")
		node := g.lookup(fp.RootID, "f")
		for flags, want := range map[uint32]uint32{
			unix.O_RDWR:      c.file,
			unix.O_RDONLY:    c.file | fp.FopenNoflush,
			unix.O_DIRECTORY: c.dir,
		} {
			id := node
			if flags == unix.O_DIRECTORY {
				id = fp.RootID
			}
			out, errno := g.tryOpen(id, flags)
			if errno != 0 || out.OpenFlags != want {
				t.Errorf("cache %d, flags %#x: %#x, want %#x (%v)", c.cache, flags, out.OpenFlags, want, errno)
			}
		}
	}
}

// TestHostFlags looks at the flags of the host's descriptor.
func TestHostFlags(t *testing.T) {
	// O_LARGEFILE, which unix says is 0.
	plain, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	always, err := unix.FcntlInt(plain.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	const odd = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_APPEND | unix.O_SYNC | unix.O_ASYNC | unix.O_NOCTTY
	for _, c := range []struct {
		name   string
		edit   func(*Config)
		agreed fp.InitFlags
		guest  uint32
		want   int
	}{
		{"odd flags", nil, 0, unix.O_WRONLY | odd, unix.O_WRONLY},
		{"write back", nil, fp.InitWritebackCache, unix.O_WRONLY | unix.O_APPEND, unix.O_RDWR},
		{"no direct", func(c *Config) { c.AllowDirectIO = false }, 0, unix.O_RDWR | unix.O_DIRECT, unix.O_RDWR},
		{"no noatime", nil, 0, unix.O_RDONLY | unix.O_NOATIME, unix.O_RDONLY},
		{"noatime", func(c *Config) { c.PreserveNoatime = true }, 0, unix.O_RDONLY | unix.O_NOATIME, unix.O_RDONLY | unix.O_NOATIME},
		{"read-only", func(c *Config) { c.ReadOnly = true }, 0, unix.O_RDONLY, unix.O_RDONLY | unix.O_NOATIME},
	} {
		g := newShare(t, c.edit, c.agreed).guest()
		node, fh := g.openName("f", "x", c.guest)
		f, errno := g.fs.openFiles.of(node, fh)
		if errno != 0 {
			t.Fatal(errno)
		}
		got, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
		g.fs.openFiles.release(f)
		if got &^= always | unix.O_NONBLOCK; err != nil || got != c.want {
			t.Errorf("%s: %#o, want %#o", c.name, got, c.want)
		}
	}
}

// TestUnprivilegedWriteback opens a file that the daemon may write and not read.
func TestUnprivilegedWriteback(t *testing.T) {
	needRoot(t)
	s := newShare(t, nil, fp.InitWritebackCache)
	s.write("f", "")
	if err := os.Chmod(s.path("f"), 0o222); err != nil {
		t.Fatal(err)
	}
	for dir := s.dir; len(dir) > 4; dir = dir[:strings.LastIndexByte(dir, '/')] {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() { // its thread ends with it, and with the thread the other user
		defer close(done)
		g := s.guest()
		node := g.lookup(fp.RootID, "f")
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Error(errno)
			return
		}
		_, errno := g.tryOpen(node, unix.O_RDWR)
		wantErrno(t, "open for both", errno, unix.EACCES)
		_, errno = g.tryOpen(node, unix.O_WRONLY)
		wantErrno(t, "open for writing", errno, 0)
	}()
	<-done
}

// TestLease opens a file on which a process of the host has a lease.
func TestLease(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	g.write("f", "x")
	f, err := os.OpenFile(g.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := f.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skip(err)
	}
	node := g.lookup(fp.RootID, "f")
	wantErrno(t, "open", g.fs.Open(g.on(node), &fp.OpenIn{}, &fp.OpenOut{}), server.WouldBlock)
	time.AfterFunc(20*time.Millisecond, func() { _, _ = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK) })
	_, errno := g.tryOpen(node, unix.O_RDONLY)
	wantErrno(t, "open with patience", errno, 0)
}

// TestFileCalls counts the system calls of the usual life of a file.
func TestFileCalls(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", strings.Repeat("x", 5000), unix.O_RDWR)
	_, to := g.openName("g", "", unix.O_RDWR)
	g.readAt(node, fh, 0, 10)
	other := g.lookup(fp.RootID, "g")
	wantCalls(t, "OPEN", 1, func() { g.tryOpen(node, unix.O_RDONLY) })
	wantCalls(t, "READ", 1, func() { g.readAt(node, fh, 0, 4096) })
	wantCalls(t, "READ to the end", 1, func() { g.readAt(node, fh, 0, 128<<10) })
	wantCalls(t, "WRITE", 1, func() { g.writeAt(node, fp.WriteIn{Fh: fh}, "data") })
	wantCalls(t, "FLUSH", 0, func() { g.fs.Flush(g.on(node), &fp.FlushIn{Fh: fh}) })
	wantCalls(t, "FSYNC", 1, func() {
		g.patient(node, func(r *server.Request) unix.Errno { return g.fs.Fsync(r, &fp.FsyncIn{Fh: fh}) })
	})
	wantCalls(t, "LSEEK", 1, func() {
		g.fs.Lseek(g.on(node), &fp.LseekIn{Fh: fh, Whence: unix.SEEK_HOLE}, &fp.LseekOut{})
	})
	wantCalls(t, "FALLOCATE", 1, func() { g.fs.Fallocate(g.on(node), &fp.FallocateIn{Fh: fh, Length: 100}) })
	wantCalls(t, "COPY_FILE_RANGE", 1, func() {
		g.fs.CopyFileRange(g.on(node), &fp.CopyFileRangeIn{FhIn: fh, NodeIDOut: other, FhOut: to, Len: 100})
	})
	wantCalls(t, "RELEASE", 1, func() { g.release(node, fh) })
}

func TestLseek(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", "", unix.O_RDWR)
	f, err := os.OpenFile(g.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("data"), 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off    uint64
		whence uint32
		want   uint64
		errno  unix.Errno
	}{
		{0, unix.SEEK_DATA, 1 << 20, 0},
		{1 << 20, unix.SEEK_HOLE, 1<<20 + 4, 0},
		{0, unix.SEEK_HOLE, 0, 0},
		{2 << 20, unix.SEEK_DATA, 0, unix.ENXIO},
		{0, unix.SEEK_END, 1<<20 + 4, 0},
		{^uint64(3), unix.SEEK_END, 1 << 20, 0},
		{7, unix.SEEK_SET, 7, 0},
		{0, unix.SEEK_CUR, 0, unix.EINVAL},
		{0, 99, 0, unix.EINVAL},
		// As xfstests generic/448 has it, and the host's kernel.
		{1 << 63, unix.SEEK_DATA, 0, unix.ENXIO},
		{^uint64(0), unix.SEEK_DATA, 0, unix.ENXIO},
		{^uint64(0), unix.SEEK_HOLE, 0, unix.ENXIO},
		{^uint64(0), unix.SEEK_SET, 0, unix.EINVAL},
	} {
		var out fp.LseekOut
		errno := g.fs.Lseek(g.on(node), &fp.LseekIn{Fh: fh, Offset: c.off, Whence: c.whence}, &out)
		if errno != c.errno || errno == 0 && out.Offset != c.want {
			t.Errorf("%+v: %d, %v", c, out.Offset, errno)
		}
	}
}

func TestFallocate(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", strings.Repeat("x", 12288), unix.O_RDWR)
	do := func(mode uint32, off, length uint64) unix.Errno {
		return g.patient(node, func(r *server.Request) unix.Errno {
			return g.fs.Fallocate(r, &fp.FallocateIn{Fh: fh, Mode: mode, Offset: off, Length: length})
		})
	}
	wantErrno(t, "grow", do(0, 0, 20000), 0)
	wantErrno(t, "punch", do(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096), 0)
	want := strings.Repeat("x", 4096) + strings.Repeat("\x00", 4096) + strings.Repeat("x", 4096) + strings.Repeat("\x00", 20000-12288)
	if got := g.content("f"); got != want {
		t.Errorf("content differs, length %d", len(got))
	}
	wantErrno(t, "no length", do(0, 0, 0), unix.EINVAL)
	wantErrno(t, "overflow", do(0, 1<<62, 1<<62), unix.EINVAL)
	wantErrno(t, "overflow", do(0, 1<<63, 10), unix.EINVAL)
	wantErrno(t, "overflow", do(0, 0, ^uint64(0)), unix.EINVAL)
	if errno := do(1<<30, 0, 10); errno == 0 {
		t.Error("an unknown mode was accepted")
	}
	before := g.waits
	wantErrno(t, "large", do(0, 0, 2<<20), 0)
	if g.waits == before {
		t.Error("a large allocation was made on the queue's thread")
	}
}

func TestCopyFileRange(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, from := g.openName("from", "0123456789", unix.O_RDONLY)
	target, to := g.openName("to", "abcdefghij", unix.O_RDWR)
	dir := g.open(fp.RootID, unix.O_DIRECTORY)
	do := func(in fp.CopyFileRangeIn) (uint64, unix.Errno) { return g.fs.CopyFileRange(g.on(node), &in) }
	base := fp.CopyFileRangeIn{FhIn: from, NodeIDOut: target, FhOut: to, OffIn: 2, OffOut: 5, Len: 3}
	if n, errno := do(base); n != 3 || errno != 0 || g.content("to") != "abcde234ij" {
		t.Errorf("%d, %v: %q", n, errno, g.content("to"))
	}
	for what, edit := range map[string]func(*fp.CopyFileRangeIn) unix.Errno{
		"flags":            func(in *fp.CopyFileRangeIn) unix.Errno { in.Flags = 1; return unix.EINVAL },
		"offset":           func(in *fp.CopyFileRangeIn) unix.Errno { in.OffIn = 1 << 63; return unix.EINVAL },
		"other node":       func(in *fp.CopyFileRangeIn) unix.Errno { in.NodeIDOut = node; return unix.EBADF },
		"directory":        func(in *fp.CopyFileRangeIn) unix.Errno { in.NodeIDOut, in.FhOut = 1, dir; return unix.EISDIR },
		"target read-only": func(in *fp.CopyFileRangeIn) unix.Errno { in.NodeIDOut, in.FhOut = node, from; return unix.EBADF },
	} {
		in := base
		want := edit(&in)
		_, errno := do(in)
		wantErrno(t, what, errno, want)
	}
}

// TestFlushOnNetwork pretends that the share's file system reports errors at close.
func TestFlushOnNetwork(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("f", "x", unix.O_RDWR)
	g.fs.mounts.of(g.fs.nodes.Get(node).Key(), -1).local = false
	flush := func(r *server.Request) unix.Errno { return g.fs.Flush(r, &fp.FlushIn{Fh: fh}) }
	wantErrno(t, "flush on the queue's thread", flush(g.on(node)), server.WouldBlock)
	wantCalls(t, "flush", 2, func() { wantErrno(t, "flush", g.patient(node, flush), 0) })
	wantErrno(t, "release on the queue's thread", g.fs.Release(g.on(node), &fp.ReleaseIn{Fh: fh}), server.WouldBlock)
	wantErrno(t, "release", g.release(node, fh), 0)
}

// TestReadOnlyLinkTimes: reading a symbolic link of a read-only share does not change its
// access time, where the share can be opened without access times.
func TestReadOnlyLinkTimes(t *testing.T) {
	needRoot(t)
	old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
	g := newShare(t, func(c *Config) {
		c.ReadOnly = true
		fd, err := sandbox.OpenNoAtime(c.RootFD)
		if err != nil {
			t.Fatal(err)
		}
		c.LinksFD = fd
		t.Cleanup(func() { _ = unix.Close(fd) })
	}, 0).guest()
	if err := os.Symlink("target", g.path("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, g.path("link"), old, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	link := g.lookup(fp.RootID, "link")
	fds := g.fs.fds.used.Load()
	buf := make([]byte, unix.PathMax)
	for range 3 {
		if n, errno := g.fs.Readlink(g.on(link), buf); errno != 0 || string(buf[:n]) != "target" {
			t.Errorf("%q, %v", buf[:n], errno)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(g.path("link"), &st); err != nil || st.Atim.Sec != 1000 {
		t.Errorf("it was read at %d, %v", st.Atim.Sec, err)
	}
	if left := g.fs.fds.used.Load() - fds; left > 1 { // the node's own
		t.Errorf("%d descriptors are left", left)
	}
}

// TestReadOnlyTimes: reading a read-only share does not change when its files and directories
// were read last, in whatever way they are opened.
func TestReadOnlyTimes(t *testing.T) {
	old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}} // read before the last change: relatime takes notice
	for what, edit := range map[string]func(*Config){
		"by name":       func(c *Config) {},
		"by handle":     func(c *Config) { c.FileHandles = HandlesPrefer },
		"without opens": func(c *Config) { c.Immutable = true },
	} {
		g := newShare(t, func(c *Config) { c.ReadOnly = true; edit(c) }, openlessFlags).guest()
		g.write("f", "content")
		if err := os.MkdirAll(g.path("d/sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		paths := []string{"f", "d"}
		for _, p := range paths {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, g.path(p), old, 0); err != nil {
				t.Fatal(err)
			}
		}
		file, dir := g.lookup(fp.RootID, "f"), g.lookup(fp.RootID, "d")
		for range 3 { // the second time by handle
			var fh, dh uint64
			if !g.fs.openless.agreed.Load() {
				fh, dh = g.open(file, unix.O_RDONLY), g.open(dir, unix.O_DIRECTORY)
			}
			if got, errno := g.readAt(file, fh, 0, 100); got != "content" || errno != 0 {
				t.Errorf("%s: %q, %v", what, got, errno)
			}
			if list, errno := g.list(dir, dh, 0, 4096, true); len(list) != 3 || errno != 0 {
				t.Errorf("%s: %v, %v", what, list, errno)
			}
		}
		for _, p := range paths {
			var st unix.Stat_t
			if err := unix.Stat(g.path(p), &st); err != nil || st.Atim.Sec != 1000 {
				t.Errorf("%s: %s was read at %d, %v", what, p, st.Atim.Sec, err)
			}
		}
	}
}
