package fusedev_test

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/server"
)

// A program that mounts a file system on this machine until it gets SIGTERM. It needs
// /dev/fuse, and root or fusermount3, so the example is not run.
func ExampleMount_Serve() {
	var fs server.NotImplemented // yours
	mount, err := fusedev.New("/mnt/mine", fusedev.Options{Subtype: "mine", Permissions: true})
	if err != nil {
		panic(err)
	}
	defer func() { _ = mount.Close() }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	go func() {
		<-stop
		_ = mount.Unmount() // ends Serve
	}()
	if err := mount.Serve(server.New(fs, server.Options{}), 2); err != nil {
		panic(err)
	}
}

// Errors say what to do.
func ExampleNew() {
	_, err := fusedev.New("/no/such/directory", fusedev.Options{})
	fmt.Println(err)
	// Output: stat /no/such/directory: no such file or directory: make the directory first
}
