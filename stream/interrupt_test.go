package stream

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/fusedev"
	need "github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// hanging is a directory with a file whose reads end when they are interrupted.
type hanging struct{ reading, interrupted atomic.Int32 }

func (*hanging) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: fs.ModeDir | 0o755}, nil
}

func (h *hanging) Lookup(_ context.Context, name string) (vfs.Node, error) {
	if name != "never" {
		return nil, fs.ErrNotExist
	}
	return hangingFile{h}, nil
}

type hangingFile struct{ *hanging }

func (hangingFile) Attr(context.Context) (vfs.Attr, error) { return vfs.Attr{Mode: 0o444}, nil }
func (hangingFile) OpenOptions() vfs.OpenOptions           { return vfs.OpenOptions{DirectIO: true} }

func (f hangingFile) Read(ctx context.Context, _ []byte, _ int64) (int, error) {
	f.reading.Add(1)
	defer f.reading.Add(-1)
	<-ctx.Done()
	f.interrupted.Add(1)
	return 0, ctx.Err()
}

// TestInterrupt: the kernel's INTERRUPT for a reader that is killed crosses the stream, and ends the method's context.
func TestInterrupt(t *testing.T) {
	need.NeedFUSE(t)
	h := new(hanging)
	_, path := startServer(t, server.New(vfs.New(h, vfs.Options{}), server.Options{Log: quiet(), MaxWrite: DefaultMaxWrite}), Options{})
	c, err := Dial(context.Background(), ClientOptions{Channels: 1, Log: quiet(), Dial: dialer(path)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	m, err := fusedev.New(dir, fusedev.Options{MaxRead: c.MaxRead()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.End() }()
	served := make(chan error, 1)
	go func() { served <- c.Serve([]Device{m}) }()
	const readers = 5
	var cmds []*exec.Cmd
	for range readers {
		cmd := exec.Command("cat", filepath.Join(dir, "never")) // this process must not use what it serves
		if err := spawn.Start(cmd); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	eventually(t, "all read", func() bool { return h.reading.Load() == readers })
	for _, cmd := range cmds {
		_ = cmd.Process.Kill()
	}
	eventually(t, "all were interrupted", func() bool { return h.interrupted.Load() == readers && h.reading.Load() == 0 })
	for _, cmd := range cmds {
		var ended *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &ended) || !strings.Contains(err.Error(), "killed") {
			t.Errorf("cat: %v", err)
		}
	}
	if err := m.End(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Error("Serve does not return")
	}
}
