package passthrough

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	guests "github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestPath: nodes are named as the share sees them, and no lock is waited for.
func TestPath(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	if err := os.MkdirAll(s.path("dir/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write("dir/sub/file", "1")
	dir := g.lookup(fp.RootID, "dir")
	sub := g.lookup(dir, "sub")
	file := g.lookup(sub, "file")
	for node, want := range map[uint64]string{fp.RootID: ".", dir: "dir", sub: "dir/sub", file: "dir/sub/file", 4711: ""} {
		if got := g.fs.Path(node); got != want {
			t.Errorf("node %d is %q, want %q", node, got, want)
		}
	}
	n := g.fs.nodes.Get(sub)
	n.Lock()
	if got := g.fs.Path(file); got != ".../file" {
		t.Errorf("with a directory that is locked: %q", got)
	}
	n.Unlock()
	g.fs.nodes.Displace(g.fs.nodes.Get(file))
	if got := g.fs.Path(file); got != "" {
		t.Errorf("without a name: %q", got)
	}
}

// TestPathDeep: a message does not get longer and longer.
func TestPathDeep(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	at := uint64(fp.RootID)
	if err := os.MkdirAll(s.path(strings.Repeat("d/", 2*maxPath)), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 * maxPath {
		at = g.lookup(at, "d")
	}
	if got := g.fs.Path(at); got != "..."+strings.Repeat("/d", maxPath) {
		t.Error(got)
	}
}

// TestIntegrationBacking: requests are told apart by the file system of the host that they need, also
// those with the name of a place where another one is mounted.
func TestIntegrationBacking(t *testing.T) {
	guests.NeedRoot(t)
	s := newShare(t, nil, 0)
	g := s.guest()
	for _, dir := range []string{"mnt", "dir"} {
		if err := os.Mkdir(s.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("none", s.path("mnt"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(s.path("mnt"), unix.MNT_DETACH) }()
	s.write("mnt/file", "1")
	root := g.fs.Backing(fp.RootID, nil)
	if got := g.fs.Backing(fp.RootID, name("mnt")); got != root {
		t.Errorf("a name that was not looked up: %#x, want %#x", got, root)
	}
	mnt, dir := g.lookup(fp.RootID, "mnt"), g.lookup(fp.RootID, "dir")
	file := g.lookup(mnt, "file")
	other := g.fs.Backing(mnt, nil)
	if root == 0 || other == 0 || root == other {
		t.Fatalf("two file systems are %#x and %#x", root, other)
	}
	for _, c := range []struct {
		what string
		node uint64
		name fp.Name
		want uint64
	}{
		{"a directory", dir, nil, root}, {"a file of the other", file, nil, other},
		{"the name of a directory", fp.RootID, name("dir"), root}, {"the name of the other", fp.RootID, name("mnt"), other},
		{"a name in the other", mnt, name("new"), other}, {"no name", fp.RootID, name("new"), root}, {"no node", 4711, nil, 0},
	} {
		if got := g.fs.Backing(c.node, c.name); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
}
