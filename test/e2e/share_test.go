// Package e2e tests the daemon without its command line against a driver in user
// space. Device, server and file system are in this process. They use a real
// vhost-user socket and real virtqueues.
package e2e

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// TestMain makes room for the driver's goroutines: these and the device's workers
// sleep in system calls.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 8)
	os.Exit(m.Run())
}

// share is a served directory and a client of it.
type share struct {
	*frontend.Client
	dir    string
	server *server.Server
	device *virtiofs.Device
	done   chan error
}

func quiet() *slog.Logger {
	return slog.New(slog.DiscardHandler)
}

// defaults are the options of a share with every feature on.
func defaults() passthrough.Config {
	return passthrough.Config{Xattr: true, AllowDirectIO: true, AnnounceSubmounts: true, KillprivV2: true,
		PosixLocks: true, Flocks: true}
}

// newDevice makes a device for dir.
func newDevice(t testing.TB, dir string, cfg passthrough.Config, queues int) (*virtiofs.Device, *server.Server) {
	t.Helper()
	return newDecorated(t, dir, cfg, queues, func(fs server.FileSystem) server.FileSystem { return fs })
}

// newDecorated is newDevice with a file system that decorate puts around the
// share's.
func newDecorated(t testing.TB, dir string, cfg passthrough.Config, queues int,
	decorate func(server.FileSystem) server.FileSystem) (*virtiofs.Device, *server.Server) {
	t.Helper()
	return newDeviceWith(t, dir, cfg, virtiofs.Options{RequestQueues: queues}, decorate)
}

// newDeviceWith is newDecorated for a device with options.
func newDeviceWith(t testing.TB, dir string, cfg passthrough.Config, opts virtiofs.Options,
	decorate func(server.FileSystem) server.FileSystem) (*virtiofs.Device, *server.Server) {
	t.Helper()
	var err error
	if cfg.RootFD, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if cfg.ProcFD, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	fs, err := passthrough.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(decorate(fs), server.Options{ReadOnly: cfg.ReadOnly, Host: cfg.Host, Log: quiet()})
	opts.Tag, opts.Host, opts.Log = "test", cfg.Host, quiet()
	d, err := virtiofs.New(s, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d, s
}

// connect serves one front-end of the device.
func connect(t testing.TB, d *virtiofs.Device, opts frontend.Options) (*frontend.Frontend, chan error) {
	t.Helper()
	a, b := socketpair.New(t)
	done := make(chan error, 1)
	go func() { done <- d.Serve(context.Background(), a) }()
	f, err := frontend.New(b, opts)
	if err != nil {
		t.Fatal(err)
	}
	return f, done
}

// openFile looks a name of the root up and opens it for reading and writing.
func (s *share) openFile(t testing.TB, name string) (e fp.EntryOut, fh uint64) {
	t.Helper()
	e, err := s.Lookup(fp.RootID, name)
	if err != nil {
		t.Fatal(err)
	}
	if fh, err = s.Open(e.NodeID, unix.O_RDWR); err != nil {
		t.Fatal(err)
	}
	return e, fh
}

// open serves a new temporary directory to a new client, which has sent INIT.
func open(t testing.TB, cfg passthrough.Config, opts frontend.Options) *share {
	t.Helper()
	return openDir(t, t.TempDir(), cfg, opts)
}

func openDir(t testing.TB, dir string, cfg passthrough.Config, opts frontend.Options) *share {
	t.Helper()
	s := &share{dir: dir}
	s.device, s.server = newDevice(t, dir, cfg, max(opts.Queues, 1))
	f, done := connect(t, s.device, opts)
	s.Client, s.done = frontend.NewClient(f), done
	if err := s.Handshake(frontend.AllFlags &^ passthroughOff); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	return s
}

// passthroughOff are FUSE flags that the tests' client does not ask for.
const passthroughOff = 0

// end disconnects and waits until the device has noticed.
func (s *share) end() {
	s.Close()
	<-s.done
}
