package notify_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/notify"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// client is a client's kernel: it gets notifications.
type client chan fp.NotifyCode

func (c client) Notify(code fp.NotifyCode, _ ...[]byte) error {
	select {
	case c <- code:
	default: // nobody reads any more
	}
	return nil
}

// Another process changes a file that a client knows. Package stream has clients that take notifications; here it is
// the driver of package frontend, and something beside it that takes them.
func ExampleFS_Connect() {
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
	check(os.WriteFile(filepath.Join(share, "file"), nil, 0o644))

	root, err := unix.Open(share, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(err)
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(err)
	files, err := passthrough.New(passthrough.Config{RootFD: root, ProcFD: proc})
	check(err)
	log := slog.New(slog.DiscardHandler)
	told := notify.New(files, log)
	told.Inotify = true // which is permitted everywhere
	notifications := make(client, 10)
	told.Connect(notifications)
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
	_, err = guest.Lookup(fp.RootID, "file")
	check(err)

	check(exec.Command("chmod", "600", filepath.Join(share, "file")).Run())
	fmt.Println(<-notifications == fp.NotifyInvalInode)
	front.Close()
	<-ended
	// Output: true
}
