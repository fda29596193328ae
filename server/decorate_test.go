package server

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// allFS notes which of the methods beside the opcodes were called.
type allFS struct {
	NotImplemented
	called []string
}

func (f *allFS) note(s string)             { f.called = append(f.called, s) }
func (f *allFS) StartThread(*Thread) error { f.note("StartThread"); return nil }
func (f *allFS) StopThread(*Thread)        { f.note("StopThread") }
func (f *allFS) Close(*Request) unix.Errno { f.note("Close"); return 0 }
func (f *allFS) Destroy()                  { f.note("Destroy") }
func (f *allFS) Leave(*Thread)             { f.note("Leave") }
func (f *allFS) Return(*Thread) string     { f.note("Return"); return "" }
func (f *allFS) SaveState(_ *Thread, w *record.Writer) error {
	f.note("SaveState")
	w.Uint(17)
	return nil
}

func (f *allFS) LoadState(_ *Thread, r *record.Reader) (string, error) {
	f.note("LoadState")
	r.Uint()
	return "", r.Err()
}

// TestDecorated: a file system that another one embeds hears of everything, as it would
// alone.
func TestDecorated(t *testing.T) {
	run := func(fs *allFS, served FileSystem) []string {
		s := newSessionServer(t, served, 1)
		start(t, s)
		var state bytes.Buffer
		if err := s.Save(&state); err != nil {
			t.Fatal(err)
		}
		s.Started()
		if errno := send(s, newThread(s), 2, fp.OpDestroy, nil); errno != 0 {
			t.Fatal("DESTROY:", errno)
		}
		if err := s.Load(&state); err != nil {
			t.Fatal(err)
		}
		s.Disconnected()
		return fs.called
	}
	bare, inner := &allFS{}, &allFS{}
	want := run(bare, bare)
	got := run(inner, struct{ FileSystem }{inner})
	if !slices.Equal(got, want) {
		t.Errorf("decorated: %v, alone: %v", got, want)
	}
	for _, name := range []string{"StartThread", "StopThread", "Close", "Destroy", "SaveState", "Leave", "Return", "LoadState"} {
		if !slices.Contains(got, name) {
			t.Errorf("%s was not called: %v", name, got)
		}
	}
}

// TestNoState: a file system without a state says so, and its session goes on.
func TestNoState(t *testing.T) {
	s := newSessionServer(t, &sessionFS{}, 1)
	start(t, s)
	var b bytes.Buffer
	if err := s.Save(&b); !errors.Is(err, errNoState) {
		t.Errorf("saved with %v, want %v", err, errNoState)
	}
	s.Started()
	if errno := send(s, newThread(s), 3, fp.OpGetattr, make([]byte, 16)); errno != 0 {
		t.Errorf("GETATTR: %v", errno)
	}
	var state bytes.Buffer
	from := newSessionServer(t, &allFS{}, 1)
	start(t, from)
	if err := from.Save(&state); err != nil {
		t.Fatal(err)
	}
	to := newSessionServer(t, &sessionFS{}, 1)
	if err := to.Load(&state); !errors.Is(err, errNoState) || to.session.Load() != nil {
		t.Errorf("loaded with %v, want %v", err, errNoState)
	}
}
