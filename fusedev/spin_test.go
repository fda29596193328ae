package fusedev

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestSpinnerReads: a request that is there is read at once. One that does not come is waited for in vain, and then the next
// sleeps are without a spin. An error is left to the descriptor that sleeps.
func TestSpinnerReads(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	s := newSpinner(fds[0], time.Millisecond)
	b := make([]byte, 10)
	send := func() {
		t.Helper()
		if _, err := unix.Write(fds[1], []byte("one")); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if n, ok := s.read(b); !ok || string(b[:n]) != "one" {
		t.Errorf("%q, %v", b[:n], ok)
	}
	if _, ok := s.read(b); ok || s.skip == 0 {
		t.Errorf("nothing is there: %v, %d sleeps without a spin", ok, s.skip)
	}
	send()
	for skip := s.skip; skip > 0; skip-- {
		if _, ok := s.read(b); ok {
			t.Error("it does not pause")
		}
	}
	if _, ok := s.read(b); !ok {
		t.Error("after the pause it does not look")
	}
	_ = unix.Close(fds[0])
	if _, ok := newSpinner(fds[0], time.Hour).read(b); ok {
		t.Error("a descriptor that is closed has a request")
	}
	_ = unix.Close(fds[1])
	if _, ok := (*spinner)(nil).read(b); ok {
		t.Error("no spinner has a request")
	}
}

// TestSpinnerLearns: how long it does not spin after misses, and after time that other threads wanted.
func TestSpinnerLearns(t *testing.T) {
	const us = time.Microsecond
	s := newSpinner(-1, 50*us)
	for _, want := range []int{1, 3, 7, 15, 31, 63, 63} {
		if s.learn(false, 50*us, 0); s.skip != want {
			t.Errorf("%d sleeps without a spin, want %d", s.skip, want)
		}
	}
	s.skip = 0
	if s.learn(true, 5*us, 0); s.skip != 0 || s.misses != 0 {
		t.Errorf("after a request: %d sleeps without a spin, %d misses", s.skip, s.misses)
	}
	// Every second spin is as long as another thread has run: more than an eighth of the time.
	crowd := func() (spins int) {
		for s.skip = 0; s.skip == 0; spins++ {
			s.learn(true, 100*us, time.Duration(spins%2)*100*us)
		}
		return spins
	}
	for _, want := range []int{spinRest, 2 * spinRest, 4 * spinRest} {
		if spins := crowd(); s.skip != want || spins > 20 {
			t.Errorf("%d requests without a spin after %d spins, want %d", s.skip, spins, want)
		}
	}
	for s.skip = 0; s.spins <= spinMostRest; {
		s.learn(true, 5*us, 0)
	}
	if crowd(); s.skip != spinRest {
		t.Errorf("%d requests without a spin after a long time of spins, want %d", s.skip, spinRest)
	}
	// What is lost once, and up to an eighth of the time, is no reason.
	s.skip = 0
	s.learn(true, time.Second, time.Second)
	for range 10_000 {
		s.learn(true, 90*us, 0)
		s.learn(true, 10*us, 10*us)
	}
	if s.skip != 0 {
		t.Errorf("%d requests without a spin", s.skip)
	}
}

// TestServeSpin is TestServe with goroutines that spin.
func TestServeSpin(t *testing.T) {
	guest.NeedFUSE(t)
	t.Setenv("FUSEDEV_SPIN", "1ms")
	testServe(t)
}
