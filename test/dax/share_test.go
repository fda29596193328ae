// Package dax tests mappings from the guest's side: a driver in user space with a window
// of its own, device, server and file system in this process.
package dax

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// TestMain makes room for the driver's goroutines: these and the device's workers sleep
// in system calls.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 8)
	os.Exit(m.Run())
}

const windowSize = 96 * page

// share is a served directory and a client of it that has a window.
type share struct {
	*frontend.Client
	t      testing.TB
	dir    string
	cfg    passthrough.Config
	opts   frontend.Options
	server *server.Server
	device *virtiofs.Device
	done   chan error
}

// openShare serves a new directory with a small window, in which single pages can be
// mapped.
func openShare(t testing.TB, w frontend.WindowOptions, change ...func(*share)) *share {
	t.Helper()
	s := &share{t: t, dir: t.TempDir(), opts: frontend.Options{Window: &w, Queues: 2}}
	s.cfg = passthrough.Config{KillprivV2: true, DAX: &passthrough.DAX{Table: dax.NewTable(windowSize, page), Every: true}}
	for _, f := range change {
		f(s)
	}
	var err error
	if s.cfg.RootFD, err = unix.Open(s.dir, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if s.cfg.ProcFD, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	fs, err := passthrough.New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s.server = server.New(fs, server.Options{ReadOnly: s.cfg.ReadOnly, Log: log})
	s.device, err = virtiofs.New(s.server, virtiofs.Options{Tag: "dax", RequestQueues: s.opts.Queues,
		Window: s.cfg.DAX.Table, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.connect()
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.disconnect()
		s.server.Reset()
	})
	return s
}

// connect gives the device a new front-end.
func (s *share) connect() {
	s.t.Helper()
	back, front := socketpair.New(s.t)
	s.done = make(chan error, 1)
	go func(done chan error) { done <- s.device.Serve(context.Background(), back) }(s.done)
	f, err := frontend.New(front, s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Client = frontend.NewClient(f)
}

// disconnect ends the connection and waits until the device has noticed.
func (s *share) disconnect() {
	w := s.Window
	s.Close()
	<-s.done
	// A request of the device itself may have been under way (Table.Probe).
	if err := w.Errors(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.t.Errorf("front-end: %v", err)
	}
}

func (s *share) reconnect() {
	s.disconnect()
	s.connect()
}

// begin starts a session.
func (s *share) begin() error { return s.Handshake(frontend.AllFlags | frontend.DAXFlags) }

// settle returns when the front-end has finished the requests that it has answered: it
// holds its control lock until then.
func (s *share) settle() {
	if _, err := s.GetU64(vhostuser.ReqGetFeatures); err != nil {
		s.t.Fatal(err)
	}
}
