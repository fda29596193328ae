package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// allFS notes which of the methods beside the opcodes were called.
type allFS struct {
	NotImplemented
	mu     sync.Mutex // guards called
	called []string
}

func (f *allFS) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called = append(f.called, s)
}

// ended returns what was called when all threads have ended, which nobody waits for: without
// StopThread, and how often that was.
func (f *allFS) ended(t *testing.T) (called []string, stopped int) {
	t.Helper()
	count := func(name string) (n int) {
		for _, c := range f.called {
			if c == name {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		if n := count("StopThread"); n == count("StartThread") {
			called = slices.DeleteFunc(slices.Clone(f.called), func(s string) bool { return s == "StopThread" })
			f.mu.Unlock()
			return called, n
		}
		f.mu.Unlock()
		if time.Now().After(end) {
			t.Fatal("a thread was not stopped")
		}
	}
}

func (f *allFS) StartThread(*Thread) error   { f.note("StartThread"); return nil }
func (f *allFS) StopThread(*Thread)          { f.note("StopThread") }
func (f *allFS) Close()                      { f.note("Close") }
func (f *allFS) Unmount(*Request) unix.Errno { f.note("Unmount"); return 0 }
func (f *allFS) Destroy()                    { f.note("Destroy") }
func (f *allFS) Leave(*Thread)               { f.note("Leave") }
func (f *allFS) Return(*Thread) string       { f.note("Return"); return "" }
func (f *allFS) SaveState(_ *Thread, w io.Writer) error {
	f.note("SaveState")
	_, err := io.WriteString(w, "state")
	return err
}

func (f *allFS) LoadState(_ *Thread, r io.Reader) (string, error) {
	f.note("LoadState")
	b, err := io.ReadAll(r)
	if err == nil && string(b) != "state" {
		err = fmt.Errorf("read %q", b)
	}
	return "", err
}

// TestDecorated: a file system that another one embeds hears of everything, as it would
// alone.
func TestDecorated(t *testing.T) {
	run := func(fs *allFS, served FileSystem) (called []string, stopped int) {
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
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		return fs.ended(t)
	}
	bare, inner := &allFS{}, &allFS{}
	want, wantStopped := run(bare, bare)
	got, stopped := run(inner, struct{ FileSystem }{inner})
	if !slices.Equal(got, want) || stopped != wantStopped {
		t.Errorf("decorated: %v and %d threads stopped, alone: %v and %d", got, stopped, want, wantStopped)
	}
	for _, name := range []string{"StartThread", "Unmount", "Destroy", "SaveState", "Leave", "Return", "LoadState", "Close"} {
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
