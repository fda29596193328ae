package vsock_test

import (
	"context"
	"log"
	"net"

	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/vsock"
)

// A vsock device for one guest, whose VMM connects to /run/vm.vhost. Programs of the host connect to /run/vm.vsock. It does not
// end, so it is not run.
func ExampleNew() {
	ctx := context.Background()
	d, err := vsock.New(vsock.Options{CID: 3, Path: "/run/vm.vsock"})
	if err != nil {
		log.Fatal(err)
	}
	programs, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/run/vm.vsock"})
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(d.Listen(ctx, programs)) }()
	vmm, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/run/vm.vhost"})
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := vmm.AcceptUnix()
		if err != nil {
			log.Fatal(err)
		}
		if err := vhostuser.NewConn(c, d, nil).Serve(ctx); err != nil {
			log.Print(err)
		}
	}
}
