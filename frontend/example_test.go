package frontend_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// note is a file system with one file.
type note struct{ server.NotImplemented }

func (note) Lookup(_ *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	if name.String() != "note" {
		return unix.ENOENT
	}
	out.NodeID, out.Attr = 2, fp.Attr{Ino: 2, Mode: unix.S_IFREG | 0o444, Nlink: 1, Size: 5}
	return 0
}

func (note) Read(_ *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	return dst.CopyFrom([]byte("hello")[min(in.Offset, 5):], 0), 0
}

// backend serves a note over the returned connection.
func backend() (*net.UnixConn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			return nil, err
		}
		ends[i] = conn.(*net.UnixConn)
	}
	log := slog.New(slog.DiscardHandler)
	device, err := virtiofs.New(server.New(note{}, server.Options{Log: log}), virtiofs.Options{Log: log})
	if err != nil {
		return nil, err
	}
	go func() { _ = device.Serve(context.Background(), ends[0]) }()
	return ends[1], nil
}

// A test of a device without a virtual machine. For a daemon that runs, Dial takes the path
// of its socket.
func ExampleClient() {
	conn, err := backend()
	if err != nil {
		panic(err)
	}
	f, err := frontend.New(conn, frontend.Options{})
	if err != nil {
		panic(err)
	}
	defer f.Close()
	client := frontend.NewClient(f)
	if err := client.Handshake(frontend.AllFlags); err != nil {
		panic(err)
	}
	file, err := client.Lookup(fp.RootID, "note")
	if err != nil {
		panic(err)
	}
	text, err := client.Read(file.NodeID, 0, 0, 100)
	fmt.Printf("%s %v\n", text, err)
	_, err = client.Lookup(fp.RootID, "letter")
	fmt.Println(errors.Is(err, unix.ENOENT))
	// Output:
	// hello <nil>
	// true
}
