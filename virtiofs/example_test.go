package virtiofs_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// empty is a file system without files.
type empty struct{ server.NotImplemented }

func (empty) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	if r.Header.NodeID != fp.RootID {
		return unix.ESTALE
	}
	out.Attr = fp.Attr{Ino: fp.RootID, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
	return 0
}

// A device with its vhost-user socket. A VMM connects to the socket; here it is a driver in
// the same process.
func ExampleDevice() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket := filepath.Join(dir, "socket")

	log := slog.New(slog.DiscardHandler)
	handler := server.New(empty{}, server.Options{Log: log})
	device, err := virtiofs.New(handler, virtiofs.Options{Tag: "myfs", RequestQueues: 2, Log: log})
	if err != nil {
		panic(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		panic(err)
	}
	served := make(chan error)
	go func() { // a daemon does so in a loop: one VMM after the other
		conn, err := listener.AcceptUnix()
		if err == nil {
			err = device.Serve(context.Background(), conn)
		}
		served <- err
	}()

	vmm, err := frontend.Dial(socket, frontend.Options{Queues: 2})
	if err != nil {
		panic(err)
	}
	guest := frontend.NewClient(vmm)
	fmt.Println("mount:", guest.Handshake(frontend.AllFlags))
	root, err := guest.Getattr(fp.RootID)
	fmt.Printf("mode %o, %v\n", root.Mode, err)
	vmm.Close()
	fmt.Println("served:", <-served)
	_ = listener.Close()
	// Output:
	// mount: <nil>
	// mode 40755, <nil>
	// served: <nil>
}
