package events_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/events/wire"
	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// A guest's helper opens the control file of a share, and is told what to do first. The driver of package frontend stands
// for guest and helper; package events/helper is a real one.
func ExampleFS() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	share, socket := filepath.Join(dir, "share"), filepath.Join(dir, "socket")
	check(os.Mkdir(share, 0o755))

	root, err := unix.Open(share, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(err)
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(err)
	files, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc})
	check(err)
	log := slog.New(slog.DiscardHandler)
	told, err := events.New(files, events.Options{Inotify: true, Log: log}) // inotify is permitted everywhere
	check(err)
	device, err := virtiofs.New(server.New(told, server.Options{Log: log}), virtiofs.Options{Log: log})
	check(err)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	check(err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.AcceptUnix()
		check(err)
		_ = device.Serve(context.Background(), conn)
	}()
	front, err := frontend.Dial(socket, frontend.Options{})
	check(err)
	guest := frontend.NewClient(front)
	check(guest.Handshake(frontend.AllFlags))
	dirNode, err := guest.Lookup(fp.RootID, wire.Dir)
	check(err)
	file, err := guest.Lookup(dirNode.NodeID, wire.File)
	check(err)
	fh, err := guest.Open(file.NodeID, unix.O_RDONLY)
	check(err)
	b, err := guest.Read(file.NodeID, fh, 0, 1<<16)
	check(err)
	record, _, err := wire.Parse(b)
	fmt.Println(record.Op == wire.Hello, err)
	front.Close()
	<-ended
	// Output: true <nil>
}
