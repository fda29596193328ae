package gofuse_test

import (
	"context"
	"fmt"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse2 "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/gofuse"
	"github.com/govirtiofs/govirtiofs/server"
)

// helloRoot is a directory with one file, written for go-fuse.
type helloRoot struct{ gofs.Inode }

func (r *helloRoot) OnAdd(ctx context.Context) {
	file := r.NewPersistentInode(ctx, &gofs.MemRegularFile{Data: []byte("hello\n"), Attr: gofuse2.Attr{Mode: 0o444}},
		gofs.StableAttr{Mode: syscall.S_IFREG})
	r.AddChild("hello", file, false)
}

// A file system of go-fuse gets the requests of a client. govirtiofs.ListenAndServe would bring those of a guest.
func ExampleNew() {
	files := gofuse.New(gofs.NewNodeFS(&helloRoot{}, nil), gofuse.Options{})
	defer files.Close()
	request := func(node uint64) *server.Request {
		r := server.NewRequest(fp.InHeader{NodeID: node})
		r.MayWait = true // the methods of a file system of go-fuse may block
		return r
	}
	var entry fp.EntryOut
	var open fp.OpenOut
	fmt.Println("lookup:", files.Lookup(request(fp.RootID), fp.Name("hello\x00"), &entry) == 0)
	fmt.Println("open:", files.Open(request(entry.NodeID), new(fp.OpenIn), &open) == 0)
	b := make([]byte, 10)
	n, _ := files.Read(request(entry.NodeID), &fp.ReadIn{Fh: open.Fh, Size: 10}, fuse.Over(b))
	fmt.Printf("%q\n", b[:n])
	// Output:
	// lookup: true
	// open: true
	// "hello\n"
}
