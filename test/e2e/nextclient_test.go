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
)

// TestNextFrontEnd: a front-end that connects after another one has gone finds nothing of
// it. There is no session, so every request but INIT is refused; there is no node, no open
// file and no lock. Files that the guest before had deleted and kept open are gone.
func TestNextFrontEnd(t *testing.T) {
	first := open(t, defaults(), frontend.Options{})
	for _, name := range []string{"kept", "deleted"} {
		if err := os.WriteFile(filepath.Join(first.dir, name), []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, keptFH := first.openFile(t, "kept")
	deleted, deletedFH := first.openFile(t, "deleted")
	if err := first.Unlink(fp.RootID, "deleted"); err != nil {
		t.Fatal(err)
	}
	whole := fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}
	if err := first.Lock(kept.NodeID, keptFH, 7, whole, 0, false); err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.done <- <-first.done // the end of the test reads it, too

	host, err := os.OpenFile(filepath.Join(first.dir, "kept"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(host.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Errorf("a lock of the guest that is gone: %v", err)
	}

	f, done := connect(t, first.device, frontend.Options{})
	defer func() { f.Close(); <-done }()
	next := frontend.NewClient(f)
	refused := func(when string) {
		t.Helper()
		for _, file := range []struct{ node, fh uint64 }{{kept.NodeID, keptFH}, {deleted.NodeID, deletedFH}} {
			if b, err := next.Read(file.node, file.fh, 0, 100); err == nil {
				t.Errorf("%s: READ gives %q", when, b)
			}
			if _, err := next.Getattr(file.node); err == nil {
				t.Errorf("%s: GETATTR is answered", when)
			}
			if _, err := next.Open(file.node, unix.O_RDONLY); err == nil {
				t.Errorf("%s: OPEN is answered", when)
			}
		}
	}
	refused("before INIT")
	if _, err := next.Lookup(fp.RootID, "kept"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("LOOKUP before INIT: %v, want EINVAL", err)
	}
	if err := next.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	refused("after INIT")
	if _, err := next.Lookup(fp.RootID, "kept"); err != nil {
		t.Error(err)
	}
}
