package passthrough

import (
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
	guests "github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/server"
)

// share is a file system over a temporary directory, for tests of open files.
type share struct {
	t   testing.TB
	fs  *FS
	dir string
}

// newShare shares a new directory. edit, if not nil, changes the configuration; flags
// are what a client has agreed to beyond the usual.
func newShare(t testing.TB, edit func(*Config), flags fp.InitFlags) *share {
	t.Helper()
	return shareDir(t, t.TempDir(), edit, flags)
}

func shareDir(t testing.TB, dir string, edit func(*Config), flags fp.InitFlags) *share {
	t.Helper()
	s := makeShare(t, dir, edit, flags)
	fs := s.fs
	t.Cleanup(func() {
		fs.Destroy()
		if n := fs.fds.kept.Load(); n != 0 {
			t.Errorf("%d descriptors of open files and locks are left", n)
		}
		if fds, taken := fs.fds.used.Load(), fs.fds.part.Taken(); taken != fds+2 {
			t.Errorf("%d descriptors are counted, and %d in the host's budget, want 2 more", fds, taken)
		}
		fs.Close()
	})
	return s
}

// makeShare is shareDir of a share that is left as it is in the end.
func makeShare(t testing.TB, dir string, edit func(*Config), flags fp.InitFlags) *share {
	t.Helper()
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{RootFD: root, ProcFD: proc, Xattr: true, PosixLocks: true, Flocks: true, Writeback: true,
		AllowDirectIO: true, KillprivV2: true}
	if edit != nil {
		edit(&cfg)
	}
	if cfg.Host == nil {
		if cfg.Host, err = host.New(host.Options{Descriptors: 1 << 20, ShareDescriptors: 1 << 19}); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fs.sweeper.after = func(time.Duration, func()) {} // a test that wants sweeps has them itself
	p := &server.InitParams{Offered: flags | fp.InitDoReaddirplus}
	if errno := fs.Init(p); errno != 0 {
		t.Fatal(errno)
	}
	return &share{t: t, fs: fs, dir: dir}
}

func (s *share) path(name string) string { return filepath.Join(s.dir, name) }

func (s *share) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *share) content(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// guest is a client of a share on one thread.
type guest struct {
	*share
	thread server.Thread
	r      server.Request
	waits  int // requests that wanted to wait
}

// guest locks the calling goroutine to its thread, for good, and serves on it.
func (s *share) guest() *guest {
	runtime.LockOSThread()
	g := &guest{share: s}
	if err := s.fs.StartThread(&g.thread); err != nil {
		s.t.Fatal(err)
	}
	g.r.Thread = &g.thread
	return g
}

// on is a request about a node.
func (g *guest) on(node uint64) *server.Request {
	g.r.Header = fp.InHeader{NodeID: node}
	g.r.MayWait, g.r.Canceled = false, nil
	return &g.r
}

// patient runs a method as the server does: once, and once more when it has to wait.
func (g *guest) patient(node uint64, f func(r *server.Request) unix.Errno) unix.Errno {
	errno := f(g.on(node))
	if errno == server.WouldBlock || errno == server.WouldBlockBriefly {
		g.waits++
		r := g.on(node)
		r.MayWait, r.Canceled = true, make(chan struct{})
		errno = f(r)
	}
	return errno
}

func name(s string) fp.Name { return fp.Name(append([]byte(s), 0)) }

func (g *guest) lookup(parent uint64, s string) uint64 {
	g.t.Helper()
	var out fp.EntryOut
	if errno := g.fs.Lookup(g.on(parent), name(s), &out); errno != 0 {
		g.t.Fatalf("lookup %q: %v", s, errno)
	}
	return out.NodeID
}

// tryOpen opens a file or a directory.
func (g *guest) tryOpen(node uint64, flags uint32) (fp.OpenOut, unix.Errno) {
	var out fp.OpenOut
	errno := g.patient(node, func(r *server.Request) unix.Errno {
		in := &fp.OpenIn{Flags: flags}
		if flags&unix.O_DIRECTORY != 0 {
			return g.fs.Opendir(r, in, &out)
		}
		return g.fs.Open(r, in, &out)
	})
	return out, errno
}

func (g *guest) open(node uint64, flags uint32) uint64 {
	g.t.Helper()
	out, errno := g.tryOpen(node, flags)
	if errno != 0 {
		g.t.Fatalf("open with %#x: %v", flags, errno)
	}
	return out.Fh
}

// openName makes a file and opens it.
func (g *guest) openName(s, content string, flags uint32) (node, fh uint64) {
	g.t.Helper()
	g.write(s, content)
	node = g.lookup(fp.RootID, s)
	return node, g.open(node, flags)
}

func (g *guest) release(node, fh uint64) unix.Errno {
	return g.patient(node, func(r *server.Request) unix.Errno {
		return g.fs.Release(r, &fp.ReleaseIn{Fh: fh})
	})
}

// vector cuts b in buffers of size bytes.
func vector(b []byte, size int) (iov []unix.Iovec) {
	for len(b) > 0 {
		n := min(size, len(b))
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		v.SetLen(n)
		iov, b = append(iov, v), b[n:]
	}
	return iov
}

func (g *guest) readAt(node, fh, off uint64, size int) (string, unix.Errno) {
	b := make([]byte, size)
	n := 0
	errno := g.patient(node, func(r *server.Request) (errno unix.Errno) {
		n, errno = g.fs.Read(r, &fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)}, vector(b, 64<<10))
		return errno
	})
	runtime.KeepAlive(b)
	return string(b[:n]), errno
}

func (g *guest) writeAt(node uint64, in fp.WriteIn, data string) (int, unix.Errno) {
	b, n := []byte(data), 0
	in.Size = uint32(len(b))
	errno := g.patient(node, func(r *server.Request) (errno unix.Errno) {
		n, errno = g.fs.Write(r, &in, vector(b, 64<<10))
		return errno
	})
	runtime.KeepAlive(b)
	return n, errno
}

// countCalls is how many system calls f makes through the wrappers.
func countCalls(f func()) int64 {
	var n atomic.Int64
	count := func() { n.Add(1) }
	onCall.Store(&count)
	defer onCall.Store(nil)
	f()
	return n.Load()
}

func wantErrno(t testing.TB, what string, got, want unix.Errno) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v (%d), want %v", what, got, int(got), want)
	}
}

func wantCalls(t testing.TB, what string, want int64, f func()) {
	t.Helper()
	if n := countCalls(f); n != want {
		t.Errorf("%s: %d system calls, want %d", what, n, want)
	}
}

// needRoot has a name of its own because guest is a type here.
func needRoot(t testing.TB) {
	t.Helper()
	guests.NeedRoot(t)
}
