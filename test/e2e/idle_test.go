package e2e

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// TestIdleShares: shares without a front-end are cheap, so that one process can have
// hundreds of them.
func TestIdleShares(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's allocator is another")
	}
	const shares, most = 100, 15 << 20
	dir := t.TempDir()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // frees what finalizers and pools have kept
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	devices := make([]any, shares)
	for i := range devices {
		devices[i], _ = newDevice(t, dir, defaults(), 1)
	}
	took := heap() - before
	t.Logf("%d file systems and devices take %d KiB of heap", shares, took>>10)
	if took > most {
		t.Errorf("%d file systems and devices take %d KiB of heap, want at most %d", shares, took>>10, most>>10)
	}
	runtime.KeepAlive(devices)
}

// TestCloseShares closes 100 shares of one process. Each has a guest that has opened a file. The
// shares give back all that they had reserved in the host, and leave no descriptors and
// goroutines.
func TestCloseShares(t *testing.T) {
	const shares, each, together = 100, 64, 10
	h, err := host.New(host.Options{Descriptors: shares * each, ShareDescriptors: each})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	round := func() {
		var devices []*virtiofs.Device
		for len(devices) < shares {
			var guests []*share
			for range together {
				cfg := defaults()
				cfg.Host = h
				s := &share{}
				s.device, s.server = newDevice(t, dir, cfg, 1)
				f, done := connect(t, s.device, frontend.Options{})
				s.Client, s.done = frontend.NewClient(f), done
				if err := s.Handshake(frontend.AllFlags); err != nil {
					t.Fatal(err)
				}
				e, fh := s.openFile(t, "f")
				if err := s.Fsync(e.NodeID, fh); err != nil { // on a thread of the server's
					t.Fatal(err)
				}
				if _, err := s.Mkdir(fp.RootID, fmt.Sprint(len(devices)), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
					t.Fatal(err)
				}
				guests, devices = append(guests, s), append(devices, s.device)
			}
			for _, s := range guests {
				s.end()
			}
		}
		if _, err := h.Descriptors(); !errors.Is(err, host.ErrBudget) {
			t.Fatalf("one share more: %v, want %v", err, host.ErrBudget)
		}
		for _, d := range devices {
			if err := d.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	round() // the process then has everything that it makes only once
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	for range 2 {
		round()
	}
	settled := func() bool { return descriptors() <= fds && runtime.NumGoroutine() <= goroutines }
	for deadline := time.Now().Add(60 * time.Second); !settled(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors and %d goroutines, want %d and %d", descriptors(), runtime.NumGoroutine(), fds, goroutines)
		}
	}
	// The budgets are whole again.
	for i := range shares {
		if _, err := h.Descriptors(); err != nil {
			t.Fatalf("share %d: %v", i, err)
		}
	}
	if n := h.Threads(); !n.Take(256 + 1) {
		t.Error("threads are still taken")
	}
	if n := h.Memory(); !n.Take(256<<20 + 1<<20) {
		t.Error("memory is still taken")
	}
}
