package fstest

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func (e *env) listxattr(path string) []string {
	e.Helper()
	buf := make([]byte, 65536)
	n, err := unix.Llistxattr(path, buf)
	e.must(err)
	var list []string
	for _, s := range strings.Split(string(buf[:n]), "\x00") {
		if strings.HasPrefix(s, "user.") || strings.HasPrefix(s, "trusted.") {
			list = append(list, s)
		}
	}
	slices.Sort(list)
	return list
}

func xattr(e *env) {
	e.write("file", "x")
	e.must(os.Mkdir(e.path("dir"), 0o755))
	for _, name := range []string{"file", "dir"} {
		p := e.path(name)
		e.has("extended attributes", unix.Setxattr(p, "user.a", []byte("one"), 0))
		e.must(unix.Setxattr(p, "user.b", nil, 0))
		if got := e.listxattr(p); !slices.Equal(got, []string{"user.a", "user.b"}) {
			e.Errorf("%s has %v", name, got)
		}
		buf := make([]byte, 100)
		if n, err := unix.Getxattr(p, "user.a", buf); string(buf[:n]) != "one" || err != nil {
			e.Errorf("%s: %q, %v", name, buf[:n], err)
		}
		if n, err := unix.Getxattr(p, "user.a", nil); n != 3 || err != nil {
			e.Errorf("%s: length %d, %v", name, n, err)
		}
		_, err := unix.Getxattr(p, "user.a", buf[:2])
		e.want("get in too little", err, unix.ERANGE)
		_, err = unix.Getxattr(p, "user.none", buf)
		e.want("get of none", err, unix.ENODATA)
		e.want("create", unix.Setxattr(p, "user.a", []byte("x"), unix.XATTR_CREATE), unix.EEXIST)
		e.want("replace", unix.Setxattr(p, "user.c", []byte("x"), unix.XATTR_REPLACE), unix.ENODATA)
		e.must(unix.Setxattr(p, "user.a", []byte("two"), unix.XATTR_REPLACE))
		if n, err := unix.Getxattr(p, "user.a", buf); string(buf[:n]) != "two" || err != nil {
			e.Errorf("%s: %q, %v", name, buf[:n], err)
		}
		e.must(unix.Removexattr(p, "user.a"))
		e.want("remove again", unix.Removexattr(p, "user.a"), unix.ENODATA)
		if got := e.listxattr(p); !slices.Equal(got, []string{"user.b"}) {
			e.Errorf("%s has %v", name, got)
		}
	}
	fd := e.open("file", unix.O_RDWR, 0)
	e.must(unix.Fsetxattr(fd, "user.fd", []byte("by descriptor"), 0))
	buf := make([]byte, 100)
	if n, err := unix.Fgetxattr(fd, "user.fd", buf); string(buf[:n]) != "by descriptor" || err != nil {
		e.Errorf("%q, %v", buf[:n], err)
	}
	e.want("too long a name", unix.Setxattr(e.path("file"), "user."+strings.Repeat("n", 251), nil, 0), unix.ERANGE)
	e.want("too long a value", unix.Setxattr(e.path("file"), "user.v", make([]byte, 65537), 0), unix.E2BIG)
	err := unix.Setxattr(e.path("file"), "unknown.x", nil, 0)
	e.want("unknown name space", err, unix.EOPNOTSUPP)
}

// xattrSymlink checks that the attributes of a link and of its target are not mixed up.
func xattrSymlink(e *env) {
	e.root()
	e.write("target", "x")
	e.must(os.Symlink("target", e.path("link")))
	err := unix.Lsetxattr(e.path("link"), "trusted.x", []byte("link"), 0)
	if err == unix.EPERM {
		e.Skip("no trusted attributes here")
	}
	e.has("extended attributes", err)
	e.must(unix.Setxattr(e.path("link"), "trusted.x", []byte("target"), 0))
	buf := make([]byte, 100)
	for name, want := range map[string]string{"link": "link", "target": "target"} {
		if n, err := unix.Lgetxattr(e.path(name), "trusted.x", buf); string(buf[:n]) != want || err != nil {
			e.Errorf("%s: %q, %v", name, buf[:n], err)
		}
	}
	e.want("user attribute of a link", unix.Lsetxattr(e.path("link"), "user.x", nil, 0), unix.EPERM)
}
