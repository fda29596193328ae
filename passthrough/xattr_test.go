package passthrough

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func (g *guest) setxattr(node uint64, n, value string, flags uint32) unix.Errno {
	return g.fs.Setxattr(g.on(node), &fp.SetxattrIn{Size: uint32(len(value)), Flags: flags}, name(n), []byte(value))
}

func (g *guest) getxattr(node uint64, n string) (string, unix.Errno) {
	buf := make([]byte, 65536)
	size, errno := g.fs.Getxattr(g.on(node), name(n), buf)
	return string(buf[:size]), errno
}

// TestXattrs uses attributes of files of every kind. Those of a symbolic link are its
// own: nothing may reach the file outside that it points to.
func TestXattrs(t *testing.T) {
	needRoot(t)
	outside := t.TempDir() + "/outside"
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g := newShare(t, nil, 0).guest()
	g.write("file", "")
	for _, err := range []error{
		os.Mkdir(g.path("dir"), 0o755),
		os.Symlink(outside, g.path("link")),
		os.Symlink("nowhere", g.path("dangling")),
		unix.Mkfifo(g.path("fifo"), 0o644),
		unix.Mknod(g.path("chr"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"file", "dir", "link", "dangling", "fifo", "chr"} {
		node := g.lookup(fp.RootID, n)
		const attr = "trusted.govirtiofs"
		if errno := g.setxattr(node, attr, "value of "+n, 0); errno != 0 {
			t.Errorf("%s: set: %v", n, errno)
			continue
		}
		var got string
		var errno unix.Errno
		wantCalls(t, "GETXATTR", 1, func() { got, errno = g.getxattr(node, attr) })
		if got != "value of "+n || errno != 0 {
			t.Errorf("%s: get: %q, %v", n, got, errno)
		}
		buf := make([]byte, 100)
		size, errno := g.fs.Listxattr(g.on(node), buf)
		if string(buf[:size]) != attr+"\x00" || errno != 0 {
			t.Errorf("%s: list: %q, %v", n, buf[:size], errno)
		}
		if size, errno := g.fs.Listxattr(g.on(node), nil); size != len(attr)+1 || errno != 0 {
			t.Errorf("%s: length of the list: %d, %v", n, size, errno)
		}
		_, errno = g.fs.Listxattr(g.on(node), buf[:5])
		wantErrno(t, "list in too little", errno, unix.ERANGE)
		_, errno = g.fs.Getxattr(g.on(node), name(attr), buf[:3])
		wantErrno(t, "get in too little", errno, unix.ERANGE)
		if size, errno := g.fs.Getxattr(g.on(node), name(attr), nil); size != len("value of "+n) || errno != 0 {
			t.Errorf("%s: length: %d, %v", n, size, errno)
		}
		wantErrno(t, "create again", g.setxattr(node, attr, "x", unix.XATTR_CREATE), unix.EEXIST)
		wantErrno(t, "remove", g.fs.Removexattr(g.on(node), name(attr)), 0)
		wantErrno(t, "remove again", g.fs.Removexattr(g.on(node), name(attr)), unix.ENODATA)
		_, errno = g.getxattr(node, attr)
		wantErrno(t, "get what is gone", errno, unix.ENODATA)
	}
	if n, err := unix.Listxattr(outside, nil); n != 0 || err != nil {
		t.Errorf("the file outside has attributes: %d, %v", n, err)
	}
}

func TestXattrsOff(t *testing.T) {
	g := newShare(t, func(c *Config) { c.Xattr = false }, 0).guest()
	_, errno := g.getxattr(fp.RootID, "user.x")
	wantErrno(t, "get", errno, unix.ENOSYS)
	wantErrno(t, "set", g.setxattr(fp.RootID, "user.x", "", 0), unix.ENOSYS)
	wantErrno(t, "remove", g.fs.Removexattr(g.on(fp.RootID), name("user.x")), unix.ENOSYS)
	_, errno = g.fs.Listxattr(g.on(fp.RootID), nil)
	wantErrno(t, "list", errno, unix.ENOSYS)
}

// hostACL gives a file of the host an ACL with an entry for user 1234.
func hostACL(t *testing.T, path string) []byte {
	t.Helper()
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 6, 1234}, {4, 4, 1<<32 - 1}, {0x10, 6, 1<<32 - 1}, {0x20, 4, 1<<32 - 1}} {
		acl = append(acl, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		t.Skip(err)
	}
	return acl
}

// TestACLs checks that only a guest that agreed to ACLs sees them.
func TestACLs(t *testing.T) {
	const attr = "system.posix_acl_access"
	g := newShare(t, nil, 0).guest()
	g.write("f", "")
	acl := hostACL(t, g.path("f"))
	if err := unix.Setxattr(g.path("f"), "user.x", nil, 0); err != nil {
		t.Skip(err)
	}
	node := g.lookup(fp.RootID, "f")
	_, errno := g.getxattr(node, attr)
	wantErrno(t, "get", errno, unix.EOPNOTSUPP)
	wantErrno(t, "set", g.setxattr(node, attr, string(acl), 0), unix.EOPNOTSUPP)
	wantErrno(t, "remove", g.fs.Removexattr(g.on(node), name(attr)), unix.EOPNOTSUPP)
	buf := make([]byte, len("user.x\x00"))
	if n, errno := g.fs.Listxattr(g.on(node), buf); string(buf[:n]) != "user.x\x00" || errno != 0 {
		t.Errorf("list: %q, %v", buf[:n], errno)
	}

	g = newShare(t, func(c *Config) { c.PosixACL = Always }, fp.InitPosixACL|fp.InitDontMask|fp.InitSetxattrExt).guest()
	g.write("f", "")
	hostACL(t, g.path("f"))
	node = g.lookup(fp.RootID, "f")
	if got, errno := g.getxattr(node, attr); got != string(acl) || errno != 0 {
		t.Errorf("get: %q, %v", got, errno)
	}
	buf = make([]byte, 100)
	if n, errno := g.fs.Listxattr(g.on(node), buf); !bytes.Contains(buf[:n], []byte(attr)) || errno != 0 {
		t.Errorf("list: %q, %v", buf[:n], errno)
	}
}

// TestACLKillsSetgid sets an ACL as somebody who is not in the file's group.
func TestACLKillsSetgid(t *testing.T) {
	needRoot(t)
	g := newShare(t, func(c *Config) { c.PosixACL = Always }, fp.InitPosixACL|fp.InitDontMask|fp.InitSetxattrExt).guest()
	g.write("f", "")
	acl := hostACL(t, g.path("f"))
	node := g.lookup(fp.RootID, "f")
	for _, c := range []struct {
		flags uint32
		keep  bool
	}{{0, true}, {fp.SetxattrACLKillSgid, false}} {
		if err := os.Chmod(g.path("f"), 0o664|os.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		in := &fp.SetxattrIn{Size: uint32(len(acl)), SetxattrFlags: c.flags}
		wantErrno(t, "set", g.fs.Setxattr(g.on(node), in, name("system.posix_acl_access"), acl), 0)
		st, err := os.Stat(g.path("f"))
		if err != nil || (st.Mode()&os.ModeSetgid != 0) != c.keep {
			t.Errorf("flags %d: mode %v", c.flags, st.Mode())
		}
	}
}

func TestLongXattrs(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "govirtiofs")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	g := shareDir(t, dir, nil, 0).guest()
	g.write("f", "")
	node := g.lookup(fp.RootID, "f")
	long := "user." + strings.Repeat("n", 250)
	value := strings.Repeat("v", 65536)
	if errno := g.setxattr(node, long, value, 0); errno != 0 {
		t.Skip(errno)
	}
	if got, errno := g.getxattr(node, long); got != value || errno != 0 {
		t.Errorf("%d bytes, %v", len(got), errno)
	}
	// More names than the buffer that is tried first has room for.
	for i := range 200 {
		if errno := g.setxattr(node, long[:250-i], "", 0); errno != 0 {
			t.Skip(errno)
		}
	}
	buf := make([]byte, 65536)
	n, errno := g.fs.Listxattr(g.on(node), buf)
	if errno != 0 || bytes.Count(buf[:n], []byte{0}) != 201 {
		t.Errorf("%d bytes, %d names, %v", n, bytes.Count(buf[:n], []byte{0}), errno)
	}
}
