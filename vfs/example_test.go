package vfs_test

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing/fstest"

	"github.com/govirtiofs/govirtiofs/iofs"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// upper shows all names in upper case. It has the methods that it changes; all others are the inner
// node's. Two of them around the same node are equal, so they need no table.
type upper struct{ vfs.Node }

func (u upper) Unwrap() vfs.Node                       { return u.Node }
func (u upper) Wrap(_ string, child vfs.Node) vfs.Node { return upper{child} }

func (u upper) ReadDir(ctx context.Context) ([]vfs.DirEntry, error) {
	list, err := vfs.ReadDir(ctx, u.Node)
	for i := range list {
		list[i].Name, list[i].Node = strings.ToUpper(list[i].Name), nil
	}
	return list, err
}

func (u upper) Lookup(ctx context.Context, name string) (vfs.Node, error) {
	list, err := vfs.ReadDir(ctx, u.Node)
	for _, e := range list {
		if strings.ToUpper(e.Name) == name {
			inner, err := vfs.Lookup(ctx, u.Node, e.Name)
			return upper{inner}, err
		}
	}
	if err == nil {
		err = fs.ErrNotExist
	}
	return nil, err
}

// A file system around another one. vfs.New(root, vfs.Options{}) would serve it.
func ExampleWrapper() {
	ctx := context.Background()
	files := fstest.MapFS{"doc/read.me": {Data: []byte("hello")}}
	var root vfs.Node = upper{iofs.Root(files, iofs.Options{})}

	doc, err := vfs.Lookup(ctx, root, "DOC")
	fmt.Println("DOC:", err)
	list, err := vfs.ReadDir(ctx, doc)
	fmt.Println(list[0].Name, err)
	file, err := vfs.Lookup(ctx, doc, "READ.ME")
	fmt.Println("READ.ME:", err)
	open, err := vfs.Open(ctx, file, 0) // the inner node's
	fmt.Println("open:", err)
	p := make([]byte, 5)
	n, _ := vfs.Read(ctx, open, p, 0)
	fmt.Printf("%s\n", p[:n])
	// Output:
	// DOC: <nil>
	// READ.ME <nil>
	// READ.ME: <nil>
	// open: <nil>
	// hello
}

// hello is a file.
type hello struct{}

func (hello) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: 0o444, Size: 6}, nil }

func (hello) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader("hello\n").ReadAt(p, off)
}

// directory is a directory with hello in it.
type directory struct{}

func (directory) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: fs.ModeDir | 0o755}, nil
}

func (directory) Lookup(_ context.Context, name string) (vfs.Node, error) {
	if name == "hello" {
		return hello{}, nil
	}
	return nil, fs.ErrNotExist
}

func (directory) ReadDir(context.Context) ([]vfs.DirEntry, error) {
	return []vfs.DirEntry{{Name: "hello", Node: hello{}}}, nil
}

// A file system with one file. govirtiofs.ListenAndServe serves what New returns.
func ExampleNew() {
	files := vfs.New(directory{}, vfs.Options{NonBlocking: true})
	fmt.Printf("%T\n", files)
	// Output: *vfs.FS
}
