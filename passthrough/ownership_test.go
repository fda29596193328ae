package passthrough

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/server"
)

func TestMark(t *testing.T) {
	const reg, dir = unix.S_IFREG | 0o600, unix.S_IFDIR | 0o700
	for _, test := range []struct {
		in   string
		host uint16
		want guestStat
		out  string // "" is as in
	}{
		{"0:42:0640:file", reg, guestStat{uid: 0, gid: 42, mode: unix.S_IFREG | 0o640}, ""},
		{"4294967294:1:04755:file", reg, guestStat{uid: 4294967294, gid: 1, mode: unix.S_IFREG | 0o4755}, ""},
		{"0:0:01777:dir", dir, guestStat{mode: unix.S_IFDIR | 0o1777}, ""},
		{"7:8:0777:symlink", reg, guestStat{uid: 7, gid: 8, mode: unix.S_IFLNK | 0o777}, ""},
		{"0:0:0600:pipe", reg, guestStat{mode: unix.S_IFIFO | 0o600}, ""},
		{"0:0:0600:socket", reg, guestStat{mode: unix.S_IFSOCK | 0o600}, ""},
		{"0:6:0660:block-8-16", reg, guestStat{gid: 6, mode: unix.S_IFBLK | 0o660, major: 8, minor: 16}, ""},
		{"0:0:0666:char-1-3", reg, guestStat{mode: unix.S_IFCHR | 0o666, major: 1, minor: 3}, ""},
		// As others write it.
		{"1:2:0755", reg, guestStat{uid: 1, gid: 2, mode: unix.S_IFREG | 0o755}, "1:2:0755:file"},
		{"1:2:0755", dir, guestStat{uid: 1, gid: 2, mode: unix.S_IFDIR | 0o755}, "1:2:0755:dir"},
		{"0:0:0100755", reg, guestStat{mode: unix.S_IFREG | 0o755}, "0:0:0755:file"},
		{"0:0:0120777", reg, guestStat{mode: unix.S_IFLNK | 0o777}, "0:0:0777:symlink"},
		{"0:0:755", reg, guestStat{mode: unix.S_IFREG | 0o755}, "0:0:0755:file"},
		// What can't be is what it is on the host.
		{"0:0:0755:dir", reg, guestStat{mode: unix.S_IFREG | 0o755}, "0:0:0755:file"},
		{"0:0:0755:file", dir, guestStat{mode: unix.S_IFDIR | 0o755}, "0:0:0755:dir"},
		{"0:0:0755:block-1-1", dir, guestStat{mode: unix.S_IFDIR | 0o755, major: 1, minor: 1}, "0:0:0755:dir"},
	} {
		got, ok := parseMark([]byte(test.in), test.host)
		if !ok || got != test.want {
			t.Errorf("%q: %+v, %v, want %+v", test.in, got, ok, test.want)
		}
		want := test.out
		if want == "" {
			want = test.in
		}
		if out := string(got.append(nil)); out != want || len(out) > markMax {
			t.Errorf("%q is written as %q", test.in, out)
		}
	}
	for _, bad := range []string{"", ":", "::", "0:0:", "0:0", "a:0:0755", "0:0:0855", "-1:0:0755", "4294967295:0:0755", "0:4294967296:0755",
		"0:0:0200000", "0:0:0755:", "0:0:0755:x", "0:0:0755:block", "0:0:0755:char-1", "0:0:0755:char-1-2-3", "0:0:0755:door-1-2",
		"0:0:0755:char--1-2", " 0:0:0755", "0:0:0755:file "} {
		if got, ok := parseMark([]byte(bad), reg); ok && bad != "0:0:0755:" {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add([]byte("0:6:0660:block-8-16"), uint16(unix.S_IFREG))
	f.Fuzz(func(t *testing.T, b []byte, host uint16) {
		o, ok := parseMark(b, host)
		if !ok {
			return
		}
		again, ok := parseMark(o.append(nil), host)
		o2 := o
		if kind := o.mode & unix.S_IFMT; kind != unix.S_IFBLK && kind != unix.S_IFCHR {
			o2.major, o2.minor = 0, 0
		}
		if known := o.append(nil); !ok || again != o2 && o.mode&unix.S_IFMT == again.mode&unix.S_IFMT {
			t.Errorf("%q: %+v, then %q: %+v", b, o, known, again)
		}
	})
}

func TestMarkAllocs(t *testing.T) {
	buf := make([]byte, 0, markMax)
	in := []byte("1000:1000:0666:char-10-200")
	if n := testing.AllocsPerRun(100, func() {
		o, _ := parseMark(in, unix.S_IFREG)
		_ = o.append(buf)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// ownShare is a share that keeps owners in attributes, in a process that has lost its
// privileges: everything works with those of an ordinary user.
func ownShare(t *testing.T, edit func(*Config)) *guest {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Setxattr(dir, "user.test", []byte("x"), 0); err != nil {
		t.Skip("no user attributes here: ", err)
	}
	g := shareDir(t, dir, func(c *Config) {
		c.Ownership, c.KillprivV2 = OwnershipXattr, false
		if edit != nil {
			edit(c)
		}
	}, 0).guest()
	if os.Geteuid() == 0 {
		const user = 4711
		if err := errors.Join(os.Chown(dir, user, user), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
		g.fs.uid, g.fs.gid = user, user
		becomeUser(t, user)
	}
	return g
}

// becomeUser lets the calling thread act as a user until the test ends.
func becomeUser(t *testing.T, user uintptr) {
	t.Helper()
	runtime.LockOSThread()
	set := func(nr, id uintptr) {
		if _, _, errno := unix.RawSyscall(nr, ^uintptr(0), id, ^uintptr(0)); errno != 0 {
			t.Fatal(errno)
		}
	}
	groups, _, errno := unix.RawSyscall(unix.SYS_GETGROUPS, 0, 0, 0)
	if errno != 0 || groups != 0 {
		t.Fatalf("%d supplementary groups, %v", groups, errno)
	}
	set(unix.SYS_SETRESGID, user)
	set(unix.SYS_SETRESUID, user)
	t.Cleanup(func() {
		set(unix.SYS_SETRESUID, 0)
		set(unix.SYS_SETRESGID, 0)
	})
}

// as is a request of a user's.
func (g *guest) as(node uint64, uid, gid uint32) *server.Request {
	r := g.on(node)
	r.Header.UID, r.Header.GID = uid, gid
	return r
}

// shown checks what the guest sees of a node, in every way.
func (g *guest) shown(what string, parent uint64, n string, mode, uid, gid, rdev uint32) uint64 {
	g.t.Helper()
	var e fp.EntryOut
	if errno := g.fs.Lookup(g.on(parent), name(n), &e); errno != 0 {
		g.t.Fatalf("%s: lookup: %v", what, errno)
	}
	var a fp.AttrOut
	if errno := g.fs.Getattr(g.on(e.NodeID), &fp.GetattrIn{}, &a); errno != 0 {
		g.t.Fatalf("%s: getattr: %v", what, errno)
	}
	var x fp.StatxOut
	if errno := g.fs.Statx(g.on(e.NodeID), &fp.StatxIn{}, &x); errno != 0 {
		g.t.Fatalf("%s: statx: %v", what, errno)
	}
	for op, got := range map[string]fp.Attr{"LOOKUP": e.Attr, "GETATTR": a.Attr,
		"STATX": {Mode: uint32(x.Stat.Mode), UID: x.Stat.UID, GID: x.Stat.GID, Rdev: encodeDev(x.Stat.RdevMajor, x.Stat.RdevMinor)}} {
		if got.Mode != mode || got.UID != uid || got.GID != gid || got.Rdev != rdev {
			g.t.Errorf("%s: %s shows %#o %d:%d %#x, want %#o %d:%d %#x", what, op, got.Mode, got.UID, got.GID, got.Rdev, mode, uid, gid, rdev)
		}
	}
	return e.NodeID
}

// onHost checks what there is on the host, and that it is the daemon's user's.
func (g *guest) onHost(n string, mode uint32) {
	g.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(g.path(n), &st); err != nil {
		g.t.Fatal(err)
	}
	if st.Mode != mode || st.Uid != g.fs.uid || st.Gid != g.fs.gid {
		g.t.Errorf("%s on the host: %#o %d:%d, want %#o of %d", n, st.Mode, st.Uid, st.Gid, mode, g.fs.uid)
	}
}

func TestOwnershipMakes(t *testing.T) {
	g := ownShare(t, nil)
	var e fp.EntryOut
	var c fp.CreateOut
	const root = fp.RootID
	want := func(what string, errno unix.Errno) {
		t.Helper()
		wantErrno(t, what, errno, 0)
	}
	want("create", g.fs.Create(g.as(root, 1000, 1001), &fp.CreateIn{Flags: unix.O_RDONLY, Mode: 0o4751}, name("f"), &c))
	if a := c.Entry.Attr; a.Mode != unix.S_IFREG|0o4751 || a.UID != 1000 || a.GID != 1001 {
		t.Errorf("CREATE shows %+v", a)
	}
	g.shown("file", root, "f", unix.S_IFREG|0o4751, 1000, 1001, 0)
	g.onHost("f", unix.S_IFREG|0o751)
	want("release", g.release(c.Entry.NodeID, c.Open.Fh))

	want("create", g.fs.Create(g.as(root, 0, 0), &fp.CreateIn{Flags: unix.O_WRONLY, Mode: 0}, name("secret"), &c))
	g.shown("mode 0", root, "secret", unix.S_IFREG, 0, 0, 0)
	g.onHost("secret", unix.S_IFREG|0o600)
	want("release", g.release(c.Entry.NodeID, c.Open.Fh))
	wantErrno(t, "exclusive create", g.fs.Create(g.as(root, 0, 0), &fp.CreateIn{Flags: unix.O_WRONLY | unix.O_EXCL}, name("f"), &c), unix.EEXIST)
	wantErrno(t, "nobody", g.fs.Create(g.as(root, noID, 0), &fp.CreateIn{Flags: unix.O_WRONLY}, name("x"), &c), unix.EPERM)

	want("mkdir", g.fs.Mkdir(g.as(root, 5, 6), &fp.MkdirIn{Mode: 0o1777}, name("d"), &e))
	d := g.shown("directory", root, "d", unix.S_IFDIR|0o1777, 5, 6, 0)
	g.onHost("d", unix.S_IFDIR|0o755)

	for n, dev := range map[string]struct{ kind, rdev uint32 }{
		"null": {unix.S_IFCHR, encodeDev(1, 3)}, "sda1": {unix.S_IFBLK, encodeDev(8, 1)}, "big": {unix.S_IFBLK, encodeDev(4095, 1<<20-1)},
		"whiteout": {unix.S_IFCHR, 0}, "pipe": {unix.S_IFIFO, 0}, "sock": {unix.S_IFSOCK, 0}, "plain": {unix.S_IFREG, 0},
	} {
		want("mknod", g.fs.Mknod(g.as(d, 0, 6), &fp.MknodIn{Mode: dev.kind | 0o660, Rdev: dev.rdev}, name(n), &e))
		g.shown(n, d, n, dev.kind|0o660, 0, 6, dev.rdev)
		if dev.kind != unix.S_IFREG {
			g.onHost("d/"+n, unix.S_IFREG|0o600)
		}
	}
	wantErrno(t, "mknod again", g.fs.Mknod(g.as(d, 0, 6), &fp.MknodIn{Mode: unix.S_IFIFO}, name("pipe"), &e), unix.EEXIST)

	for uid, n := range []string{"root's", "other's"} {
		want("symlink", g.fs.Symlink(g.as(d, uint32(uid), 0), name(n), name("some/where"), &e))
		l := g.shown(n, d, n, unix.S_IFLNK|0o777, uint32(uid), 0, 0)
		buf := make([]byte, 100)
		size, errno := g.fs.Readlink(g.on(l), buf)
		if string(buf[:size]) != "some/where" || errno != 0 || e.Attr.Size != 10 {
			t.Errorf("readlink of %s: %q, %v, size %d", n, buf[:size], errno, e.Attr.Size)
		}
	}
	g.onHost("d/root's", unix.S_IFLNK|0o777)
	g.onHost("d/other's", unix.S_IFREG|0o600)
	_, errno := g.fs.Readlink(g.on(g.lookup(root, "f")), make([]byte, 10))
	wantErrno(t, "readlink of a file", errno, unix.EINVAL)

	want("tmpfile", g.fs.Tmpfile(g.as(d, 7, 8), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o640}, &c))
	want("link", g.fs.Link(g.on(d), &fp.LinkIn{OldNodeID: c.Entry.NodeID}, name("linked"), &e))
	g.shown("linked", d, "linked", unix.S_IFREG|0o640, 7, 8, 0)
	want("rename", g.fs.Rename(g.on(d), &fp.Rename2In{NewDir: root}, name("linked"), name("moved")))
	g.shown("moved", root, "moved", unix.S_IFREG|0o640, 7, 8, 0)
	want("release", g.release(c.Entry.NodeID, c.Open.Fh))
}

// TestOwnershipSetgid: what is made in a directory with the bit gets its group.
func TestOwnershipSetgid(t *testing.T) {
	g := ownShare(t, nil)
	var e fp.EntryOut
	var c fp.CreateOut
	var a fp.AttrOut
	wantErrno(t, "mkdir", g.fs.Mkdir(g.as(fp.RootID, 0, 0), &fp.MkdirIn{Mode: 0o755}, name("d"), &e), 0)
	d := e.NodeID
	wantErrno(t, "setattr", g.fs.Setattr(g.on(d), &fp.SetattrIn{Valid: fp.FattrMode | fp.FattrGID, Mode: 0o2775, GID: 50}, &a), 0)
	wantErrno(t, "create", g.fs.Create(g.as(d, 10, 10), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o664}, name("f"), &c), 0)
	wantErrno(t, "release", g.release(c.Entry.NodeID, c.Open.Fh), 0)
	wantErrno(t, "mkdir", g.fs.Mkdir(g.as(d, 10, 10), &fp.MkdirIn{Mode: 0o755}, name("s"), &e), 0)
	wantErrno(t, "symlink", g.fs.Symlink(g.as(d, 0, 0), name("l"), name("x"), &e), 0)
	g.shown("file", d, "f", unix.S_IFREG|0o664, 10, 50, 0)
	g.shown("directory", d, "s", unix.S_IFDIR|0o2755, 10, 50, 0)
	g.shown("link", d, "l", unix.S_IFLNK|0o777, 0, 50, 0)
}

func TestOwnershipChanges(t *testing.T) {
	g := ownShare(t, nil)
	var c fp.CreateOut
	wantErrno(t, "create", g.fs.Create(g.as(fp.RootID, 0, 0), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, name("f"), &c), 0)
	n := c.Entry.NodeID
	set := func(in fp.SetattrIn) {
		t.Helper()
		var out fp.AttrOut
		wantErrno(t, "setattr", g.fs.Setattr(g.on(n), &in, &out), 0)
		g.shown("set", fp.RootID, "f", out.Attr.Mode, out.Attr.UID, out.Attr.GID, 0)
	}
	const reg, both = unix.S_IFREG, fp.FattrUID | fp.FattrGID
	set(fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o6755})
	g.shown("chmod", fp.RootID, "f", reg|0o6755, 0, 0, 0)
	g.onHost("f", reg|0o755)
	set(fp.SetattrIn{Valid: fp.FattrUID, UID: 33})
	g.shown("chown kills", fp.RootID, "f", reg|0o755, 33, 0, 0)
	set(fp.SetattrIn{Valid: both | fp.FattrMode, UID: 44, GID: 55, Mode: 0o4711})
	g.shown("chown and chmod", fp.RootID, "f", reg|0o4711, 44, 55, 0)
	set(fp.SetattrIn{Valid: fp.FattrMode, Mode: 0})
	g.shown("chmod 0", fp.RootID, "f", reg, 44, 55, 0)
	g.onHost("f", reg|0o600)
	set(fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o4777})
	set(fp.SetattrIn{Valid: fp.FattrSize, Size: 10})
	set(fp.SetattrIn{Valid: fp.FattrMtime, Mtime: 1})
	g.shown("the rest", fp.RootID, "f", reg|0o4777, 44, 55, 0)
	g.onHost("f", reg|0o755)
	wantErrno(t, "release", g.release(n, c.Open.Fh), 0)
	_, errno := g.tryOpen(n, unix.O_RDWR|unix.O_TRUNC) // by root
	wantErrno(t, "open", errno, 0)
	g.shown("truncated by root", fp.RootID, "f", reg|0o4777, 44, 55, 0)
	var out fp.OpenOut
	wantErrno(t, "open", g.fs.Open(g.as(n, 1000, 1000), &fp.OpenIn{Flags: unix.O_WRONLY | unix.O_TRUNC}, &out), 0)
	g.shown("truncated by a user", fp.RootID, "f", reg|0o777, 44, 55, 0)
}

// TestOwnershipWrite: a write past the guest's cache by a user without privilege.
func TestOwnershipWrite(t *testing.T) {
	g := ownShare(t, nil)
	var c fp.CreateOut
	wantErrno(t, "create", g.fs.Create(g.as(fp.RootID, 0, 0), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o6775}, name("f"), &c), 0)
	n, fh := c.Entry.NodeID, c.Open.Fh
	for _, test := range []struct{ flags, mode uint32 }{{0, 0o6775}, {fp.WriteKillSuidgid, 0o775}, {fp.WriteKillSuidgid, 0o775}} {
		if _, errno := g.writeAt(n, fp.WriteIn{Fh: fh, WriteFlags: test.flags}, "x"); errno != 0 {
			t.Error(errno)
		}
		g.shown("written", fp.RootID, "f", unix.S_IFREG|test.mode, 0, 0, 0)
	}
	g.write("host", "")
	h := g.lookup(fp.RootID, "host")
	if _, errno := g.writeAt(h, fp.WriteIn{Fh: g.open(h, unix.O_RDWR), WriteFlags: fp.WriteKillSuidgid}, "x"); errno != 0 {
		t.Errorf("a file of the host's: %v", errno)
	}
	wantErrno(t, "release", g.release(n, fh), 0)
}

// TestOwnershipUnmarked looks at files that were made on the host.
func TestOwnershipUnmarked(t *testing.T) {
	g := ownShare(t, nil)
	g.write("f", "x")
	for _, err := range []error{
		os.Chmod(g.path("f"), 0o755|os.ModeSetuid|os.ModeSetgid),
		os.Mkdir(g.path("d"), 0o750), os.Symlink("f", g.path("l")), unix.Mkfifo(g.path("p"), 0o640),
		os.WriteFile(g.path("bad"), nil, 0o640), unix.Setxattr(g.path("bad"), "user.containers.override_stat", []byte("0:0:x"), 0),
		os.WriteFile(g.path("podman"), nil, 0o700), unix.Setxattr(g.path("podman"), "user.containers.override_stat", []byte("0:0:0644"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g.shown("root", fp.RootID, "f", unix.S_IFREG|0o755, 0, 0, 0)
	g.shown("directory", fp.RootID, "d", unix.S_IFDIR|0o750, 0, 0, 0)
	g.shown("malformed", fp.RootID, "bad", unix.S_IFREG|0o640, 0, 0, 0)
	g.shown("podman's", fp.RootID, "podman", unix.S_IFREG|0o644, 0, 0, 0)
	l := g.shown("link", fp.RootID, "l", unix.S_IFLNK|0o777, 0, 0, 0)
	p := g.shown("fifo", fp.RootID, "p", unix.S_IFIFO|0o640, 0, 0, 0)
	var out fp.AttrOut
	set := func(n uint64, valid uint32) unix.Errno {
		return g.fs.Setattr(g.on(n), &fp.SetattrIn{Valid: valid, UID: 5, GID: 5, Mode: 0o600}, &out)
	}
	wantErrno(t, "chmod of a link", set(l, fp.FattrMode), unix.EOPNOTSUPP)
	wantErrno(t, "chown of a fifo", set(p, fp.FattrUID), unix.EPERM)
	wantErrno(t, "chmod of a fifo", set(p, fp.FattrMode), 0)
	g.shown("fifo", fp.RootID, "p", unix.S_IFIFO|0o600, 0, 0, 0)
	wantErrno(t, "chown of a file", set(g.lookup(fp.RootID, "f"), fp.FattrUID), 0)
	g.shown("file", fp.RootID, "f", unix.S_IFREG|0o755, 5, 0, 0)
}

// TestOwnershipForgery tries to get at the attribute in every way that names one.
func TestOwnershipForgery(t *testing.T) {
	g := ownShare(t, nil)
	var c fp.CreateOut
	wantErrno(t, "create", g.fs.Create(g.as(fp.RootID, 1000, 1000), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, name("f"), &c), 0)
	n := c.Entry.NodeID
	for _, attr := range []string{"user.containers.override_stat", "user.Containers.override_STAT"} {
		_, errno := g.getxattr(n, attr)
		wantErrno(t, "get", errno, unix.ENODATA)
		wantErrno(t, "set", g.setxattr(n, attr, "0:0:04777:file", 0), unix.EPERM)
		wantErrno(t, "remove", g.fs.Removexattr(g.on(n), name(attr)), unix.EPERM)
	}
	wantErrno(t, "set another", g.setxattr(n, "user.other", "x", 0), 0)
	buf := make([]byte, 100)
	size, errno := g.fs.Listxattr(g.on(n), buf)
	if string(buf[:size]) != "user.other\x00" || errno != 0 {
		t.Errorf("list: %q, %v", buf[:size], errno)
	}
	if size, _ := g.fs.Listxattr(g.on(n), nil); size != len("user.other")+1 {
		t.Errorf("length of the list: %d", size)
	}
	wantErrno(t, "release", g.release(n, c.Open.Fh), 0)
	g.shown("file", fp.RootID, "f", unix.S_IFREG|0o644, 1000, 1000, 0)
}

// TestOwnershipXattrMap: names that the map makes are the attribute's, too, and file
// capabilities can be kept under another name.
func TestOwnershipXattrMap(t *testing.T) {
	const capability = "security.capability"
	for rule, own := range map[string]string{
		":prefix:all::user.: :ok:all:::":            "containers.override_stat",
		":map:security.capability:user.virtiofs.:":  "user.containers.override_stat",
		":prefix:client:user.x:: :ok:all:::":        "user.containers.override_stat",
		":map::user.virtiofs.:":                     "",
		":prefix:all:trusted.:user.: :ok:all:::":    "user.containers.override_stat",
		":prefix:all:security.:user.s: :ok:all:::":  "user.containers.override_stat",
		":prefix:all:containers.:user.: :ok:all:::": "containers.override_stat",
	} {
		m, err := xattrmap.Parse(rule)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(rule, func(t *testing.T) {
			g := ownShare(t, func(c *Config) { c.XattrMap = m })
			var c fp.CreateOut
			wantErrno(t, "create", g.fs.Create(g.as(fp.RootID, 3, 4), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o755}, name("f"), &c), 0)
			n := c.Entry.NodeID
			if own != "" {
				_, errno := g.getxattr(n, own)
				wantErrno(t, "get", errno, unix.ENODATA)
				wantErrno(t, "set", g.setxattr(n, own, "0:0:04777:file", 0), unix.EPERM)
				wantErrno(t, "remove", g.fs.Removexattr(g.on(n), name(own)), unix.EPERM)
			}
			buf := make([]byte, 200)
			if size, errno := g.fs.Listxattr(g.on(n), buf); size != 0 || errno != 0 {
				t.Errorf("list: %q, %v", buf[:size], errno)
			}
			if rule == ":map:security.capability:user.virtiofs.:" {
				value := string(append([]byte{1, 0, 0, 2, 0, 0x20}, make([]byte, 14)...))
				wantErrno(t, "setcap", g.setxattr(n, capability, value, 0), 0)
				if got, errno := g.getxattr(n, capability); got != value || errno != 0 {
					t.Errorf("getcap: %q, %v", got, errno)
				}
				var a fp.AttrOut
				wantErrno(t, "chown", g.fs.Setattr(g.on(n), &fp.SetattrIn{Valid: fp.FattrUID, UID: 9}, &a), 0)
				_, errno := g.getxattr(n, capability)
				wantErrno(t, "getcap after chown", errno, unix.ENODATA)
			}
			wantErrno(t, "release", g.release(n, c.Open.Fh), 0)
			g.shown("file", fp.RootID, "f", c.Entry.Attr.Mode, g.lookupAttr("f").UID, 4, 0)
		})
	}
}

func (g *guest) lookupAttr(n string) fp.Attr {
	var e fp.EntryOut
	wantErrno(g.t, "lookup", g.fs.Lookup(g.on(fp.RootID), name(n), &e), 0)
	return e.Attr
}

// TestOwnershipLabel: the extension that gives new files labels takes no other names.
func TestOwnershipLabel(t *testing.T) {
	g := ownShare(t, func(c *Config) { c.SecurityLabel = Auto })
	r := g.as(fp.RootID, 1000, 1000)
	r.Security = []server.SecurityContext{{Name: name("user.containers.override_stat"), Value: []byte("0:0:04777:file")}}
	defer func() { g.r.Security = nil }()
	var c fp.CreateOut
	wantErrno(t, "create", g.fs.Create(r, &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, name("f"), &c), unix.EINVAL)
	if _, err := os.Lstat(g.path("f")); err == nil {
		t.Error("the file is there")
	}
}

// TestOwnershipListing: types in listings are the guest's, or left open.
func TestOwnershipListing(t *testing.T) {
	g := ownShare(t, nil)
	var e fp.EntryOut
	for n, kind := range map[string]uint32{"chr": unix.S_IFCHR, "reg": unix.S_IFREG} {
		wantErrno(t, "mknod", g.fs.Mknod(g.as(fp.RootID, 9, 9), &fp.MknodIn{Mode: kind | 0o600, Rdev: encodeDev(1, 3)}, name(n), &e), 0)
	}
	for _, plus := range []bool{false, true} {
		fh := g.open(fp.RootID, unix.O_DIRECTORY)
		_, all := g.listAll(fh, 4096, plus)
		for _, d := range all {
			a := d.entry.Attr
			switch {
			case d.name == "." || d.name == "..":
			case !plus && d.typ != unix.DT_UNKNOWN:
				t.Errorf("READDIR: %s has type %d", d.name, d.typ)
			case plus && d.typ != map[string]uint32{"chr": unix.DT_CHR, "reg": unix.DT_REG}[d.name]:
				t.Errorf("READDIRPLUS: %s has type %d", d.name, d.typ)
			case plus && (a.UID != 9 || a.GID != 9):
				t.Errorf("READDIRPLUS: %s: %+v", d.name, a)
			}
		}
		wantErrno(t, "releasedir", g.fs.Releasedir(g.on(fp.RootID), &fp.ReleaseIn{Fh: fh}), 0)
	}
}

// TestOwnershipNeeds: options that contradict it, and a file system that can't.
func TestOwnershipNeeds(t *testing.T) {
	for what, cfg := range map[string]Config{
		"translation": {UIDs: rules(t, "map:0:1:1")}, "acl": {PosixACL: Auto}, "killpriv": {KillprivV2: true},
	} {
		cfg.Ownership = OwnershipXattr
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "excludes") {
			t.Errorf("%s: %v", what, err)
		}
	}
	root, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	if _, err := New(Config{RootFD: root, Ownership: OwnershipXattr}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("on /proc: %v", err)
	}
	for _, s := range []string{"host", "XATTR"} {
		if _, err := ParseOwnership(s); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseOwnership(filepath.Base("x/none")); err == nil {
		t.Error("none is an ownership")
	}
}

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
	g.fs.Forget(old, 1)
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

// TestOwnershipNamed makes files as on a file system without O_TMPFILE.
func TestOwnershipNamed(t *testing.T) {
	g := ownShare(t, nil)
	ts, dir := threadOf(g.on(fp.RootID)), g.fs.cfg.RootFD
	o := guestStat{uid: 3, gid: 4, mode: unix.S_IFREG | 0o2755}
	fd, errno := g.fs.newNamed(ts, dir, name("n").CString(), &o, unix.O_RDWR, []byte("content"))
	wantErrno(t, "make", errno, 0)
	g.fs.closeFD(fd)
	g.shown("made", fp.RootID, "n", unix.S_IFREG|0o2755, 3, 4, 0)
	g.onHost("n", unix.S_IFREG|0o755)
	_, errno = g.fs.newNamed(ts, dir, name("n").CString(), &o, unix.O_RDWR, nil)
	wantErrno(t, "make it again", errno, unix.EEXIST)
	if s := g.content("n"); s != "content" {
		t.Errorf("holds %q", s)
	}
	// What can't get its attribute goes away again.
	fd, errno = g.fs.newNamed(ts, dir, name("ro").CString(), &o, unix.O_RDONLY, []byte("x"))
	if errno == 0 {
		g.fs.closeFD(fd)
	}
	wantErrno(t, "content without the right to write", errno, unix.EBADF)
	if _, err := os.Lstat(g.path("ro")); err == nil {
		t.Error("the file is there")
	}
}

// TestOwnershipCalls counts system calls and allocations.
func TestOwnershipCalls(t *testing.T) {
	g := ownShare(t, nil)
	var c fp.CreateOut
	var e fp.EntryOut
	var a fp.AttrOut
	create := func() {
		wantErrno(t, "create", g.fs.Create(g.as(fp.RootID, 5, 5), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, name("f"), &c), 0)
	}
	wantCalls(t, "CREATE", 6, create)
	n, f := c.Entry.NodeID, name("f")
	wantErrno(t, "release", g.release(n, c.Open.Fh), 0)
	g.write("new", "")
	wantCalls(t, "LOOKUP of a new name", 3, func() { g.lookup(fp.RootID, "new") })
	g.lookup(fp.RootID, "f")
	wantCalls(t, "LOOKUP of a known name", 2, func() { g.lookup(fp.RootID, "f") })
	wantCalls(t, "GETATTR", 2, func() { _ = g.fs.Getattr(g.on(n), &fp.GetattrIn{}, &a) })
	if raceEnabled {
		return
	}
	in, set := &fp.GetattrIn{}, &fp.SetattrIn{Valid: fp.FattrUID, UID: 7}
	for what, f := range map[string]func(){
		"LOOKUP":  func() { _ = g.fs.Lookup(g.on(fp.RootID), f, &e) },
		"GETATTR": func() { _ = g.fs.Getattr(g.on(n), in, &a) },
		"SETATTR": func() { _ = g.fs.Setattr(g.on(n), set, &a) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

// BenchmarkOwnership is GETATTR and CREATE, with owners in the host's files and in
// attributes.
func BenchmarkOwnership(b *testing.B) {
	for what, own := range map[string]Ownership{"host": OwnershipHost, "xattr": OwnershipXattr} {
		s := newShare(b, func(c *Config) { c.Ownership, c.KillprivV2 = own, false }, 0)
		var c fp.CreateOut
		var a fp.AttrOut
		b.Run("getattr/"+what, func(b *testing.B) {
			g := s.guest()
			errno := g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}, name("f"), &c)
			wantErrno(b, "create", errno, 0)
			in := &fp.GetattrIn{}
			b.ReportAllocs()
			for b.Loop() {
				_ = g.fs.Getattr(g.on(c.Entry.NodeID), in, &a)
			}
			_ = g.release(c.Entry.NodeID, c.Open.Fh)
		})
		b.Run("create and unlink/"+what, func(b *testing.B) {
			g := s.guest()
			b.ReportAllocs()
			n, in := name("g"), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}
			for b.Loop() {
				if errno := g.fs.Create(g.on(fp.RootID), in, n, &c); errno != 0 {
					b.Fatal(errno)
				}
				_ = g.release(c.Entry.NodeID, c.Open.Fh)
				_ = g.fs.Unlink(g.on(fp.RootID), n)
				g.fs.Forget(c.Entry.NodeID, 1)
			}
		})
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
				g.fs.Forget(e.NodeID, 1)
			}
		})
	}
	all.Wait()
	s.fs.Destroy()
	s.fs.converted.mu.Lock()
	defer s.fs.converted.mu.Unlock()
	if n := len(s.fs.converted.to); n != 0 {
		t.Errorf("%d links are remembered", n)
	}
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".govirtiofs") {
			t.Errorf("%s is left behind", n.Name())
		}
	}
}
