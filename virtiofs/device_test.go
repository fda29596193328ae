package virtiofs

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/fdkinds"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// newDevice is a device with one request queue.
func newDevice(t testing.TB) *Device {
	t.Helper()
	d, err := New(newServer(&testFS{}), Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestFrontendReadyStays: a front-end may stop one queue for good. Requests to it go on as long
// as another queue runs, and not after that.
func TestFrontendReadyStays(t *testing.T) {
	d := newDevice(t)
	for i := range 2 {
		if err := d.StartQueue(i, newRing(t).vring()); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.StopQueue(0); err != nil {
		t.Fatal(err)
	}
	within(t, "a request to the front-end", func() { d.frontend.wait(nil) })
	if err := d.StopQueue(1); err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	passed := make(chan struct{})
	go func() { d.frontend.wait(end); close(passed) }()
	select {
	case <-passed:
		t.Error("requests are let go, and no queue runs")
	case <-time.After(stopPause + time.Second): // longer than a pause that ought not to be
	}
	close(end)
	<-passed
}

// TestFrontendReadyStopping: while a front-end stops one queue after the other nothing is
// asked of it.
func TestFrontendReadyStopping(t *testing.T) {
	var g frontendReady
	g.started()
	g.stopping()
	g.stopped(1)
	g.stopping()
	if g.ready || g.pause != nil {
		t.Error("requests are let go while a queue is being stopped")
	}
	g.stopped(1)
	if g.started(); !g.ready || g.pause != nil {
		t.Error("requests are held back, and a queue runs")
	}
}

// TestOneFrontEnd: a device has one front-end at a time, and the next one after it.
func TestOneFrontEnd(t *testing.T) {
	d := newDevice(t)
	for range 2 {
		ours, theirs := socketpair.New(t)
		served := make(chan error, 1)
		go func() { served <- d.Serve(context.Background(), ours) }()
		for end := time.Now().Add(60 * time.Second); !d.serving.Load(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the front-end is not served")
			}
		}
		second, other := socketpair.New(t)
		if err := d.Serve(context.Background(), second); !errors.Is(err, ErrBusy) {
			t.Errorf("a second front-end: %v, want %v", err, ErrBusy)
		}
		if n, err := other.Read(make([]byte, 1)); err == nil {
			t.Errorf("a second front-end reads %d bytes", n)
		}
		_ = theirs.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	if err := d.StartQueue(0, newRing(t).vring()); err != nil {
		t.Fatal(err)
	}
	if err := d.StartQueue(0, newRing(t).vring()); !errors.Is(err, ErrBusy) {
		t.Errorf("a queue that runs is started: %v, want %v", err, ErrBusy)
	}
	if err := d.StopQueue(0); err != nil {
		t.Error(err)
	}
}

// TestKickKinds starts a queue with a kick descriptor of each kind: it runs or is refused, and
// stops again.
func TestKickKinds(t *testing.T) {
	for _, kind := range fdkinds.Open(t) {
		d := newDevice(t)
		v := newRing(t).vring()
		v.Kick = kind.FD
		within(t, kind.Name, func() {
			if d.StartQueue(0, v) == nil {
				_ = d.StopQueue(0)
			}
		})
	}
}
