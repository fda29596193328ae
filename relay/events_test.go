package relay

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// helperPID is the thread of the guest's helper.
const helperPID = 77

// helped is a guest with a helper, which the test plays.
type helped struct {
	*guest
	fh, acked uint64
	control   uint64
}

func newHelped(t *testing.T, m *model, o Options, e events.Options) *helped {
	t.Cleanup(func() {
		select {
		case <-m.process().done:
		case <-time.After(deadline):
			t.Error("the program has not ended")
		}
		m.check()
	})
	o.Log, e.Log = quiet, quiet
	fs, err := New(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	around, err := events.NewNotified(fs, e)
	if err != nil {
		t.Fatal(err)
	}
	fs.Connect(around)
	h := &helped{guest: newGuestOn(t, fs, around)}
	h.model = m
	h.begin()
	return h
}

// as has a request come from another thread.
func (h *helped) as(pid uint32, do func()) {
	old := h.pid
	h.pid = pid
	do()
	h.pid = old
}

// begin opens the control file and introduces the helper.
func (h *helped) begin() {
	h.t.Helper()
	h.acked = 0
	h.as(helperPID, func() {
		dir := h.lookup(1, wire.Dir).NodeID
		h.control = h.lookup(dir, wire.File).NodeID
		h.fh = h.open(fp.OpOpen, h.control, unix.O_RDONLY)
		hello := h.await(wire.Hello)
		if _, errno := h.do(fp.OpLookup, dir, 128, name(hello[0].Path)); errno != unix.ENOENT {
			h.t.Fatalf("the introduction is answered %v", errno)
		}
	})
	h.await(wire.Found)
}

// records reads the control file once.
func (h *helped) records() (list []wire.Record) {
	h.t.Helper()
	h.as(helperPID, func() {
		b := h.must(fp.OpRead, h.control, 64<<10, fp.Bytes(&fp.ReadIn{Fh: h.fh, Offset: h.acked, Size: 64 << 10}))
		for len(b) > 0 {
			r, rest, err := wire.Parse(b)
			if err != nil {
				h.t.Fatal(err)
			}
			list, b, h.acked = append(list, r), rest, max(h.acked, r.Seq)
		}
	})
	return list
}

// await reads records until there is one of a kind, which is the last of the answer.
func (h *helped) await(op wire.Op) (list []wire.Record) {
	h.t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		list = append(list, h.records()...)
		if slices.ContainsFunc(list, func(r wire.Record) bool { return r.Op == op }) {
			return list
		}
	}
	h.t.Fatalf("no record %d; there are %.2000q", op, texts(list))
	return nil
}

// notify has the program send a notification.
func (m *model) notify(code fp.NotifyCode, parts ...[]byte) {
	body := bytes.Join(parts, nil)
	h := fp.OutHeader{Len: uint32(outHeaderSize + len(body)), Error: int32(code)}
	m.process().raw(append(bytes.Clone(fp.Bytes(&h)), body...))
}

func (m *model) notifyName(dir uint64, s string) {
	m.notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: dir, NameLen: uint32(len(s))}), name(s))
}

// idOf is the program's number of a file.
func (m *model) idOf(f *mfile) uint64 {
	p := m.process()
	m.tree.Lock()
	defer m.tree.Unlock()
	return p.id(f)
}

// texts are records as "op path".
func texts(list []wire.Record) (all []string) {
	for _, r := range list {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s %s", r.Op, r.Path, r.NewPath)))
	}
	return all
}

func text(op wire.Op, path string) string { return fmt.Sprintf("%d %s", op, path) }

// expect reads records until there are as many as wanted, and compares them.
func (h *helped) expect(want ...string) (list []wire.Record) {
	h.t.Helper()
	for end := time.Now().Add(deadline); len(list) < len(want) && time.Now().Before(end); {
		list = append(list, h.records()...)
	}
	if got := texts(list); !slices.Equal(got, want) {
		h.t.Fatalf("the helper gets %q, want %q", got, want)
	}
	return list
}

// TestEvents: what the program's notifications say becomes records of the helper, and what the helper does about them does
// nothing in the program.
func TestEvents(t *testing.T) {
	m := newModel(t, 31)
	sub := m.add(m.root, "sub", unix.S_IFDIR|0o755, "")
	file := m.add(sub, "file", unix.S_IFREG|0o644, "text")
	m.add(sub, "victim", unix.S_IFREG|0o644, "text")
	m.add(sub, "dir", unix.S_IFDIR|0o755, "")
	h := newHelped(t, m, Options{}, events.Options{})
	subID := h.lookup(1, "sub").NodeID
	e := h.lookup(subID, "file")
	victim, old := h.lookup(subID, "victim"), h.lookup(subID, "dir")
	if e.EntryValid != 100 {
		t.Errorf("with a helper a name is good for %d s, want the program's 100", e.EntryValid)
	}

	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(file)}))
	r := h.expect(text(wire.Modify, "sub/file"), text(wire.Close, "sub/file"))
	h.as(helperPID, func() {
		if got := h.lookup(subID, "file"); got.NodeID != e.NodeID {
			t.Errorf("the helper finds node %d, want %d", got.NodeID, e.NodeID)
		}
		a := as[fp.AttrOut](h.must(fp.OpSetattr, e.NodeID, 104, fp.Bytes(&fp.SetattrIn{Valid: fp.FattrMtime, Mtime: r[0].Nonce})))
		if a.Attr.Size != 4 || a.AttrValid > 1 {
			t.Errorf("attributes of the file: %+v", a)
		}
		o := as[fp.OpenOut](h.must(fp.OpOpen, e.NodeID, 16, fp.Bytes(&fp.OpenIn{Flags: unix.O_WRONLY})))
		if o.OpenFlags&fp.FopenKeepCache != 0 {
			t.Error("the guest's kernel keeps the data")
		}
		h.must(fp.OpRelease, e.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: o.Fh}))
	})
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(file), Off: -1}))
	h.expect(text(wire.Attributes, "sub/file"))
	m.notify(fp.NotifyStore, fp.Bytes(&fp.NotifyStoreOut{NodeID: m.idOf(file), Size: 80000}), make([]byte, 80000))
	h.expect(text(wire.Modify, "sub/file"), text(wire.Close, "sub/file"))
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(sub)}))
	h.expect(text(wire.Attributes, "sub"))
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: 1}))
	h.expect(fmt.Sprint(wire.Attributes))

	m.tree.Lock()
	victimOf := m.process().ids[sub.children["victim"]]
	sub.unlink("victim")
	sub.unlink("dir")
	m.tree.Unlock()
	m.add(sub, "new", unix.S_IFREG|0o644, "")
	m.add(sub, "dir", unix.S_IFDIR|0o755, "")
	m.notify(fp.NotifyDelete, fp.Bytes(&fp.NotifyDeleteOut{Parent: m.idOf(sub), Child: victimOf, NameLen: 6}), name("victim"))
	h.expect(text(wire.Remove, "sub/victim"))
	h.as(helperPID, func() {
		if got := h.lookup(subID, "victim"); got.NodeID != victim.NodeID {
			t.Errorf("the helper finds node %d for a name that is gone, want %d", got.NodeID, victim.NodeID)
		}
		h.must(fp.OpUnlink, subID, 0, name("victim"))
		if _, errno := h.do(fp.OpLookup, subID, 128, name("victim")); errno != unix.ENOENT {
			t.Errorf("the removed name is there: %v", errno)
		}
	})
	m.notifyName(m.idOf(sub), "new")
	h.expect(text(wire.Make, "sub/new"))
	h.as(helperPID, func() {
		if _, errno := h.do(fp.OpLookup, subID, 128, name("new")); errno != unix.ENOENT {
			t.Errorf("the name that is to be made is there: %v", errno)
		}
		h.must(fp.OpMknod, subID, 128, fp.Bytes(&fp.MknodIn{Mode: unix.S_IFREG | 0o600}), name("new"))
	})
	m.notifyName(m.idOf(sub), "dir")
	list := h.await(wire.Move)
	if len(list) != 1 || list[0].Path != "sub/dir" || !strings.HasPrefix(list[0].NewPath, wire.Dir+"/") {
		t.Fatalf("for another directory the helper gets %q", texts(list))
	}
	h.as(helperPID, func() {
		control := h.lookup(1, wire.Dir).NodeID
		if got := h.lookup(subID, "dir"); got.NodeID != old.NodeID {
			t.Errorf("the helper finds node %d, want the old directory's %d", got.NodeID, old.NodeID)
		}
		h.must(fp.OpRename, subID, 0, fp.Bytes(&fp.RenameIn{NewDir: control}), name("dir"), name(strings.TrimPrefix(list[0].NewPath, wire.Dir+"/")))
	})
	h.expect(text(wire.Make, "sub/dir"))
	h.as(helperPID, func() { h.must(fp.OpMkdir, subID, 128, fp.Bytes(&fp.MkdirIn{Mode: 0o700}), name("dir")) })
	if got := h.lookup(subID, "dir"); got.NodeID == old.NodeID {
		t.Error("the other directory has the old one's number")
	}
	m.notifyName(m.idOf(sub), "dir") // it is what the guest knows
	h.expect(text(wire.Check, "sub/dir"), text(wire.Refresh, "sub/dir"))
	for _, op := range []fp.Opcode{fp.OpMknod, fp.OpMkdir, fp.OpUnlink, fp.OpRename, fp.OpRename2, fp.OpSetattr, fp.OpOpen} {
		if n := m.count(op); n != 0 {
			t.Errorf("the program has got %d %s", n, op)
		}
	}
}

// TestEventsBounded: a program that notifies without end costs a bounded number of records and bytes, then what is missed is found
// out by looking; and what it says of itself and not of the guest's files is not passed on.
func TestEventsBounded(t *testing.T) {
	m := newModel(t, 31)
	file := m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	unknown := m.add(m.root, "unknown", unix.S_IFREG|0o644, "text")
	h := newHelped(t, m, Options{}, events.Options{})
	h.lookup(1, "file")
	id := m.idOf(file)
	misbehaved := func() uint64 { return h.fs.link.Load().misbehaved.Load() }
	for _, bad := range []string{".", "..", "a/b"} {
		m.notifyName(1, bad)
	}
	m.notifyName(1, wire.Dir)
	m.notifyName(id, "in a file")
	m.notifyName(m.idOf(unknown), "in a node that the guest does not have")
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(unknown)}))
	m.notifyName(1, "nothing") // the guest may remember that it does not exist
	h.expect(text(wire.Check, "nothing"))
	if n := misbehaved(); n != 3 {
		t.Errorf("%d notifications were refused, want 3", n)
	}

	release := m.hold("slow")
	for range 50_000 {
		m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: id}))
	}
	h.taken()
	release()
	m.notifyName(1, "last")
	n := 0
	for last, end := false, time.Now().Add(deadline); !last; {
		if time.Now().After(end) {
			t.Fatal("no end of the records")
		}
		for _, r := range h.records() {
			if r.Path == "file" {
				n++
			}
			last = last || r.Path == "last" || r.Op == wire.Found // if some were dropped, what was said last may be, too
		}
	}
	if n < 1 || n > 8 {
		t.Errorf("50,000 notifications of one file became %d records", n)
	}

	release = m.hold("slow")
	m.tree.Lock()
	m.root.unlink("file")
	m.tree.Unlock()
	for i := range 20_000 { // of names that are not there
		m.notifyName(1, fmt.Sprint("name", i))
	}
	h.taken()
	release()
	list := h.await(wire.Found)
	if !slices.Contains(texts(list), text(wire.Remove, "file")) || len(list) > 100 {
		t.Errorf("what was missed is not found out: %d records", len(list))
	}
}

// hold has the program tell of a name and not answer when that is looked for, until the function that is returned is called.
func (m *model) hold(held string) (release func()) {
	m.t.Helper()
	type request struct {
		p    *process
		h    fp.InHeader
		body []byte
	}
	got := make(chan request, 1)
	m.hookMu.Lock()
	m.hook = func(p *process, h *fp.InHeader, body []byte) bool {
		if fp.Opcode(h.Opcode) != fp.OpLookup || string(body) != held+"\x00" {
			return false
		}
		got <- request{p, *h, bytes.Clone(body)}
		m.hook = nil
		return true
	}
	m.hookMu.Unlock()
	m.notifyName(1, held)
	select {
	case r := <-got:
		return func() { r.p.serve(&r.h, r.body) }
	case <-time.After(deadline):
		m.t.Fatal("nobody looks")
	}
	return nil
}

// taken waits until all notifications that the program has sent were passed on.
func (h *helped) taken() {
	h.t.Helper()
	h.must(fp.OpStatfs, 1, 80) // the answer comes behind them
	eventually(h.t, "notifications are not passed on", func() bool {
		h.fs.teller.mu.Lock()
		defer h.fs.teller.mu.Unlock()
		return !h.fs.teller.running
	})
}

// TestEventsHang: a program that does not answer keeps no other request from going on, and nothing of a helper that ends.
func TestEventsHang(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	h := newHelped(t, m, Options{}, events.Options{})
	asked := make(chan struct{}, 16)
	m.hookMu.Lock()
	m.hook = func(_ *process, in *fp.InHeader, body []byte) bool {
		hangs := fp.Opcode(in.Opcode) == fp.OpLookup && string(body) == "slow\x00"
		if hangs {
			asked <- struct{}{}
		}
		return hangs
	}
	m.hookMu.Unlock()
	underWay := func() int {
		l := h.fs.link.Load()
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.calls)
	}
	for range 3 { // helpers
		m.notifyName(1, "slow")
		select {
		case <-asked:
		case <-time.After(deadline):
			t.Fatal("nobody looks")
		}
		for range 3 * 4096 {
			m.notifyName(1, "slow")
			m.notifyName(1, "file")
		}
		h.must(fp.OpStatfs, 1, 80)
		h.lookup(1, "file")
		h.as(helperPID, func() { h.must(fp.OpRelease, h.control, 0, fp.Bytes(&fp.ReleaseIn{Fh: h.fh})) })
		eventually(t, "a helper that has ended leaves a request", func() bool { return underWay() == 0 })
		m.hookMu.Lock()
		hook := m.hook
		m.hook = nil
		m.hookMu.Unlock()
		h.begin()
		m.hookMu.Lock()
		m.hook = hook
		m.hookMu.Unlock()
	}
}

// TestEventsRestart: changes that a program has missed while it was started again are looked for, if it has ever told of any.
func TestEventsRestart(t *testing.T) {
	m := newModel(t, 31)
	file := m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	h := newHelped(t, m, Options{Restart: true}, events.Options{})
	h.lookup(1, "file")
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(file), Off: -1}))
	h.expect(text(wire.Attributes, "file"))
	m.tree.Lock()
	m.root.unlink("file")
	m.tree.Unlock()
	m.process().kill()
	if got, want := texts(h.await(wire.Found)), []string{fmt.Sprint(wire.Lost), fmt.Sprint(wire.Refresh), text(wire.Remove, "file"), fmt.Sprint(wire.Found)}; !slices.Equal(got, want) {
		t.Errorf("the helper gets %q, want %q", got, want)
	}
}

// TestEventsOwn: what the guest has just changed itself is no event for it, if the program tells of it; what it keeps is made right.
func TestEventsOwn(t *testing.T) {
	m := newModel(t, 31)
	file := m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	h := newHelped(t, m, Options{}, events.Options{})
	e := h.lookup(1, "file")
	h.must(fp.OpSetattr, e.NodeID, 104, fp.Bytes(&fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600}))
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(file)}))
	h.expect(text(wire.Refresh, "file"))
}

// TestEventsReadOnly: where the guest can make no events what it keeps is made right.
func TestEventsReadOnly(t *testing.T) {
	m := newModel(t, 31)
	sub := m.add(m.root, "sub", unix.S_IFDIR|0o755, "")
	file := m.add(sub, "file", unix.S_IFREG|0o644, "text")
	h := newHelped(t, m, Options{}, events.Options{ReadOnly: true})
	h.lookup(h.lookup(1, "sub").NodeID, "file")
	m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(file)}))
	h.expect(text(wire.Refresh, "sub/file"))
	m.tree.Lock()
	sub.unlink("file")
	m.tree.Unlock()
	m.notifyName(m.idOf(sub), "file")
	h.expect(text(wire.Check, "sub/file"), text(wire.Refresh, "sub"))
}

// TestEventsForged: a guest whose helper's thread sends what it likes, and a program that notifies at random, end nothing, and
// the program gets nothing that a kernel would not have sent.
func TestEventsForged(t *testing.T) {
	n := 5000
	if os.Getenv("GOVIRTIOFS_LONG") == "1" {
		n = 300_000
	}
	m := newModel(t, 31)
	sub := m.add(m.root, "sub", unix.S_IFDIR|0o755, "")
	file := m.add(sub, "file", unix.S_IFREG|0o644, "text")
	h := newHelped(t, m, Options{}, events.Options{})
	f := &forger{g: h.guest, r: rand.New(rand.NewPCG(1, 2)), numbers: []uint64{0, 1, 2, math.MaxUint64, math.MaxInt64, h.control, h.control - 1, h.control + 20}}
	f.forge(m, sub, n, func(i int) {
		if h.pid = 4242; f.r.IntN(2) == 0 {
			h.pid = helperPID
		}
		switch f.r.IntN(40) {
		case 0:
			m.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: m.idOf(file), Off: int64(f.r.IntN(3)) - 1}))
		case 1:
			m.notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: m.idOf(sub), NameLen: uint32(f.r.IntN(5))}), f.name())
		case 2:
			m.notifyName(m.idOf(sub), "file")
		case 3:
			m.notifyName(1, "sub")
		}
		if i%500 == 499 { // the helper takes what there is, and does nothing of it
			m.notifyName(1, fmt.Sprint("name", i))
			h.records()
		}
	})
	h.pid = 4242
	h.lookup(1, "sub")
}
