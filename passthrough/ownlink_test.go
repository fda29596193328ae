package passthrough

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestOwnershipConvertLink gives links of the host's away.
func TestOwnershipConvertLink(t *testing.T) {
	g := ownShare(t, nil)
	for _, n := range []string{"l", "two"} {
		if err := os.Symlink("some/where", g.path(n)); err != nil {
			t.Fatal(err)
		}
	}
	chown := func(n uint64, uid uint32) (out fp.AttrOut) {
		t.Helper()
		wantErrno(t, "chown", g.fs.Setattr(g.on(n), &fp.SetattrIn{Valid: fp.FattrUID | fp.FattrGID, UID: uid, GID: uid}, &out), 0)
		return out
	}
	reads := func(what string, n uint64) {
		t.Helper()
		buf := make([]byte, 100)
		if size, errno := g.fs.Readlink(g.on(n), buf); string(buf[:size]) != "some/where" || errno != 0 {
			t.Errorf("%s: readlink: %q, %v", what, buf[:size], errno)
		}
	}
	old := g.lookup(fp.RootID, "l")
	if a := chown(old, 0).Attr; a.UID != 0 || a.GID != 0 {
		t.Errorf("%+v", a)
	}
	g.onHost("l", unix.S_IFLNK|0o777)
	if a := chown(old, 7).Attr; a.UID != 7 || a.GID != 7 || a.Mode != unix.S_IFLNK|0o777 || a.Size != 10 {
		t.Errorf("%+v", a)
	}
	g.onHost("l", unix.S_IFREG|0o600)
	reads("the old node", old)
	n := g.shown("converted", fp.RootID, "l", unix.S_IFLNK|0o777, 7, 7, 0)
	if n == old {
		t.Error("the link has its old number")
	}
	// The old number is good for everything, until it is forgotten.
	if a := chown(old, 8).Attr; a.UID != 8 {
		t.Errorf("%+v", a)
	}
	g.shown("again", fp.RootID, "l", unix.S_IFLNK|0o777, 8, 8, 0)
	var e fp.EntryOut
	wantErrno(t, "link", g.fs.Link(g.on(fp.RootID), &fp.LinkIn{OldNodeID: old}, name("m"), &e), 0)
	wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name("m")), 0)
	g.fs.Forget(nil, old, 1)
	var out fp.AttrOut
	wantErrno(t, "forgotten", g.fs.Getattr(g.on(old), &fp.GetattrIn{}, &out), unix.ESTALE)
	reads("the new node", n)

	// With two names it stays what it is.
	if err := os.Link(g.path("two"), g.path("three")); err != nil {
		t.Fatal(err)
	}
	if a := chown(g.lookup(fp.RootID, "two"), 7).Attr; a.UID != 0 {
		t.Errorf("%+v", a)
	}
	g.onHost("two", unix.S_IFLNK|0o777)
	names, _ := os.ReadDir(g.dir)
	if len(names) != 3 {
		t.Errorf("left behind: %v", names)
	}
}

// TestOwnershipLinkStorm gives the same links away from several threads, while others
// look them up, read, rename and forget them.
func TestOwnershipLinkStorm(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Setxattr(dir, "user.test", []byte("x"), 0); err != nil {
		t.Skip("no user attributes here: ", err)
	}
	s := shareDir(t, dir, func(c *Config) { c.Ownership, c.KillprivV2 = OwnershipXattr, false }, 0)
	const links = 4
	for i := range links {
		if err := os.Symlink("target", s.path(fmt.Sprint("l", i))); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			g := s.guest()
			for i := range 150 {
				n := name(fmt.Sprint("l", (i+w)%links))
				var e fp.EntryOut
				if g.fs.Lookup(g.on(fp.RootID), n, &e) != 0 {
					continue
				}
				var a fp.AttrOut
				_ = g.fs.Setattr(g.on(e.NodeID), &fp.SetattrIn{Valid: fp.FattrUID, UID: uint32(i%3 + 1)}, &a)
				buf := make([]byte, 20)
				if size, errno := g.fs.Readlink(g.on(e.NodeID), buf); errno == 0 && string(buf[:size]) != "target" {
					t.Errorf("%q", buf[:size])
				}
				if w == 0 && i%10 == 0 { // a new one, of the host's
					_ = g.fs.Unlink(g.on(fp.RootID), n)
					_ = g.fs.Symlink(g.on(fp.RootID), n, name("target"), &fp.EntryOut{})
				}
				g.fs.Forget(nil, e.NodeID, 1)
			}
		})
	}
	all.Wait()
	s.fs.Destroy()
	converted := &s.fs.converted
	converted.mu.Lock()
	defer converted.mu.Unlock()
	if n := len(converted.to); n != 0 {
		t.Errorf("%d links are remembered", n)
	}
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".govirtiofs") {
			t.Errorf("%s is left behind", n.Name())
		}
	}
}
