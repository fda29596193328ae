package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

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

// TestOwnershipNamed makes files as on a file system without O_TMPFILE.
func TestOwnershipNamed(t *testing.T) {
	g := ownShare(t, nil)
	ts, dir := threadOf(g.on(fp.RootID)), g.fs.cfg.RootFD
	own := g.fs.own.(*xattrOwnership)
	o := guestStat{uid: 3, gid: 4, mode: unix.S_IFREG | 0o2755}
	fd, errno := own.newNamed(ts, dir, name("n").CString(), &o, unix.O_RDWR, []byte("content"))
	wantErrno(t, "make", errno, 0)
	g.fs.fds.close(fd)
	g.shown("made", fp.RootID, "n", unix.S_IFREG|0o2755, 3, 4, 0)
	g.onHost("n", unix.S_IFREG|0o755)
	_, errno = own.newNamed(ts, dir, name("n").CString(), &o, unix.O_RDWR, nil)
	wantErrno(t, "make it again", errno, unix.EEXIST)
	if s := g.content("n"); s != "content" {
		t.Errorf("holds %q", s)
	}
	// What can't get its attribute goes away again.
	fd, errno = own.newNamed(ts, dir, name("ro").CString(), &o, unix.O_RDONLY, []byte("x"))
	if errno == 0 {
		g.fs.fds.close(fd)
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
				g.fs.Forget(nil, c.Entry.NodeID, 1)
			}
		})
	}
}
