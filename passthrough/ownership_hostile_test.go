package passthrough

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/server"
)

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
}
