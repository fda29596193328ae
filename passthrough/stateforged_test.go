package passthrough

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// forger writes a state that no daemon would.
type forger struct {
	b     bytes.Buffer
	w     *record.Writer
	nodes uint64
}

func forge(mode uint64) *forger {
	f := &forger{}
	f.w = record.NewWriter(&f.b)
	f.w.Uint(mode)
	return f
}

// node writes a node; where is locatedNowhere, or locatedByPath with a path. The number
// that open files and locks know it by is returned.
func (f *forger) node(number uint64, kind uint16, where uint64, path string, fileHandle []byte) uint64 {
	f.w.Uint(stateNode, number, 1, uint64(kind), where)
	if where == locatedByPath {
		f.w.Bytes([]byte(path))
	}
	f.w.Bytes(fileHandle)
	f.nodes++
	return f.nodes
}

// child writes a node that is located in another.
func (f *forger) child(number uint64, kind uint16, parent uint64, name string, fileHandle []byte) uint64 {
	f.w.Uint(stateNode, number, 1, uint64(kind), locatedInParent, parent)
	f.w.Bytes([]byte(name))
	f.w.Bytes(fileHandle)
	f.nodes++
	return f.nodes
}

func (f *forger) open(fh, node uint64, flags uint32) {
	f.w.Uint(stateOpenFile, fh, node, uint64(flags))
}

// end ends the state and returns it.
func (f *forger) end() []byte {
	f.w.Uint(stateEnd, 1<<10, 0, 1<<10, 0)
	if err := f.w.Flush(); err != nil {
		panic(err)
	}
	return f.b.Bytes()
}

// handleOfPath is the file handle of whatever is at path, as a state has it.
func handleOfPath(t testing.TB, path string) []byte {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	b, err := handleOfFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// identity is what tells a file from all others.
type identity struct{ dev, ino uint64 }

func identityOf(t testing.TB, path string) identity {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return identity{st.Dev, st.Ino}
}

// outside is a tree with a share in it, and files that are none of the guest's.
type outside struct {
	t     *testing.T
	base  string
	share string
	files map[string]uint16 // outside: paths with their kinds
	known map[identity]string
	modes map[string]uint32 // of those that are not covered
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, base: t.TempDir(), known: map[identity]string{}, modes: map[string]uint32{}}
	o.share = filepath.Join(o.base, "share")
	path := func(name string) string { return filepath.Join(o.base, name) }
	for _, dir := range []string{"dir", "share", "share/dir", "share/covered"} {
		if err := os.Mkdir(path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"secret", "dir/secret", "share/file", "share/dir/file", "share/covered/secret"} {
		content := "inside"
		if strings.HasSuffix(file, "secret") {
			content = "secret"
		}
		if err := os.WriteFile(path(file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("secret", path("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", path("share/out")); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"disk": unix.S_IFBLK, "tty": unix.S_IFCHR, "pipe": unix.S_IFIFO} {
		if err := unix.Mknod(path(name), mode|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	o.files = map[string]uint16{path("secret"): unix.S_IFREG, path("dir/secret"): unix.S_IFREG, path("dir"): unix.S_IFDIR,
		o.base: unix.S_IFDIR, path("link"): unix.S_IFLNK, path("disk"): unix.S_IFBLK, path("tty"): unix.S_IFCHR, path("pipe"): unix.S_IFIFO}
	for file := range o.files {
		o.known[identityOf(t, file)] = file
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil {
			t.Fatal(err)
		}
		o.modes[file] = st.Mode
	}
	return o
}

// cover hides a directory of the share and what is in it behind a mount.
func (o *outside) cover() {
	dir := filepath.Join(o.share, "covered")
	for _, file := range []string{dir, filepath.Join(dir, "secret")} {
		o.files[file] = uint16(unix.S_IFREG)
		if file == dir {
			o.files[file] = unix.S_IFDIR
		}
		o.known[identityOf(o.t, file)] = file
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// check looks for descriptors of this process that lead out of the share, and for changes.
func (o *outside) check(t *testing.T, what string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue // of the listing
		}
		if file := o.known[identity{st.Dev, st.Ino}]; file != "" {
			t.Fatalf("%s: %s is open", what, file)
		}
	}
	for file, mode := range o.modes {
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil || st.Mode != mode || st.Nlink != 1 && mode&unix.S_IFMT != unix.S_IFDIR {
			t.Fatalf("%s: %s has mode %o, %d links, %v", what, file, st.Mode, st.Nlink, err)
		}
	}
	for _, file := range []string{"secret", "dir/secret"} {
		if b, err := os.ReadFile(filepath.Join(o.base, file)); err != nil || string(b) != "secret" {
			t.Fatalf("%s: %s has %q, %v", what, file, b, err)
		}
	}
	if list, _ := os.ReadDir(o.base); len(list) != 7 {
		t.Fatalf("%s: outside of the share are %v", what, list)
	}
}

// load brings a state to a share without a guest. The guest g has to be destroyed afterwards.
func (g *guest) load(state []byte) error {
	r := record.NewReader(bytes.NewReader(state), math.MaxInt64)
	_, err := g.fs.LoadState(&g.thread, r)
	return err
}

// receivers calls f with guests of daemons with the options that a host may have which a guest comes to.
func receivers(t *testing.T, dir string, f func(t *testing.T, g *guest)) {
	for mode, m := range map[string]Migration{"find-paths": {}, "file-handles": {FileHandles: true}, "verify": {VerifyHandles: true}} {
		for _, handles := range []FileHandles{HandlesNever, HandlesPrefer, HandlesMandatory} {
			for _, readOnly := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, inode-file-handles %d, read-only %v", mode, handles, readOnly), func(t *testing.T) {
					m.GuestErrors = true // otherwise the first mistake ends it
					f(t, shareDir(t, dir, func(c *Config) { c.Migration, c.FileHandles, c.ReadOnly = m, handles, readOnly }, 0).guest())
				})
			}
		}
	}
}

// TestForgedPlace sends states whose nodes are files outside of the share, named in every
// way there is, to daemons with all options. None of them is opened.
func TestForgedPlace(t *testing.T) {
	needRoot(t)
	o := newOutside(t)
	fileHandles := map[string][]byte{}
	covered := filepath.Join(o.share, "covered")
	for _, file := range []string{covered, filepath.Join(covered, "secret")} {
		fileHandles[file] = handleOfPath(t, file)
	}
	o.cover()
	for file := range o.files {
		if fileHandles[file] == nil {
			fileHandles[file] = handleOfPath(t, file)
		}
	}
	handleOfLink := handleOfPath(t, filepath.Join(o.share, "out"))
	const number, fh = 77, 5
	receivers(t, o.share, func(t *testing.T, g *guest) {
		for mode := range uint64(handlesVerify + 1) {
			for file, kind := range o.files {
				h := fileHandles[file]
				below, _ := filepath.Rel(o.share, file)
				states := map[string]func(f *forger) uint64{
					"nowhere":          func(f *forger) uint64 { return f.node(number, kind, locatedNowhere, "", h) },
					"by path":          func(f *forger) uint64 { return f.node(number, kind, locatedByPath, below, h) },
					"by absolute path": func(f *forger) uint64 { return f.node(number, kind, locatedByPath, file, h) },
					"by another path":  func(f *forger) uint64 { return f.node(number, kind, locatedByPath, "file", h) },
					"as a name":        func(f *forger) uint64 { return f.child(number, kind, 0, "file", h) },
					"in a mount": func(f *forger) uint64 {
						return f.child(number, kind, f.child(9, unix.S_IFDIR, 0, "covered", nil), "secret", h)
					},
					"as ..":             func(f *forger) uint64 { return f.child(number, kind, 0, "..", h) },
					"by path of a link": func(f *forger) uint64 { return f.node(number, kind, locatedByPath, "out/"+filepath.Base(file), h) },
					"as a link's": func(f *forger) uint64 {
						return f.child(number, kind, f.child(9, unix.S_IFLNK, 0, "out", handleOfLink), filepath.Base(file), h)
					},
					"through a link": func(f *forger) uint64 {
						return f.child(number, kind, f.child(9, unix.S_IFDIR, 0, "out", fileHandles[o.base]), filepath.Base(file), h)
					},
					"with a slash": func(f *forger) uint64 { return f.child(number, kind, 0, "../"+filepath.Base(file), h) },
					"in another outside": func(f *forger) uint64 {
						return f.child(number, kind, f.node(9, unix.S_IFDIR, locatedNowhere, "", fileHandles[o.base]), filepath.Base(file), h)
					},
					"not known": func(f *forger) uint64 { return f.node(0, kind, locatedNowhere, "", h) },
				}
				for where, add := range states {
					f := forge(mode)
					f.open(fh, add(f), unix.O_RDWR)
					what := fmt.Sprintf("handles %d; %s %s", mode, file, where)
					err := g.load(f.end())
					o.check(t, what)
					if err == nil {
						o.use(t, g, what, number, fh)
					}
					g.fs.Destroy()
				}
			}
		}
	})
}

// use does with a node and an open file what a guest can. What is in the share may be found.
func (o *outside) use(t *testing.T, g *guest, what string, node, fh uint64) {
	t.Helper()
	if fd, errno := g.fs.find.fdOf(threadOf(g.on(node)), g.fs.nodes.root); errno != 0 || fd < 0 {
		t.Fatal(what, errno)
	}
	if out, errno := g.tryOpen(node, unix.O_RDWR); errno == 0 {
		o.check(t, what)
		g.release(node, out.Fh)
	}
	if b, errno := g.readAt(node, fh, 0, 100); errno == 0 && strings.Contains(b, "secret") {
		t.Fatalf("%s: reads %q", what, b)
	}
	var e fp.EntryOut
	if errno := g.fs.Lookup(g.on(node), name("secret"), &e); errno == 0 {
		t.Fatalf("%s: finds names in it", what)
	}
	if _, errno := g.getattr(node); errno == 0 {
		o.check(t, what)
	}
	if g.fs.cfg.ReadOnly {
		return
	}
	_, _ = g.writeAt(node, fp.WriteIn{Fh: fh}, "written")
	_ = g.fs.Setattr(g.on(node), &fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o777}, &fp.AttrOut{})
	_ = g.fs.Mknod(g.on(node), &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name("new"), &e)
	_ = g.fs.Unlink(g.on(node), name("secret"))
	_ = g.fs.Link(g.on(fp.RootID), &fp.LinkIn{OldNodeID: node}, name("linked"), &e)
	o.check(t, what)
	if err := os.Remove(filepath.Join(o.share, "linked")); err == nil {
		_ = os.WriteFile(filepath.Join(o.share, "file"), []byte("inside"), 0o600)
	}
}

// TestForgedFlags opens files of the share with flags that widen what the guest may do.
func TestForgedFlags(t *testing.T) {
	needRoot(t)
	o := newOutside(t)
	h := handleOfPath(t, filepath.Join(o.share, "file"))
	const number, fh = 77, 5
	receivers(t, o.share, func(t *testing.T, g *guest) {
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_ACCMODE, unix.O_PATH, unix.O_RDWR | unix.O_PATH,
			unix.O_CREAT, unix.O_RDWR | unix.O_CREAT | unix.O_EXCL, unix.O_TRUNC, unix.O_RDWR | unix.O_TRUNC, unix.O_TMPFILE | unix.O_RDWR,
			unix.O_DIRECTORY, unix.O_APPEND | unix.O_WRONLY, 1<<31 | unix.O_RDONLY} {
			for mode := range uint64(handlesVerify + 1) {
				f := forge(mode)
				f.open(fh, f.child(number, unix.S_IFREG, 0, "file", h), flags)
				what := fmt.Sprintf("handles %d; flags %#o", mode, flags)
				err := g.load(f.end())
				if in := g.fs.openFiles.Acquire(fh); in != nil {
					got, errno := unix.FcntlInt(uintptr(in.fd), unix.F_GETFL, 0)
					switch access := got & unix.O_ACCMODE; {
					case errno != nil:
						t.Fatal(what, errno)
					case got&(unix.O_PATH|unix.O_APPEND|unix.O_DIRECTORY) != 0:
						t.Errorf("%s: open with %#o", what, got)
					case g.fs.cfg.ReadOnly && access != unix.O_RDONLY:
						t.Errorf("%s: open for writing", what)
					}
					g.fs.openFiles.release(in)
				} else if err == nil && !g.fs.cfg.ReadOnly {
					t.Errorf("%s: not open", what)
				}
				o.check(t, what)
				if b, err := os.ReadFile(filepath.Join(o.share, "file")); string(b) != "inside" {
					t.Fatalf("%s: the file has %q, %v", what, b, err)
				}
				g.fs.Destroy()
			}
		}
	})
}

// TestForgedHandle sends file handles that are none.
func TestForgedHandle(t *testing.T) {
	needRoot(t)
	o := newOutside(t)
	good := handleOfPath(t, filepath.Join(o.share, "file"))
	lists := map[string][]byte{"nothing": nil, "only a kind": good[:4], "cut": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
		"longest": append(binary.LittleEndian.AppendUint32(nil, 1), make([]byte, maxHandle)...)}
	for _, kind := range []uint32{0, 2, 0x81, 0xfe, 0xff, 1 << 16, 2 << 16, 1 << 31, 1<<32 - 1} {
		lists[fmt.Sprintf("kind %#x", kind)] = append(binary.LittleEndian.AppendUint32(nil, kind), good[4:]...)
	}
	for what, h := range lists {
		for _, mode := range []uint64{handlesFind, handlesVerify} {
			f := forge(mode)
			f.open(5, f.child(77, unix.S_IFREG, 0, "file", h), unix.O_RDWR)
			f.open(6, f.node(78, unix.S_IFREG, locatedNowhere, "", h), unix.O_RDWR)
			g, err := load(t, o.share, f.end(), func(c *Config) {
				c.FileHandles, c.Migration = HandlesPrefer, Migration{FileHandles: true, GuestErrors: true}
			})
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			for _, node := range []uint64{77, 78} {
				if a, errno := g.getattr(node); errno != unix.ESTALE {
					t.Errorf("%s, mode %d: node %d has inode %d, %v", what, mode, node, a.Ino, errno)
				}
			}
			g.fs.Destroy()
		}
	}
}
