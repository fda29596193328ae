package vfs_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/vfs"

	"github.com/govirtiofs/govirtiofs/internal/mounttest"
)

// counter is a directory that the client keeps for an hour. Each write to "poke" changes the file
// "value", and makes a name.
type counter struct {
	fs *vfs.FS
	n  atomic.Int64
}

func (*counter) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: fs.ModeDir | 0o755}, nil
}

func (c *counter) Lookup(_ context.Context, name string) (vfs.Node, error) {
	n, err := strconv.ParseInt(name, 10, 64)
	if name != "value" && name != "poke" && (err != nil || n > c.n.Load()) {
		return nil, fs.ErrNotExist
	}
	return counterFile{c, name}, nil
}

type counterFile struct {
	*counter
	name string
}

func (f counterFile) Attr(context.Context) (vfs.Attr, error) {
	return vfs.Attr{Mode: 0o644, Size: f.n.Load()}, nil
}
func (counterFile) OpenOptions() vfs.OpenOptions               { return vfs.OpenOptions{KeepCache: true} }
func (counterFile) SetAttr(context.Context, vfs.SetAttr) error { return nil }
func (f counterFile) ReadAt(p []byte, off int64) (int, error) {
	n := f.n.Load()
	p = p[:min(int64(len(p)), max(n-off, 0))]
	for i := range p {
		p[i] = byte('0' + n)
	}
	return len(p), nil
}
func (f counterFile) WriteAt(p []byte, _ int64) (int, error) {
	n := f.n.Add(1)
	go func() {
		_ = f.fs.InvalidateNode(counterFile{f.counter, "value"}, 0, 0)
		_ = f.fs.InvalidateEntry(f.counter, strconv.FormatInt(n, 10))
	}()
	return len(p), nil
}

// TestInvalidate: the client drops what it would keep for an hour.
func TestInvalidate(t *testing.T) {
	dir := mounttest.Mount(t, "counter")
	path := func(name string) string { return filepath.Join(dir, name) }
	for i, want := range []string{"", "1", "22", "333"} {
		name := path(strconv.Itoa(i + 1))
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is there before it was made", name)
		}
		var got []byte
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if got, _ = os.ReadFile(path("value")); string(got) == want {
				break
			}
		}
		if string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
		if err := os.WriteFile(path("poke"), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(name); err == nil {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// TestNotConnected: without a way to the client that is an error.
func TestNotConnected(t *testing.T) {
	c := new(counter)
	f := vfs.New(c, vfs.Options{})
	if f.InvalidateNode(c, 0, 0) == nil || f.InvalidateEntry(c, "x") == nil {
		t.Error("nobody was told")
	}
}
