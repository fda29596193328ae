package server_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// archive shows the files of a zip archive; any other fs.FS would do.
type archive struct {
	server.NotImplemented
	files fs.FS
	nodes *nodes.Table[string, entry] // what the guest knows, by path
}

type entry struct{ nodes.Node[string, entry] }

func newEntry() *entry { return new(entry) }

func newArchive(files fs.FS) *archive {
	a := &archive{files: files, nodes: nodes.New(nodes.Config[string, entry]{})}
	a.nodes.Intern(nil, ".", nil, newEntry) // the root
	return a
}

// path is the path of the request's node. If the guest has no such node it is "/", at and
// below which an fs.FS has nothing.
func (a *archive) path(r *server.Request) string {
	n := a.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return "/"
	}
	defer a.nodes.Release(n)
	return n.Key()
}

func (a *archive) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	info, err := fs.Stat(a.files, a.path(r))
	if err == nil {
		out.Attr = server.AttrOf(r.Header.NodeID, info)
	}
	return server.Errno(err)
}

func (a *archive) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	key := path.Join(a.path(r), name.String())
	info, err := fs.Stat(a.files, key)
	if err != nil {
		return server.Errno(err)
	}
	n := a.nodes.Intern(nil, key, nil, newEntry)
	if n == nil {
		return unix.ENFILE // there is no number left
	}
	defer a.nodes.Release(n)
	out.NodeID, out.Attr = n.ID(), server.AttrOf(n.ID(), info)
	return 0
}

func (a *archive) Forget(_ *fuse.Cell, node, lookups uint64) {
	if n := a.nodes.Acquire(node); n != nil {
		a.nodes.Forget(nil, n, lookups)
		a.nodes.Release(n)
	}
}

func (a *archive) Readdir(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	list, err := fs.ReadDir(a.files, a.path(r))
	out.AddList(in.Offset, list)
	return server.Errno(err)
}

func (a *archive) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	data, err := fs.ReadFile(a.files, a.path(r)) // a real one would keep it for the next READ
	n, _ := dst.Fill(bytes.NewReader(data), in.Offset)
	return n, server.Errno(err)
}

// A zip archive as a file system.
func Example_zip() {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range []string{"README", "doc/first.txt", "doc/second.txt"} {
		f, err := w.Create(name)
		must(err)
		_, err = fmt.Fprintf(f, "This is %s.\n", name)
		must(err)
	}
	must(w.Close())
	files, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(err)

	guest, end := serve(newArchive(files))
	defer end()
	doc, err := guest.Lookup(fp.RootID, "doc")
	must(err)
	list, err := guest.Readdir(doc.NodeID, 0, 0, 4096, false)
	must(err)
	for _, entry := range list {
		file, err := guest.Lookup(doc.NodeID, entry.Name)
		must(err)
		text, err := guest.Read(file.NodeID, 0, 0, 100)
		fmt.Printf("%s: %d bytes: %q %v\n", entry.Name, file.Attr.Size, text, err)
	}
	// Output:
	// first.txt: 23 bytes: "This is doc/first.txt.\n" <nil>
	// second.txt: 24 bytes: "This is doc/second.txt.\n" <nil>
}
