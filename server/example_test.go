package server_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// greeting is a file system with one file.
type greeting struct{ server.NotImplemented }

const (
	fileID  = 2
	content = "Hello, guest\n"
)

func (greeting) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	if r.Header.NodeID != fp.RootID || name.String() != "hello" {
		return unix.ENOENT
	}
	out.NodeID = fileID
	out.Attr = fp.Attr{Ino: fileID, Size: uint64(len(content)), Mode: unix.S_IFREG | 0o444, Nlink: 1}
	return 0
}

func (greeting) Read(_ *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	return dst.CopyFrom([]byte(content[min(in.Offset, uint64(len(content))):]), 0), 0
}

// The methods of a file system can be tested without a server: each gets a request, and
// buffers if it moves data.
func ExampleNewRequest() {
	var fs greeting
	var entry fp.EntryOut
	root := server.NewRequest(fp.InHeader{NodeID: fp.RootID, UID: 1000})
	if errno := fs.Lookup(root, fp.Name("hello\x00"), &entry); errno != 0 {
		fmt.Println(errno)
		return
	}
	b := make([]byte, 7)
	file := server.NewRequest(fp.InHeader{NodeID: entry.NodeID})
	n, errno := fs.Read(file, &fp.ReadIn{Offset: 7, Size: 7}, fuse.Over(b))
	fmt.Printf("%d bytes: %q, errno %d\n", n, b[:n], errno)
	// Output: 6 bytes: "guest\n", errno 0
}
