package notify_test

import (
	"context"
	"log"
	"log/slog"
	"net"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/notify"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
)

// A directory of the host for a guest that mounts it over a stream socket, and does not keep what others change. It does
// not end, so it is not run.
func ExampleNew() {
	root, err := unix.Open("/srv", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	files, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc})
	if err != nil {
		log.Fatal(err)
	}
	told := notify.New(files, slog.Default())
	s, err := stream.New(server.New(told, server.Options{MaxWrite: stream.DefaultMaxWrite}), stream.Options{})
	if err != nil {
		log.Fatal(err)
	}
	told.Connect(s)
	l, err := net.Listen("unix", "/run/srv.sock_5000")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(s.Serve(context.Background(), l))
}
