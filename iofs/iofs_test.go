package iofs

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

var quiet = server.Options{Log: slog.New(slog.DiscardHandler)}

func TestMain(m *testing.M) {
	os.Exit(mounttest.Main(m, map[string]func() fuse.Handler{
		"map":       func() fuse.Handler { return server.New(New(files), quiet) },
		"immutable": func() fuse.Handler { return server.New(NewWith(files, Options{Immutable: true}), quiet) },
		"zip":       func() fuse.Handler { return server.New(NewWith(archive(), Options{NonBlocking: true}), quiet) },
		"dir":       func() fuse.Handler { return server.New(New(os.DirFS(os.Getenv("IOFS_DIR"))), quiet) },
	}))
}

var modified = time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)

// large has several windows of a stream.
var large = func() []byte {
	b := make([]byte, 3*windowSize+12345)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}()

var files = fstest.MapFS{
	"README":               {Data: []byte("read me\n"), Mode: 0o444, ModTime: modified},
	"dir/empty":            {Mode: 0o400, ModTime: modified},
	"dir/below/deep":       {Data: []byte("deep"), Mode: 0o644, ModTime: modified},
	"dir/below/large":      {Data: large[:300<<10], Mode: 0o644, ModTime: modified},
	"none":                 {Mode: fs.ModeDir | 0o755, ModTime: modified},
	"odd name \" $ \u00e4": {Data: []byte("odd"), Mode: 0o644, ModTime: modified},
}

// archive is a zip archive with the same files, a link, and names that lead out of it.
func archive() fs.FS {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name string, mode fs.FileMode, data []byte) {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			panic(err)
		}
	}
	for name, f := range files {
		if f.Mode.IsDir() {
			name += "/"
		}
		add(name, f.Mode, f.Data)
	}
	add("link", fs.ModeSymlink|0o777, []byte("dir/below/deep"))
	add("../outside", 0o644, []byte("x"))
	if err := w.Close(); err != nil {
		panic(err)
	}
	r, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		panic(err)
	}
	return r
}

// TestFS: what the kernel shows of a file system passes the test of package fstest.
func TestFS(t *testing.T) {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	for _, name := range []string{"map", "immutable", "zip"} {
		t.Run(name, func(t *testing.T) {
			dir := mounttest.Mount(t, name)
			if err := fstest.TestFS(os.DirFS(dir), names...); err != nil {
				t.Error(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "dir/below/large"))
			if err != nil || !bytes.Equal(got, large[:300<<10]) {
				t.Errorf("large file: %d bytes, %v", len(got), err)
			}
			info, err := os.Stat(filepath.Join(dir, "README"))
			if err != nil || info.Mode() != 0o444 || !info.ModTime().Equal(modified) {
				t.Errorf("README: %v, %v", info, err)
			}
			for what, err := range map[string]error{
				"mkdir":  os.Mkdir(filepath.Join(dir, "new"), 0o755),
				"remove": os.Remove(filepath.Join(dir, "README")),
				"write":  os.WriteFile(filepath.Join(dir, "README"), nil, 0o644),
				"chmod":  os.Chmod(filepath.Join(dir, "README"), 0o600),
			} {
				if !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: %v, want EROFS", what, err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "\xff")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a name that is not UTF-8: %v", err)
			}
		})
	}
}

// TestInode: inode numbers are the same in another process, and in a listing.
func TestInode(t *testing.T) {
	a, b := mounttest.Mount(t, "map"), mounttest.Mount(t, "zip")
	seen := make(map[uint64]string)
	for name := range files {
		var x, y unix.Stat_t
		if err := errors.Join(unix.Lstat(filepath.Join(a, name), &x), unix.Lstat(filepath.Join(b, name), &y)); err != nil {
			t.Fatal(err)
		}
		if x.Ino != y.Ino || seen[x.Ino] != "" {
			t.Errorf("%s: %d and %d; %q has the first", name, x.Ino, y.Ino, seen[x.Ino])
		}
		seen[x.Ino] = name
	}
}

// TestLinks: links of a ReadLinkFS, and those of an archive.
func TestLinks(t *testing.T) {
	source := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o644),
		os.Symlink("file", filepath.Join(source, "link")), os.Symlink("/nowhere", filepath.Join(source, "dangling"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IOFS_DIR", source)
	dir, zipped := mounttest.Mount(t, "dir"), mounttest.Mount(t, "zip")
	for link, want := range map[string]string{
		filepath.Join(dir, "link"): "file", filepath.Join(dir, "dangling"): "/nowhere",
		filepath.Join(zipped, "link"): "dir/below/deep",
	} {
		if got, err := os.Readlink(link); got != want {
			t.Errorf("%s: %q, %v, want %q", link, got, err, want)
		}
	}
	if got, err := os.ReadFile(filepath.Join(zipped, "link")); string(got) != "deep" {
		t.Errorf("through the link: %q, %v", got, err)
	}
}

// plain hides what a file can do beside Read.
type plain struct {
	fs.FS
	opened int
	mu     sync.Mutex
	data   []byte
}

type plainFile struct {
	fs.FileInfo
	r io.Reader
}

func (p *plain) Open(name string) (fs.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	return &plainFile{r: bytes.NewReader(p.data)}, nil
}

func (f *plainFile) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (f *plainFile) Close() error               { return nil }
func (f *plainFile) Read(p []byte) (int, error) {
	n, err := f.r.Read(p[:min(len(p), 1+rand.IntN(step))])
	clear(p[n:]) // as io.Reader allows
	return n, err
}

// TestStream: a file that can only be read forward is read anywhere, with little memory.
func TestStream(t *testing.T) {
	p := &plain{data: large}
	root := Root(p, Options{MaxWindows: 1}).(file)
	var streams []*stream
	for i := range 4 {
		h, err := file{root.shared, fmt.Sprint(i)}.Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, h.(*stream))
	}
	var wg sync.WaitGroup
	for i, s := range streams {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			b := make([]byte, 200<<10)
			for range 200 {
				off := r.IntN(len(large) + 1000)
				p := b[:r.IntN(len(b))]
				n, err := s.Read(t.Context(), p, int64(off))
				want := large[min(off, len(large)):min(off+len(p), len(large))]
				if !bytes.Equal(p[:n], want) || err != nil && !errors.Is(err, io.EOF) || err == nil && n < len(p) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	wg.Wait()
	w := root.windows
	if w.bytes > w.max || w.lru.Len() > 1 {
		t.Errorf("%d bytes in %d windows are kept", w.bytes, w.lru.Len())
	}
	for _, s := range streams {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Read(t.Context(), make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
	if w.bytes != 0 || w.lru.Len() != 0 {
		t.Errorf("closed: %d bytes in %d windows are kept", w.bytes, w.lru.Len())
	}
}

// TestStreamOnce: read-ahead that comes in any order within the window opens a file once.
func TestStreamOnce(t *testing.T) {
	p := &plain{data: large}
	h, err := Root(p, Options{}).(vfs.Opener).Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	s := h.(*stream)
	const part = 128 << 10
	b := make([]byte, part)
	for off := 0; off+2*part < len(large); off += 2 * part {
		for _, at := range []int{off + part, off} {
			if n, err := s.Read(t.Context(), b, int64(at)); n != part || !bytes.Equal(b, large[at:at+part]) {
				t.Fatalf("at %d: %d, %v", at, n, err)
			}
		}
	}
	if p.opened != 1 {
		t.Errorf("opened %d times", p.opened)
	}
	if err := s.restart(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Read(ended, b, 0); err != nil {
		t.Errorf("interrupted, where little is to be read: %v", err)
	}
	if _, err := s.Read(ended, b, 2*windowSize); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
