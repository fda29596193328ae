package virtiofs

import (
	"log/slog"
	"testing"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/eventfd"
)

// TestKickedInVain: a guest kicks for a request, which is in memory that the worker does not
// see. That is said once.
func TestKickedInVain(t *testing.T) {
	var said daemontest.Log
	r := newRing(t)
	w, err := startWorker(newServer(&testFS{}), nil, r.vring(), BusyPoll{}, false, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); said.Count("share=on") == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is said")
		}
		eventfd.Signal(r.kick)
	}
	for range 100 {
		eventfd.Signal(r.kick)
		time.Sleep(10 * time.Microsecond)
	}
	r.init() // it was nothing but strange kicks
	w.stop()
	if n := said.Count("share=on"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestKickedTwice: a kick at the start, as QEMU makes, and kicks that come late are no sign
// of anything.
func TestKickedTwice(t *testing.T) {
	var said daemontest.Log
	r := newRing(t)
	eventfd.Signal(r.kick)
	w, err := startWorker(newServer(&testFS{}), nil, r.vring(), BusyPoll{}, false, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	for range 100 {
		eventfd.Signal(r.kick)
		if errno, _ := r.do(fp.OpGetattr, 1, fp.Bytes(&fp.GetattrIn{}), 104); errno != 0 {
			t.Fatal(errno)
		}
	}
	w.stop()
	if n := said.Count("share=on"); n != 0 {
		t.Errorf("said %d times", n)
	}
}
