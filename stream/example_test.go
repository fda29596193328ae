package stream_test

import (
	"context"
	"log"
	"net"
	"testing/fstest"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/iofs"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
)

// The host's side: files for guests that connect. Firecracker and cloud-hypervisor make of a guest's connection to vsock port
// 5000 one to this socket. It does not end, so it is not run.
func ExampleServer() {
	files := iofs.New(fstest.MapFS{"hello": {Data: []byte("hello\n")}})
	s, err := stream.New(server.New(files, server.Options{MaxWrite: stream.DefaultMaxWrite}), stream.Options{})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("unix", "/run/vm.vsock_5000")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(s.Serve(context.Background(), l))
}

// The side of the machine that mounts. It serves until somebody unmounts, so it is not run.
func ExampleClient() {
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", "/run/vm.vsock_5000")
	}
	c, err := stream.Dial(context.Background(), stream.ClientOptions{Dial: dial, Channels: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	m, err := fusedev.New("/mnt", fusedev.Options{Permissions: true, MaxRead: c.MaxRead()})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if err := c.Serve([]stream.Device{m}); err != nil {
		log.Fatal(err)
	}
}
