package passthrough

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/server"
)

// initFlags is what the file system would agree on with a client that offers all.
func initFlags(t *testing.T, edit func(*Config)) fp.InitFlags {
	t.Helper()
	g := newShare(t, edit, 0)
	p := &server.InitParams{Offered: ^fp.InitFlags(0)}
	if errno := g.fs.Init(p); errno != 0 {
		t.Fatal(errno)
	}
	return p.Flags
}

// TestCachePolicies: timeouts and flags of each policy, as virtiofsd has them.
func TestCachePolicies(t *testing.T) {
	const direct = fp.FopenDirectIO | fp.FopenParallelDirectWrites
	for _, c := range []struct {
		policy      CachePolicy
		timeout     uint64
		file, dir   uint32
		readdirplus bool
		symlinks    bool
	}{
		{CacheNever, 0, direct, 0, false, false},
		{CacheMetadata, 86400, direct, fp.FopenKeepCache | fp.FopenCacheDir, true, true},
		{CacheAuto, 1, 0, 0, true, false},
		{CacheAlways, 86400, fp.FopenKeepCache, fp.FopenKeepCache | fp.FopenCacheDir, true, true},
	} {
		g := newShare(t, func(cfg *Config) { cfg.Cache = c.policy }, 0).guest()
		g.write("f", "")
		var entry fp.EntryOut
		wantErrno(t, "lookup", g.fs.Lookup(g.on(fp.RootID), name("f"), &entry), 0)
		if entry.EntryValid != c.timeout || entry.AttrValid != c.timeout {
			t.Errorf("policy %d: names %d s, attributes %d s, want %d", c.policy, entry.EntryValid, entry.AttrValid, c.timeout)
		}
		var attr fp.AttrOut
		wantErrno(t, "getattr", g.fs.Getattr(g.on(entry.NodeID), &fp.GetattrIn{}, &attr), 0)
		if attr.AttrValid != c.timeout {
			t.Errorf("policy %d: attributes %d s, want %d", c.policy, attr.AttrValid, c.timeout)
		}
		wantErrno(t, "lookup of nothing", g.fs.Lookup(g.on(fp.RootID), name("none"), &entry), unix.ENOENT)
		var file, dir fp.OpenOut
		wantErrno(t, "open", g.fs.Open(g.on(g.lookup(fp.RootID, "f")), &fp.OpenIn{Flags: unix.O_RDWR}, &file), 0)
		wantErrno(t, "opendir", g.fs.Opendir(g.on(fp.RootID), &fp.OpenIn{}, &dir), 0)
		var created fp.CreateOut
		wantErrno(t, "create", g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Mode: 0o644, Flags: unix.O_RDWR}, name("new"), &created), 0)
		if file.OpenFlags != c.file || dir.OpenFlags != c.dir || created.Open.OpenFlags != c.file {
			t.Errorf("policy %d: files %#x, directories %#x, new files %#x", c.policy, file.OpenFlags, dir.OpenFlags, created.Open.OpenFlags)
		}
		flags := initFlags(t, func(cfg *Config) { cfg.Cache = c.policy })
		if (flags&fp.InitDoReaddirplus != 0) != c.readdirplus || (flags&fp.InitCacheSymlinks != 0) != c.symlinks {
			t.Errorf("policy %d: agreed on %#x", c.policy, flags)
		}
		g.fs.Destroy()
	}
}

// TestTimeouts: each may be set apart from the policy.
func TestTimeouts(t *testing.T) {
	d := func(s string) *time.Duration {
		v, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return &v
	}
	g := newShare(t, func(c *Config) {
		c.EntryTimeout, c.AttrTimeout, c.NegativeTimeout = d("2s"), d("0s"), d("1m0.5s")
	}, 0).guest()
	g.write("f", "")
	var out fp.EntryOut
	wantErrno(t, "lookup", g.fs.Lookup(g.on(fp.RootID), name("f"), &out), 0)
	if out.EntryValid != 2 || out.AttrValid != 0 || out.EntryValidNsec != 0 || out.AttrValidNsec != 0 {
		t.Errorf("got %+v", out)
	}
	wantErrno(t, "lookup of nothing", g.fs.Lookup(g.on(fp.RootID), name("none"), &out), 0)
	if out.NodeID != 0 || out.EntryValid != 60 || out.EntryValidNsec != 5e8 {
		t.Errorf("got %+v", out)
	}
}

func TestCacheSymlinksChoice(t *testing.T) {
	for _, on := range []bool{true, false} {
		flags := initFlags(t, func(c *Config) { c.CacheSymlinks = &on })
		if (flags&fp.InitCacheSymlinks != 0) != on {
			t.Errorf("%v: agreed on %#x", on, flags)
		}
	}
}

// TestDirectIOChoice: files by name, by path and by size.
func TestDirectIOChoice(t *testing.T) {
	g := newShare(t, func(c *Config) {
		c.Cache, c.DirectIO, c.DirectIOSize = CacheAlways, []string{"*.db", "/vm/**/disk?", "top"}, 1000
	}, 0).guest()
	for _, dir := range []string{"vm/a/b", "sub"} {
		if err := os.MkdirAll(g.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, direct := range map[string]bool{
		"x.db": true, "sub/y.db": true, "x.dbx": false, "vm/disk1": true, "vm/a/b/disk2": true, "sub/disk1": false,
		"disk1": false, "top": true, "sub/top": true, "other": false, "big": true,
	} {
		content := ""
		if file == "big" {
			content = strings.Repeat("x", 1000)
		}
		g.write(file, content)
		node := uint64(fp.RootID)
		for _, n := range strings.Split(file, "/") {
			node = g.lookup(node, n)
		}
		out, errno := g.tryOpen(node, unix.O_RDONLY)
		if errno != 0 || (out.OpenFlags&fp.FopenDirectIO != 0) != direct || (out.OpenFlags&fp.FopenKeepCache != 0) == direct {
			t.Errorf("%s: flags %#x, %v", file, out.OpenFlags, errno)
		}
		g.release(node, out.Fh)
	}
	var created fp.CreateOut
	wantErrno(t, "create", g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Mode: 0o644}, name("new.db"), &created), 0)
	if created.Open.OpenFlags&fp.FopenDirectIO == 0 {
		t.Errorf("new file: flags %#x", created.Open.OpenFlags)
	}
	g.fs.Destroy()
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"**", "a", true}, {"db/**", "db/a/b", true}, {"db/**", "db", false}, {"db/**", "dbx/a", false}, {"**/*", "a", true}, {"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b", true},
		{"a/**/b", "a/x/y/c", false}, {"**/a/**/b", "x/a/b", true}, {"a/*/b", "a/x/y/b", false}, {"a/b", "a/b/c", false},
		{"a/b/c", "a/b", false}, {"[ab]x", "deep/down/bx", true}, {"**/**/x", "x", true},
		{"**/a/b/**/c", "a/x/a/b/c", true}, {"**/a/**/a/**/b", "a/a/c/b", true}, {"**/a/**/a/**/b", "a/c/b", false}, {"x/**/a/*", "x/a/a/a/y", true},
		{strings.Repeat("**/a/", 20) + "b", strings.Repeat("a/", 4000) + "c", false}, // soon
	} {
		p, err := parsePatterns([]string{c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		if got := matchPath(p[0], strings.Split(c.path, "/")); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.path, got)
		}
	}
	for _, s := range []string{"", "[", "a//b", "a/", "../x", "a/./b"} {
		if CheckPattern(s) == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

const noOpen = fp.InitNoOpenSupport | fp.InitNoOpendirSupport

// immutable is an immutable share with a directory and files in it.
func immutable(t *testing.T, files, maxFDs int, flags fp.InitFlags) *guest {
	t.Helper()
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), []byte(fmt.Sprint("content ", i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return shareDir(t, dir, func(c *Config) { c.Immutable, c.MaxFDs = true, maxFDs }, flags).guest()
}

// TestImmutable: what a guest may keep of a share that never changes.
func TestImmutable(t *testing.T) {
	flags := initFlags(t, func(c *Config) { c.Immutable = true })
	if flags&(fp.InitPosixLocks|fp.InitFlockLocks|fp.InitWritebackCache) != 0 || flags&fp.InitCacheSymlinks == 0 {
		t.Errorf("agreed on %#x", flags)
	}
	g := immutable(t, 1, 0, noOpen)
	const year = 365 * 86400
	var out fp.EntryOut
	wantErrno(t, "lookup", g.fs.Lookup(g.on(fp.RootID), name("f0"), &out), 0)
	if out.EntryValid != year || out.AttrValid != year {
		t.Errorf("got %+v", out)
	}
	f := out.NodeID
	wantErrno(t, "lookup of nothing", g.fs.Lookup(g.on(fp.RootID), name("none"), &out), 0)
	if out.NodeID != 0 || out.EntryValid != year {
		t.Errorf("got %+v", out)
	}
	_, errno := g.tryOpen(f, unix.O_RDONLY)
	wantErrno(t, "open", errno, unix.ENOSYS)
	wantErrno(t, "opendir", g.fs.Opendir(g.on(fp.RootID), &fp.OpenIn{}, &fp.OpenOut{}), unix.ENOSYS)
	wantErrno(t, "flush", g.fs.Flush(g.on(f), &fp.FlushIn{}), unix.ENOSYS)
	for range 2 {
		if got, errno := g.readAt(f, 0, 0, 100); got != "content 0" || errno != 0 {
			t.Errorf("read: %q, %v", got, errno)
		}
	}
	wantCalls(t, "READ of an open file", 1, func() { _, _ = g.readAt(f, 0, 0, 100) })
	_, errno = g.readAt(fp.RootID, 0, 0, 100)
	wantErrno(t, "read of a directory", errno, unix.EISDIR)
	_, errno = g.readAt(f+1, 0, 0, 100)
	wantErrno(t, "read of a forged node", errno, unix.ESTALE)
	_, errno = g.readAt(f, 12345, 0, 100)
	wantErrno(t, "read with a forged fh", errno, unix.EBADF)

	// A client that can't do without opening opens.
	g = immutable(t, 1, 0, fp.InitNoOpenSupport)
	f = g.lookup(fp.RootID, "f0")
	opened, errno := g.tryOpen(f, unix.O_RDONLY)
	wantErrno(t, "open", errno, 0)
	if opened.OpenFlags&fp.FopenKeepCache == 0 {
		t.Errorf("flags %#x", opened.OpenFlags)
	}
	_, errno = g.readAt(f, 0, 0, 100)
	wantErrno(t, "read without opening", errno, unix.EBADF)
	g.fs.Destroy()
}

// TestOpenlessDescriptors: files that nobody opens are not kept open either.
func TestOpenlessDescriptors(t *testing.T) {
	const files, limit = 300, 64
	g := immutable(t, files, limit, noOpen)
	nodes := make([]uint64, files)
	for round := range 2 {
		for i := range nodes {
			if round == 0 {
				nodes[i] = g.lookup(fp.RootID, fmt.Sprint("f", i))
			}
			if got, errno := g.readAt(nodes[i], 0, 0, 100); got != fmt.Sprint("content ", i) || errno != 0 {
				t.Fatalf("read: %q, %v", got, errno)
			}
			if n := g.fs.fds.used.Load(); n > limit+evictAtOnce {
				t.Fatalf("%d descriptors with a limit of %d", n, limit)
			}
		}
	}
	for _, n := range nodes {
		g.fs.Forget(nil, n, 1)
	}
	if n := g.fs.fds.kept.Load(); n != 0 {
		t.Errorf("%d files are open that the client has forgotten", n)
	}
	if n := g.fs.fds.used.Load(); n > 2 {
		t.Errorf("%d descriptors are left", n)
	}
}

// TestOpenlessListing lists a directory without opening it, in two places at a time.
func TestOpenlessListing(t *testing.T) {
	const files = 300
	g := immutable(t, files, 0, noOpen)
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			g := g.share.guest()
			names, _ := g.listAll(0, 1000+100*w, w == 0)
			if len(names) != files+2 {
				t.Errorf("%d names, want %d", len(names), files+2)
			}
		})
	}
	wg.Wait()
}

// TestOpenlessRace reads and forgets from several threads.
func TestOpenlessRace(t *testing.T) {
	g := immutable(t, 4, 40, noOpen)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			g := g.share.guest()
			for i := range 300 {
				var out fp.EntryOut
				n := (i + w) % 4
				if errno := g.fs.Lookup(g.on(fp.RootID), name(fmt.Sprint("f", n)), &out); errno != 0 {
					t.Error(errno)
					return
				}
				if got, errno := g.readAt(out.NodeID, 0, 0, 100); errno != 0 || got != fmt.Sprint("content ", n) {
					t.Errorf("read: %q, %v", got, errno)
				}
				g.fs.Forget(nil, out.NodeID, 1)
			}
		})
	}
	wg.Wait()
	if n := g.fs.fds.kept.Load(); n != 0 {
		t.Errorf("%d files are open that the client has forgotten", n)
	}
}

// TestMoveImmutable: a guest that opens nothing goes on so elsewhere, and takes along no
// open files.
func TestMoveImmutable(t *testing.T) {
	g := immutable(t, 3, 0, noOpen)
	f := g.lookup(fp.RootID, "f1")
	if _, errno := g.readAt(f, 0, 0, 100); errno != 0 {
		t.Fatal(errno)
	}
	if !g.fs.agreed(fp.InitNoOpenSupport) {
		t.Fatal("the daemon that the guest moves to would not know")
	}
	state := g.saved()
	there := shareDir(t, g.dir, func(c *Config) { c.Immutable = true }, noOpen).guest()
	r := record.NewReader(bytes.NewReader(state), math.MaxInt64)
	if _, err := there.fs.LoadState(&there.thread, r); err != nil {
		t.Fatal(err)
	}
	if n := there.fs.fds.kept.Load(); n != 0 {
		t.Errorf("%d open files have moved", n)
	}
	if got, errno := there.readAt(f, 0, 0, 100); got != "content 1" || errno != 0 {
		t.Errorf("read: %q, %v", got, errno)
	}
	there.fs.Forget(nil, f, 1)
	if n := there.fs.fds.kept.Load(); n != 0 {
		t.Errorf("%d files are open that the client has forgotten", n)
	}
}
