package vsock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/govirtiofs/govirtiofs/vsock"
)

// A program of the host that wants to connect to port 1024 of a guest which is not there yet: its connection is closed.
func ExampleDevice_Listen() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "vm.vsock")
	d, err := vsock.New(vsock.Options{CID: 3, Path: path})
	check(err)
	programs, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- d.Listen(ctx, programs) }()

	program, err := net.Dial("unix", path)
	check(err)
	_, err = fmt.Fprint(program, "CONNECT 1024\n")
	check(err)
	_, err = program.Read(make([]byte, 1))
	fmt.Println("the guest is not there:", errors.Is(err, io.EOF))
	cancel()
	fmt.Println("Listen:", <-ended)
	// Output:
	// the guest is not there: true
	// Listen: context canceled
}
