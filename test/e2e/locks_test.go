package e2e

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestLocksLeaveRoom has as many requests for a lock as a queue has entries. Half of them
// wait, and the others are refused. Meanwhile each queue still serves other requests.
func TestLocksLeaveRoom(t *testing.T) {
	for _, opts := range []frontend.Options{
		{Queues: 1, QueueSize: 64, Slots: 64, Indirect: true},
		{Queues: 1, QueueSize: 128, Slots: 128, Indirect: true},
		{Queues: 3, QueueSize: 128, Slots: 128, Indirect: true},
	} {
		opts.Data = 4096
		t.Run(fmt.Sprintf("%d x %d", opts.Queues, opts.QueueSize), func(t *testing.T) {
			s := open(t, defaults(), opts)
			if err := os.WriteFile(filepath.Join(s.dir, "f"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			e, fh := s.openFile(t, "f")
			whole := fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}
			if err := s.Lock(e.NodeID, fh, 1, whole, 0, false); err != nil {
				t.Fatal(err)
			}
			refused, granted := make(chan error, 1000), make(chan uint64, 1000)
			for i, q := range s.Queues[1:] {
				for j := range opts.Slots {
					owner := uint64(10 + i*opts.Slots + j)
					in := fp.LkIn{Fh: fh, Owner: owner, Lk: whole}
					go func() {
						_, err := s.DoOn(q, &frontend.Request{Op: fp.OpSetlkw, NodeID: e.NodeID, Body: fp.Bytes(&in)})
						if err == nil {
							granted <- owner
						} else {
							refused <- err
						}
					}()
				}
			}
			perQueue := opts.Slots / 2
			for range opts.Queues * perQueue {
				select {
				case err := <-refused:
					if !errors.Is(err, unix.ENOLCK) {
						t.Errorf("a request too many: %v, want ENOLCK", err)
					}
				case <-time.After(60 * time.Second):
					t.Fatal("the share is frozen")
				}
			}
			for _, q := range s.Queues[1:] {
				if _, err := s.DoOn(q, &frontend.Request{Op: fp.OpStatfs, NodeID: 1, Reply: fp.Size[fp.StatfsOut]()}); err != nil {
					t.Error("STATFS while locks wait:", err)
				}
			}
			if err := s.Lock(e.NodeID, fh, 1, fp.FileLock{Type: unix.F_UNLCK, End: math.MaxInt64}, 0, false); err != nil {
				t.Fatal(err)
			}
			for range opts.Queues * perQueue {
				select {
				case owner := <-granted:
					if err := s.Flush(e.NodeID, fh, owner); err != nil {
						t.Fatal(err)
					}
				case <-time.After(60 * time.Second):
					t.Fatal("the lock is not passed on")
				}
			}
		})
	}
}

// TestLocksEndWithSession: a session that ends leaves no locks.
func TestLocksEndWithSession(t *testing.T) {
	s := open(t, defaults(), frontend.Options{})
	path := filepath.Join(s.dir, "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e, fh := s.openFile(t, "f")
	whole := fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}
	if err := s.Lock(e.NodeID, fh, 1, whole, 0, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Lock(e.NodeID, fh, fh, whole, fp.LkFlock, false); err != nil {
		t.Fatal(err)
	}
	s.device.Reset()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Errorf("fcntl: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("flock: %v", err)
	}
}
