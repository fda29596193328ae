package iofs_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing/fstest"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/iofs"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// A directory of the host, read-only, for a guest that mounts it with "mount -t virtiofs docs /mnt".
// Links that lead out of the directory lead nowhere in the guest's tree: the guest follows them, not
// the host. The example is not run, because it does not end.
func ExampleNew() {
	root, err := os.OpenRoot("/usr/share/doc")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(govirtiofs.ListenAndServe("/run/docs.sock", "docs", iofs.New(root.FS())))
}

// What a client finds: nodes of package vfs, which other nodes can stand around.
func ExampleRoot() {
	ctx := context.Background()
	root := iofs.Root(fstest.MapFS{"doc/read.me": {Data: []byte("hello"), Mode: 0o444}}, iofs.Options{})

	doc, err := vfs.Lookup(ctx, root, "doc")
	if err != nil {
		log.Fatal(err)
	}
	list, err := vfs.ReadDir(ctx, doc)
	if err != nil {
		log.Fatal(err)
	}
	file, err := vfs.Lookup(ctx, doc, list[0].Name)
	if err != nil {
		log.Fatal(err)
	}
	attr, err := file.Attr(ctx)
	fmt.Println(list[0].Name, attr.Mode, attr.Size, err)
	// Output: read.me -r--r--r-- 5 <nil>
}
