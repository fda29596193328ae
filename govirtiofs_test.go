package govirtiofs_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fusedev"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/iofs"
)

var files = fstest.MapFS{"dir/hello": {Data: []byte("hello\n"), Mode: 0o444}}

func newServer() *govirtiofs.Server {
	return &govirtiofs.Server{FS: iofs.New(files), Tag: "test", Log: slog.New(slog.DiscardHandler)}
}

// connect is a guest that has mounted what is served on a socket.
func connect(t *testing.T, socket string) (*frontend.Client, func()) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		front, err := frontend.Dial(socket, frontend.Options{})
		if err == nil {
			guest := frontend.NewClient(front)
			if err := guest.Handshake(frontend.AllFlags); err != nil {
				t.Fatal(err)
			}
			return guest, front.Close
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestServer: two guests, one after the other, and the end.
func TestServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	s := newServer()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe(ctx, socket) }()
	for range 2 {
		guest, end := connect(t, socket)
		dir, err := guest.Lookup(fp.RootID, "dir")
		if err != nil {
			t.Fatal(err)
		}
		file, err := guest.Lookup(dir.NodeID, "hello")
		if err != nil {
			t.Fatal(err)
		}
		fh, err := guest.Open(file.NodeID, unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := guest.Read(file.NodeID, fh, 0, 100); string(text) != "hello\n" {
			t.Errorf("%q, %v", text, err)
		}
		if _, err := guest.Lookup(fp.RootID, "none"); !errors.Is(err, unix.ENOENT) {
			t.Errorf("a name that is not there: %v", err)
		}
		end()
	}
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st, err)
	}
	guest, end := connect(t, socket)
	defer end()
	if _, err := guest.Lookup(fp.RootID, "dir"); err != nil {
		t.Fatal(err)
	}
	cancel() // with a guest that is connected
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSocket: a socket that was left is replaced; one that is used, or another file, is not.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	file, used, left := filepath.Join(dir, "file"), filepath.Join(dir, "used"), filepath.Join(dir, "left")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: used, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := errors.Join(dead.Close(), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, used} {
		if err := govirtiofs.ListenAndServe(name, "test", iofs.New(files)); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: %v, want EADDRINUSE", filepath.Base(name), err)
		}
		if _, err := os.Lstat(name); err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- newServer().ListenAndServe(ctx, left) }()
	_, end := connect(t, left)
	end()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWrongUse: what is missing is said.
func TestWrongUse(t *testing.T) {
	dir := t.TempDir()
	s := govirtiofs.Server{Tag: "test"}
	if err := s.ListenAndServe(t.Context(), filepath.Join(dir, "socket")); err == nil || !strings.Contains(err.Error(), "needs FS") {
		t.Errorf("no file system: %v", err)
	}
	if err := newServer().ListenAndServe(t.Context(), filepath.Join(dir, "none", "socket")); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "make the directory first") {
		t.Errorf("no directory: %v", err)
	}
	if err := newServer().ListenAndServe(t.Context(), filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "may have 107") {
		t.Errorf("a long path: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newServer().Mount(t.Context(), file, fusedev.Options{}); !errors.Is(err, unix.ENOTDIR) || !strings.Contains(err.Error(), "give a directory to mount on") {
		t.Errorf("a mount on a file: %v", err)
	}
}

// TestTag: a wrong tag is an error that says what is wrong.
func TestTag(t *testing.T) {
	for _, tag := range []string{"", "a tag that is longer than the thirty-six bytes"} {
		if err := govirtiofs.ListenAndServe(filepath.Join(t.TempDir(), "socket"), tag, iofs.New(files)); err == nil {
			t.Errorf("%q is accepted", tag)
		}
	}
}
