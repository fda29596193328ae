package relay_test

import (
	"context"
	"log"
	"net"

	"github.com/govirtiofs/govirtiofs/relay"
	"github.com/govirtiofs/govirtiofs/relay/program"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// A Go program serves what squashfuse_ll shows to a virtual machine. Its main function begins with
// program.RunChild.
func Example() {
	source, err := program.New(program.Options{Args: []string{"squashfuse_ll", "image.sqfs", "{mount}"}})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	fs, err := relay.New(context.Background(), source, relay.Options{Restart: true})
	if err != nil {
		log.Fatal(err)
	}
	device, err := virtiofs.New(server.New(fs, server.Options{ReadOnly: true}), virtiofs.Options{Tag: "image"})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/run/image.sock", Net: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			log.Fatal(err)
		}
		if err := device.Serve(context.Background(), conn); err != nil {
			log.Print(err)
		}
	}
}
