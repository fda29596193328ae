package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestNegotiation: never, auto and always, with guests that can and that can't.
func TestNegotiation(t *testing.T) {
	const (
		acl   = fp.InitPosixACL | fp.InitDontMask | fp.InitSetxattrExt
		label = fp.InitSecurityCtx
	)
	for _, c := range []struct {
		acl, label Negotiation
		offered    fp.InitFlags
		want       fp.InitFlags // of acl and label
		errno      unix.Errno
	}{
		{Never, Never, acl | label, 0, 0},
		{Auto, Auto, acl | label, acl | label, 0},
		{Auto, Auto, 0, 0, 0},
		{Auto, Never, acl | label, acl, 0},
		{Auto, Auto, acl &^ fp.InitSetxattrExt, 0, 0}, // all of it or nothing
		{Auto, Auto, acl &^ fp.InitDontMask, 0, 0},
		{Always, Always, acl | label, acl | label, 0},
		{Always, Never, label, 0, unix.EPROTO},
		{Always, Never, acl &^ fp.InitSetxattrExt, 0, unix.EPROTO},
		{Always, Never, acl &^ fp.InitDontMask, 0, unix.EPROTO},
		{Always, Never, acl &^ fp.InitPosixACL, 0, unix.EPROTO},
		{Never, Always, acl, 0, unix.EPROTO},
		{Always, Auto, acl, acl, 0},
	} {
		s := newShare(t, func(cfg *Config) {
			cfg.PosixACL, cfg.SecurityLabel, cfg.Xattr = c.acl, c.label, false
		}, acl|label)
		p := &server.InitParams{Offered: c.offered}
		errno := s.fs.Init(p)
		got := p.Flags & p.Offered & (acl | label)
		if errno != c.errno || errno == 0 && got != c.want {
			t.Errorf("%d, %d with %#x: %#x, %v; want %#x, %v", c.acl, c.label, c.offered, got, errno, c.want, c.errno)
		}
		// Either one turns attributes on.
		g := s.guest()
		if _, errno := g.getxattr(fp.RootID, "user.x"); (errno == unix.ENOSYS) != (c.acl == Never && c.label == Never) {
			t.Errorf("%d, %d: attributes: %v", c.acl, c.label, errno)
		}
	}
}

// TestLabelsOfAll: every way to make a file gives it the label that came with it, and
// takes none where labels were not asked for.
func TestLabelsOfAll(t *testing.T) {
	needRoot(t)
	for _, mode := range []Negotiation{Never, Always} {
		g := newShare(t, func(c *Config) { c.SecurityLabel = mode }, fp.InitSecurityCtx).guest()
		r := func() *server.Request {
			r := g.on(fp.RootID)
			// A name that this host's kernel has no rules for.
			r.Security = []server.SecurityContext{{Name: name("security.govirtiofs"), Value: []byte("label")}}
			return r
		}
		var e fp.EntryOut
		var c, tmp fp.CreateOut
		wantErrno(t, "create", g.fs.Create(r(), &fp.CreateIn{Mode: 0o644, Flags: unix.O_RDWR}, name("create"), &c), 0)
		wantErrno(t, "mkdir", g.fs.Mkdir(r(), &fp.MkdirIn{Mode: 0o755}, name("mkdir"), &e), 0)
		wantErrno(t, "mknod", g.fs.Mknod(r(), &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name("mknod"), &e), 0)
		wantErrno(t, "mknod", g.fs.Mknod(r(), &fp.MknodIn{Mode: unix.S_IFIFO | 0o644}, name("fifo"), &e), 0)
		wantErrno(t, "mknod", g.fs.Mknod(r(), &fp.MknodIn{Mode: unix.S_IFCHR | 0o644, Rdev: 0x103}, name("null"), &e), 0)
		wantErrno(t, "symlink", g.fs.Symlink(r(), name("symlink"), name("x"), &e), 0)
		want := map[Negotiation]string{Always: "label"}[mode]
		for _, n := range []string{"create", "mkdir", "mknod", "fifo", "null", "symlink"} {
			v := make([]byte, 16)
			size, _ := unix.Lgetxattr(g.path(n), "security.govirtiofs", v)
			if string(v[:max(size, 0)]) != want {
				t.Errorf("mode %d, %s: label %q, want %q", mode, n, v[:max(size, 0)], want)
			}
		}
		errno := g.fs.Tmpfile(r(), &fp.CreateIn{Mode: 0o644, Flags: unix.O_RDWR}, &tmp)
		if errno == 0 {
			g.r.Security = nil
			if got, errno := g.getxattr(tmp.Entry.NodeID, "security.govirtiofs"); got != want {
				t.Errorf("mode %d, file without a name: label %q, %v", mode, got, errno)
			}
		} else if errno != unix.EOPNOTSUPP {
			t.Errorf("tmpfile: %v", errno)
		}
		g.r.Security = nil
		g.fs.Destroy()
	}
}
