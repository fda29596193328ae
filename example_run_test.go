package govirtiofs_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing/fstest"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/iofs"
)

// A file system and a guest of it, whose driver is package frontend.
func Example() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	socket := filepath.Join(dir, "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	check(err)

	files := iofs.New(fstest.MapFS{"hello": {Data: []byte("hello, guest")}})
	s := govirtiofs.Server{FS: files, Tag: "files", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()

	vmm, err := frontend.Dial(socket, frontend.Options{})
	check(err)
	guest := frontend.NewClient(vmm)
	check(guest.Handshake(frontend.AllFlags))
	file, err := guest.Lookup(fp.RootID, "hello")
	check(err)
	fh, err := guest.Open(file.NodeID, 0)
	check(err)
	text, err := guest.Read(file.NodeID, fh, 0, 100)
	fmt.Printf("%s %v\n", text, err)
	vmm.Close()
	cancel()
	fmt.Println("Serve:", <-ended)
	// Output:
	// hello, guest <nil>
	// Serve: <nil>
}
