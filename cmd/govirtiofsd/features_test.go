package main

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationFeatures sees options at work in the sandbox, under the filter.
func TestIntegrationFeatures(t *testing.T) {
	guest.NeedRoot(t)
	const noOpen = fp.InitNoOpenSupport | fp.InitNoOpendirSupport
	for _, test := range []struct {
		name string
		args []string
		try  func(t *testing.T, c *frontend.Client, dir string)
	}{
		{"xattrmap", []string{"--xattrmap=:map::user.virtiofs.:", "--cache=never"}, tryXattrmap},
		{"handles", []string{"--inode-file-handles=mandatory"}, tryHandles},
		{"handles in a chroot", []string{"--inode-file-handles=mandatory", "--sandbox=chroot"}, tryHandles},
		{"immutable", []string{"--immutable"}, tryImmutable},
		{"direct I/O", []string{"--cache=always", "--direct-io=*.db", "--direct-io-size=1K"}, tryDirectIO},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := tempDir(t)
			share := dir + "/share"
			for _, err := range []error{
				os.MkdirAll(share+"/a/b", 0o755), os.WriteFile(share+"/a/b/f", []byte("content"), 0o644),
				os.WriteFile(share+"/x.db", nil, 0o644), os.WriteFile(share+"/big", make([]byte, 1024), 0o644),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			d := startDaemon(t, nil, append([]string{"--socket-path", dir + "/s", "--shared-dir", share}, test.args...)...)
			d.waitLine(waitingLine)
			f, err := frontend.Dial(dir+"/s", frontend.Options{})
			if err != nil {
				t.Fatal(err)
			}
			c := frontend.NewClient(f)
			if err := c.Handshake(frontend.AllFlags | noOpen); err != nil {
				t.Fatal(err)
			}
			test.try(t, c, share)
			c.Close()
			d.wantStatus(exitOK)
		})
	}
}

// find looks a path up.
func find(t *testing.T, c *frontend.Client, names ...string) fp.EntryOut {
	t.Helper()
	e := fp.EntryOut{NodeID: fp.RootID}
	for _, n := range names {
		var err error
		if e, err = c.Lookup(e.NodeID, n); err != nil {
			t.Fatalf("%s: %v", n, err)
		}
	}
	return e
}

func tryXattrmap(t *testing.T, c *frontend.Client, dir string) {
	f := find(t, c, "a", "b", "f").NodeID
	if err := c.Setxattr(f, "security.capability", []byte("caps"), false); err != nil {
		t.Fatal(err)
	}
	host := func() error {
		_, err := unix.Getxattr(dir+"/a/b/f", "user.virtiofs.security.capability", nil)
		return err
	}
	if err := host(); err != nil {
		t.Errorf("on the host: %v", err)
	}
	if names, err := c.Listxattr(f, 1000); err != nil || len(names) != 1 || names[0] != "security.capability" {
		t.Errorf("list: %q, %v", names, err)
	}
	fh, err := c.Open(f, unix.O_WRONLY)
	if err == nil {
		_, err = c.Write(f, fh, 0, []byte("x"))
	}
	if err != nil || !errors.Is(host(), unix.ENODATA) {
		t.Errorf("after a write: %v, %v", err, host())
	}
}

func tryHandles(t *testing.T, c *frontend.Client, dir string) {
	// What only a listing has shown has no descriptor.
	listed := func(dir uint64, name string) uint64 {
		list, err := c.ReadAll(dir, true)
		for _, e := range list {
			if e.Name == name {
				return e.Entry.NodeID
			}
		}
		t.Fatalf("no %s in %v, %v", name, list, err)
		return 0
	}
	b := listed(find(t, c, "a").NodeID, "b")
	f := listed(b, "f")
	for _, r := range [][2]string{{"/a/b/f", "/a/b/g"}, {"/a/b", "/c"}, {"/a", "/d"}} {
		if err := os.Rename(dir+r[0], dir+r[1]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Getattr(f); err != nil {
		t.Errorf("renamed file: %v", err)
	}
	if list, err := c.ReadAll(b, true); err != nil || len(list) != 3 {
		t.Errorf("renamed directory: %d names, %v", len(list), err)
	}
}

func tryImmutable(t *testing.T, c *frontend.Client, _ string) {
	e := find(t, c, "a", "b", "f")
	const year = 365 * 86400
	if e.EntryValid != year || e.AttrValid != year {
		t.Errorf("timeouts %d, %d", e.EntryValid, e.AttrValid)
	}
	if e, err := c.Lookup(fp.RootID, "none"); err != nil || e.NodeID != 0 || e.EntryValid != year {
		t.Errorf("missing name: %+v, %v", e, err)
	}
	if _, err := c.Open(e.NodeID, unix.O_RDONLY); !errors.Is(err, unix.ENOSYS) {
		t.Errorf("open: %v", err)
	}
	if got, err := c.Read(e.NodeID, 0, 0, 100); string(got) != "content" || err != nil {
		t.Errorf("read without opening: %q, %v", got, err)
	}
	if list, err := c.Readdir(fp.RootID, 0, 0, 4096, true); len(list) != 5 || err != nil {
		t.Errorf("listing without opening: %d names, %v", len(list), err)
	}
	if _, err := c.Create(fp.RootID, "new", unix.O_RDWR, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("create: %v", err)
	}
	if c.Init.Flags&uint32(fp.InitCacheSymlinks) == 0 {
		t.Errorf("agreed on %#x", c.Init.Flags)
	}
}

func tryDirectIO(t *testing.T, c *frontend.Client, _ string) {
	for name, want := range map[string]uint32{"x.db": fp.FopenDirectIO, "big": fp.FopenDirectIO, "small": fp.FopenKeepCache} {
		out, err := c.Create(fp.RootID, name, unix.O_RDWR, 0o644)
		if err != nil || out.Open.OpenFlags&(fp.FopenDirectIO|fp.FopenKeepCache) != want {
			t.Errorf("%s: flags %#x, %v", name, out.Open.OpenFlags, err)
		}
	}
}
