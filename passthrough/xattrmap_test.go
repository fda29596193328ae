package passthrough

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/server"
)

// mapped is a share with a map, on a file system that has attributes of users.
func mapped(t *testing.T, rules string, edit func(*Config), flags fp.InitFlags) *guest {
	t.Helper()
	m, err := xattrmap.Parse(rules)
	if err != nil {
		t.Fatal(err)
	}
	g := newShare(t, func(c *Config) {
		c.Xattr, c.XattrMap = false, m // the map turns attributes on
		if edit != nil {
			edit(c)
		}
	}, flags).guest()
	g.write("f", "")
	if err := unix.Setxattr(g.path("f"), "user.probe", nil, 0); err != nil {
		t.Skip(err)
	}
	if err := unix.Removexattr(g.path("f"), "user.probe"); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *guest) listxattr(node uint64) ([]string, unix.Errno) {
	buf := make([]byte, 4096)
	n, errno := g.fs.Listxattr(g.on(node), buf)
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), errno
}

// TestXattrmap: set, get, list and remove under another name, and what is refused.
func TestXattrmap(t *testing.T) {
	g := mapped(t, "/unsupported/all/user.no./user.no./ /map/trusted./user.v./", nil, 0)
	f := g.lookup(fp.RootID, "f")
	wantErrno(t, "set", g.setxattr(f, "trusted.a", "1", 0), 0)
	wantErrno(t, "set of another", g.setxattr(f, "user.b", "2", 0), 0)
	value := make([]byte, 8)
	if n, err := unix.Getxattr(g.path("f"), "user.v.trusted.a", value); err != nil || string(value[:n]) != "1" {
		t.Errorf("on the host: %q, %v", value[:max(n, 0)], err)
	}
	if got, errno := g.getxattr(f, "trusted.a"); got != "1" || errno != 0 {
		t.Errorf("get: %q, %v", got, errno)
	}
	list, errno := g.listxattr(f)
	slices.Sort(list)
	if want := []string{"trusted.a", "user.b"}; !slices.Equal(list, want) || errno != 0 {
		t.Errorf("list: %q, %v", list, errno)
	}
	size, errno := g.fs.Listxattr(g.on(f), nil)
	if size != len("trusted.a\x00user.b\x00") || errno != 0 {
		t.Errorf("length of the list: %d, %v", size, errno)
	}
	// What the guest gets fits, although the host's list does not.
	if n, errno := g.fs.Listxattr(g.on(f), make([]byte, size)); n != size || errno != 0 {
		t.Errorf("list in just enough: %d, %v", n, errno)
	}
	_, errno = g.fs.Listxattr(g.on(f), make([]byte, size-1))
	wantErrno(t, "list in too little", errno, unix.ERANGE)

	wantErrno(t, "set of a denied name", g.setxattr(f, "user.v.trusted.a", "x", 0), unix.EPERM)
	wantErrno(t, "remove of a denied name", g.fs.Removexattr(g.on(f), name("user.v.trusted.a")), unix.EPERM)
	_, errno = g.getxattr(f, "user.v.trusted.a")
	wantErrno(t, "get of a denied name", errno, unix.ENODATA)
	wantErrno(t, "set of an unsupported name", g.setxattr(f, "user.no.x", "x", 0), unix.EOPNOTSUPP)
	_, errno = g.getxattr(f, "user.no.x")
	wantErrno(t, "get of an unsupported name", errno, unix.EOPNOTSUPP)
	long := "trusted." + strings.Repeat("x", 244)
	wantErrno(t, "name that gets too long", g.setxattr(f, long, "x", 0), unix.ERANGE)
	wantErrno(t, "remove", g.fs.Removexattr(g.on(f), name("trusted.a")), 0)
	if _, err := unix.Getxattr(g.path("f"), "user.v.trusted.a", value); err != unix.ENODATA {
		t.Errorf("after remove: %v", err)
	}
}

// TestXattrmapLongest uses names as long as two parts can make them.
func TestXattrmapLongest(t *testing.T) {
	p := "user." + strings.Repeat("p", 250)
	g := mapped(t, ":map::"+p+":", nil, 0)
	f := g.lookup(fp.RootID, "f")
	wantErrno(t, "set", g.setxattr(f, strings.Repeat("n", 255), "x", 0), unix.ERANGE)
	if list, errno := g.listxattr(f); len(list) != 0 || errno != 0 {
		t.Errorf("list: %q, %v", list, errno)
	}
}

// TestXattrmapSpecialFiles: what is impossible on the host is not supported, rather
// than forbidden, when the guest can't know why.
func TestXattrmapSpecialFiles(t *testing.T) {
	g := mapped(t, ":map:security.selinux:user.v.:", func(c *Config) { c.SecurityLabel = Auto }, fp.InitSecurityCtx)
	if err := os.Symlink("nowhere", g.path("link")); err != nil {
		t.Fatal(err)
	}
	link := g.lookup(fp.RootID, "link")
	wantErrno(t, "set", g.setxattr(link, "security.selinux", "x", 0), unix.EOPNOTSUPP)
	_, errno := g.getxattr(link, "security.selinux")
	wantErrno(t, "get", errno, unix.ENODATA)
	// A new link is made without its label, a new file with it.
	r := g.on(fp.RootID)
	r.Security = []server.SecurityContext{{Name: name("security.selinux"), Value: []byte("label")}}
	var entry fp.EntryOut
	wantErrno(t, "symlink", g.fs.Symlink(r, name("l2"), name("x"), &entry), 0)
	wantErrno(t, "mkdir", g.fs.Mkdir(r, &fp.MkdirIn{Mode: 0o755}, name("d"), &entry), 0)
	var created fp.CreateOut
	wantErrno(t, "create", g.fs.Create(r, &fp.CreateIn{Mode: 0o644}, name("c"), &created), 0)
	for _, n := range []string{"c", "d"} {
		value := make([]byte, 8)
		if n, err := unix.Getxattr(g.path(n), "user.v.security.selinux", value); err != nil || string(value[:n]) != "label" {
			t.Errorf("label: %q, %v", value[:max(n, 0)], err)
		}
	}
	g.fs.Destroy()
}

// TestLabels: a label that is refused takes the new file with it.
func TestLabels(t *testing.T) {
	g := mapped(t, ":bad:all:security.selinux:security.selinux::ok:all:::", func(c *Config) { c.SecurityLabel = Always }, fp.InitSecurityCtx)
	r := g.on(fp.RootID)
	r.Security = []server.SecurityContext{{Name: name("security.selinux"), Value: []byte("label")}}
	var entry fp.EntryOut
	var created fp.CreateOut
	wantErrno(t, "mkdir", g.fs.Mkdir(r, &fp.MkdirIn{Mode: 0o755}, name("d"), &entry), unix.EPERM)
	wantErrno(t, "mknod", g.fs.Mknod(r, &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name("n"), &entry), unix.EPERM)
	wantErrno(t, "create", g.fs.Create(r, &fp.CreateIn{Mode: 0o644}, name("c"), &created), unix.EPERM)
	wantErrno(t, "tmpfile", g.fs.Tmpfile(r, &fp.CreateIn{Mode: 0o644, Flags: unix.O_RDWR}, &created), unix.EPERM)
	if list, err := os.ReadDir(g.dir); len(list) != 1 || err != nil {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// TestXattrmapACLs: a guest that does not know ACLs can't have them under another
// name either.
func TestXattrmapACLs(t *testing.T) {
	const acl = "system.posix_acl_access"
	g := mapped(t, ":map::user.v.:", nil, 0)
	f := g.lookup(fp.RootID, "f")
	if err := unix.Setxattr(g.path("f"), "user.v."+acl, nil, 0); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "set", g.setxattr(f, acl, "", 0), unix.EOPNOTSUPP)
	_, errno := g.getxattr(f, acl)
	wantErrno(t, "get", errno, unix.EOPNOTSUPP)
	if list, errno := g.listxattr(f); len(list) != 0 || errno != 0 {
		t.Errorf("list: %q, %v", list, errno)
	}
	g = mapped(t, ":prefix:client:posix:system.::ok:all:::", nil, 0)
	wantErrno(t, "set of the host's", g.setxattr(g.lookup(fp.RootID, "f"), "posix_acl_access", "", 0), unix.EOPNOTSUPP)
}

const capName = "security.capability"

// capsOf are the capabilities that a file of the guest has on the host.
func (g *guest) hasCaps(n string) bool {
	g.t.Helper()
	_, err := unix.Getxattr(g.path(n), "user.v."+capName, nil)
	if err != nil && err != unix.ENODATA {
		g.t.Fatal(err)
	}
	return err == nil
}

// TestKillRemappedCaps: whatever changes a file takes its capabilities away, under the
// name that the map gives them.
func TestKillRemappedCaps(t *testing.T) {
	needRoot(t)
	g := mapped(t, ":map::user.v.:", func(c *Config) { c.Cache = CacheAlways }, fp.InitHandleKillprivV2)
	f := g.lookup(fp.RootID, "f")
	g.write("other", strings.Repeat("x", 8192))
	var in, out fp.OpenOut
	other := g.lookup(fp.RootID, "other")
	wantErrno(t, "open", g.fs.Open(g.on(other), &fp.OpenIn{}, &in), 0)
	wantErrno(t, "open", g.fs.Open(g.on(f), &fp.OpenIn{Flags: unix.O_RDWR}, &out), 0)
	var attr fp.AttrOut
	setattr := func(in fp.SetattrIn) unix.Errno { return g.fs.Setattr(g.on(f), &in, &attr) }
	for what, change := range map[string]func() unix.Errno{
		"write": func() unix.Errno { return g.overwrite(f, out.Fh) },
		"fallocate": func() unix.Errno {
			return g.fs.Fallocate(g.on(f), &fp.FallocateIn{Fh: out.Fh, Length: 4096})
		},
		"copy": func() unix.Errno {
			_, errno := g.fs.CopyFileRange(g.on(other), &fp.CopyFileRangeIn{FhIn: in.Fh, NodeIDOut: f, FhOut: out.Fh, Len: 4096})
			return errno
		},
		"truncate":       func() unix.Errno { return setattr(fp.SetattrIn{Valid: fp.FattrSize, Size: 1}) },
		"truncate by fh": func() unix.Errno { return setattr(fp.SetattrIn{Valid: fp.FattrSize | fp.FattrFh, Fh: out.Fh}) },
		"chown":          func() unix.Errno { return setattr(fp.SetattrIn{Valid: fp.FattrUID, UID: 1}) },
		"chgrp":          func() unix.Errno { return setattr(fp.SetattrIn{Valid: fp.FattrGID, GID: 1}) },
		"open with O_TRUNC": func() unix.Errno {
			var o fp.OpenOut
			errno := g.fs.Open(g.on(f), &fp.OpenIn{Flags: unix.O_WRONLY | unix.O_TRUNC}, &o)
			if errno == 0 {
				errno = g.fs.Release(g.on(f), &fp.ReleaseIn{Fh: o.Fh})
			}
			return errno
		},
		"create of what is there": func() unix.Errno {
			var o fp.CreateOut
			errno := g.fs.Create(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_WRONLY | unix.O_TRUNC}, name("f"), &o)
			if errno == 0 {
				errno = g.fs.Release(g.on(f), &fp.ReleaseIn{Fh: o.Open.Fh})
			}
			return errno
		},
	} {
		for round := range 2 { // the second time it is known that there were none
			wantErrno(t, "set capabilities", g.setxattr(f, capName, "caps", 0), 0)
			if !g.hasCaps("f") {
				t.Fatalf("%s: the guest can't set capabilities", what)
			}
			wantErrno(t, what, change(), 0)
			if g.hasCaps("f") {
				t.Errorf("%s, round %d: capabilities are left", what, round)
			}
		}
	}
	wantErrno(t, "set capabilities", g.setxattr(f, capName, "caps", 0), 0)
	wantErrno(t, "chmod", setattr(fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o755}), 0)
	if !g.hasCaps("f") {
		t.Error("chmod takes capabilities away")
	}
}

// overwrite writes a byte at the start of an open file.
func (g *guest) overwrite(node, fh uint64) unix.Errno {
	_, errno := g.writeAt(node, fp.WriteIn{Fh: fh}, "x")
	return errno
}

// TestKillCapsCalls counts what it costs: nothing without a map, and with one a system
// call a second.
func TestKillCapsCalls(t *testing.T) {
	const never = 24 * time.Hour // while this test runs
	g := mapped(t, ":map::user.v.:", func(c *Config) { c.Cache = CacheAlways }, 0)
	if g.fs.caps.memory != capMemory {
		t.Errorf("what is known of capabilities is old after %v", g.fs.caps.memory)
	}
	g.fs.caps.memory = never
	f := g.lookup(fp.RootID, "f")
	var out fp.OpenOut
	wantErrno(t, "open", g.fs.Open(g.on(f), &fp.OpenIn{Flags: unix.O_RDWR}, &out), 0)
	write := func() { wantErrno(t, "write", g.overwrite(f, out.Fh), 0) }
	wantCalls(t, "first WRITE", 2, write)
	wantCalls(t, "second WRITE", 1, write)
	// Others set capabilities on the host: they are found when what is known is old.
	if err := unix.Setxattr(g.path("f"), "user.v."+capName, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	g.fs.caps.started = g.fs.caps.started.Add(-2 * never)
	wantCalls(t, "WRITE after the host's change", 3, write)
	if g.hasCaps("f") {
		t.Error("capabilities of the host's are left")
	}

	g = mapped(t, ":ok:all:::", nil, 0)
	f = g.lookup(fp.RootID, "f")
	wantErrno(t, "open", g.fs.Open(g.on(f), &fp.OpenIn{Flags: unix.O_RDWR}, &out), 0)
	wantCalls(t, "WRITE where the kernel knows", 1, write)

	g = mapped(t, ":map::user.v.:", func(c *Config) { c.Cache = CacheNever }, 0)
	f = g.lookup(fp.RootID, "f")
	wantErrno(t, "open", g.fs.Open(g.on(f), &fp.OpenIn{Flags: unix.O_RDWR}, &out), 0)
	for range 2 {
		wantCalls(t, "WRITE where nothing may be remembered", 2, write)
	}
}

// TestXattrmapAllocations: a mapped name costs no memory.
func TestXattrmapAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	g := mapped(t, ":map::user.v.:", nil, 0)
	f := g.lookup(fp.RootID, "f")
	wantErrno(t, "set", g.setxattr(f, "user.a", "1", 0), 0)
	n, buf := name("user.a"), make([]byte, 64)
	if a := testing.AllocsPerRun(100, func() {
		_, _ = g.fs.Getxattr(g.on(f), n, buf)
		_, _ = g.fs.Listxattr(g.on(f), buf)
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

// BenchmarkWriteMapped is a WRITE of 4 KiB where capabilities have a name that the
// kernel does not know: looked for each time, once a second, and not at all.
func BenchmarkWriteMapped(b *testing.B) {
	m, err := xattrmap.Preset("separate")
	if err != nil {
		b.Fatal(err)
	}
	for what, edit := range map[string]func(*Config){
		"each-time": func(c *Config) { c.XattrMap, c.Cache = m, CacheNever },
		"a-second":  func(c *Config) { c.XattrMap, c.Cache = m, CacheAlways },
		"no-map":    func(c *Config) { c.Cache = CacheAlways },
	} {
		b.Run(what, func(b *testing.B) {
			g := newShare(b, edit, 0).guest()
			node, fh := g.openName("f", "", unix.O_RDWR)
			data := make([]byte, 4096)
			src, in := vector(data, 64<<10), &fp.WriteIn{Fh: fh, Size: 4096}
			for b.Loop() {
				if _, errno := g.fs.Write(g.on(node), in, src); errno != 0 {
					b.Fatal(errno)
				}
				src = append(src[:0], vector(data, 64<<10)...)
			}
		})
	}
}
