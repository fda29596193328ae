package vfs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

func TestMain(m *testing.M) {
	os.Exit(mounttest.Main(m, map[string]func() fuse.Handler{
		"counter": func() fuse.Handler {
			c := new(counter)
			c.fs = vfs.New(c, vfs.Options{EntryTimeout: time.Hour, AttrTimeout: time.Hour, NegativeTimeout: time.Hour})
			return mounttest.Connected{
				Handler: server.New(c.fs, server.Options{Log: slog.New(slog.DiscardHandler)}),
				Connect: func(m *fusedev.Mount) { c.fs.Connect(m) },
			}
		},
		"box": func() fuse.Handler {
			f := vfs.New(new(box), vfs.Options{Locks: true})
			return mounttest.Connected{
				Handler: server.New(f, server.Options{Log: slog.New(slog.DiscardHandler)}),
				Connect: func(m *fusedev.Mount) { f.Connect(m) },
			}
		},
		"kept":            func() fuse.Handler { return onShelf(vfs.Options{Writeback: true, KillPriv: true}) },
		"written through": func() fuse.Handler { return onShelf(vfs.Options{KillPriv: true}) },
		"slow": func() fuse.Handler {
			return server.New(vfs.New(new(slow), vfs.Options{}), server.Options{Log: slog.New(slog.DiscardHandler)})
		},
	}))
}

func onShelf(o vfs.Options) fuse.Handler {
	o.AttrTimeout = time.Hour
	f := vfs.New(&shelf{file: kept{attr: vfs.Attr{Mode: 0o777}}}, o)
	return server.New(f, server.Options{Log: slog.New(slog.DiscardHandler)})
}

// slow is a directory with a file that can't be read, and one that says how many tried.
type slow struct{ reading, interrupted atomic.Int32 }

func (*slow) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: os.ModeDir | 0o755}, nil }

func (s *slow) Lookup(_ context.Context, name string) (vfs.Node, error) {
	switch name {
	case "never", "count":
		return slowFile{s, name}, nil
	}
	return nil, os.ErrNotExist
}

type slowFile struct {
	*slow
	name string
}

func (slowFile) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: 0o444}, nil }
func (slowFile) OpenOptions() vfs.OpenOptions           { return vfs.OpenOptions{DirectIO: true} }

func (f slowFile) Read(ctx context.Context, p []byte, off int64) (int, error) {
	if f.name == "count" {
		text := fmt.Sprintf("%d read, %d interrupted", f.reading.Load(), f.interrupted.Load())
		return copy(p, text[min(int(off), len(text)):]), nil
	}
	f.reading.Add(1)
	defer f.reading.Add(-1)
	<-ctx.Done()
	f.interrupted.Add(1)
	return 0, ctx.Err()
}

// TestBlocking: methods that block, more of them than there are threads, keep nobody else from being
// served, and end when the process that waits is killed.
func TestBlocking(t *testing.T) {
	dir := mounttest.Mount(t, "slow")
	wait := func(want string) {
		t.Helper()
		var got []byte
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if got, _ = os.ReadFile(filepath.Join(dir, "count")); string(got) == want {
				return
			}
		}
		t.Fatalf("%q, want %q", got, want)
	}
	var readers []*exec.Cmd
	for range 10 {
		cmd := exec.Command("cat", filepath.Join(dir, "never"))
		if err := spawn.Start(cmd); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, cmd)
	}
	wait("10 read, 0 interrupted")
	for _, cmd := range readers {
		_ = cmd.Process.Kill()
	}
	wait("0 read, 10 interrupted")
	for _, cmd := range readers {
		var ended *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &ended) || !strings.Contains(err.Error(), "killed") {
			t.Errorf("cat: %v", err)
		}
	}
}
