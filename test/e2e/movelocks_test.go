package e2e

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// TestMoveLocks moves a guest that holds a lock back and forth between two daemons on one
// file system. One daemon has the lock at a time. One move is cancelled half-way.
func TestMoveLocks(t *testing.T) {
	here := open(t, defaults(), frontend.Options{})
	path := filepath.Join(here.dir, "file")
	if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, fh := here.openFile(t, "file")
	const owner, other = 7, 8
	whole := fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}
	if err := here.Lock(e.NodeID, fh, owner, whole, 0, false); err != nil {
		t.Fatal(err)
	}
	locked := func(what string, want bool) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
			t.Fatal(err)
		}
		if got := lk.Type != unix.F_UNLCK; got != want {
			t.Errorf("%s: the file is locked: %v, want %v", what, got, want)
		}
	}
	leave := func(s *share) []byte {
		t.Helper()
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		state, err := s.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	locked("at first", true)
	leave(here)
	locked("saved", false)
	if err := here.Start(); err != nil {
		t.Fatal(err)
	}
	locked("going on", true)

	there, err := arrive(t, here.dir, defaults(), leave(here))
	if err != nil {
		t.Fatal(err)
	}
	locked("arrived", true)
	if err := there.Lock(e.NodeID, fh, other, whole, 0, false); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("lock of another process of the guest: %v, want EAGAIN", err)
	}
	if err := there.Lock(e.NodeID, fh, owner, whole, 0, false); err != nil {
		t.Errorf("lock of the same process: %v", err)
	}

	// The guest moves on. The daemon that it left is told that it is gone, and nothing
	// is left.
	third, err := arrive(t, here.dir, defaults(), leave(there))
	if err != nil {
		t.Fatal(err)
	}
	locked("arrived again", true)
	if err := third.Flush(e.NodeID, fh, owner); err != nil {
		t.Error(err)
	}
	locked("closed", false)
}

// TestMoveNeverStarted: a front-end goes away before its guest has run. The daemon does
// not wait for that guest: its locks would block the daemon that still has the guest.
func TestMoveNeverStarted(t *testing.T) {
	here := open(t, defaults(), frontend.Options{})
	path := filepath.Join(here.dir, "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e, fh := here.openFile(t, "file")
	lock := fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}
	if err := here.Lock(e.NodeID, fh, fh, lock, fp.LkFlock, false); err != nil {
		t.Fatal(err)
	}
	if err := here.Stop(); err != nil {
		t.Fatal(err)
	}
	state, err := here.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	device, _ := newDevice(t, here.dir, defaults(), 1)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 { // the second attempt finds the same state as the first one
		a, b := socketpair.New(t)
		done := make(chan error, 1)
		go func() { done <- device.Serve(t.Context(), a) }()
		there, err := frontend.Connect(b, frontend.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := there.LoadState(state); err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
			t.Errorf("loaded: flock by the host: %v, want EAGAIN", err)
		}
		there.Close()
		<-done
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the front-end is gone: flock by the host: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := here.Start(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
		t.Errorf("the guest goes on: flock by the host: %v, want EAGAIN", err)
	}
}
