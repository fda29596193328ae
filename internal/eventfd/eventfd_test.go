package eventfd

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newFD(t *testing.T, flags int) (ours, theirs int) {
	t.Helper()
	theirs, err := unix.Eventfd(0, unix.EFD_CLOEXEC|flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(theirs) })
	if ours, err = unix.Dup(theirs); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func read(t *testing.T, fd int) uint64 {
	t.Helper()
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

// TestFlagsStay: the back-end does not change the file flags of an eventfd. The
// front-end may read it in blocking mode or not.
func TestFlagsStay(t *testing.T) {
	for _, flags := range []int{0, unix.EFD_NONBLOCK} {
		ours, theirs := newFD(t, flags)
		var n Notifier
		n.Set(ours)
		got, err := unix.FcntlInt(uintptr(theirs), unix.F_GETFL, 0)
		if err != nil || got&unix.O_NONBLOCK != flags {
			t.Errorf("made with %#x, is %#x (%v)", flags, got, err)
		}
		n.Notify()
		n.Notify()
		if v := read(t, theirs); v != 2 {
			t.Errorf("%d signals, want 2", v)
		}
		n.Close()
		n.Notify()
	}
}

// TestFullCounter: a front-end that fills the counter up does not block the
// back-end for ever.
func TestFullCounter(t *testing.T) {
	ours, theirs := newFD(t, 0)
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1<<64-2)
	if _, err := unix.Write(theirs, b[:]); err != nil {
		t.Fatal(err)
	}
	var n Notifier
	n.Set(ours)
	done := make(chan struct{})
	go func() { n.Notify(); close(done) }()
	time.Sleep(10 * time.Millisecond) // most likely Notify waits by now; if not, nothing is tested
	n.Unblock()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatal("Notify waits for ever")
	}
	if v := read(t, theirs); v == 0 {
		t.Error("the front-end was not signalled")
	}
	n.Close()
}

// TestNoEventfd: a full pipe without a reader does not block the back-end.
func TestNoEventfd(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	var n Notifier
	n.Set(p[1])
	for range 20_000 { // more than the pipe holds
		n.Notify()
	}
	n.Close()
}
