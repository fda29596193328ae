package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestNodeCalls counts the system calls of names and attributes.
func TestNodeCalls(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("file", "x")
	s.write("new", "x")
	if err := os.Mkdir(s.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	node := g.lookup(fp.RootID, "file")
	var entry fp.EntryOut
	var attr fp.AttrOut
	wantCalls(t, "LOOKUP of a new name", 1, func() { g.lookup(fp.RootID, "new") })
	wantCalls(t, "LOOKUP of a new directory", 3, func() { g.lookup(fp.RootID, "dir") })
	wantCalls(t, "LOOKUP of a known directory", 1, func() { g.lookup(fp.RootID, "dir") })
	wantCalls(t, "LOOKUP of a known name", 1, func() { g.lookup(fp.RootID, "file") })
	wantCalls(t, "LOOKUP of a missing name", 1, func() { _ = g.fs.Lookup(g.on(fp.RootID), name("none"), &entry) })
	wantCalls(t, "GETATTR", 1, func() { _ = g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr) })
	wantCalls(t, "GETATTR that opens it", 3, func() { _ = g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr) })
	wantCalls(t, "GETATTR with a descriptor", 1, func() { _ = g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr) })
	wantCalls(t, "chmod", 2, func() {
		_ = g.fs.Setattr(g.on(node), &fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600}, &attr)
	})
	wantCalls(t, "truncate", 2, func() {
		_ = g.fs.Setattr(g.on(node), &fp.SetattrIn{Valid: fp.FattrSize, Size: 3}, &attr)
	})
	wantCalls(t, "MKNOD", 2, func() {
		_ = g.fs.Mknod(g.on(fp.RootID), &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name("lazy"), &entry)
	})
	lazy := entry.NodeID
	wantCalls(t, "GETATTR of a node without descriptor", 1, func() { _ = g.fs.Getattr(g.on(lazy), &fp.GetattrIn{}, &attr) })
	wantCalls(t, "MKDIR", 3, func() { _ = g.fs.Mkdir(g.on(fp.RootID), &fp.MkdirIn{Mode: 0o755}, name("d"), &entry) })
	wantCalls(t, "RMDIR of what was just made", 1, func() { wantErrno(t, "rmdir", g.fs.Rmdir(g.on(fp.RootID), name("d")), 0) })
	wantCalls(t, "LINK", 2, func() {
		wantErrno(t, "link", g.fs.Link(g.on(fp.RootID), &fp.LinkIn{OldNodeID: node}, name("link"), &entry), 0)
	})
	wantCalls(t, "RENAME", 1, func() {
		wantErrno(t, "rename", g.fs.Rename(g.on(fp.RootID), &fp.Rename2In{NewDir: fp.RootID}, name("link"), name("second")), 0)
	})
	wantCalls(t, "UNLINK", 1, func() { wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name("second")), 0) })
}

// TestLookupAllocations: a known name and its attributes cost no memory.
func TestLookupAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("file", "x")
	node, n := g.lookup(fp.RootID, "file"), name("file")
	var entry fp.EntryOut
	var attr fp.AttrOut
	in := &fp.GetattrIn{}
	for what, f := range map[string]func(){
		"LOOKUP":  func() { _ = g.fs.Lookup(g.on(fp.RootID), n, &entry) },
		"GETATTR": func() { _ = g.fs.Getattr(g.on(node), in, &attr) },
	} {
		if a := testing.AllocsPerRun(100, f); a != 0 {
			t.Errorf("%s: %v allocations", what, a)
		}
	}
}

// TestNodeIdentity: replaced, renamed and deleted files of the host.
func TestNodeIdentity(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("a", "1")
	first := g.lookup(fp.RootID, "a")
	if again := g.lookup(fp.RootID, "a"); again != first {
		t.Errorf("one file is node %d and %d", first, again)
	}
	if err := os.Rename(s.path("a"), s.path("b")); err != nil {
		t.Fatal(err)
	}
	s.write("a", "22")
	second := g.lookup(fp.RootID, "a")
	if second == first || g.lookup(fp.RootID, "b") != first {
		t.Error("nodes follow names instead of files")
	}
	if err := os.Remove(s.path("a")); err != nil {
		t.Fatal(err)
	}
	var attr fp.AttrOut
	// It was only looked at: a guest that has it open has a descriptor here, too.
	wantErrno(t, "getattr of a deleted file", g.fs.Getattr(g.on(second), &fp.GetattrIn{}, &attr), unix.ESTALE)
	var entry fp.EntryOut
	wantErrno(t, "lookup of a deleted file", g.fs.Lookup(g.on(fp.RootID), name("a"), &entry), unix.ENOENT)
}

// TestForget: counts that are right, too high, and forged.
func TestForget(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("a", "1")
	node := g.lookup(fp.RootID, "a")
	g.lookup(fp.RootID, "a")
	g.fs.Forget(nil, node, 1)
	var attr fp.AttrOut
	wantErrno(t, "getattr with one lookup left", g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr), 0)
	g.fs.Forget(nil, node, ^uint64(0))
	wantErrno(t, "getattr of a forgotten node", g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr), unix.ESTALE)
	g.fs.Forget(nil, node, 1)
	g.fs.Forget(nil, fp.RootID, ^uint64(0))
	g.fs.Forget(nil, node^1<<40, 5)
	wantErrno(t, "getattr of the root", g.fs.Getattr(g.on(fp.RootID), &fp.GetattrIn{}, &attr), 0)
	if again := g.lookup(fp.RootID, "a"); again == node {
		t.Error("a node's number is used again")
	}
	if n := g.fs.fds.used.Load(); n > 3 {
		t.Errorf("%d descriptors for a root and a file", n)
	}
}

// TestEviction: with few descriptors everything still works, and no listing is short.
func TestEviction(t *testing.T) {
	s := newShare(t, func(c *Config) { c.MaxFDs = 20 }, 0)
	g := s.guest()
	const files = 300
	for i := range files {
		if err := os.MkdirAll(s.path(fmt.Sprintf("d%d", i%30)), 0o755); err != nil {
			t.Fatal(err)
		}
		s.write(fmt.Sprintf("d%d/f%d", i%30, i), "x")
	}
	nodes := map[string]uint64{}
	for i := range files {
		dir := g.lookup(fp.RootID, fmt.Sprintf("d%d", i%30))
		nodes[fmt.Sprintf("d%d/f%d", i%30, i)] = g.lookup(dir, fmt.Sprintf("f%d", i))
	}
	if n := g.fs.fds.used.Load(); n > 60 {
		t.Errorf("%d descriptors with a limit of 20", n)
	}
	for path, node := range nodes {
		var attr fp.AttrOut
		wantErrno(t, "getattr of "+path, g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr), 0)
		if out, errno := g.tryOpen(node, unix.O_RDONLY); errno != 0 {
			t.Errorf("open of %s: %v", path, errno)
		} else {
			g.release(node, out.Fh)
		}
	}
}

// TestSwappedDirectory swaps a directory and a symbolic link to the outside while
// walkers look names up beneath it. Nothing outside may be reached.
func TestSwappedDirectory(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(outside, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	s := newShare(t, nil, 0)
	if err := os.Mkdir(s.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write("dir/secret", "harmless")
	if err := os.Symlink(outside, s.path("link")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, s.path("dir"), unix.AT_FDCWD, s.path("link"), unix.RENAME_EXCHANGE)
			}
		}
	})
	wg.Go(func() {
		g := s.guest()
		for range 3000 {
			var dir, file fp.EntryOut
			if g.fs.Lookup(g.on(fp.RootID), name("dir"), &dir) != 0 {
				continue
			}
			if g.fs.Lookup(g.on(dir.NodeID), name("secret"), &file) == 0 {
				if file.Attr.Size == uint64(st.Size()) && file.Attr.Size != uint64(len("harmless")) {
					t.Error("a walk has left the share")
				}
				if out, errno := g.tryOpen(file.NodeID, unix.O_RDONLY); errno == 0 {
					if b, _ := g.readAt(file.NodeID, out.Fh, 0, 100); strings.Contains(b, "secret") {
						t.Error("a file outside of the share was read")
					}
					g.release(file.NodeID, out.Fh)
				}
				g.fs.Forget(nil, file.NodeID, 1)
			}
			g.fs.Forget(nil, dir.NodeID, 1)
		}
		close(stop)
	})
	wg.Wait()
}

// TestNodeSpecialFiles are not opened, nor truncated, nor waited for.
func TestNodeSpecialFiles(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	if err := unix.Mkfifo(s.path("fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	node := g.lookup(fp.RootID, "fifo")
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR | unix.O_TRUNC} {
		if _, errno := g.tryOpen(node, flags); errno == 0 {
			t.Errorf("a FIFO was opened with %#x", flags)
		}
	}
	var attr fp.AttrOut
	wantErrno(t, "truncate", g.fs.Setattr(g.on(node), &fp.SetattrIn{Valid: fp.FattrSize}, &attr), unix.EINVAL)
	var out fp.CreateOut
	if errno := g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, name("fifo"), &out); errno == 0 {
		t.Error("CREATE has opened a FIFO")
	}
}

// TestCallersIdentity makes files as a user of the guest.
func TestCallersIdentity(t *testing.T) {
	needRoot(t)
	s := newShare(t, nil, 0)
	g := s.guest()
	if err := os.Chmod(s.path("."), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path("team"), 0); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chown(s.path("team"), 0, 2000), os.Chmod(s.path("team"), 0o770|os.ModeSetgid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	team := g.lookup(fp.RootID, "team")
	var out fp.CreateOut
	var entry fp.EntryOut
	r := g.on(fp.RootID)
	r.Header.UID, r.Header.GID = 1000, 1001
	wantErrno(t, "create", g.fs.Create(r, &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o444}, name("mine"), &out), 0)
	if a := out.Entry.Attr; a.UID != 1000 || a.GID != 1001 || a.Mode&0o777 != 0o444 {
		t.Errorf("created with %d:%d, mode %o", a.UID, a.GID, a.Mode)
	}
	if n, errno := g.writeAt(out.Entry.NodeID, fp.WriteIn{Fh: out.Open.Fh, Size: 3}, "abc"); n != 3 || errno != 0 {
		t.Errorf("write to a new file of mode 0444: %d, %v", n, errno)
	}
	g.release(out.Entry.NodeID, out.Open.Fh)
	r = g.on(team)
	r.Header.UID, r.Header.GID, r.Groups = 1000, 1001, []uint32{2000}
	wantErrno(t, "mkdir with a supplementary group", g.fs.Mkdir(r, &fp.MkdirIn{Mode: 0o755}, name("d"), &entry), 0)
	if entry.Attr.UID != 1000 || entry.Attr.GID != 2000 {
		t.Errorf("made with %d:%d, want 1000:2000", entry.Attr.UID, entry.Attr.GID)
	}
	r.Groups = nil
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Groups:") && len(f) > 1, strings.HasPrefix(line, "Uid:") && f[2] != "0":
			t.Errorf("after the request the thread has %q", line)
		}
	}
}

// TestKillpriv: a write on behalf of a user without privileges clears setuid.
func TestKillpriv(t *testing.T) {
	needRoot(t)
	s := newShare(t, nil, 0)
	g := s.guest()
	for flag, want := range map[uint32]uint32{0: 0o4755, fp.WriteKillSuidgid: 0o755} {
		node, fh := g.openName("prog", "x", unix.O_WRONLY)
		var attr fp.AttrOut
		wantErrno(t, "chmod", g.fs.Setattr(g.on(node), &fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o4755}, &attr), 0)
		if _, errno := g.writeAt(node, fp.WriteIn{Fh: fh, Size: 1, WriteFlags: flag}, "y"); errno != 0 {
			t.Fatal(errno)
		}
		wantErrno(t, "getattr", g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &attr), 0)
		if got := attr.Attr.Mode & 0o7777; got != want {
			t.Errorf("write flags %d leave mode %o, want %o", flag, got, want)
		}
		g.release(node, fh)
	}
}

// TestRenameWithoutHint: a node that was only looked at is found at its new place, even if
// nothing remembers which node the old name was.
func TestRenameWithoutHint(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("a", "content")
	node := g.lookup(fp.RootID, "a")
	g.fs.nodes.SetHint(g.fs.nodes.root, name("a"), nil)
	wantErrno(t, "rename", g.fs.Rename(g.on(fp.RootID), &fp.Rename2In{NewDir: fp.RootID}, name("a"), name("b")), 0)
	attr, errno := g.getattr(node)
	if attr.Size != 7 || errno != 0 {
		t.Errorf("%d bytes, %v", attr.Size, errno)
	}
	g.release(node, g.open(node, unix.O_RDONLY))
}

// TestGetattrAgrees: what GETATTR tells of a file with a descriptor, for which it asks
// another way, is what it tells of one without.
func TestGetattrAgrees(t *testing.T) {
	s := newShare(t, nil, 0)
	g := s.guest()
	s.write("file", "content")
	nodes := map[string]uint64{"file": 0, "link": 0, "fifo": 0, "null": 0}
	if err := os.Symlink("file", s.path("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(s.path("fifo"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(s.path("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(259, 4097))); err != nil {
		delete(nodes, "null") // not for everybody
	}
	for n := range nodes {
		node := g.lookup(fp.RootID, n)
		want, errno := g.getattr(node)
		wantErrno(t, n, errno, 0)
		g.use(node)
		got, errno := g.getattr(node)
		wantErrno(t, n, errno, 0)
		if got != want {
			t.Errorf("%s: %+v, want %+v", n, got, want)
		}
	}
}
