package relay

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// minors are where something changes, and those that programs of today speak.
var minors = []uint32{5, 8, 9, 11, 12, 15, 18, 19, 22, 23, 28, 31, 36, 38, 40, 45}

// TestMinors: a guest of today gets along with programs of all ages, which get requests in their own form.
func TestMinors(t *testing.T) {
	for _, minor := range minors {
		t.Run(fmt.Sprint("7.", minor), func(t *testing.T) {
			m := newModel(t, minor)
			sub := m.add(m.root, "sub", unix.S_IFDIR|0o755, "")
			text := strings.Repeat("0123456789abcdef", 20000)
			m.add(sub, "file", unix.S_IFREG|0o644, text)
			g := newGuest(t, m, Options{})
			dir := g.lookup(1, "sub")
			e := g.lookup(dir.NodeID, "file")
			if e.Attr.Size != uint64(len(text)) || e.Attr.UID != 7 || e.NodeID>>32 > 1<<16 {
				t.Errorf("entry %+v", e)
			}
			if _, errno := g.do(fp.OpLookup, dir.NodeID, 128, name("nothing")); errno != unix.ENOENT {
				t.Errorf("a name that is not there: %v", errno)
			}
			a := as[fp.AttrOut](g.must(fp.OpGetattr, e.NodeID, 104, fp.Bytes(&fp.GetattrIn{})))
			if a.Attr.Size != uint64(len(text)) || a.Attr.Mode != unix.S_IFREG|0o644 {
				t.Errorf("attributes %+v", a)
			}
			fh := g.open(fp.OpOpen, e.NodeID, unix.O_RDWR)
			for _, off := range []int{0, 1, 200000, len(text) - 5, len(text)} {
				if got := g.read(e.NodeID, fh, uint64(off), MaxData); !bytes.Equal(got, []byte(text)[off:min(off+MaxData, len(text))]) {
					t.Errorf("READ at %d: %d bytes", off, len(got))
				}
			}
			w := as[fp.WriteOut](g.must(fp.OpWrite, e.NodeID, 8, fp.Bytes(&fp.WriteIn{Fh: fh, Offset: 3, Size: 5}), []byte("HELLO")))
			if got := g.read(e.NodeID, fh, 0, 10); w.Size != 5 || string(got) != "012HELLO89" {
				t.Errorf("WRITE of %d bytes, then %q", w.Size, got)
			}
			made := as[fp.CreateOut](g.must(fp.OpCreate, dir.NodeID, 144, fp.Bytes(&fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o644}), name("new")))
			if made.Open.OpenFlags != fp.FopenKeepCache || made.Open.BackingID != 0 || made.Entry.Attr.Mode != unix.S_IFREG|0o644 {
				t.Errorf("CREATE: %+v", made)
			}
			g.must(fp.OpWrite, made.Entry.NodeID, 8, fp.Bytes(&fp.WriteIn{Fh: made.Open.Fh, Size: 2}), []byte("ab"))
			g.must(fp.OpMknod, dir.NodeID, 128, fp.Bytes(&fp.MknodIn{Mode: unix.S_IFIFO | 0o600}), name("fifo"))
			g.must(fp.OpRename, dir.NodeID, 0, fp.Bytes(&fp.RenameIn{NewDir: 1}), name("new"), name("newer"))
			if got := m.content("newer"); got != "ab" {
				t.Errorf("the renamed file has %q", got)
			}
			g.must(fp.OpUnlink, 1, 0, name("newer"))
			dh := g.open(fp.OpOpendir, dir.NodeID, 0)
			var names []string
			for _, l := range g.list(fp.OpReaddir, dir.NodeID, dh, 64) {
				names = append(names, l.name)
			}
			if got := strings.Join(names, " "); got != ". .. file fifo" {
				t.Errorf("listing %q", got)
			}
			g.must(fp.OpSetxattr, e.NodeID, 0, fp.Bytes(&fp.SetxattrIn{Size: 3})[:8], name("user.a"), []byte("xyz"))
			if got := g.must(fp.OpGetxattr, e.NodeID, 64, fp.Bytes(&fp.GetxattrIn{Size: 64}), name("user.a")); string(got) != "xyz" {
				t.Errorf("extended attribute %q", got)
			}
			g.must(fp.OpFlush, e.NodeID, 0, fp.Bytes(&fp.FlushIn{Fh: fh}))
			g.must(fp.OpRelease, e.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
			g.must(fp.OpReleasedir, dir.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: dh}))
			g.must(fp.OpStatfs, 1, 80)
		})
	}
}

// TestRestart: a program that is killed is started again. What only reads goes on, nodes are found again by their
// names, open files are opened again.
func TestRestart(t *testing.T) {
	m := newModel(t, 31)
	sub := m.add(m.root, "sub", unix.S_IFDIR|0o755, "")
	m.add(sub, "file", unix.S_IFREG|0o644, strings.Repeat("abcdefgh", 1000))
	g := newGuest(t, m, Options{Restart: true})
	dir := g.lookup(1, "sub")
	e := g.lookup(dir.NodeID, "file")
	fh := g.open(fp.OpOpen, e.NodeID, unix.O_RDONLY)
	for range 3 {
		m.process().kill()
		if got := g.read(e.NodeID, fh, 3, 5); string(got) != "defgh" {
			t.Errorf("after a restart: %q", got)
		}
		if again := g.lookup(dir.NodeID, "file"); again.NodeID != e.NodeID {
			t.Errorf("the file has another number after a restart: %d, not %d", again.NodeID, e.NodeID)
		}
	}
	if m.starts != 4 || m.count(fp.OpOpen) != 4 {
		t.Errorf("%d programs, %d OPEN", m.starts, m.count(fp.OpOpen))
	}
}
