package passthrough

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
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
		g.fs.who.uid, g.fs.who.gid = user, user
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
	if st.Mode != mode || st.Uid != g.fs.who.uid || st.Gid != g.fs.who.gid {
		g.t.Errorf("%s on the host: %#o %d:%d, want %#o of %d", n, st.Mode, st.Uid, st.Gid, mode, g.fs.who.uid)
	}
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
