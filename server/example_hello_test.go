package server_test

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// hello is a file system with one file. What it does not have, NotImplemented answers: Linux
// opens files without asking when OPEN is not implemented.
type hello struct{ server.NotImplemented }

const (
	helloID   = 2 // the node id of the file
	helloText = "Hello, guest!\n"
)

func (hello) attr(node uint64, out *fp.Attr) unix.Errno {
	switch node {
	case fp.RootID:
		*out = fp.Attr{Ino: node, Mode: unix.S_IFDIR | 0o555, Nlink: 2}
	case helloID:
		*out = fp.Attr{Ino: node, Mode: unix.S_IFREG | 0o444, Nlink: 1, Size: uint64(len(helloText))}
	default:
		return unix.ESTALE // the guest may send any number
	}
	return 0
}

func (h hello) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	return h.attr(r.Header.NodeID, &out.Attr)
}

func (h hello) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	if r.Header.NodeID != fp.RootID || name.String() != "hello" {
		return unix.ENOENT
	}
	out.NodeID = helloID
	return h.attr(helloID, &out.Attr)
}

func (hello) Readdir(_ *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	if in.Offset == 0 {
		out.Add(helloID, 1, unix.DT_REG, []byte("hello"))
	}
	return 0
}

func (hello) Read(_ *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	n, err := dst.Fill(strings.NewReader(helloText), in.Offset)
	return n, server.Errno(err)
}

// A file system with one file, and a guest that lists and reads it.
func Example_hello() {
	guest, end := serve(hello{})
	defer end()

	list, err := guest.Readdir(fp.RootID, 0, 0, 4096, false)
	for _, entry := range list {
		fmt.Println(entry.Name, err)
	}
	file, err := guest.Lookup(fp.RootID, "hello")
	fmt.Printf("%o, %d bytes, %v\n", file.Attr.Mode, file.Attr.Size, err)
	text, err := guest.Read(file.NodeID, 0, 7, 100)
	fmt.Printf("%q %v\n", text, err)
	_, err = guest.Lookup(fp.RootID, "goodbye")
	fmt.Println(err)
	// Output:
	// hello <nil>
	// 100444, 14 bytes, <nil>
	// "guest!\n" <nil>
	// no such file or directory
}
