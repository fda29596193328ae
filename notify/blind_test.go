package notify

import (
	"errors"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/server"
)

// single is a share with the root and one file in it, "f", which is node 2. Its client forgets nothing.
type single struct {
	forgetful
	noThread atomic.Bool
}

func (s *single) Known(uint64) bool { return true }
func (s *single) Nodes(yield func(uint64, bool) bool) {
	_ = yield(fp.RootID, true) && yield(2, false)
}

func (s *single) StartThread(*server.Thread) error {
	if s.noThread.Load() {
		return unix.EAGAIN
	}
	return nil
}

func (s *single) Place(id uint64) (uint64, fp.Name, bool) {
	return fp.RootID, fp.Name("f\x00"), id == 2
}

func (s *single) Lookup(_ *server.Request, _ fp.Name, out *fp.EntryOut) unix.Errno {
	*out = fp.EntryOut{NodeID: 2, EntryValid: 1000, AttrValid: 1000, Attr: fp.Attr{Mode: unix.S_IFREG, Nlink: 1}}
	return 0
}

// heard notes what a client is told.
type heard struct {
	mu    sync.Mutex
	codes map[fp.NotifyCode]int
}

func (h *heard) Notify(code fp.NotifyCode, _ ...[]byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.codes[code]++
	return nil
}

// all reports whether the client was told to drop everything, and forgets that.
func (h *heard) all() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := h.codes[fp.NotifyIncEpoch] > 0 && h.codes[fp.NotifyInvalEntry] > 0 && h.codes[fp.NotifyInvalInode] > 0
	if done {
		clear(h.codes)
	}
	return done
}

// TestBlind: when the host's changes can't be watched any more, the client drops all that it was told was good for
// long, gets short times from then on, and the log says so; it is tried again.
func TestBlind(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(fs *FS, share *single)
	}{
		{"no watcher at a renewal", func(fs *FS, _ *single) { fs.renew(fs.current()) }},
		{"the watcher fails", func(fs *FS, _ *single) { _ = fs.current().watcher.Close() }},
		{"no thread at a renewal", func(fs *FS, share *single) {
			share.noThread.Store(true)
			fs.turn.Lock()
			fs.newWatcher = func() (*hostwatch.Watcher, error) { return hostwatch.New(hostwatch.Options{}) }
			fs.turn.Unlock()
			fs.renew(fs.current())
		}},
	} {
		t.Run(c.name, func(t *testing.T) { testBlind(t, c.fail) })
	}
}

func testBlind(t *testing.T, fail func(*FS, *single)) {
	dir, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	if w, err := hostwatch.New(hostwatch.Options{}); err != nil {
		t.Skip(err)
	} else {
		_ = w.Close()
	}
	var log daemontest.Log
	share, client := &single{forgetful: forgetful{dir: dir}}, &heard{codes: map[fp.NotifyCode]int{}}
	fs := New(share, slog.New(slog.NewTextHandler(&log, nil)))
	fs.Connect(client)
	if errno := fs.Init(&server.InitParams{}); errno != 0 {
		t.Fatal(errno)
	}
	defer fs.Close()
	times := func() (entry, attr uint64) {
		var out fp.EntryOut
		r := &server.Request{Header: fp.InHeader{NodeID: fp.RootID}, Thread: new(server.Thread), Cell: new(fuse.Cell)}
		if errno := fs.Lookup(r, fp.Name("f\x00"), &out); errno != 0 {
			t.Fatal(errno)
		}
		return out.EntryValid, out.AttrValid
	}
	if e, a := times(); e != 1000 || a != 1000 {
		t.Fatalf("good for %d and %d s while it is watched", e, a)
	}

	var works atomic.Bool
	fs.turn.Lock()
	fs.retry = 20 * time.Millisecond
	fs.newWatcher = func() (*hostwatch.Watcher, error) {
		if works.Load() {
			return hostwatch.New(hostwatch.Options{})
		}
		return nil, errors.New("too many descriptors")
	}
	fs.turn.Unlock()
	fail(fs, share)
	until(t, "the client drops everything", client.all)
	until(t, "short times", func() bool { e, a := times(); return e == 1 && a == 1 })
	if !strings.Contains(log.String(), "can't be watched") {
		t.Error(log.String())
	}
	share.noThread.Store(false)
	works.Store(true)
	until(t, "long times again", func() bool { e, a := times(); return e == 1000 && a == 1000 })
	if !strings.Contains(log.String(), "watched again") {
		t.Error(log.String())
	}
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for this: ", what)
		}
	}
}

// TestConnectNil: a client that nobody can notify keeps nothing once something has changed; with a way again it
// drops everything, and may keep things.
func TestConnectNil(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if w, err := hostwatch.New(hostwatch.Options{}); err != nil {
		t.Skip(err)
	} else {
		_ = w.Close()
	}
	share, client := &single{forgetful: forgetful{dir: fd}}, &heard{codes: map[fp.NotifyCode]int{}}
	fs := New(share, slog.New(slog.DiscardHandler))
	fs.Connect(client)
	if errno := fs.Init(&server.InitParams{}); errno != 0 {
		t.Fatal(errno)
	}
	defer fs.Close()
	valid := func() uint64 {
		var out fp.EntryOut
		r := &server.Request{Header: fp.InHeader{NodeID: fp.RootID}, Thread: new(server.Thread), Cell: new(fuse.Cell)}
		if errno := fs.Lookup(r, fp.Name("f\x00"), &out); errno != 0 {
			t.Fatal(errno)
		}
		return out.EntryValid
	}
	if v := valid(); v != 1000 {
		t.Fatalf("good for %d s", v)
	}
	fs.Connect(nil)
	if out, err := exec.Command("/bin/sh", "-c", ": >"+filepath.Join(dir, "new")).CombinedOutput(); err != nil { // another process
		t.Fatalf("%v: %s", err, out)
	}
	until(t, "nothing is kept", func() bool { return valid() == 0 })
	fs.Connect(client)
	until(t, "the client drops everything", client.all)
	until(t, "things are kept", func() bool { return valid() == 1000 })
}
