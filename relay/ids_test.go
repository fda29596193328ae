package relay

import (
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// shift translates ids by a distance; one id of the client's is forbidden.
type shift struct{ by, forbidden uint32 }

func (s shift) Host(id uint32) (uint32, bool) { return id + s.by, id != s.forbidden }
func (s shift) Guest(id uint32) uint32        { return id - s.by }

// heard is who the program hears of last, and the owner in the last SETATTR.
type heard struct{ uid, gid, owner, group uint32 }

// listen returns what the program has heard.
func listen(m *model) func() heard {
	var now heard
	m.hookMu.Lock()
	defer m.hookMu.Unlock()
	m.hook = func(_ *process, h *fp.InHeader, body []byte) bool {
		now.uid, now.gid = h.UID, h.GID
		if fp.Opcode(h.Opcode) == fp.OpSetattr {
			var in fp.SetattrIn
			copy(fp.Bytes(&in), body)
			now.owner, now.group = in.UID, in.GID
		}
		return false
	}
	return func() heard {
		m.hookMu.Lock()
		defer m.hookMu.Unlock()
		return now
	}
}

// TestIDs: who asks, new owners, and owners in all kinds of replies are translated. The guest is user 1 of group 2, and the
// program's files are those of user 7 of group 8.
func TestIDs(t *testing.T) {
	m := newModel(t, 45)
	m.add(m.root, "file", unix.S_IFREG|0o644, "")
	last := listen(m)
	g := newGuest(t, m, Options{Users: shift{by: 1000, forbidden: 5}, Groups: shift{by: 2000, forbidden: 6}})
	e := g.lookup(1, "file")
	if h := last(); h.uid != 1001 || h.gid != 2002 {
		t.Errorf("the program hears of user %d of group %d", h.uid, h.gid)
	}
	const wantUID, wantGID = 7 - 1000 + 1<<32, 8 - 2000 + 1<<32
	check := func(what string, uid, gid uint32) {
		t.Helper()
		if uid != wantUID || gid != wantGID {
			t.Errorf("%s: user %d, group %d, want %d, %d", what, uid, gid, uint32(wantUID), uint32(wantGID))
		}
	}
	check("LOOKUP", e.Attr.UID, e.Attr.GID)
	a := as[fp.AttrOut](g.must(fp.OpGetattr, e.NodeID, 104, fp.Bytes(&fp.GetattrIn{})))
	check("GETATTR", a.Attr.UID, a.Attr.GID)
	a = as[fp.AttrOut](g.must(fp.OpSetattr, e.NodeID, 104, fp.Bytes(&fp.SetattrIn{Valid: fp.FattrUID | fp.FattrGID, UID: 3, GID: 4})))
	check("SETATTR", a.Attr.UID, a.Attr.GID)
	if h := last(); h.owner != 1003 || h.group != 2004 {
		t.Errorf("the program is told to give the file to user %d, group %d", h.owner, h.group)
	}
	made := as[fp.CreateOut](g.must(fp.OpCreate, 1, 144, fp.Bytes(&fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}), name("new")))
	check("CREATE", made.Entry.Attr.UID, made.Entry.Attr.GID)
	for _, in := range []fp.SetattrIn{{Valid: fp.FattrUID, UID: 5}, {Valid: fp.FattrGID, GID: 6}} {
		if _, errno := g.do(fp.OpSetattr, e.NodeID, 104, fp.Bytes(&in)); errno != unix.EPERM {
			t.Errorf("a file is given to somebody forbidden: %v", errno)
		}
	}
}

// TestForbiddenIDs: who is forbidden makes no files, and asks as nobody.
func TestForbiddenIDs(t *testing.T) {
	m := newModel(t, 45)
	m.add(m.root, "file", unix.S_IFREG|0o644, "")
	last := listen(m)
	g := newGuest(t, m, Options{Users: shift{forbidden: 1}})
	g.lookup(1, "file")
	if h := last(); h.uid != overflowID || h.gid != 2 {
		t.Errorf("the program hears of user %d of group %d", h.uid, h.gid)
	}
	if _, errno := g.do(fp.OpCreate, 1, 144, fp.Bytes(&fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}), name("new")); errno != unix.EPERM {
		t.Errorf("CREATE: %v", errno)
	}
	if _, errno := g.do(fp.OpMkdir, 1, 128, fp.Bytes(&fp.MkdirIn{Mode: 0o755}), name("dir")); errno != unix.EPERM {
		t.Errorf("MKDIR: %v", errno)
	}
}
