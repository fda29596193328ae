package passthrough_test

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
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// A directory of the host for a guest, which writes a file.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	share, socket := filepath.Join(dir, "share"), filepath.Join(dir, "socket")
	check(os.Mkdir(share, 0o755))

	root, err := unix.Open(share, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(err)
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(err)
	fs, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc})
	check(err)

	log := slog.New(slog.DiscardHandler)
	device, err := virtiofs.New(server.New(fs, server.Options{Log: log}), virtiofs.Options{Log: log})
	check(err)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	check(err)
	defer func() { _ = listener.Close() }()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.AcceptUnix()
		check(err)
		_ = device.Serve(context.Background(), conn)
	}()

	front, err := frontend.Dial(socket, frontend.Options{})
	check(err)
	guest := frontend.NewClient(front)
	guest.UID, guest.GID = uint32(os.Getuid()), uint32(os.Getgid()) // files belong to who asks
	check(guest.Handshake(frontend.AllFlags))
	made, err := guest.Create(fp.RootID, "file", unix.O_WRONLY, 0o640)
	check(err)
	_, err = guest.Write(made.Entry.NodeID, made.Open.Fh, 0, []byte("from the guest"))
	check(err)
	check(guest.Release(made.Entry.NodeID, made.Open.Fh))
	front.Close()
	<-ended

	text, err := os.ReadFile(filepath.Join(share, "file"))
	fmt.Printf("%s %v\n", text, err)
	// Output: from the guest <nil>
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
