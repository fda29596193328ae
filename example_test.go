package govirtiofs_test

import (
	"archive/zip"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/iofs"
)

// A zip archive for a guest, which mounts it with "mount -t virtiofs archive /mnt". The example is
// not run, because it does not end.
func ExampleListenAndServe() {
	archive, err := zip.OpenReader("archive.zip")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(govirtiofs.ListenAndServe("/run/archive.sock", "archive", iofs.New(archive)))
}

// A program that ends well: SIGTERM removes the socket and the mount. The same file system is served
// to a guest and on a directory of this machine. The example is not run, because it does not end.
func ExampleServer() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	files := iofs.New(os.DirFS("/srv"))
	guest := govirtiofs.Server{FS: files, Tag: "srv", Queues: 2}
	go func() {
		here := govirtiofs.Server{FS: iofs.New(os.DirFS("/srv"))}
		fmt.Println(here.Mount(ctx, "/mnt/srv", fusedev.Options{}))
	}()
	fmt.Println(guest.ListenAndServe(ctx, "/run/srv.sock"))
}
