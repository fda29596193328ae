package passthrough

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
)

// openDescriptors are those of the process, and what they are.
func openDescriptors(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, e := range entries {
		if what, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // else it was that of the listing
			open[e.Name()] = what
		}
	}
	return open
}

// wantDescriptors fails if others are open than before.
func wantDescriptors(t *testing.T, before map[string]string) {
	t.Helper()
	for fd, what := range openDescriptors(t) {
		if before[fd] != what {
			t.Errorf("descriptor %s stays: %s", fd, what)
		}
	}
}

// TestClose: 100 file systems that hold all that there is leave nothing, again and again. A host
// has room for them, and for not one more.
func TestClose(t *testing.T) {
	const shares, each = 100, 64
	h, err := host.New(host.Options{Descriptors: shares * each, ShareDescriptors: each})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	before := openDescriptors(t)
	for round := range 3 {
		var all []*FS
		for i := range shares {
			s := makeShare(t, dir, func(c *Config) {
				c.Host, c.FileHandles = h, FileHandles(i%2)
				if i%3 == 0 {
					c.ReadOnly = true
					if c.LinksFD, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
						t.Fatal(err)
					}
				}
			}, fp.InitPosixLocks|fp.InitFlockLocks)
			all = append(all, s.fs)
			if round == 2 {
				continue // as they are
			}
			g := s.guest()
			g.lookup(fp.RootID, "link")
			node := g.lookup(fp.RootID, "f")
			g.use(node)
			if i%3 == 0 {
				g.open(node, unix.O_RDONLY)
				continue
			}
			g.open(node, unix.O_RDWR)
			g.mkdir(fp.RootID, fmt.Sprintf("d%d.%d", round, i))
		}
		if _, err := h.Descriptors(); !errors.Is(err, host.ErrBudget) {
			t.Fatalf("one share more: %v, want %v", err, host.ErrBudget)
		}
		for _, fs := range all {
			fs.Close()
		}
		wantDescriptors(t, before)
	}
}

// TestCloseSweep: a sweep that is due when the file system is closed does nothing. By then the
// numbers of its descriptors may be other files'.
func TestCloseSweep(t *testing.T) {
	s := makeShare(t, t.TempDir(), nil, 0)
	var due func()
	s.fs.sweeper.after = func(_ time.Duration, f func()) { due = f }
	s.write("f", "")
	g := s.guest()
	g.use(g.lookup(fp.RootID, "f"))
	if due == nil {
		t.Fatal("no sweep is due")
	}
	s.fs.Close()
	if n := countCalls(due); n != 0 {
		t.Errorf("%d system calls after the end", n)
	}
}

// TestNewFails: what New has taken of the host's budget goes back if it fails, and the
// openDescriptors stay the caller's.
func TestNewFails(t *testing.T) {
	h, err := host.New(host.Options{Descriptors: 64, ShareDescriptors: 64})
	if err != nil {
		t.Fatal(err)
	}
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(fifo, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	before := openDescriptors(t)
	for range 3 {
		if _, err := New(Config{RootFD: fd, ProcFD: fd, Host: h}); err == nil || errors.Is(err, host.ErrBudget) {
			t.Fatalf("a share of a FIFO: %v", err)
		}
		wantDescriptors(t, before)
		if len(openDescriptors(t)) != len(before) {
			t.Error("the caller's descriptors are closed")
		}
	}
}
