package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// buffer is a content of at most limit bytes that counts those which are not closed.
type buffer struct {
	data []byte
	open *atomic.Int64
}

const limit = 1000

func (b *buffer) Size() int64 { return int64(len(b.data)) }
func (b *buffer) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader(string(b.data)).ReadAt(p, off)
}
func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > b.Size() {
		if err := b.Truncate(end); err != nil {
			return 0, err
		}
	}
	return copy(b.data[off:], p), nil
}
func (b *buffer) Truncate(size int64) error {
	if size > limit {
		return unix.ENOSPC
	}
	b.data = append(b.data, make([]byte, max(size-b.Size(), 0))...)[:size]
	return nil
}
func (b *buffer) Close() error {
	b.open.Add(-1)
	return nil
}

// client calls a tree as the server does.
type client struct {
	*FS
	t    testing.TB
	open atomic.Int64 // contents
}

func newClient(t testing.TB, files int) *client {
	c := &client{t: t}
	c.FS = New(Config{MaxFiles: files, NewFile: func() Writable {
		c.open.Add(1)
		return &buffer{open: &c.open}
	}})
	return c
}

func on(node uint64) *server.Request {
	return server.NewRequest(fp.InHeader{NodeID: node, UID: 7, GID: 8})
}
func name(s string) fp.Name { return fp.Name(s + "\x00") }

func (c *client) lookup(dir uint64, s string) (uint64, unix.Errno) {
	var out fp.EntryOut
	errno := c.Lookup(on(dir), name(s), &out)
	return out.NodeID, errno
}

func (c *client) mkdir(dir uint64, s string) (uint64, unix.Errno) {
	var out fp.EntryOut
	errno := c.Mkdir(on(dir), &fp.MkdirIn{Mode: 0o700}, name(s), &out)
	return out.NodeID, errno
}

func (c *client) create(dir uint64, s string) (uint64, unix.Errno) {
	var out fp.CreateOut
	errno := c.Create(on(dir), &fp.CreateIn{Mode: 0o600}, name(s), &out)
	return out.Entry.NodeID, errno
}

func (c *client) write(node, off uint64, s string) (int, unix.Errno) {
	return c.Write(on(node), &fp.WriteIn{Offset: off, Size: uint32(len(s))}, fuse.Over([]byte(s)))
}

func (c *client) read(node, off uint64) (string, unix.Errno) {
	b := make([]byte, 100)
	n, errno := c.Read(on(node), &fp.ReadIn{Offset: off, Size: 100}, fuse.Over(b))
	return string(b[:n]), errno
}

func (c *client) want(what string, got, want unix.Errno) {
	c.t.Helper()
	if got != want {
		c.t.Errorf("%s: errno %d (%v), want %d", what, got, got, want)
	}
}

// TestClient: the client makes files, changes, renames and removes them; each file is closed
// when it is removed and forgotten, and not before.
func TestClient(t *testing.T) {
	c := newClient(t, 0)
	dir, errno := c.mkdir(fp.RootID, "dir")
	c.want("mkdir", errno, 0)
	file, errno := c.create(dir, "file")
	c.want("create", errno, 0)
	_, errno = c.create(dir, "file")
	c.want("create again", errno, unix.EEXIST)
	_, errno = c.create(file, "below")
	c.want("create in a file", errno, unix.ENOTDIR)
	n, errno := c.write(file, 3, "abc")
	if s, e := c.read(file, 2); n != 3 || errno != 0 || s != "\x00abc" || e != 0 {
		t.Errorf("wrote %d (%v), read %q (%v)", n, errno, s, e)
	}
	_, errno = c.write(file, limit, "x")
	c.want("write too much", errno, unix.ENOSPC)
	_, errno = c.write(file, math.MaxInt64, "x")
	c.want("write at the end of numbers", errno, unix.EFBIG)
	var attr fp.AttrOut
	c.want("truncate", c.Setattr(on(file), &fp.SetattrIn{Valid: fp.FattrSize | fp.FattrMode, Size: 4, Mode: 0o777777}, &attr), 0)
	if a := attr.Attr; a.Size != 4 || a.Mode != unix.S_IFREG|0o7777 || a.UID != 7 || a.GID != 8 || a.Nlink != 1 {
		t.Errorf("attributes %+v", a)
	}
	c.want("truncate to a hostile size", c.Setattr(on(file), &fp.SetattrIn{Valid: fp.FattrSize, Size: math.MaxUint64}, &attr), unix.EFBIG)

	c.want("rmdir", c.Rmdir(on(fp.RootID), name("dir")), unix.ENOTEMPTY)
	c.want("unlink a directory", c.Unlink(on(fp.RootID), name("dir")), unix.EISDIR)
	c.want("rename", c.Rename(on(dir), &fp.Rename2In{NewDir: fp.RootID}, name("file"), name("moved")), 0)
	_, errno = c.lookup(dir, "file")
	c.want("the old name", errno, unix.ENOENT)
	if id, errno := c.lookup(fp.RootID, "moved"); id != file || errno != 0 {
		t.Errorf("the new name is node %d (%v), want %d", id, errno, file)
	}
	c.want("unlink", c.Unlink(on(fp.RootID), name("moved")), 0)
	if s, errno := c.read(file, 0); s != "\x00\x00\x00a" || errno != 0 {
		t.Errorf("a removed file that the client has: %q, %v", s, errno)
	}
	if n := c.open.Load(); n != 1 {
		t.Errorf("%d files are not closed, want 1", n)
	}
	c.Forget(nil, file, 1)
	c.Forget(nil, file, math.MaxUint64)
	_, errno = c.read(file, 0)
	c.want("a forgotten file", errno, unix.ESTALE)
	if n := c.open.Load(); n != 0 {
		t.Errorf("%d files are not closed, want 0", n)
	}
	c.want("rmdir", c.Rmdir(on(fp.RootID), name("dir")), 0)
	_, errno = c.create(dir, "file")
	c.want("create in a removed directory", errno, unix.ENOENT)
}

// TestRename: a name is replaced only by what it can be replaced by, and no directory gets
// below itself.
func TestRename(t *testing.T) {
	c := newClient(t, 0)
	a, _ := c.mkdir(fp.RootID, "a")
	b, _ := c.mkdir(a, "b")
	_, _ = c.create(fp.RootID, "file")
	_, _ = c.create(fp.RootID, "other")
	move := func(dir uint64, from string, newDir uint64, to string, flags uint32) unix.Errno {
		return c.Rename(on(dir), &fp.Rename2In{NewDir: newDir, Flags: flags}, name(from), name(to))
	}
	c.want("below itself", move(fp.RootID, "a", b, "a", 0), unix.EINVAL)
	c.want("into itself", move(fp.RootID, "a", a, "a", 0), unix.EINVAL)
	c.want("a file over a directory", move(fp.RootID, "file", fp.RootID, "a", 0), unix.EISDIR)
	c.want("a directory over a file", move(fp.RootID, "a", fp.RootID, "file", 0), unix.ENOTDIR)
	c.want("over a full directory", move(a, "b", fp.RootID, "a", 0), unix.ENOTEMPTY)
	c.want("exchange", move(fp.RootID, "a", fp.RootID, "file", unix.RENAME_EXCHANGE), unix.EINVAL)
	c.want("no replace", move(fp.RootID, "file", fp.RootID, "other", unix.RENAME_NOREPLACE), unix.EEXIST)
	c.want("to itself", move(fp.RootID, "file", fp.RootID, "file", 0), 0)
	c.want("to a node that is not there", move(fp.RootID, "file", 1<<40, "file", 0), unix.ESTALE)
	c.want("replace", move(fp.RootID, "file", fp.RootID, "other", 0), 0)
	c.want("a directory up", move(a, "b", fp.RootID, "b", 0), 0)
	c.want("and its old parent below it", move(fp.RootID, "a", b, "a", 0), 0)
}

// TestMaxFiles: files that are removed count as long as the client has them.
func TestMaxFiles(t *testing.T) {
	c := newClient(t, 3) // the root is one
	one, _ := c.create(fp.RootID, "one")
	_, errno := c.mkdir(fp.RootID, "two")
	c.want("the last", errno, 0)
	c.want("unlink", c.Unlink(on(fp.RootID), name("one")), 0)
	_, errno = c.create(fp.RootID, "three")
	c.want("one too many", errno, unix.ENOSPC)
	if n := c.open.Load(); n != 1 {
		t.Errorf("%d contents are open, want that of the removed file", n)
	}
	c.Forget(nil, one, 1)
	_, errno = c.create(fp.RootID, "three")
	c.want("when one is forgotten", errno, 0)
	c.Destroy()
	c.want("unlink without a lookup", c.Unlink(on(fp.RootID), name("three")), 0)
	_, errno = c.create(fp.RootID, "four")
	c.want("when one is unknown", errno, 0)
}

// TestReaddir: a listing misses nothing while what was listed is removed, as rm -r does.
func TestReaddir(t *testing.T) {
	c := newClient(t, 0)
	for i := range 100 {
		_, errno := c.create(fp.RootID, fmt.Sprint("file", i))
		c.want("create", errno, 0)
	}
	for off := uint64(0); ; {
		w := server.NewDirWriter(make([]byte, 200))
		c.want("readdir", c.Readdir(on(fp.RootID), &fp.ReadIn{Offset: off}, w), 0)
		b := w.Bytes()
		if len(b) == 0 {
			break
		}
		for len(b) > 0 {
			d, rest, _ := fp.View[fp.Dirent](b)
			c.want("unlink", c.Unlink(on(fp.RootID), name(string(rest[:d.NameLen]))), 0)
			off, b = d.Off, b[fp.DirentAlign(fp.Size[fp.Dirent]()+int(d.NameLen)):]
		}
	}
	if len(c.root.list) != 0 || len(c.root.names) != 0 {
		t.Errorf("%d files are left", len(c.root.list))
	}
}

// TestAdd: bad paths are refused, and what was added for reading can't be changed.
func TestAdd(t *testing.T) {
	fixed := New(Config{})
	text := strings.NewReader("text")
	if err := errors.Join(fixed.Add("a/b/file", 0o444, text), fixed.Add("a/dir", 0o700, nil)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"": fs.ErrInvalid, ".": fs.ErrInvalid, "/x": fs.ErrInvalid, "a/../x": fs.ErrInvalid, "a//x": fs.ErrInvalid, "x\x00y": unix.EINVAL,
		"a/b/file": fs.ErrExist, "a": fs.ErrExist, "a/b/file/x": unix.ENOTDIR, strings.Repeat("x", 256): unix.ENAMETOOLONG,
	} {
		if err := fixed.Add(path, 0, text); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
	c := &client{FS: fixed, t: t}
	a, _ := c.lookup(fp.RootID, "a")
	b, _ := c.lookup(a, "b")
	file, errno := c.lookup(b, "file")
	c.want("lookup", errno, 0)
	if s, errno := c.read(file, 1); s != "ext" || errno != 0 {
		t.Errorf("read %q, %v", s, errno)
	}
	_, errno = c.read(a, 0)
	c.want("read a directory", errno, unix.EISDIR)
	_, errno = c.write(file, 0, "x")
	c.want("write", errno, unix.EACCES)
	c.want("open for writing", c.Open(on(file), &fp.OpenIn{Flags: unix.O_RDWR}, nil), unix.EACCES)
	_, errno = c.create(a, "x")
	c.want("create", errno, unix.EROFS)
	c.want("unlink", c.Unlink(on(b), name("file")), unix.EROFS)
}

// failing is a content with a mistake.
type failing struct{ buffer }

func (*failing) WriteAt([]byte, int64) (int, error) { panic("a mistake") }

// TestPanic: a content that panics costs the request, and no lock is left locked.
func TestPanic(t *testing.T) {
	makes := true
	c := &client{t: t}
	c.FS = New(Config{NewFile: func() Writable {
		if !makes {
			panic("another mistake")
		}
		return &failing{buffer{open: &c.open}}
	}})
	file, errno := c.create(fp.RootID, "file")
	c.want("create", errno, 0)
	makes = false
	for _, request := range []func(){
		func() { _, _ = c.write(file, 0, "x") },
		func() { _, _ = c.create(fp.RootID, "other") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			request()
		}()
	}
	n := c.nodes.Acquire(file)
	if !c.mu.TryLock() || !n.Key().mu.TryLock() {
		t.Fatal("a lock is left")
	}
	n.Key().mu.Unlock()
	c.nodes.Release(n)
	if n := c.files; n != 2 {
		t.Errorf("%d files, want 2", n)
	}
	c.mu.Unlock()
	_, errno = c.read(file, 0)
	c.want("read", errno, 0)
}

// TestConcurrent is for the race detector: all at once, and in the end nothing is left.
func TestConcurrent(t *testing.T) {
	c := newClient(t, 0)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				s := fmt.Sprint("file", (g+i)%3)
				if id, errno := c.create(fp.RootID, s); errno == 0 {
					_, _ = c.write(id, 0, "text")
					c.Forget(nil, id, 1)
				}
				if id, errno := c.lookup(fp.RootID, s); errno == 0 {
					_, _ = c.read(id, 0)
					_ = c.Getattr(on(id), nil, new(fp.AttrOut))
					c.Forget(nil, id, 1)
				}
				_ = c.Rename(on(fp.RootID), &fp.Rename2In{NewDir: fp.RootID}, name(s), name("file0"))
				_ = c.Unlink(on(fp.RootID), name("file0"))
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		_ = c.Unlink(on(fp.RootID), name(fmt.Sprint("file", i)))
	}
	if n := c.open.Load(); n != 0 || c.files != 1 {
		t.Errorf("%d contents are open, %d files, want 0 and 1", n, c.files)
	}
}

var _ io.Closer = (*buffer)(nil)
