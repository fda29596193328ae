package keeper

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// listening is a keeper with a listening socket, and the socket's path.
func listening(t *testing.T) (*rig, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	own, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = f.Close()
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, func(k *Keeper) {
		if err := k.Hold(Listener(), own); err != nil {
			t.Fatal(err)
		}
	}), path
}

// front is a front-end that has connected and said something.
func front(t *testing.T, path, says string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		_, err = c.Write([]byte(says))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestAcceptDeaths: a worker dies at each point between a front-end's connection and its being held as that of the
// front-end. Its successor gets the same connection.
func TestAcceptDeaths(t *testing.T) {
	for name, dies := range map[string]func(t *testing.T, r *rig, w *fake, connect func()){
		"before it asks": func(_ *testing.T, _ *rig, w *fake, connect func()) {
			connect()
			w.do("die")
		},
		"when it has asked": func(_ *testing.T, _ *rig, w *fake, connect func()) {
			w.do("ask")
			w.do("die")
			connect()
		},
		"in the moment": func(_ *testing.T, _ *rig, w *fake, connect func()) {
			w.do("ask")
			connect()
			w.do("die")
		},
		"before it looks": func(t *testing.T, r *rig, w *fake, connect func()) {
			w.do("ask")
			if err := unix.Kill(w.pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			connect()
			r.until("the keeper has the connection", func() bool { return r.k.table.has(Accepted()) })
			_ = unix.Kill(w.pid, unix.SIGKILL)
		},
		"when it has it": func(_ *testing.T, _ *rig, w *fake, connect func()) {
			connect()
			w.do("accept")
			w.do("die")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, path := listening(t)
			w := r.serving()
			var c *net.UnixConn
			dies(t, r, w, func() { c = front(t, path, "hello") })
			next := r.serving()
			next.want("accept", "hello")
			next.want("reply", "")
			b := make([]byte, 10)
			if n, err := c.Read(b); err != nil || string(b[:n]) != "served" {
				t.Errorf("the front-end gets %q, %v", b[:n], err)
			}
			next.do("drop " + Accepted().String())
			front(t, path, "other")
			next.want("accept", "other")
			r.signals <- unix.SIGTERM
			r.end()
		})
	}
}

// TestAcceptOne: the keeper accepts a front-end when a worker asks for it, and one at a time.
func TestAcceptOne(t *testing.T) {
	r, path := listening(t)
	w := r.serving()
	front(t, path, "first")
	front(t, path, "second")
	w.do("ask") // a second question changes nothing
	w.want("accept", "first")
	w.do("keep " + Accepted().String() + " forged")
	w.do("die")
	w = r.serving() // it has "first" still, and not what the forged message had
	w.want("accept", "first")
	w.do("drop " + Accepted().String())
	w.want("accept", "second")
	r.signals <- unix.SIGTERM
	r.end()
}

// TestAcceptWithout: without recovery, and without a listening socket, nothing is accepted.
func TestAcceptWithout(t *testing.T) {
	r := newRig(t, func(k *Keeper) { k.o.Recover = false })
	w := r.next()
	w.do("receive")
	w.want("accepts", "false")
	r.signals <- os.Interrupt
	r.end()

	r = newRig(t, nil)
	w = r.serving()
	w.want("accepts", "true")
	w.do("ask")
	r.until("the log says that nobody listens", func() bool { return r.log.count("no front-end can connect") == 1 })
	r.signals <- os.Interrupt
	r.end()
}

// TestAcceptNoRoom: a front-end for which the keeper has no room is refused, and the next one is accepted when there is room.
func TestAcceptNoRoom(t *testing.T) {
	r, path := listening(t)
	w := r.serving()
	held := uint64(0)
	for full := false; !full; held++ {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		full = r.k.table.put(Node(held), fd) != nil
	}
	w.do("ask")
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("a front-end that is refused reads %d bytes, %v", n, err)
	}
	for i := range held {
		r.k.table.drop(Node(i))
	}
	front(t, path, "later")
	w.want("accept", "later")
	r.signals <- unix.SIGTERM
	r.end()
}
