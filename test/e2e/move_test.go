package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// arrive connects a front-end to a new daemon for dir and loads a state, as a VMM does on
// the destination host. No INIT is sent.
func arrive(t testing.TB, dir string, cfg passthrough.Config, state []byte) (*share, error) {
	t.Helper()
	s := &share{dir: dir}
	s.device, s.server = newDevice(t, dir, cfg, 1)
	a, b := socketpair.New(t)
	s.done = make(chan error, 1)
	go func() { s.done <- s.device.Serve(t.Context(), a) }()
	f, err := frontend.Connect(b, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	s.Client = &frontend.Client{Frontend: f}
	if err := f.LoadState(state); err != nil {
		return s, err
	}
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	s.Client = frontend.NewClient(f)
	return s, nil
}

// TestMove moves a guest with an open file from one daemon to another.
func TestMove(t *testing.T) {
	here := open(t, defaults(), frontend.Options{})
	if err := os.WriteFile(filepath.Join(here.dir, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, fh := here.openFile(t, "file")
	if err := here.Stop(); err != nil {
		t.Fatal(err)
	}
	state, err := here.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	there, err := arrive(t, here.dir, defaults(), state)
	if err != nil {
		t.Fatal(err)
	}
	// The VMM may cancel the move. The guest then goes on at the source.
	if err := here.Start(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*share{here, there} {
		if b, err := s.Read(e.NodeID, fh, 0, 100); string(b) != "content" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if _, err := s.Lookup(fp.RootID, "file"); err != nil {
			t.Error(err)
		}
		if err := s.Setxattr(e.NodeID, "user.a", []byte("v"), false); err != nil {
			t.Error(err)
		}
	}
	// The session has moved as well, so another INIT is a mistake.
	if err := there.Handshake(0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("second INIT: %v, want EINVAL", err)
	}
	if err := there.Destroy(); err != nil {
		t.Error(err)
	}
}

// TestMoveRefused: a state that does not fit is refused. The share can still be used.
func TestMoveRefused(t *testing.T) {
	here := open(t, defaults(), frontend.Options{})
	if err := here.Stop(); err != nil {
		t.Fatal(err)
	}
	state, err := here.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	without := defaults()
	without.PosixLocks = false
	for _, c := range []struct {
		what  string
		cfg   passthrough.Config
		state []byte
	}{
		{"another daemon's options", without, state},
		{"a part of a state", defaults(), state[:len(state)-1]},
		{"nothing", defaults(), nil},
		{"something else", defaults(), []byte(strings.Repeat("x", 1000))},
	} {
		s, err := arrive(t, here.dir, c.cfg, c.state)
		if err == nil {
			t.Errorf("%s was taken", c.what)
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		s.Client = frontend.NewClient(s.Frontend)
		if err := s.Handshake(frontend.AllFlags); err != nil {
			t.Errorf("INIT after %s: %v", c.what, err)
		}
	}
	// A guest that has not mounted the share can move as well.
	fresh := &share{dir: here.dir}
	fresh.device, fresh.server = newDevice(t, here.dir, defaults(), 1)
	var b strings.Builder
	if err := fresh.server.Save(&b); err != nil {
		t.Fatal(err)
	}
	s, err := arrive(t, here.dir, defaults(), []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Handshake(frontend.AllFlags); err != nil {
		t.Error(err)
	}
}
