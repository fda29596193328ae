package keeper

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// busyStore is a service manager that takes nothing any more.
type busyStore struct{}

func (busyStore) Put(string, int) error { time.Sleep(5 * time.Millisecond); return unix.EAGAIN }
func (busyStore) Remove(string) error   { return nil }
func (busyStore) Wait()                 {}
func (busyStore) Settled()              {}

// TestFinishBusy: the keeper ends though nothing can be stored.
func TestFinishBusy(t *testing.T) {
	k := New(Options{Limit: 8})
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Hold(Key{Kind: KindRegion, ID: 1}, fd); err != nil {
		t.Fatal(err)
	}
	v := newSaver(busyStore{}, k.table, nil)
	v.patience = 50 * time.Millisecond
	k.table.saver = v
	v.changed(Key{Kind: KindRegion, ID: 1})
	ended := make(chan struct{})
	go func() { v.finish(true); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patient):
		t.Error("the keeper does not end")
	}
}
