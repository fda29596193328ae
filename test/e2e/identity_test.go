package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// idMap reads rules of --translate-uid.
func idMap(t testing.TB, rules ...string) *passthrough.IDMap {
	t.Helper()
	var list []passthrough.IDRule
	for _, s := range rules {
		r, err := passthrough.ParseIDRule(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	m, err := passthrough.NewIDMap(list)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// translated is a share with translated ids, which everybody may write to.
func translated(t testing.TB) *share {
	t.Helper()
	guest.NeedRoot(t)
	cfg := defaults()
	cfg.PosixACL = passthrough.Auto
	cfg.UIDs = idMap(t, "map:0:100000:1000", "forbid-guest:5000:1000", "squash-guest:2000:101999:1000", "squash-host:200000:65534:1000")
	cfg.GIDs = idMap(t, "map:0:300000:1000", "forbid-guest:5000:1000", "squash-host:200000:65534:1000")
	s := open(t, cfg, frontend.Options{})
	if err := os.Chmod(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return s
}

// host returns the owner of a file on the host.
func (s *share) host(t testing.TB, name string) (uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(s.dir, name), &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

// TestTranslateMakes creates files of every kind as root and as other users.
func TestTranslateMakes(t *testing.T) {
	s := translated(t)
	rw := uint32(unix.O_RDWR)
	for op, makes := range map[string]func(name string) (fp.Attr, error){
		"CREATE": func(n string) (fp.Attr, error) { o, err := s.Create(fp.RootID, n, rw, 0o644); return o.Entry.Attr, err },
		"MKNOD": func(n string) (fp.Attr, error) {
			o, err := s.Mknod(fp.RootID, n, unix.S_IFIFO|0o644, 0)
			return o.Attr, err
		},
		"MKDIR":   func(n string) (fp.Attr, error) { o, err := s.Mkdir(fp.RootID, n, 0o755); return o.Attr, err },
		"SYMLINK": func(n string) (fp.Attr, error) { o, err := s.Symlink(fp.RootID, n, "x"); return o.Attr, err },
		"TMPFILE": func(n string) (fp.Attr, error) {
			o, err := s.Tmpfile(fp.RootID, rw, 0o644)
			if err != nil {
				return o.Entry.Attr, err
			}
			l, err := s.Link(o.Entry.NodeID, fp.RootID, n)
			if l.Attr.UID != o.Entry.Attr.UID || l.Attr.GID != o.Entry.Attr.GID {
				t.Errorf("LINK: %+v, TMPFILE: %+v", l.Attr, o.Entry.Attr)
			}
			return o.Entry.Attr, err
		},
	} {
		for i, test := range []struct{ uid, gid, hostUID, hostGID, backUID, backGID uint32 }{
			{0, 0, 100000, 300000, 0, 0},
			{999, 999, 100999, 300999, 999, 999},
			{1000, 1000, 1000, 1000, 1000, 1000},
			{2000, 0, 101999, 300000, 101999, 0},
			{2999, 5, 101999, 300005, 101999, 5},
		} {
			name := fmt.Sprintf("%s.%d", op, i)
			s.UID, s.GID = test.uid, test.gid
			a, err := makes(name)
			s.UID, s.GID = 0, 0
			if err != nil {
				t.Errorf("%s as %d:%d: %v", op, test.uid, test.gid, err)
				continue
			}
			if u, g := s.host(t, name); u != test.hostUID || g != test.hostGID {
				t.Errorf("%s as %d:%d: on the host %d:%d, want %d:%d", op, test.uid, test.gid, u, g, test.hostUID, test.hostGID)
			}
			if a.UID != test.backUID || a.GID != test.backGID {
				t.Errorf("%s as %d:%d: shown %d:%d, want %d:%d", op, test.uid, test.gid, a.UID, a.GID, test.backUID, test.backGID)
			}
		}
		for _, id := range [][2]uint32{{5000, 0}, {5999, 0}, {0, 5000}, {^uint32(0), 0}, {0, ^uint32(0)}} {
			s.UID, s.GID = id[0], id[1]
			_, err := makes("forbidden")
			s.UID, s.GID = 0, 0
			if _, there := os.Lstat(s.dir + "/forbidden"); !errors.Is(err, unix.EPERM) || there == nil {
				t.Errorf("%s as %d:%d: %v, made: %v", op, id[0], id[1], err, there == nil)
			}
		}
	}
}

// TestTranslateWhiteout: the whiteout that a rename leaves belongs to the user,
// too.
func TestTranslateWhiteout(t *testing.T) {
	s := translated(t)
	for i, test := range []struct{ uid, gid, hostUID, hostGID uint32 }{{0, 0, 100000, 300000}, {7, 8, 100007, 300008}} {
		name := fmt.Sprint("f", i)
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.UID, s.GID = test.uid, test.gid
		err := s.Rename(fp.RootID, name, fp.RootID, name+"-new", unix.RENAME_WHITEOUT)
		s.UID, s.GID = 0, 0
		if errors.Is(err, unix.EINVAL) {
			t.Skip("no whiteouts on this file system")
		} else if err != nil {
			t.Fatal(err)
		}
		if u, g := s.host(t, name); u != test.hostUID || g != test.hostGID {
			t.Errorf("a whiteout of %d:%d is %d:%d's on the host", test.uid, test.gid, u, g)
		}
	}
	s.UID = 5000
	if err := s.Rename(fp.RootID, "f1-new", fp.RootID, "x", unix.RENAME_WHITEOUT); !errors.Is(err, unix.EPERM) {
		t.Errorf("a whiteout of a forbidden user: %v", err)
	}
	s.UID = 0
	wantNoGroups(t)
}

// TestTranslateShows sends every request that returns an owner for a file of the
// host.
func TestTranslateShows(t *testing.T) {
	s := translated(t)
	path := filepath.Join(s.dir, "f")
	for _, test := range []struct{ host, uid, gid uint32 }{
		{0, 0, 0}, {1000, 1000, 1000}, {100000, 0, 100000}, {300999, 300999, 999}, {200000, 65534, 65534},
		{200999, 65534, 65534}, {201000, 201000, 201000}, {5000, 5000, 5000},
	} {
		if err := errors.Join(os.WriteFile(path, nil, 0o666), os.Chown(path, int(test.host), int(test.host))); err != nil {
			t.Fatal(err)
		}
		is := func(op string, uid, gid uint32, err error) {
			t.Helper()
			if uid != test.uid || gid != test.gid || err != nil {
				t.Errorf("%s of a file of %d: %d:%d, %v, want %d:%d", op, test.host, uid, gid, err, test.uid, test.gid)
			}
		}
		e, err := s.Lookup(fp.RootID, "f")
		is("LOOKUP", e.Attr.UID, e.Attr.GID, err)
		a, err := s.Getattr(e.NodeID)
		is("GETATTR", a.UID, a.GID, err)
		x, err := s.Statx(e.NodeID)
		is("STATX", x.UID, x.GID, err)
		a, err = s.Setattr(e.NodeID, fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600})
		is("SETATTR", a.UID, a.GID, err)
		c, err := s.Create(fp.RootID, "f", unix.O_RDWR|unix.O_TRUNC, 0o644)
		is("CREATE", c.Entry.Attr.UID, c.Entry.Attr.GID, err)
		l, err := s.Link(e.NodeID, fp.RootID, "l")
		is("LINK", l.Attr.UID, l.Attr.GID, err)
		list, err := s.ReadAll(fp.RootID, true)
		for _, d := range list {
			if d.Name == "f" || d.Name == "l" {
				is("READDIRPLUS", d.Entry.Attr.UID, d.Entry.Attr.GID, err)
			}
		}
		if err := errors.Join(s.Release(e.NodeID, c.Open.Fh), s.Unlink(fp.RootID, "l"), s.Unlink(fp.RootID, "f")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTranslateChown(t *testing.T) {
	s := translated(t)
	if err := os.WriteFile(filepath.Join(s.dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e, err := s.Lookup(fp.RootID, "f")
	if err != nil {
		t.Fatal(err)
	}
	const both = fp.FattrUID | fp.FattrGID
	for _, test := range []struct {
		valid, uid, gid uint32
		errno           unix.Errno
		hostUID         uint32
		hostGID         uint32
	}{
		{both, 5, 6, 0, 100005, 300006},
		{fp.FattrUID, 7, 5000, 0, 100007, 300006},
		{fp.FattrGID, 5000, 8, 0, 100007, 300008},
		{both, 5000, 9, unix.EPERM, 100007, 300008},
		{both, 9, 5000, unix.EPERM, 100007, 300008},
		{both, 2500, 1234, 0, 101999, 1234},
	} {
		a, err := s.Setattr(e.NodeID, fp.SetattrIn{Valid: test.valid, UID: test.uid, GID: test.gid})
		if test.errno == 0 && err != nil || test.errno != 0 && !errors.Is(err, test.errno) {
			t.Errorf("%+v: %v", test, err)
		}
		if u, g := s.host(t, "f"); u != test.hostUID || g != test.hostGID {
			t.Errorf("%+v: on the host %d:%d", test, u, g)
		}
		if test.errno == 0 && test.valid&fp.FattrUID != 0 && test.uid < 1000 && a.UID != test.uid {
			t.Errorf("%+v: shown %d:%d", test, a.UID, a.GID)
		}
	}
}

// acl makes an access control list. The entries are tag, permissions and id,
// one after the other.
func acl(entries ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for i := 0; i < len(entries); i += 3 {
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i]))
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i+1]))
		b = binary.LittleEndian.AppendUint32(b, entries[i+2])
	}
	return b
}

// TestTranslateACL sets access control lists. The guest sees its own ids in them, and
// the host sees the host's. This includes the lists that a new file gets from a
// directory's default list.
func TestTranslateACL(t *testing.T) {
	s := translated(t)
	const none = ^uint32(0)
	list := func(user, group uint32) []byte {
		return acl(1, 6, none, 2, 4, user, 4, 4, none, 8, 6, group, 16, 6, none, 32, 4, none)
	}
	d, err := s.Mkdir(fp.RootID, "d", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if err := s.Setxattr(d.NodeID, name, list(7, 8), true); errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("no access control lists on this file system")
		} else if err != nil {
			t.Fatal(err)
		}
		if got := hostXattr(t, s.dir+"/d", name); string(got) != string(list(100007, 300008)) {
			t.Errorf("%s on the host: %x", name, got)
		}
		if got, err := s.Getxattr(d.NodeID, name, 1000); string(got) != string(list(7, 8)) || err != nil {
			t.Errorf("%s in the guest: %x, %v", name, got, err)
		}
		for _, l := range [][]byte{list(5000, 8), list(7, 5000)} {
			if err := s.Setxattr(d.NodeID, name, l, true); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s for a forbidden id: %v", name, err)
			}
		}
	}
	f, err := s.Create(d.NodeID, "f", unix.O_RDWR, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Getxattr(f.Entry.NodeID, "system.posix_acl_access", 1000)
	if err != nil || len(got) < 28 || binary.LittleEndian.Uint32(got[16:]) != 7 || binary.LittleEndian.Uint32(got[32:]) != 8 {
		t.Errorf("inherited: %x, %v", got, err)
	}
	if _, err := s.Getxattr(f.Entry.NodeID, "system.posix_acl_access", 20); !errors.Is(err, unix.ERANGE) {
		t.Errorf("into too little: %v", err)
	}
}

func hostXattr(t testing.TB, path, name string) []byte {
	t.Helper()
	b := make([]byte, 1000)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		t.Fatalf("%s of %s: %v", name, path, err)
	}
	return b[:n]
}

// TestTranslateCapability: a file capability that the guest's root sets is valid in
// the user namespace of that root's host user, and not on the whole host.
func TestTranslateCapability(t *testing.T) {
	s := translated(t)
	f, err := s.Create(fp.RootID, "f", unix.O_RDWR, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	const name = "security.capability"
	v2 := append([]byte{1, 0, 0, 2, 0, 0x20}, make([]byte, 14)...) // cap_net_raw=ep
	if err := s.Setxattr(f.Entry.NodeID, name, v2, true); err != nil {
		t.Fatal(err)
	}
	want := binary.LittleEndian.AppendUint32(append([]byte{1, 0, 0, 3}, v2[4:]...), 100000)
	if got := hostXattr(t, s.dir+"/f", name); string(got) != string(want) {
		t.Errorf("on the host: %x, want %x", got, want)
	}
	if got, err := s.Getxattr(f.Entry.NodeID, name, 20); string(got) != string(v2) || err != nil {
		t.Errorf("in the guest: %x, %v", got, err)
	}
	v3 := binary.LittleEndian.AppendUint32(append([]byte{1, 0, 0, 3}, v2[4:]...), 5000)
	if err := s.Setxattr(f.Entry.NodeID, name, v3, true); !errors.Is(err, unix.EPERM) {
		t.Errorf("for a forbidden user: %v", err)
	}
}

// TestTranslateGroups creates files in a directory with the set-group-ID bit whose
// group the user has as a supplementary one.
func TestTranslateGroups(t *testing.T) {
	s := translated(t)
	d, err := s.Mkdir(fp.RootID, "d", 0o777)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Setattr(d.NodeID, fp.SetattrIn{Valid: fp.FattrGID | fp.FattrMode, GID: 50, Mode: 0o2770}); err != nil {
		t.Fatal(err)
	}
	s.UID, s.GID = 10, 10
	f, err := s.Create(d.NodeID, "f", unix.O_RDWR, 0o2755, 50)
	s.UID, s.GID = 0, 0
	if err != nil {
		t.Fatal(err)
	}
	if a := f.Entry.Attr; a.UID != 10 || a.GID != 50 || a.Mode != unix.S_IFREG|0o2755 {
		t.Errorf("%+v", a)
	}
	if u, g := s.host(t, "d/f"); u != 100010 || g != 300050 {
		t.Errorf("on the host %d:%d", u, g)
	}
	s.UID, s.GID = 10, 10
	_, err = s.Create(d.NodeID, "g", unix.O_RDWR, 0o755, 50, 5000)
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("with a forbidden group: %v", err)
	}
	wantNoGroups(t)
}

// TestGroupsLeak creates files with supplementary groups, also as root, and some of
// these requests fail. No thread may keep the groups.
func TestGroupsLeak(t *testing.T) {
	guest.NeedRoot(t)
	s := open(t, defaults(), frontend.Options{})
	if err := errors.Join(os.Chmod(s.dir, 0o777), os.Mkdir(s.dir+"/closed", 0o700), os.WriteFile(s.dir+"/there", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	closed, err := s.Lookup(fp.RootID, "closed")
	if err != nil {
		t.Fatal(err)
	}
	there, err := s.Lookup(fp.RootID, "there")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.UID, s.GID = 0, 0 }()
	for i, id := range [][2]uint32{{0, 0}, {0, 7}, {7, 0}, {1000, 1000}, {^uint32(0) - 1, 1}} {
		s.UID, s.GID = id[0], id[1]
		for _, groups := range [][]uint32{{2000}, {3, 1, 2, 1}, make([]uint32, 32)} {
			name := fmt.Sprint(i, len(groups))
			f, err := s.Create(fp.RootID, name, unix.O_RDWR, 0o644, groups...)
			if err != nil {
				t.Errorf("%v with %v: %v", id, groups, err)
				continue
			}
			wantNoGroups(t)
			_ = s.Release(f.Entry.NodeID, f.Open.Fh)
			for what, makes := range map[string]func() error{
				"what is there": func() error {
					_, err := s.Create(fp.RootID, "there", unix.O_RDWR|unix.O_EXCL, 0o644, groups...)
					return err
				},
				"in a file": func() error { _, err := s.Create(there.NodeID, "x", unix.O_RDWR, 0o644, groups...); return err },
				"too long": func() error {
					_, err := s.Create(fp.RootID, strings.Repeat("x", 256), unix.O_RDWR, 0o644, groups...)
					return err
				},
				"with no id at all": func() error { _, err := s.Create(fp.RootID, "x", unix.O_RDWR, 0o644, ^uint32(0)); return err },
			} {
				if err := makes(); err == nil {
					t.Errorf("made %s", what)
				}
				wantNoGroups(t)
			}
		}
	}
	// The guest has checked permissions. So a directory that the user can't write to by
	// the host's rules does not stop the request. The request leaves no privilege
	// behind.
	s.UID, s.GID = 1000, 1000
	if _, err := s.Create(closed.NodeID, "f", unix.O_RDWR, 0o644, 2000); err != nil {
		t.Error(err)
	}
	wantNoGroups(t)
	if u, g := s.host(t, "closed/f"); u != 1000 || g != 1000 {
		t.Errorf("%d:%d", u, g)
	}
}

// wantNoGroups checks that no thread has kept the credentials of a request:
// another user, or supplementary groups.
func wantNoGroups(t testing.TB) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	want := statusLines(string(own))
	ids, _, _ := strings.Cut(want, "Groups:")
	noGroups := ids + "Groups:\t \n" // the daemon drops its own groups as well
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		if got := statusLines(string(b)); got != want && got != noGroups {
			t.Errorf("%s:\n%s\nwant\n%s", path, got, want)
		}
	}
}

// statusLines are the credentials in a status file.
func statusLines(s string) (lines string) {
	for l := range strings.SplitSeq(s, "\n") {
		switch name, _, _ := strings.Cut(l, ":"); name {
		case "Uid", "Gid", "Groups":
			lines += l + "\n"
		}
	}
	return lines
}
