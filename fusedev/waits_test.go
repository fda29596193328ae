package fusedev

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/server"
)

// slowSync is hello whose FSYNC waits for the test.
type slowSync struct {
	hello
	entered, release chan struct{}
}

func (s slowSync) Fsync(r *server.Request, _ *fp.FsyncIn) unix.Errno {
	if !r.MayWait {
		return server.WouldBlock
	}
	close(s.entered)
	<-s.release
	return 0
}

// TestServeURingWaits: a request that came by io_uring and has to wait is answered when it is done,
// and others meanwhile; more of them than the kernel has room for wait their turn.
func TestServeURingWaits(t *testing.T) {
	needURing(t)
	target := t.TempDir()
	m, err := New(target, Options{IOUring: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.Detach() }()
	fs := &slowStatfs{release: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- m.Serve(server.New(fs, server.Options{MaxWaiting: 4 * uringDepth}), 1) }()
	var cmds []*exec.Cmd
	for range 2*uringDepth + 5 {
		cmd := exec.Command("stat", "-f", target)
		if err := spawn.Start(cmd); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for end := time.Now().Add(60 * time.Second); fs.entered.Load() < uringDepth; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d STATFSs", fs.entered.Load())
		}
	}
	close(fs.release)
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if n := m.rung.Load(); n < uint64(len(cmds)) {
		t.Errorf("%d requests came by io_uring", n)
	}
	if err := unmountSoon(m); err != nil {
		t.Error(err)
	}
	wantServed(t, served)
}

// slowStatfs is hello whose STATFSs wait for the test.
type slowStatfs struct {
	hello
	entered atomic.Int32
	release chan struct{}
}

func (s *slowStatfs) Statfs(r *server.Request, _ *fp.Kstatfs) unix.Errno {
	if !r.MayWait {
		return server.WouldBlock
	}
	s.entered.Add(1)
	<-s.release
	return 0
}

// hangingStatfs is hello whose STATFSs wait until they are interrupted.
type hangingStatfs struct {
	hello
	entered, interrupted atomic.Int32
}

func (h *hangingStatfs) Statfs(r *server.Request, _ *fp.Kstatfs) unix.Errno {
	if !r.MayWait {
		return server.WouldBlock
	}
	h.entered.Add(1)
	<-r.Canceled
	h.interrupted.Add(1)
	return unix.EINTR
}

// TestServeURingInterrupt: requests that came by io_uring are interrupted when the program that waits is killed, though
// INTERRUPT itself comes over /dev/fuse.
func TestServeURingInterrupt(t *testing.T) {
	needURing(t)
	target := t.TempDir()
	m, err := New(target, Options{IOUring: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.End() }()
	fs := new(hangingStatfs)
	served := make(chan error, 1)
	go func() { served <- m.Serve(server.New(fs, server.Options{}), 1) }()
	const programs = 5
	var cmds []*exec.Cmd
	for range programs {
		cmd := exec.Command("stat", "-f", target)
		if err := spawn.Start(cmd); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	wait := func(what string, n *atomic.Int32) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); n.Load() != programs; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d of %d %s", n.Load(), programs, what)
			}
		}
	}
	wait("wait", &fs.entered)
	if n := m.rung.Load(); n < programs {
		t.Errorf("%d requests came by io_uring", n)
	}
	for _, cmd := range cmds {
		_ = cmd.Process.Kill()
	}
	wait("were interrupted", &fs.interrupted)
	for _, cmd := range cmds {
		if err := cmd.Wait(); err == nil {
			t.Error("stat was not killed")
		}
	}
	if err := m.End(); err != nil {
		t.Error(err)
	}
	wantServed(t, served)
}

// needURing has the kernel take requests by io_uring, if it can, until the test is over.
func needURing(t *testing.T) {
	t.Helper()
	guest.NeedFUSE(t)
	const path = "/sys/module/fuse/parameters/enable_uring"
	old, err := os.ReadFile(path)
	if err != nil {
		t.Skip("Linux before 6.14: ", err)
	}
	if r, err := newIOURing(1); err != nil {
		t.Skip(err)
	} else {
		r.close()
	}
	if err := os.WriteFile(path, []byte("Y"), 0); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(path, old, 0) })
}

// TestServeLeavesNothing: a mount that is aborted while a request waits is served until
// that is done, as its reply would go to another file otherwise.
func TestServeLeavesNothing(t *testing.T) {
	guest.NeedFUSE(t)
	target := t.TempDir()
	m, err := New(target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.Detach() }()
	fs := slowSync{entered: make(chan struct{}), release: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- m.Serve(server.New(fs, server.Options{}), 2) }()
	cmd := exec.Command("sync", filepath.Join(target, "hello"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-fs.entered:
	case <-time.After(60 * time.Second):
		t.Fatal("no FSYNC")
	}
	if err := unix.Unmount(target, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it got an error: the connection is aborted
	select {
	case err := <-served:
		t.Error("Serve returned with a request under way: ", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(fs.release)
	wantServed(t, served)
}

// TestServeProcessors: Go's scheduler has a processor for each thread that waits in the kernel, and one for all others.
func TestServeProcessors(t *testing.T) {
	guest.NeedFUSE(t)
	numbers := make(chan int, 100)
	h, err := host.New(host.Options{Processors: func(n int) { numbers <- n }})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(t.TempDir(), Options{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.End() }()
	served := make(chan error, 1)
	go func() { served <- m.Serve(server.New(hello{}, server.Options{}), 3) }()
	want := func(want int) {
		t.Helper()
		for {
			select {
			case n := <-numbers:
				if n == want {
					return
				}
			case <-time.After(60 * time.Second):
				t.Fatalf("never %d processors", want)
			}
		}
	}
	want(3 + 1)
	if err := m.End(); err != nil {
		t.Error(err)
	}
	wantServed(t, served)
	want(1)
}

// wantServed waits until Serve has returned without an error.
func wantServed(t *testing.T, served <-chan error) {
	t.Helper()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Error("Serve does not return")
	}
}
