package passthrough

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// saved is the guest's state.
func (g *guest) saved() []byte {
	g.t.Helper()
	var b bytes.Buffer
	w := record.NewWriter(&b)
	if err := g.fs.SaveState(&g.thread, w); err != nil {
		g.t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		g.t.Fatal(err)
	}
	return b.Bytes()
}

// load brings a state to a share of dir.
func load(t testing.TB, dir string, state []byte, edit func(*Config)) (*guest, error) {
	t.Helper()
	g := shareDir(t, dir, edit, 0).guest()
	r := record.NewReader(bytes.NewReader(state), math.MaxInt64)
	_, err := g.fs.LoadState(&g.thread, r)
	if r.End(); err == nil {
		err = r.Err()
	}
	return g, err
}

// traveller is a guest with some of everything.
type traveller struct {
	*guest
	dir, sub, file, odd, link uint64
	fh, dirFh                 uint64
	forgotten                 uint64
}

func newTraveller(t testing.TB, edit func(*Config)) *traveller {
	t.Helper()
	s := newShare(t, edit, 0)
	for _, dir := range []string{"dir", "dir/sub"} {
		if err := os.Mkdir(s.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.write("dir/sub/file", "content")
	s.write("dir/\xff\xfe not UTF-8", "odd")
	s.write("gone", "")
	if err := os.Symlink("dir/sub/file", s.path("link")); err != nil {
		t.Fatal(err)
	}
	v := &traveller{guest: s.guest()}
	v.dir = v.lookup(fp.RootID, "dir")
	v.sub = v.lookup(v.dir, "sub")
	v.file = v.lookup(v.sub, "file")
	v.odd = v.lookup(v.dir, "\xff\xfe not UTF-8")
	v.link = v.lookup(fp.RootID, "link")
	v.forgotten = v.lookup(fp.RootID, "gone")
	v.fs.Forget(nil, v.forgotten, 1)
	v.fh = v.open(v.file, unix.O_RDWR)
	v.dirFh = v.open(v.dir, unix.O_DIRECTORY)
	return v
}

// arrived checks that everything works at g with the numbers of v.
func (v *traveller) arrived(g *guest) {
	t := v.t
	t.Helper()
	if got, errno := g.readAt(v.file, v.fh, 0, 100); got != "content" || errno != 0 {
		t.Errorf("open file: read %q, %v", got, errno)
	}
	if _, errno := g.writeAt(v.file, fp.WriteIn{Fh: v.fh, Offset: 7}, "!"); errno != 0 {
		t.Errorf("open file: write: %v", errno)
	}
	for _, n := range []struct {
		what string
		node uint64
		kind uint32
	}{{"dir", v.dir, unix.S_IFDIR}, {"sub", v.sub, unix.S_IFDIR}, {"file", v.file, unix.S_IFREG},
		{"odd", v.odd, unix.S_IFREG}, {"link", v.link, unix.S_IFLNK}} {
		var out fp.AttrOut
		errno := g.fs.Getattr(g.on(n.node), &fp.GetattrIn{}, &out)
		if errno != 0 || out.Attr.Mode&unix.S_IFMT != n.kind {
			t.Errorf("GETATTR of %s: %v, mode %#o", n.what, errno, out.Attr.Mode)
		}
	}
	list, errno := g.list(v.dir, v.dirFh, 0, 4096, false)
	if len(list) != 4 || errno != 0 {
		t.Errorf("open directory: %d entries, %v; want 4", len(list), errno)
	}
	// What the guest knows keeps its number; a new file gets one that was never used.
	if got := g.lookup(v.sub, "file"); got != v.file {
		t.Errorf("LOOKUP of a known file: node %#x, had %#x", got, v.file)
	}
	g.write("new", "")
	for range 3 {
		n := g.lookup(fp.RootID, "new")
		if n == v.forgotten || n == v.dir || n == v.sub || n == v.file || n == v.odd || n == v.link {
			t.Errorf("node number %#x was used twice", n)
		}
		g.fs.Forget(nil, n, 1)
	}
	_, errno = g.fs.get(v.forgotten)
	wantErrno(t, "forgotten node", errno, unix.ESTALE)
	wantErrno(t, "RELEASE", g.release(v.file, v.fh), 0)
	wantErrno(t, "RELEASEDIR", g.fs.Releasedir(g.on(v.dir), &fp.ReleaseIn{Fh: v.dirFh}), 0)
}

// TestMove moves a guest between two daemons on one file system.
func TestMove(t *testing.T) {
	v := newTraveller(t, nil)
	g, err := load(t, v.share.dir, v.saved(), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.arrived(g)
}

// TestMoveToCopy moves a guest to a host with a copy of the tree, where all inode
// numbers are others.
func TestMoveToCopy(t *testing.T) {
	v := newTraveller(t, nil)
	state := v.saved()
	copied := copyTree(t, v.share.dir)
	g, err := load(t, copied, state, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.arrived(g)
	if _, err := os.Stat(v.path("new")); err == nil {
		t.Error("the old host's tree was used")
	}
}

func copyTree(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if out, err := exec.Command("cp", "-a", dir+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return to
}

// TestMoveRenamed: the host has moved what the guest knows by its old name. What has a
// descriptor is found; what has none was lost before.
func TestMoveRenamed(t *testing.T) {
	v := newTraveller(t, nil)
	if err := os.Rename(v.path("dir/sub/file"), v.path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(v.path("link")); err != nil {
		t.Fatal(err)
	}
	n := v.fs.nodes.Get(v.link)
	v.fs.nodes.dropFD(n)
	g, err := load(t, v.share.dir, v.saved(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, errno := g.readAt(v.file, v.fh, 0, 100); got != "content" || errno != 0 {
		t.Errorf("read %q, %v", got, errno)
	}
	wantErrno(t, "lost node", g.fs.Getattr(g.on(v.link), &fp.GetattrIn{}, &fp.AttrOut{}), unix.ESTALE)
}

// TestMoveMissing: a file is not there on the other host.
func TestMoveMissing(t *testing.T) {
	v := newTraveller(t, nil)
	state := v.saved()
	copied := copyTree(t, v.share.dir)
	if err := os.RemoveAll(copied + "/dir/sub"); err != nil {
		t.Fatal(err)
	}
	g, err := load(t, copied, state, nil)
	if err == nil || !strings.Contains(err.Error(), `"sub"`) || !strings.Contains(err.Error(), "--migration-on-error=guest-error") {
		t.Errorf("abort: %v", err)
	}
	g.fs.Destroy()
	g = shareDir(t, copied, func(c *Config) { c.Migration.GuestErrors = true }, 0).guest()
	warning, err := g.fs.LoadState(&g.thread, record.NewReader(bytes.NewReader(state), math.MaxInt64))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`node 3 ("sub")`, `("file")`, "open file"} {
		if !strings.Contains(warning, want) {
			t.Errorf("the log does not have %s: %s", want, warning)
		}
	}
	for _, node := range []uint64{v.sub, v.file} {
		wantErrno(t, "missing node", g.fs.Getattr(g.on(node), &fp.GetattrIn{}, &fp.AttrOut{}), unix.ESTALE)
	}
	_, errno := g.readAt(v.file, v.fh, 0, 1)
	wantErrno(t, "file that can't be opened", errno, unix.EBADF)
	wantErrno(t, "another node", g.fs.Getattr(g.on(v.odd), &fp.GetattrIn{}, &fp.AttrOut{}), 0)
}

// TestMoveKind: a directory is a link on the other host.
func TestMoveKind(t *testing.T) {
	v := newTraveller(t, nil)
	state := v.saved()
	copied := copyTree(t, v.share.dir)
	if err := os.Rename(copied+"/dir", copied+"/real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", copied+"/dir"); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, copied, state, nil); err == nil {
		t.Error("a link was followed")
	}
}

// needHandles skips where file handles can't be opened.
func needHandles(t *testing.T, dir string) {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
	if err != nil {
		t.Skipf("no file handles: %v", err)
	}
	mount, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(mount) }()
	fd, err := unix.OpenByHandleAt(mount, h, unix.O_PATH)
	if err != nil {
		t.Skipf("file handles can't be opened: %v", err)
	}
	_ = unix.Close(fd)
}

// TestMoveByHandles: names may change between the two hosts.
func TestMoveByHandles(t *testing.T) {
	byHandles := func(c *Config) { c.Migration.FileHandles, c.FileHandles = true, HandlesPrefer }
	v := newTraveller(t, byHandles)
	needHandles(t, v.share.dir)
	state := v.saved()
	if err := os.Rename(v.path("dir/sub/file"), v.path("dir/elsewhere")); err != nil {
		t.Fatal(err)
	}
	g, err := load(t, v.share.dir, state, byHandles)
	if err != nil {
		t.Fatal(err)
	}
	if got, errno := g.readAt(v.file, v.fh, 0, 100); got != "content" || errno != 0 {
		t.Errorf("read %q, %v", got, errno)
	}
	if got := g.lookup(v.dir, "elsewhere"); got != v.file {
		t.Errorf("node %#x, had %#x", got, v.file)
	}
	if _, err := load(t, copyTree(t, v.share.dir), state, byHandles); err == nil {
		t.Error("a copy was taken for the same files")
	}
	// The other host decides what handles are good for: here only to compare.
	if _, err := load(t, v.share.dir, state, nil); err == nil || !strings.Contains(err.Error(), `"file"`) {
		t.Errorf("by paths only: %v", err)
	}
	if err := os.Rename(v.path("dir/elsewhere"), v.path("dir/sub/file")); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, v.share.dir, state, nil); err != nil {
		t.Errorf("by paths only, where they hold: %v", err)
	}
	// A handle leads nowhere if the file has no name.
	if err := os.Remove(v.path("dir/sub/file")); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, v.share.dir, state, byHandles); err == nil || !strings.Contains(err.Error(), `"file"`) {
		t.Errorf("a deleted file: %v", err)
	}
}

// TestMoveVerify: files that are found by their paths must be the same.
func TestMoveVerify(t *testing.T) {
	v := newTraveller(t, func(c *Config) { c.Migration.VerifyHandles = true })
	needHandles(t, v.share.dir)
	state := v.saved()
	g, err := load(t, v.share.dir, state, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.arrived(g)
	verify := func(c *Config) { c.Migration.VerifyHandles = true }
	if _, err := load(t, v.share.dir, state, verify); err != nil {
		t.Error(err)
	}
	if _, err := load(t, copyTree(t, v.share.dir), state, nil); err == nil {
		t.Error("a copy was taken for the same files")
	}
	// A daemon that has to compare handles does not take a state without them.
	state = newTraveller(t, nil).saved()
	if _, err := load(t, v.share.dir, state, verify); err == nil || !strings.Contains(err.Error(), "--migration-verify-handles") {
		t.Errorf("a state without handles: %v", err)
	}
}

// TestLoadCut: a state that ends early, or says more than is true, is refused and leaves
// nothing behind.
func TestLoadCut(t *testing.T) {
	v := newTraveller(t, nil)
	state := v.saved()
	check := func(what string, state []byte) {
		t.Helper()
		g, err := load(t, v.share.dir, state, nil)
		if err == nil {
			t.Errorf("%s is taken", what)
		}
		g.fs.Destroy()
		if fds := g.fs.fds.used.Load(); fds != 1 {
			t.Errorf("%s: %d descriptors are left", what, fds-1)
		}
	}
	for n := range len(state) {
		check("a part", state[:n])
	}
	check("more than all", append(bytes.Clone(state), 0))
}
