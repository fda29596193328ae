package e2e

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// held is a share whose guest has a file open and locked.
type held struct {
	*share
	node, fh uint64
	host     *os.File // the same file
}

func openHeld(t *testing.T, opts frontend.Options, wait time.Duration) *held {
	t.Helper()
	h := &held{share: openAgain(t, opts, wait)}
	path := filepath.Join(h.dir, "f")
	if err := os.WriteFile(path, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, fh := h.openFile(t, "f")
	h.node, h.fh = e.NodeID, fh
	if err := h.Lock(h.node, fh, 7, fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}, 0, false); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.host, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.host.Close() })
	return h
}

// locked reports whether the guest's lock excludes the host.
func (h *held) locked(t *testing.T) bool {
	t.Helper()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(h.host.Fd(), unix.F_OFD_SETLK, &lk)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	if err == nil {
		lk.Type = unix.F_UNLCK
		err2 := unix.FcntlFlock(h.host.Fd(), unix.F_OFD_SETLK, &lk)
		if err2 != nil {
			t.Fatal(err2)
		}
	}
	return err != nil
}

// goesOn checks that the guest still has everything.
func (h *held) goesOn(t *testing.T) {
	t.Helper()
	if b, err := h.Read(h.node, h.fh, 0, 100); err != nil || string(b) != "secret" {
		t.Errorf("READ of the open file: %q, %v", b, err)
	}
	if !h.locked(t) {
		t.Error("the lock is lost")
	}
}

// starts checks that a client has nothing of the guest's, and can begin a session.
func (h *held) starts(t *testing.T, c *frontend.Client) {
	t.Helper()
	if h.locked(t) {
		t.Error("the lock of the guest is still held")
	}
	for range 2 {
		if b, err := c.Read(h.node, h.fh, 0, 100); err == nil {
			t.Errorf("READ of the other guest's file: %q", b)
		}
		if _, err := c.Getattr(h.node); err == nil {
			t.Error("GETATTR of the other guest's node")
		}
		if err := c.Handshake(frontend.AllFlags); err != nil {
			t.Fatal(err)
		}
		if err := c.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReconnectProbe: a process that connects and starts no ring does not end the session of
// a guest whose front-end is away.
func TestReconnectProbe(t *testing.T) {
	h := openHeld(t, frontend.Options{}, time.Minute)
	h.cut(t)
	for range 3 {
		a, b := socketpair.New(t)
		done := make(chan error, 1)
		go func() { done <- h.device.Serve(t.Context(), a) }()
		f, err := frontend.Connect(b, frontend.Options{}) // all but the rings
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		<-done
	}
	h.reconnect(t)
	h.goesOn(t)
}

// TestReconnectOther: another guest begins with nothing. It ends the session of the guest whose
// front-end is away. That guest then finds that its session has ended.
func TestReconnectOther(t *testing.T) {
	for name, first := range map[string]func(t *testing.T, f *frontend.Frontend) error{
		"queues": func(*testing.T, *frontend.Frontend) error { return nil },
		"state": func(t *testing.T, f *frontend.Frontend) error {
			state, err := f.SaveState()
			if len(state) > 40 {
				t.Errorf("a state of %d bytes: there is no session", len(state))
			}
			return err
		},
		"reset": func(_ *testing.T, f *frontend.Frontend) error { return f.Acked(vhostuser.ReqResetDevice, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			h := openHeld(t, frontend.Options{Inflight: true}, time.Minute)
			h.cut(t)
			a, b := socketpair.New(t)
			done := make(chan error, 1)
			go func() { done <- h.device.Serve(t.Context(), a) }()
			f, err := frontend.Connect(b, frontend.Options{})
			if err == nil {
				err = first(t, f)
			}
			if err == nil {
				err = f.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			h.starts(t, frontend.NewClient(f))
			f.Close()
			<-done
			h.reconnect(t)
			h.starts(t, h.Client)
		})
	}
}

// TestReconnectUnproved: a front-end that does not prove that it has the same guest
// begins with nothing.
func TestReconnectUnproved(t *testing.T) {
	t.Run("rings made anew in the same memory", func(t *testing.T) {
		h := openHeld(t, frontend.Options{}, time.Minute)
		h.cut(t)
		for _, q := range h.Queues {
			q.Clear()
		}
		h.reconnect(t)
		h.starts(t, h.Client)
	})
	t.Run("memory in a file with a name", func(t *testing.T) {
		h := openHeld(t, frontend.Options{MemoryFile: filepath.Join(t.TempDir(), "ram")}, time.Minute)
		h.cut(t)
		if h.locked(t) {
			t.Error("the session outlives the connection: the next VM may have the same file")
		}
		h.reconnect(t)
		h.starts(t, h.Client)
	})
	t.Run("queues stopped first", func(t *testing.T) {
		h := openHeld(t, frontend.Options{}, time.Minute)
		if err := h.Stop(); err != nil {
			t.Fatal(err)
		}
		h.cut(t)
		if h.locked(t) {
			t.Error("the session outlives the connection, though the VMM was done with the device")
		}
		h.reconnect(t)
		h.starts(t, h.Client)
	})
	t.Run("too late", func(t *testing.T) {
		h := openHeld(t, frontend.Options{}, 10*time.Millisecond)
		h.cut(t)
		for end := time.Now().Add(60 * time.Second); h.locked(t); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the session does not end")
			}
		}
		h.reconnect(t)
		h.starts(t, h.Client)
	})
}

// TestReconnectReboot: a guest that was reset while its front-end was away may mount the share
// again, though its rings look as before.
func TestReconnectReboot(t *testing.T) {
	h := openHeld(t, frontend.Options{}, time.Minute)
	h.cut(t)
	h.reconnect(t)
	if err := h.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Getattr(h.node); err == nil {
		t.Error("a node of the session before")
	}
	if h.locked(t) {
		t.Error("a lock of the session before")
	}
}
