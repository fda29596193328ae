package keeper

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAlarmFullCounter: a worker has given an error eventfd to which a write waits for ever. The keeper ends all the same,
// and the other rings' eventfds are signalled.
func TestAlarmFullCounter(t *testing.T) {
	full, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(full, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	other, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	k := New(Options{Limit: 8})
	for ring, fd := range []int{full, other} {
		held, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = k.Hold(Key{Kind: KindErr, ID: uint64(ring)}, held)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	go func() {
		k.alarm()
		k.table.closeAll()
		close(ended)
	}()
	b := make([]byte, 8)
	select {
	case <-ended:
	case <-time.After(patient):
		t.Error("the keeper does not end")
		_, _ = unix.Read(full, b) // now it does
		<-ended
	}
	if n, err := unix.Read(other, b); n != 8 || b[0] != 1 {
		t.Errorf("the other ring's eventfd: %d bytes %v, %v", n, b, err)
	}
	unix.Close(full)
}
