package passthrough

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// withHandles is a share whose file system has file handles, of which few descriptors
// may be open.
func withHandles(t *testing.T, mode FileHandles, maxFDs int) *guest {
	t.Helper()
	needRoot(t)
	g := newShare(t, func(c *Config) { c.FileHandles, c.MaxFDs = mode, maxFDs }, 0).guest()
	if mode != HandlesNever && !g.fs.UsesFileHandles() {
		t.Skip("no file handles here")
	}
	return g
}

// evictAll closes the descriptors of all nodes that can do without.
func (g *guest) evictAll() {
	for range 4 + 2*g.fs.fds.owners.end()/evictLook { // so many times round
		g.fs.fds.evict(1 << 20)
	}
}

// use has the node opened, if it is not.
func (g *guest) use(node uint64) {
	g.t.Helper()
	r := g.on(node)
	_, n, _, errno := g.fs.enter(r, intentStat)
	if errno != 0 {
		g.t.Fatal(errno)
	}
	g.fs.nodes.release(n)
}

func (g *guest) getattr(node uint64) (fp.Attr, unix.Errno) {
	var out fp.AttrOut
	errno := g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &out)
	return out.Attr, errno
}

func (g *guest) mkdirs(names ...string) {
	g.t.Helper()
	for _, n := range names {
		if err := os.MkdirAll(g.path(n), 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
}

func (g *guest) hostRename(from, to string) {
	g.t.Helper()
	if err := os.Rename(g.path(from), g.path(to)); err != nil {
		g.t.Fatal(err)
	}
}

// TestHandlesAfterRename: what a guest uses stays usable when the host renames it, also
// after the descriptor was closed to make room. Without handles it is ESTALE.
func TestHandlesAfterRename(t *testing.T) {
	for mode, want := range map[FileHandles]unix.Errno{HandlesNever: unix.ESTALE, HandlesPrefer: 0, HandlesMandatory: 0} {
		g := withHandles(t, mode, 0)
		g.mkdirs("a/b/c")
		g.write("a/b/c/f", "content")
		a := g.lookup(fp.RootID, "a")
		b := g.lookup(a, "b")
		c := g.lookup(b, "c")
		f := g.lookup(c, "f")
		g.use(f)
		g.evictAll()
		for _, n := range []uint64{a, b, c, f} {
			if fd := g.fs.nodes.Get(n).fd.Load(); fd >= 0 {
				t.Errorf("node %d keeps a descriptor", n)
			}
		}
		g.hostRename("a/b/c/f", "a/b/f2")
		g.hostRename("a/b", "b2")
		_, errno := g.getattr(f)
		wantErrno(t, fmt.Sprint(mode, ": getattr of a renamed file"), errno, want)
		_, errno = g.tryOpen(f, unix.O_RDONLY)
		wantErrno(t, fmt.Sprint(mode, ": open of a renamed file"), errno, want)
		_, errno = g.getattr(b)
		wantErrno(t, fmt.Sprint(mode, ": getattr of a renamed directory"), errno, want)
		// What is below a renamed directory is found through it.
		_, errno = g.getattr(c)
		wantErrno(t, fmt.Sprint(mode, ": getattr below a renamed directory"), errno, want)
		g.fs.Destroy()
	}
}

// TestHandlesOfListings: directories that a listing has shown have handles at once,
// files only when all nodes must.
func TestHandlesOfListings(t *testing.T) {
	for mode, files := range map[FileHandles]unix.Errno{HandlesPrefer: unix.ESTALE, HandlesMandatory: 0} {
		g := withHandles(t, mode, 0)
		g.mkdirs("d")
		g.write("f", "")
		var d, f fp.EntryOut
		ts := threadOf(g.on(fp.RootID))
		root := g.fs.nodes.root
		fd, _ := g.fs.find.fdOf(ts, root)
		wantErrno(t, "lookup", g.fs.entries.lookupLazy(ts, root, fd, name("d"), &d), 0)
		wantErrno(t, "lookup", g.fs.entries.lookupLazy(ts, root, fd, name("f"), &f), 0)
		g.mkdirs("other")
		g.hostRename("d", "other/d")
		g.hostRename("f", "other/f")
		_, errno := g.getattr(d.NodeID)
		wantErrno(t, "directory", errno, 0)
		_, errno = g.getattr(f.NodeID)
		wantErrno(t, fmt.Sprint(mode, ": file"), errno, files)
	}
}

// TestHandlesOfTheDead: a file that is gone is ESTALE, and so is one that has its inode
// number now. A file without a known name lives on as long as it has one.
func TestHandlesOfTheDead(t *testing.T) {
	g := withHandles(t, HandlesPrefer, 0)
	g.write("f", "1")
	f := g.lookup(fp.RootID, "f")
	g.evictAll()
	ino := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(g.path("f"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	old := ino()
	for range 50 {
		if err := os.Remove(g.path("f")); err != nil {
			t.Fatal(err)
		}
		g.write("f", "2")
		if ino() == old {
			break
		}
	}
	_, errno := g.getattr(f)
	wantErrno(t, "getattr of a file that is gone", errno, unix.ESTALE)
	_, errno = g.tryOpen(f, unix.O_RDONLY)
	wantErrno(t, "open of a file that is gone", errno, unix.ESTALE)

	// The guest removes the name it knows. The host's other one keeps the file.
	g.write("x", "content")
	x := g.lookup(fp.RootID, "x")
	if err := os.Link(g.path("x"), g.path("y")); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name("x")), 0)
	g.evictAll()
	if fd := g.fs.nodes.Get(x).fd.Load(); fd >= 0 {
		t.Error("a file with another name keeps its descriptor")
	}
	attr, errno := g.getattr(x)
	if attr.Nlink != 1 || errno != 0 {
		t.Errorf("a file under another name: %d links, %v", attr.Nlink, errno)
	}
	// Without any name only the descriptor is left, and stays.
	if err := os.Remove(g.path("y")); err != nil {
		t.Fatal(err)
	}
	g.evictAll()
	attr, errno = g.getattr(x)
	if attr.Nlink != 0 || errno != 0 {
		t.Errorf("a file without a name: %d links, %v", attr.Nlink, errno)
	}
}

// TestHandleKept: a handle outlives renames by the guest.
func TestHandleKept(t *testing.T) {
	g := withHandles(t, HandlesPrefer, 0)
	g.mkdirs("d")
	g.write("f", "")
	f := g.lookup(fp.RootID, "f")
	d := g.lookup(fp.RootID, "d")
	g.use(f)
	g.evictAll()
	wantErrno(t, "rename", g.fs.Rename(g.on(fp.RootID), &fp.Rename2In{NewDir: d}, name("f"), name("new name")), 0)
	g.hostRename("d/new name", "elsewhere")
	if _, errno := g.getattr(f); errno != 0 {
		t.Errorf("after renames: %v", errno)
	}
	n := g.fs.nodes.Get(f)
	if string(n.Name()) != "new name\x00" || !n.HasFileHandle() {
		t.Errorf("kept name %q", n.Name())
	}
}

// mountIn mounts a file system of its own on a directory of the share, and returns what
// unmounts it, which fails while it is in use.
func (g *guest) mountIn(dir string) (unmount func() error) {
	g.t.Helper()
	g.mkdirs(dir)
	if err := unix.Mount("tmpfs", g.path(dir), "tmpfs", 0, ""); err != nil {
		g.t.Skip(err)
	}
	g.t.Cleanup(func() { _ = unix.Unmount(g.path(dir), unix.MNT_DETACH) })
	return func() error { return unix.Unmount(g.path(dir), 0) }
}

// TestHandleMounts: files on another mount are found by their handles, and the mount is
// not in use for longer than that takes, also if the client remembers all of them.
func TestHandleMounts(t *testing.T) {
	g := withHandles(t, HandlesPrefer, 0)
	clock := g.clock()
	unmount := g.mountIn("m")
	g.mkdirs("m/d")
	g.write("m/d/f", "")
	m := g.lookup(fp.RootID, "m")
	d := g.lookup(m, "d")
	f := g.lookup(d, "f")
	g.use(f)
	clock.run()
	g.hostRename("m/d/f", "m/f2")
	g.hostRename("m/d", "m/d2")
	for _, n := range []uint64{f, d} {
		if _, errno := g.getattr(n); errno != 0 {
			t.Errorf("on another mount: %v", errno)
		}
	}
	if err := unmount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("the mount is not in use: %v", err)
	}
	clock.run()
	if n := g.fs.fds.used.Load(); n != 1 {
		t.Errorf("%d descriptors are left, want the root's", n)
	}
	if err := unmount(); err != nil {
		t.Errorf("the mount is in use: %v", err)
	}
	for _, n := range []uint64{f, d, m} {
		_, errno := g.getattr(n)
		wantErrno(t, "getattr on a mount that is gone", errno, unix.ESTALE)
	}
}

// TestHandlesMissing: without them nothing changes, unless they are mandatory.
func TestHandlesMissing(t *testing.T) {
	root, err := unix.Open("/proc/self", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	fs, err := New(Config{RootFD: root, ProcFD: proc, FileHandles: HandlesPrefer})
	if err != nil || fs.UsesFileHandles() {
		t.Errorf("prefer: %v", err)
	}
	if fs, err := New(Config{RootFD: root, ProcFD: proc, FileHandles: HandlesMandatory}); err == nil || fs != nil {
		t.Errorf("mandatory handles on a file system without: %v, %v", fs, err)
	}
	if fs, err := New(Config{RootFD: -1, ProcFD: proc}); err == nil || fs != nil {
		t.Errorf("a share that is not open: %v, %v", fs, err)
	}
}

// TestHandlesAskedOnce: a mount without handles is not asked for each node.
func TestHandlesAskedOnce(t *testing.T) {
	g := withHandles(t, HandlesPrefer, 0)
	g.mkdirs("proc")
	if err := unix.Mount("proc", g.path("proc"), "proc", 0, ""); err != nil {
		t.Skip(err)
	}
	defer func() { _ = unix.Unmount(g.path("proc"), unix.MNT_DETACH) }()
	proc := g.lookup(fp.RootID, "proc")
	f := g.lookup(proc, "version")
	if fh, errno := g.tryOpen(f, unix.O_RDONLY); errno == 0 { // now something is known of the mount
		g.release(f, fh.Fh)
	}
	g.evictAll()
	g.lookup(proc, "version")
	if _, errno := g.fs.find.fdOf(threadOf(g.on(f)), g.fs.nodes.Get(f)); errno != 0 {
		t.Fatal(errno)
	}
	wantCalls(t, "closing a descriptor", 2, g.evictAll) // with that of the directory
}

// TestHandlesMandatory: a mount without handles is refused where they are mandatory.
func TestHandlesMandatory(t *testing.T) {
	g := withHandles(t, HandlesMandatory, 0)
	g.mkdirs("proc")
	if err := unix.Mount("proc", g.path("proc"), "proc", 0, ""); err != nil {
		t.Skip(err)
	}
	defer func() { _ = unix.Unmount(g.path("proc"), unix.MNT_DETACH) }()
	var out fp.EntryOut
	wantErrno(t, "lookup", g.fs.Lookup(g.on(fp.RootID), name("proc"), &out), unix.EOPNOTSUPP)
	var created fp.CreateOut
	wantErrno(t, "create", g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Mode: 0o644}, name("new"), &created), 0)
	g.fs.Destroy()
}

// TestHandleFormat keeps handles of any size behind names of any length.
func TestHandleFormat(t *testing.T) {
	fs := newShare(t, nil, 0).guest().fs
	for size := range maxHandle + 1 {
		for _, s := range []string{"", "x", "a long name of a file"} {
			st := unix.Statx_t{Mode: unix.S_IFREG, Ino: 1}
			n := fs.nodes.newInode(&st)
			fs.nodes.Prepare(n, keyOf(&st), 0)
			if s != "" {
				fs.nodes.locate(n, fs.nodes.root, name(s))
			}
			want := rawHandle{size: uint32(size), kind: -int32(size)}
			for i := range size {
				want.data[i] = byte(i * 7)
			}
			fs.find.setHandle(n, &want, handleByFD)
			var got rawHandle
			if !n.handle(&got) || got != want || s != "" && n.Name().String() != s {
				t.Fatalf("%q with %d bytes: %q, %v", s, size, n.Name(), got)
			}
			fs.nodes.locate(n, fs.nodes.root, name("other"))
			got = rawHandle{}
			if !n.handle(&got) || got != want || n.Name().String() != "other" {
				t.Fatalf("%q renamed, with %d bytes: %q, %v", s, size, n.Name(), got)
			}
			fs.nodes.Unhold(n)
		}
	}
}

// TestHandleCalls counts what handles cost: nothing for files, a call for a directory
// that is new in a listing, a call for each descriptor that is closed to make room.
func TestHandleCalls(t *testing.T) {
	g := withHandles(t, HandlesPrefer, 0)
	g.write("f", "")
	var f uint64
	wantCalls(t, "LOOKUP of a new name", 1, func() { f = g.lookup(fp.RootID, "f") })
	g.use(f)
	wantCalls(t, "closing a descriptor", 2, g.evictAll)
	wantCalls(t, "GETATTR without a descriptor", 1, func() { _, _ = g.getattr(f) })
	wantCalls(t, "GETATTR that opens it again", 3, func() { _, _ = g.getattr(f) })
	var entry fp.EntryOut
	wantCalls(t, "MKDIR", 3, func() { _ = g.fs.Mkdir(g.on(fp.RootID), &fp.MkdirIn{Mode: 0o755}, name("d"), &entry) })
	wantCalls(t, "GETATTR again", 1, func() { _, _ = g.getattr(f) })
}

// TestWalk is a guest that walks a tree of many files, opens all of them and never
// forgets one, with few descriptors, while the host renames directories under way.
func TestWalk(t *testing.T) {
	if testing.Short() {
		t.Skip("many files")
	}
	const dirs, files, limit = 40, 100, 100
	for _, mode := range []FileHandles{HandlesNever, HandlesPrefer} {
		g := withHandles(t, mode, limit)
		for d := range dirs {
			g.mkdirs(fmt.Sprint("d", d))
			for f := range files {
				g.write(fmt.Sprintf("d%d/f%d", d, f), "x")
			}
		}
		nodes := map[string]uint64{}
		for d := range dirs {
			dir := g.lookup(fp.RootID, fmt.Sprint("d", d))
			nodes[fmt.Sprint("d", d)] = dir
			for f := range files {
				n := g.lookup(dir, fmt.Sprint("f", f))
				nodes[fmt.Sprintf("d%d/f%d", d, f)] = n
				g.release(n, g.open(n, unix.O_RDONLY))
			}
			if n := g.fs.fds.used.Load(); n > limit {
				t.Fatalf("%d descriptors with a limit of %d", n, limit)
			}
			if mode != HandlesNever && d > 0 {
				g.hostRename(fmt.Sprint("d", d-1), fmt.Sprint("renamed", d-1))
			}
		}
		for n, id := range nodes {
			if attr, errno := g.getattr(id); errno != 0 || attr.Nlink == 0 {
				t.Fatalf("%s after the walk: %v", filepath.Base(n), errno)
			}
		}
		g.fs.Destroy()
	}
}

// TestHandleByName: a name is another file's when its handle is asked for. The node is the
// file that was found first, or nothing.
func TestHandleByName(t *testing.T) {
	for what, other := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("other"), 0o644) },
		"device":    func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"mount": func(path string) error {
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
			t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
			return unix.Mount("tmpfs", path, "tmpfs", 0, "")
		},
	} {
		g := withHandles(t, HandlesMandatory, 0)
		g.write("file", "first")
		if err := other(g.path("other")); err != nil {
			t.Fatal(err)
		}
		ts := threadOf(g.on(fp.RootID))
		rootFD, _ := g.fs.find.fdOf(ts, g.fs.nodes.root)
		wantErrno(t, "statx", sysStatx(rootFD, name("file").CString(), 0, &ts.st), 0)
		n, errno := g.fs.nodes.intern(nil, &ts.st, -1, g.fs.nodes.root, name("file"))
		wantErrno(t, "intern", errno, 0)
		// Between two system calls of a LOOKUP, something else gets its name.
		errno = g.fs.find.keepHandle(ts, n, rootFD, name("other").CString())
		if what == "mount" {
			wantErrno(t, "handle of another mount", errno, unix.ESTALE)
		}
		for range 3 {
			fh := g.open(n.ID(), unix.O_RDWR)
			if got, errno := g.readAt(n.ID(), fh, 0, 10); got != "first" || errno != 0 {
				t.Errorf("%s: the node reads %q, %v", what, got, errno)
			}
			g.release(n.ID(), fh)
			g.evictAll()
		}
		g.fs.nodes.release(n)
		g.fs.Destroy()
	}
}
