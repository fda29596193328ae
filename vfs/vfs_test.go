package vfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// request is one that may block, as the server's second call is.
func request(id uint64) *server.Request {
	r := server.NewRequest(fp.InHeader{NodeID: id, UID: 7, GID: 8, PID: 9})
	r.MayWait, r.Canceled = true, make(chan struct{})
	return r
}

func name(s string) fp.Name { return fp.Name(s + "\x00") }

// dir is a directory of a fixed list. Its pointers are nodes.
type dir struct {
	names  map[string]Node
	odd    []DirEntry // more entries of the listing
	forgot int
	knew   int
	err    error
}

func (d *dir) Attr(context.Context) (Attr, error) { return Attr{Mode: fs.ModeDir | 0o755}, nil }
func (d *dir) Remember()                          { d.knew++ }
func (d *dir) Forget()                            { d.forgot++ }

func (d *dir) Lookup(_ context.Context, name string) (Node, error) {
	if n := d.names[name]; n != nil {
		return n, nil
	}
	return nil, errors.Join(d.err, fs.ErrNotExist)
}

func (d *dir) ReadDir(context.Context) (list []DirEntry, _ error) {
	for name := range d.names {
		list = append(list, DirEntry{Name: name})
	}
	slices.SortFunc(list, func(a, b DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return append(list, d.odd...), nil
}

// text is a file; two with the same text are one.
type text string

func (s text) Attr(context.Context) (Attr, error) { return Attr{Mode: 0o644, Size: int64(len(s))}, nil }
func (s text) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader(string(s)).ReadAt(p, off)
}
func (s text) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }
func (s text) SetAttr(context.Context, SetAttr) error   { return nil }

// uncomparable can't be a node.
type uncomparable []byte

func (uncomparable) Attr(context.Context) (Attr, error) { return Attr{}, nil }

func lookup(f *FS, parent uint64, s string) (out fp.EntryOut, errno unix.Errno) {
	errno = f.Lookup(request(parent), name(s), &out)
	return out, errno
}

// TestCounts: lookups are counted, and a node that is forgotten is told so.
func TestCounts(t *testing.T) {
	below := &dir{names: map[string]Node{"f": text("abc")}}
	f := New(&dir{names: map[string]Node{"d": below, "same": below, "bad": uncomparable{}}}, Options{})
	a, errno := lookup(f, fp.RootID, "d")
	b, errno2 := lookup(f, fp.RootID, "same")
	if errno != 0 || errno2 != 0 || a.NodeID != b.NodeID || a.Attr.Ino != a.NodeID || a.Attr.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("%+v and %+v, %v, %v", a, b, errno, errno2)
	}
	if _, errno := lookup(f, fp.RootID, "bad"); errno != unix.EIO {
		t.Errorf("a node that can't be compared: %v", errno)
	}
	if _, errno := lookup(f, fp.RootID, "none"); errno != unix.ENOENT {
		t.Errorf("a name that is not there: %v", errno)
	}
	f.Forget(nil, a.NodeID, 1)
	if _, errno := lookup(f, a.NodeID, "f"); errno != 0 || below.forgot != 0 {
		t.Errorf("%v, forgotten %d times", errno, below.forgot)
	}
	f.Forget(nil, a.NodeID, 1<<40)
	if _, errno := lookup(f, a.NodeID, "f"); errno != unix.ESTALE || below.forgot != 1 || below.knew != 1 {
		t.Errorf("%v, known %d times, forgotten %d times", errno, below.knew, below.forgot)
	}
	f.Destroy()
	if n := f.known.Load(); n != 1 {
		t.Errorf("%d nodes are left", n)
	}
}

// TestForged: numbers that a client makes up lead to nothing.
func TestForged(t *testing.T) {
	f := New(&dir{names: map[string]Node{"a": text("a"), "b": text("b")}}, Options{})
	a, _ := lookup(f, fp.RootID, "a")
	b, _ := lookup(f, fp.RootID, "b")
	var opened fp.OpenOut
	if errno := f.Open(request(a.NodeID), &fp.OpenIn{Flags: unix.O_RDONLY}, &opened); errno != 0 {
		t.Fatal(errno)
	}
	dst := fuse.Over(make([]byte, 8))
	for _, id := range []uint64{0, 77, 1 << 40, 1<<64 - 1} {
		var out fp.AttrOut
		if errno := f.Getattr(request(id), nil, &out); errno != unix.ESTALE {
			t.Errorf("node %d: %v", id, errno)
		}
		if _, errno := f.Read(request(a.NodeID), &fp.ReadIn{Fh: id, Size: 8}, dst); errno != unix.EBADF {
			t.Errorf("open file %d: %v", id, errno)
		}
		f.Forget(nil, id, 1)
		if errno := f.Link(request(fp.RootID), &fp.LinkIn{OldNodeID: id}, name("x"), new(fp.EntryOut)); errno != unix.ESTALE {
			t.Errorf("link to %d: %v", id, errno)
		}
		if errno := f.Rename(request(fp.RootID), &fp.Rename2In{NewDir: id}, name("a"), name("x")); errno != unix.ESTALE {
			t.Errorf("rename to %d: %v", id, errno)
		}
	}
	if _, errno := f.Read(request(b.NodeID), &fp.ReadIn{Fh: opened.Fh, Size: 8}, dst); errno != unix.EBADF {
		t.Errorf("another node's open file: %v", errno)
	}
	if _, errno := f.Write(request(a.NodeID), &fp.WriteIn{Fh: opened.Fh, Size: 8}, dst); errno != unix.EBADF {
		t.Errorf("written, but open for reading: %v", errno)
	}
	if errno := f.Fallocate(request(a.NodeID), &fp.FallocateIn{Fh: opened.Fh, Length: 8}); errno != unix.EBADF {
		t.Errorf("allocated, but open for reading: %v", errno)
	}
	for _, in := range []fp.FallocateIn{{Offset: 1 << 63}, {Offset: 1, Length: 1<<63 - 1}, {Length: 1 << 63}} {
		if errno := f.Fallocate(request(a.NodeID), &in); errno != unix.EFBIG {
			t.Errorf("%+v: %v", in, errno)
		}
	}
	if _, errno := f.Write(request(a.NodeID), &fp.WriteIn{Fh: opened.Fh, Size: 8, Offset: 1<<63 - 4}, dst); errno != unix.EFBIG {
		t.Errorf("beyond the largest file: %v", errno)
	}
	if n, errno := f.Read(request(a.NodeID), &fp.ReadIn{Fh: opened.Fh, Size: 8, Offset: 1<<64 - 4}, dst); n != 0 || errno != 0 {
		t.Errorf("read beyond the largest file: %d, %v", n, errno)
	}
	if errno := f.Setattr(request(a.NodeID), &fp.SetattrIn{Valid: fp.FattrSize, Size: 1 << 63}, new(fp.AttrOut)); errno != unix.EFBIG {
		t.Errorf("larger than the largest file: %v", errno)
	}
	if errno := f.Mknod(request(fp.RootID), &fp.MknodIn{Mode: unix.S_IFDIR}, name("x"), new(fp.EntryOut)); errno != unix.EINVAL {
		t.Errorf("mknod of a directory: %v", errno)
	}
	for _, want := range []unix.Errno{0, unix.EBADF} {
		if errno := f.Release(request(a.NodeID), &fp.ReleaseIn{Fh: opened.Fh}); errno != want || f.opened.Load() != 0 {
			t.Errorf("release: %v, want %v", errno, want)
		}
	}
}

// TestLimits: what a client makes us keep has an end.
func TestLimits(t *testing.T) {
	root := &dir{names: map[string]Node{"a": text("a"), "b": text("b"), "c": text("c")}}
	f := New(root, Options{MaxNodes: 3, MaxOpen: 2, MaxListings: 250})
	a, _ := lookup(f, fp.RootID, "a")
	if _, errno := lookup(f, fp.RootID, "b"); errno != 0 {
		t.Error(errno)
	}
	if _, errno := lookup(f, fp.RootID, "c"); errno != unix.ENFILE {
		t.Errorf("one node too many: %v", errno)
	}
	var d [2]fp.OpenOut
	for i := range d {
		if errno := f.Opendir(request(fp.RootID), nil, &d[i]); errno != 0 {
			t.Fatal(errno)
		}
	}
	if errno := f.Open(request(a.NodeID), &fp.OpenIn{}, new(fp.OpenOut)); errno != unix.ENFILE {
		t.Errorf("one open file too many: %v", errno)
	}
	list := func(i int) unix.Errno {
		w := server.NewDirWriter(unsafe.Slice((*byte)(unsafe.Pointer(new([64]uint64))), 512))
		return f.Readdir(request(fp.RootID), &fp.ReadIn{Fh: d[i].Fh}, w)
	}
	if errno := errors.Join(err(list(0)), err(list(0)), err(list(0))); errno != nil {
		t.Errorf("one listing, again and again: %v", errno)
	}
	if errno := list(1); errno != unix.ENOMEM {
		t.Errorf("two listings: %v", errno)
	}
	f.Destroy()
	if f.listed.Load() != 0 || f.opened.Load() != 0 {
		t.Errorf("%d bytes of listings, %d open files are left", f.listed.Load(), f.opened.Load())
	}
}

func err(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// TestListing: names that the client would choke on are left out, and positions hold.
func TestListing(t *testing.T) {
	root := &dir{names: map[string]Node{"a": text("a"), "b": text("b")},
		odd: []DirEntry{{Name: ""}, {Name: "."}, {Name: ".."}, {Name: "x/y"}, {Name: "n\x00l"}, {Name: strings.Repeat("l", 256)}, {Name: "gone"}}}
	f := New(root, Options{})
	var d fp.OpenOut
	if errno := f.Opendir(request(fp.RootID), nil, &d); errno != 0 {
		t.Fatal(errno)
	}
	for _, plus := range []bool{false, true} {
		var names []string
		for off := uint64(0); ; {
			buf := unsafe.Slice((*byte)(unsafe.Pointer(new([24]uint64))), 192) // room for one entry
			w := server.NewDirWriter(buf)
			call := f.Readdir
			if plus {
				call = f.Readdirplus
			}
			if errno := call(request(fp.RootID), &fp.ReadIn{Fh: d.Fh, Offset: off}, w); errno != 0 {
				t.Fatal(errno)
			}
			if w.Len() == 0 {
				break
			}
			b := w.Bytes()
			if plus {
				b = b[unsafe.Sizeof(fp.EntryOut{}):]
			}
			e, rest, _ := fp.View[fp.Dirent](b)
			names = append(names, string(rest[:e.NameLen]))
			off = e.Off
		}
		if want := []string{".", "..", "a", "b", "gone"}; !slices.Equal(names, want) {
			t.Errorf("plus %v: %q, want %q", plus, names, want)
		}
	}
	if n := f.known.Load(); n != 3 {
		t.Errorf("%d nodes are known: the root, a and b are", n)
	}
}

// misbehaving is a file whose methods return what they must not.
type misbehaving struct {
	n   int
	err error
}

func (misbehaving) Attr(context.Context) (Attr, error)       { return Attr{Mode: 0o666, Size: -5}, nil }
func (m misbehaving) ReadAt(p []byte, _ int64) (int, error)  { return m.n, m.err }
func (m misbehaving) WriteAt(p []byte, _ int64) (int, error) { return m.n, m.err }

func TestMisbehaving(t *testing.T) {
	for _, m := range []misbehaving{{-1, nil}, {9, nil}, {0, server.WouldBlock}, {0, server.WouldBlockInGo}, {0, errors.New("x")}} {
		f := New(&dir{names: map[string]Node{"f": m}}, Options{})
		e, errno := lookup(f, fp.RootID, "f")
		if errno != 0 || e.Attr.Size != 0 {
			t.Fatal(errno, e.Attr.Size)
		}
		var o fp.OpenOut
		if errno := f.Open(request(e.NodeID), &fp.OpenIn{Flags: unix.O_RDWR}, &o); errno != 0 {
			t.Fatal(errno)
		}
		b := fuse.Over(make([]byte, 8))
		if n, errno := f.Read(request(e.NodeID), &fp.ReadIn{Fh: o.Fh, Size: 8}, b); errno != unix.EIO {
			t.Errorf("%+v: read %d, %v", m, n, errno)
		}
		if n, errno := f.Write(request(e.NodeID), &fp.WriteIn{Fh: o.Fh, Size: 8}, b); errno != unix.EIO {
			t.Errorf("%+v: wrote %d, %v", m, n, errno)
		}
	}
}

// TestPieces: data goes through memory of ours, in pieces of any size.
func TestPieces(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), chunk/4)
	f := New(&dir{names: map[string]Node{"f": text(want)}}, Options{NonBlocking: true})
	e, _ := lookup(f, fp.RootID, "f")
	var o fp.OpenOut
	if errno := f.Open(request(e.NodeID), &fp.OpenIn{Flags: unix.O_RDWR}, &o); errno != 0 {
		t.Fatal(errno)
	}
	got := make([]byte, len(want)+10)
	n, errno := f.Read(request(e.NodeID), &fp.ReadIn{Fh: o.Fh, Size: uint32(len(got) - 3), Offset: 3}, fuse.Over(got[:5], got[5:chunk+9], got[chunk+9:]))
	if errno != 0 || !bytes.Equal(got[:n], want[3:]) {
		t.Errorf("read %d, %v", n, errno)
	}
	if n, errno := f.Write(request(e.NodeID), &fp.WriteIn{Fh: o.Fh, Size: uint32(len(want))}, fuse.Over(want)); n != len(want) || errno != 0 {
		t.Errorf("wrote %d, %v", n, errno)
	}
}

// asker notes who asks.
type asker struct {
	*dir
	who  Caller
	done <-chan struct{}
}

func (a *asker) Lookup(ctx context.Context, name string) (Node, error) {
	a.who, a.done = CallerOf(ctx), ctx.Done()
	return nil, ctx.Err()
}

func TestContext(t *testing.T) {
	a := &asker{dir: &dir{}}
	f := New(a, Options{})
	r := request(fp.RootID)
	r.MayWait = false
	var out fp.EntryOut
	if errno := f.Lookup(r, name("x"), &out); errno != server.WouldBlockInGo {
		t.Errorf("on the queue's thread: %v", errno)
	}
	ended := make(chan struct{})
	close(ended)
	r = request(fp.RootID)
	r.Groups, r.Canceled = []uint32{1, 2}, ended
	if errno := f.Lookup(r, name("x"), &out); errno != unix.EINTR { // what the method says
		t.Errorf("interrupted: %v", errno)
	}
	r = request(fp.RootID)
	r.Groups = []uint32{1, 2}
	if errno := f.Lookup(r, name("x"), &out); errno != unix.ENOENT {
		t.Errorf("no node and no error: %v", errno)
	}
	if want := (Caller{UID: 7, GID: 8, PID: 9, Groups: []uint32{1, 2}}); !reflect.DeepEqual(a.who, want) || a.done != r.Canceled {
		t.Errorf("%+v, want %+v", a.who, want)
	}
	if got := CallerOf(t.Context()); !reflect.DeepEqual(got, Caller{}) {
		t.Errorf("nobody: %+v", got)
	}
}

// TestMaxRunning: methods run at the same time, but not more than there may be; the rest can be
// interrupted.
func TestMaxRunning(t *testing.T) {
	b := &blocker{dir: &dir{}, in: make(chan struct{}, 10), out: make(chan struct{})}
	f := New(b, Options{MaxRunning: 2})
	results := make(chan unix.Errno, 10)
	for range 3 {
		go func() {
			_, errno := lookup(f, fp.RootID, "x")
			results <- errno
		}()
	}
	for range 2 {
		receive(t, b.in)
	}
	ended := make(chan struct{})
	close(ended)
	r := request(fp.RootID)
	r.Canceled = ended
	if errno := f.Lookup(r, name("x"), new(fp.EntryOut)); errno != unix.EINTR {
		t.Errorf("a request that waits for its turn: %v", errno)
	}
	if len(b.in) != 0 {
		t.Error("more run than may")
	}
	close(b.out)
	for range 3 {
		if errno := receive(t, results); errno != unix.ENOENT {
			t.Error(errno)
		}
	}
}

type blocker struct {
	*dir
	in, out chan struct{}
}

func (b *blocker) Lookup(ctx context.Context, _ string) (Node, error) {
	b.in <- struct{}{}
	<-b.out
	return nil, fs.ErrNotExist
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(60 * time.Second):
		t.Fatal("nothing comes")
	}
	return v
}

// TestReadOnly: nothing gets through, whatever the client's kernel thinks.
func TestReadOnly(t *testing.T) {
	f := New(&dir{names: map[string]Node{"f": text("abc")}}, Options{ReadOnly: true})
	e, _ := lookup(f, fp.RootID, "f")
	r := request(e.NodeID)
	root := request(fp.RootID)
	for what, errno := range map[string]unix.Errno{
		"open":    f.Open(r, &fp.OpenIn{Flags: unix.O_WRONLY}, new(fp.OpenOut)),
		"setattr": f.Setattr(r, &fp.SetattrIn{Valid: fp.FattrMode}, new(fp.AttrOut)),
		"mkdir":   f.Mkdir(root, &fp.MkdirIn{}, name("x"), new(fp.EntryOut)),
		"mknod":   f.Mknod(root, &fp.MknodIn{Mode: unix.S_IFREG}, name("x"), new(fp.EntryOut)),
		"create":  f.Create(root, &fp.CreateIn{}, name("x"), new(fp.CreateOut)),
		"symlink": f.Symlink(root, name("x"), name("x"), new(fp.EntryOut)),
		"link":    f.Link(root, &fp.LinkIn{OldNodeID: e.NodeID}, name("x"), new(fp.EntryOut)),
		"unlink":  f.Unlink(root, name("f")),
		"rmdir":   f.Rmdir(root, name("f")),
		"rename":  f.Rename(root, &fp.Rename2In{NewDir: fp.RootID}, name("f"), name("g")),
		"alloc":   f.Fallocate(r, &fp.FallocateIn{}),
	} {
		if errno != unix.EROFS {
			t.Errorf("%s: %v", what, errno)
		}
	}
	if _, errno := f.Write(r, &fp.WriteIn{}, nil); errno != unix.EROFS {
		t.Errorf("write: %v", errno)
	}
}

var _ io.ReaderAt = text("")

// TestInterruptedListing: a listing that is interrupted goes on. An empty reply would be its end, and
// programs would take the rest of the names for removed.
func TestInterruptedListing(t *testing.T) {
	f := New(&dir{names: map[string]Node{"a": text("a"), "b": text("b")}}, Options{})
	var d fp.OpenOut
	if errno := f.Opendir(request(fp.RootID), nil, &d); errno != 0 {
		t.Fatal(errno)
	}
	for _, call := range []func(*server.Request, *fp.ReadIn, *server.DirWriter) unix.Errno{f.Readdir, f.Readdirplus} {
		r := request(fp.RootID)
		ended := make(chan struct{})
		close(ended)
		r.Canceled = ended
		w := server.NewDirWriter(unsafe.Slice((*byte)(unsafe.Pointer(new([512]uint64))), 4096))
		if errno := call(r, &fp.ReadIn{Fh: d.Fh, Offset: 2}, w); errno != 0 || w.Len() == 0 {
			t.Errorf("%d bytes, %v", w.Len(), errno)
		}
	}
}
