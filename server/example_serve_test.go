package server_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// serve serves a file system over a vhost-user socket, and returns a guest that has mounted
// it: a driver in this process takes the place of a virtual machine. end ends both.
func serve(fs server.FileSystem) (guest *frontend.Client, end func()) {
	dir, err := os.MkdirTemp("", "example")
	must(err)
	socket := filepath.Join(dir, "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(err)
	quiet := slog.New(slog.DiscardHandler)
	device, err := virtiofs.New(server.New(fs, server.Options{Log: quiet}), virtiofs.Options{Log: quiet})
	must(err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.AcceptUnix()
		must(err)
		_ = device.Serve(context.Background(), conn) // says how the guest went away
	}()

	front, err := frontend.Dial(socket, frontend.Options{})
	must(err)
	guest = frontend.NewClient(front)
	must(guest.Handshake(frontend.AllFlags))
	return guest, func() {
		front.Close()
		<-served
		must(listener.Close())
		must(os.RemoveAll(dir))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
