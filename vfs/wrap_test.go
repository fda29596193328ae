package vfs

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

// full is a node with all optional methods. It notes what it was called with.
type full struct {
	called map[string]Node
	child  Node
}

func (f *full) note(what string, n Node)                 { f.called[what] = n }
func (f *full) Attr(context.Context) (Attr, error)       { return Attr{Mode: fs.ModeDir}, nil }
func (f *full) Readlink(context.Context) (string, error) { return "target", nil }
func (f *full) Lookup(context.Context, string) (Node, error) {
	return f.child, nil
}
func (f *full) ReadDir(context.Context) ([]DirEntry, error) {
	return []DirEntry{{Name: "x", Node: f.child}, {Name: "y"}}, nil
}
func (f *full) Open(context.Context, int) (Handle, error) { f.note("open", nil); return nil, nil }
func (f *full) SetAttr(context.Context, SetAttr) error    { f.note("setattr", nil); return nil }
func (f *full) Create(context.Context, string, int, fs.FileMode) (Node, Handle, error) {
	return f.child, nil, nil
}
func (f *full) Mkdir(context.Context, string, fs.FileMode) (Node, error) { return f.child, nil }
func (f *full) Mknod(context.Context, string, fs.FileMode, uint32) (Node, error) {
	return f.child, nil
}
func (f *full) Symlink(context.Context, string, string) (Node, error) { return f.child, nil }
func (f *full) Link(_ context.Context, old Node, _ string) error      { f.note("link", old); return nil }
func (f *full) Remove(context.Context, string, bool) error            { f.note("remove", nil); return nil }
func (f *full) Rename(_ context.Context, _ string, to Node, _ string, _ uint32) error {
	f.note("rename", to)
	return nil
}
func (f *full) Getxattr(context.Context, string) ([]byte, error) { return []byte("v"), nil }
func (f *full) Listxattr(context.Context) ([]string, error)      { return []string{"n"}, nil }
func (f *full) Setxattr(context.Context, string, []byte, int) error {
	f.note("setxattr", nil)
	return nil
}
func (f *full) Removexattr(context.Context, string) error { return nil }
func (f *full) ReadAt([]byte, int64) (int, error)         { return 42, nil }
func (f *full) WriteAt([]byte, int64) (int, error)        { return 43, nil }
func (f *full) Fsync(context.Context, bool) error         { f.note("fsync", nil); return nil }
func (f *full) Flush(context.Context) error               { f.note("flush", nil); return nil }
func (f *full) Close() error                              { f.note("close", nil); return nil }

// outer is a decorator that changes nothing. Two of them around one node are equal.
type outer struct{ Node }

func (o outer) Unwrap() Node                   { return o.Node }
func (o outer) Wrap(_ string, child Node) Node { return outer{child} }

// TestWrapper: a decorator loses no optional method of the inner node, what comes out is decorated,
// and what goes in is not.
func TestWrapper(t *testing.T) {
	child := &full{called: map[string]Node{}}
	inner := &full{called: map[string]Node{}, child: child}
	ctx := t.Context()
	for _, root := range []Node{outer{inner}, outer{outer{inner}}} {
		want, other := Node(outer{child}), Node(outer{inner})
		if _, twice := root.(outer).Node.(outer); twice {
			want, other = outer{want}, outer{other}
		}
		made := map[string]Node{}
		var errs [8]error
		made["lookup"], errs[0] = Lookup(ctx, root, "x")
		var h Handle
		made["create"], h, errs[1] = Create(ctx, root, "x", 0, 0)
		made["mkdir"], errs[2] = Mkdir(ctx, root, "x", 0)
		made["mknod"], errs[3] = Mknod(ctx, root, "x", fs.ModeNamedPipe, 0)
		made["symlink"], errs[4] = Symlink(ctx, root, "t", "x")
		list, err := ReadDir(ctx, root)
		made["readdir"] = list[0].Node
		if err := errors.Join(errors.Join(errs[:]...), err); err != nil || list[1].Node != nil {
			t.Fatal(err)
		}
		for what, got := range made {
			if got != want {
				t.Errorf("%s: %#v, want %#v", what, got, want)
			}
		}
		if h != want {
			t.Errorf("a handle that is the node: %#v, want %#v", h, want)
		}
		if err := errors.Join(Link(ctx, root, want, "y"), Rename(ctx, root, "x", other, "y", 0), SetAttrOf(ctx, root, SetAttr{}),
			Remove(ctx, root, "x", false), Fsync(ctx, root, true), Flush(ctx, root), Close(root)); err != nil {
			t.Fatal(err)
		}
		if inner.called["link"] != child || inner.called["rename"] != inner {
			t.Errorf("decorated nodes got in: %v", inner.called)
		}
		if _, closed := inner.called["close"]; closed {
			t.Error("a node was closed as an open file")
		}
		for _, what := range []string{"setattr", "remove", "fsync", "flush"} {
			if _, ok := inner.called[what]; !ok {
				t.Errorf("%s did not get through", what)
			}
		}
		n, _ := Read(ctx, root, nil, 0)
		m, _ := Write(ctx, root, nil, 0)
		target, _ := Readlink(ctx, root)
		if _, ok := As[Xattrer](root); n != 42 || m != 43 || target != "target" || !ok {
			t.Errorf("read %d, write %d, link %q, attributes %v", n, m, target, ok)
		}
		if err := Link(ctx, root, child, "y"); !errors.Is(err, unix.EXDEV) {
			t.Errorf("a node of another tree: %v", err)
		}
		if err := Rename(ctx, root, "x", inner, "y", 0); !errors.Is(err, unix.EXDEV) {
			t.Errorf("a directory of another tree: %v", err)
		}
	}
}

// bare is a node without optional methods.
type bare struct{}

func (bare) Attr(context.Context) (Attr, error) { return Attr{}, nil }

// TestBare: what a node can't do is refused as the kernel does it.
func TestBare(t *testing.T) {
	ctx := t.Context()
	_, lookup := Lookup(ctx, bare{}, "x")
	_, list := ReadDir(ctx, bare{})
	_, link := Readlink(ctx, bare{})
	_, _, create := Create(ctx, bare{}, "x", 0, 0)
	_, mkdir := Mkdir(ctx, bare{}, "x", 0)
	_, mknod := Mknod(ctx, bare{}, "x", fs.ModeNamedPipe, 0)
	_, file := Mknod(ctx, bare{}, "x", 0, 0)
	_, symlink := Symlink(ctx, bare{}, "x", "y")
	_, read := Read(ctx, bare{}, nil, 0)
	_, write := Write(ctx, bare{}, nil, 0)
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"lookup", lookup, unix.ENOTDIR}, {"readdir", list, unix.ENOTDIR}, {"readlink", link, unix.EINVAL},
		{"create", create, unix.EACCES}, {"mkdir", mkdir, unix.EPERM}, {"mknod", mknod, unix.EPERM}, {"file", file, unix.EACCES},
		{"symlink", symlink, unix.EPERM}, {"link", Link(ctx, bare{}, bare{}, "x"), unix.EPERM},
		{"remove", Remove(ctx, bare{}, "x", false), unix.EPERM}, {"rename", Rename(ctx, bare{}, "x", bare{}, "y", 0), unix.EPERM},
		{"setattr", SetAttrOf(ctx, bare{}, SetAttr{}), unix.EPERM}, {"read", read, unix.EINVAL}, {"write", write, unix.EBADF},
		{"fsync", Fsync(ctx, bare{}, false), nil}, {"flush", Flush(ctx, bare{}), nil}, {"close", Close(bare{}), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
	}
	loop := &endless{}
	if _, ok := As[Lookuper](loop); ok {
		t.Error("a wrapper around itself has everything")
	}
}

// endless is a wrapper around itself.
type endless struct{ bare }

func (e *endless) Unwrap() Node           { return e }
func (e *endless) Wrap(string, Node) Node { return e }
