package passthrough

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestForgedFh uses fhs in every way that a guest should not.
func TestForgedFh(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	node, fh := g.openName("a", "hello", unix.O_RDWR)
	other, _ := g.openName("b", "", unix.O_RDWR)
	dirFh := g.open(fp.RootID, unix.O_DIRECTORY)
	w := server.NewDirWriter(make([]byte, 4096))

	_, errno := g.readAt(other, fh, 0, 5)
	wantErrno(t, "fh of another node", errno, unix.EBADF)
	_, errno = g.readAt(fp.RootID, dirFh, 0, 5)
	wantErrno(t, "READ of a directory", errno, unix.EISDIR)
	_, errno = g.writeAt(fp.RootID, fp.WriteIn{Fh: dirFh}, "x")
	wantErrno(t, "WRITE to a directory", errno, unix.EISDIR)
	wantErrno(t, "READDIR of a file", g.fs.Readdir(g.on(node), &fp.ReadIn{Fh: fh, Size: 4096}, w), unix.ENOTDIR)
	wantErrno(t, "RELEASE of a directory", g.release(fp.RootID, dirFh), unix.EISDIR)
	wantErrno(t, "RELEASEDIR of a file", g.fs.Releasedir(g.on(node), &fp.ReleaseIn{Fh: fh}), unix.ENOTDIR)
	wantErrno(t, "FSYNCDIR of a file", g.fs.Fsyncdir(g.on(node), &fp.FsyncIn{Fh: fh}), unix.ENOTDIR)
	for _, forged := range []uint64{0, fh + 1<<32, fh | 1<<63, ^uint64(0), 1 << 31, fh + 100} {
		_, errno := g.readAt(node, forged, 0, 5)
		wantErrno(t, "forged fh", errno, unix.EBADF)
	}
	wantErrno(t, "RELEASE", g.release(node, fh), 0)
	wantErrno(t, "RELEASE once more", g.release(node, fh), unix.EBADF)
	_, errno = g.readAt(node, fh, 0, 5)
	wantErrno(t, "READ after RELEASE", errno, unix.EBADF)
	if again := g.open(node, unix.O_RDONLY); again == fh {
		t.Errorf("fh %#x was used twice", fh)
	}
}

// TestReleaseWhileReading has one thread release what others read. A read gets the
// file or EBADF, never another file.
func TestReleaseWhileReading(t *testing.T) {
	s := newShare(t, func(c *Config) { c.Cache = CacheAlways }, 0)
	g := s.guest()
	const size = 8192
	files := [2]uint64{}
	for i, letter := range []string{"a", "b"} {
		s.write(letter, strings.Repeat(letter, size))
		files[i] = g.lookup(fp.RootID, letter)
	}
	var current [2]sync.Map
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for reader := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := s.guest()
			which := reader % 2
			want := strings.Repeat(string(rune('a'+which)), size)
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, ok := current[which].Load(0)
				if !ok {
					continue
				}
				got, errno := r.readAt(files[which], v.(uint64), 0, size)
				if errno != unix.EBADF && (errno != 0 || got != want) {
					t.Errorf("read %d bytes, %v", len(got), errno)
					return
				}
			}
		}()
	}
	for range 3000 {
		for i := range files {
			fh := g.open(files[i], unix.O_RDONLY)
			current[i].Store(0, fh)
			defer func() { _ = fh }()
			if errno := g.release(files[i], fh); errno != 0 {
				t.Fatal(errno)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// TestHandleLimit opens files until the share's part of the descriptors is used up.
// The rest must go on to work.
func TestOpenFileLimit(t *testing.T) {
	g := newShare(t, func(c *Config) { c.MaxFDs = 64 }, fp.InitPosixLocks).guest()
	node, first := g.openName("a", "x", unix.O_RDWR)
	g.write("b", "y")
	open := []uint64{first}
	for {
		out, errno := g.tryOpen(node, unix.O_RDWR)
		if errno != 0 {
			wantErrno(t, "one open too many", errno, unix.ENFILE)
			break
		}
		if open = append(open, out.Fh); len(open) > 64 {
			t.Fatal("no limit")
		}
	}
	if len(open) < 50 {
		t.Errorf("%d files could be opened with 64 descriptors", len(open))
	}
	lk := &fp.LkIn{Fh: first, Owner: 7, Lk: fp.FileLock{Type: unix.F_WRLCK, End: 10}}
	wantErrno(t, "lock without a descriptor", g.fs.Setlk(g.on(node), lk, false), unix.ENOLCK)
	g.lookup(fp.RootID, "b")
	for _, fh := range open {
		wantErrno(t, "release", g.release(node, fh), 0)
	}
	g.open(node, unix.O_RDONLY)
}

// TestFewDescriptors runs everything again in a process that may have 64 descriptors.
func TestFewDescriptors(t *testing.T) {
	if os.Getenv("FEW_DESCRIPTORS") != "" {
		fewDescriptors(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFewDescriptors$", "-test.v")
	cmd.Env = append(os.Environ(), "FEW_DESCRIPTORS=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fewDescriptors(t *testing.T) {
	s := newShare(t, nil, fp.InitPosixLocks)
	for i := range 200 {
		s.write(strings.Repeat("n", i+1), "data")
	}
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// The file system was set up with more, as if the limit was lowered or other
	// parts of the process had used what was thought to be free.
	g := s.guest()
	dir := g.open(fp.RootID, unix.O_DIRECTORY)
	var open [][2]uint64
	for i := range 200 {
		node := g.lookup(fp.RootID, strings.Repeat("n", i+1))
		out, errno := g.tryOpen(node, unix.O_RDWR)
		if errno == unix.ENFILE {
			break
		}
		wantErrno(t, "open", errno, 0)
		open = append(open, [2]uint64{node, out.Fh})
	}
	if len(open) < 20 || len(open) == 200 {
		t.Errorf("%d files could be opened", len(open))
	}
	if names, _ := g.listAll(dir, 4096, true); len(names) != 202 {
		t.Errorf("a listing without descriptors has %d names, want 202", len(names))
	}
	for _, o := range open {
		if got, errno := g.readAt(o[0], o[1], 0, 10); got != "data" || errno != 0 {
			t.Errorf("read %q, %v", got, errno)
		}
		wantErrno(t, "release", g.release(o[0], o[1]), 0)
	}
}

func BenchmarkOpenFile(b *testing.B) {
	g := newShare(b, nil, 0).guest()
	node, fh := g.openName("a", "x", unix.O_RDWR)
	r := g.on(node)
	for b.Loop() {
		f, errno := g.fs.enterFile(r, fh, intentRead)
		if errno != 0 {
			b.Fatal(errno)
		}
		g.fs.openFiles.release(f)
	}
}
