package server

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// stateFS has a state of a certain size.
type stateFS struct {
	sessionFS
	size           int
	left, returned bool
}

func (f *stateFS) SaveState(_ *Thread, w io.Writer) error {
	_, err := w.Write(make([]byte, f.size))
	return err
}

func (f *stateFS) LoadState(_ *Thread, r io.Reader) (string, error) {
	_, err := io.ReadFull(r, make([]byte, f.size))
	return "", err
}

func (f *stateFS) Leave(*Thread)         { f.left = true }
func (f *stateFS) Return(*Thread) string { f.returned = true; return "" }

func (f *stateFS) Init(p *InitParams) unix.Errno { return 0 }

// start begins a session of a client that knows MAX_PAGES.
func start(t testing.TB, s *Server) {
	t.Helper()
	if errno := send(s, newThread(s), 1, fp.OpInit, initBody); errno != 0 {
		t.Fatal("INIT:", errno)
	}
}

// TestSaveUnread: nobody reads the state. Nothing waits for that but Save, and when the
// client goes on the state is worth nothing.
func TestSaveUnread(t *testing.T) {
	for what, f := range map[string]func(s *Server){
		"Started":      func(s *Server) { s.Started() },
		"Reset":        func(s *Server) { s.Reset() },
		"Disconnected": func(s *Server) { s.Disconnected(); s.Started() },
		"INIT": func(s *Server) {
			s.Restarted()
			if errno := send(s, newThread(s), 2, fp.OpInit, initBody); errno != 0 {
				t.Error("INIT:", errno)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			fs := &stateFS{size: 4 << 20}
			s := newSessionServer(t, fs, 1)
			start(t, s)
			r, w := io.Pipe()
			saved := make(chan error, 1)
			go func() { saved <- s.Save(w) }()
			if _, err := io.ReadFull(r, make([]byte, 1)); err != nil { // it has begun
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { f(s); close(done) }()
			select {
			case <-done:
			case <-time.After(60 * time.Second):
				t.Fatal("waits for the one who does not read")
			}
			if _, err := io.Copy(io.Discard, io.LimitReader(r, int64(fs.size))); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, r) }()
			if err := <-saved; err == nil || fs.left {
				t.Errorf("saved with %v, left: %v", err, fs.left)
			}
		})
	}
}

// TestSaveFails: the one who reads goes away.
func TestSaveFails(t *testing.T) {
	fs := &stateFS{size: 4 << 20}
	s := newSessionServer(t, fs, 1)
	start(t, s)
	r, w := io.Pipe()
	gone := errors.New("gone")
	go func() {
		_, _ = io.ReadFull(r, make([]byte, 1000))
		_ = r.CloseWithError(gone)
	}()
	if err := s.Save(w); !errors.Is(err, gone) || fs.left {
		t.Errorf("saved with %v, left: %v", err, fs.left)
	}
	var b bytes.Buffer
	if err := s.Save(&b); err != nil || !fs.left || b.Len() < fs.size {
		t.Errorf("saved %d bytes with %v, left: %v", b.Len(), err, fs.left)
	}
	if s.Started(); !fs.returned {
		t.Error("the client goes on here, and the file system does not hear of it")
	}
}

// TestMoveMaxWrite moves a session between daemons with any size of requests.
func TestMoveMaxWrite(t *testing.T) {
	for _, size := range []uint32{4096, 1 << 20, 4<<20 + 4096, 64 << 20, 1 << 30} {
		from, to := &stateFS{size: 10}, &stateFS{size: 10}
		s := New(from, Options{Log: silent(), MaxWrite: size})
		start(t, s)
		var b bytes.Buffer
		if err := s.Save(&b); err != nil {
			t.Fatal(err)
		}
		other := New(to, Options{Log: silent(), MaxWrite: size})
		if err := other.Load(&b); err != nil {
			t.Errorf("requests of %d bytes: %v", size, err)
			continue
		}
		a, b2 := s.session.Load(), other.session.Load()
		if *a != *b2 || a.maxWrite != min(size, maxMaxWrite) {
			t.Errorf("requests of %d bytes: %+v moves, %+v comes", size, a, b2)
		}
	}
}

// TestLoadOldMinor: a session that INIT refuses does not come from elsewhere either.
func TestLoadOldMinor(t *testing.T) {
	for minor, want := range map[uint64]bool{fp.MinMinorVersion: true, fp.MinMinorVersion - 1: false, 0: false, fp.KernelMinorVersion + 1: false} {
		var b bytes.Buffer
		w := record.NewWriter(&b)
		w.Bytes([]byte(stateMagic))
		w.Uint(1, minor, 0, 4096, 4096)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		s := newSessionServer(t, &stateFS{}, 1)
		if err := s.Load(&b); (err == nil) != want {
			t.Errorf("minor version %d: %v", minor, err)
		}
	}
}

// TestLoadTooLarge: sizes that no session can have are refused.
func TestLoadTooLarge(t *testing.T) {
	for _, sizes := range [][2]uint64{{maxMaxWrite + 1, 4096}, {4096, 1 << 31}, {1 << 63, 1 << 63}} {
		var b bytes.Buffer
		w := record.NewWriter(&b)
		w.Bytes([]byte(stateMagic))
		w.Uint(1, fp.KernelMinorVersion, 0, sizes[0], sizes[1])
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		s := newSessionServer(t, &stateFS{}, 1)
		if err := s.Load(&b); err == nil || s.session.Load() != nil {
			t.Errorf("sizes %d are taken", sizes)
		}
	}
}
