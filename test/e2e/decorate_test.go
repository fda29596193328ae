package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestDecoratedShare puts a file system that changes nothing around passthrough. The guest
// sees no difference: threads have their own umask and credentials, root is root, and the
// state can be transferred.
func TestDecoratedShare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to act for other users")
	}
	defer unix.Umask(unix.Umask(0o077))
	var results []string
	for name, decorate := range map[string]func(server.FileSystem) server.FileSystem{
		"bare":      func(fs server.FileSystem) server.FileSystem { return fs },
		"decorated": func(fs server.FileSystem) server.FileSystem { return struct{ server.FileSystem }{fs} },
	} {
		t.Run(name, func(t *testing.T) { results = append(results, decorated(t, decorate)) })
	}
	want := "mode 0777, owner 1000, then 1234; state saved: true"
	for _, got := range results {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// decorated reports what a guest sees of a share.
func decorated(t *testing.T, decorate func(server.FileSystem) server.FileSystem) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	device, _ := newDecorated(t, dir, defaults(), 1, decorate)
	f, done := connect(t, device, frontend.Options{})
	defer func() { f.Close(); <-done }()
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	c.UID, c.GID = 1000, 1000
	out, err := c.Create(fp.RootID, "file", unix.O_RDWR, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	var before, after unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "file"), &before); err != nil {
		t.Fatal(err)
	}
	c.UID, c.GID = 0, 0
	if _, err := c.Setattr(out.Entry.NodeID, fp.SetattrIn{Valid: fp.FattrUID, UID: 1234}); err != nil {
		t.Errorf("chown by root: %v", err)
	}
	if err := unix.Stat(filepath.Join(dir, "file"), &after); err != nil {
		t.Fatal(err)
	}
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	state, err := f.SaveState()
	if err != nil {
		t.Errorf("state: %v", err)
	}
	return fmt.Sprintf("mode %#o, owner %d, then %d; state saved: %v", before.Mode&0o7777, before.Uid, after.Uid, err == nil && len(state) > 0)
}
