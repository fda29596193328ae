package relay

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// kernel is a client's kernel that takes notifications.
type kernel struct {
	got  chan told
	hold chan struct{} // closed when it takes the next one
}

func (k *kernel) Notify(code fp.NotifyCode, body ...[]byte) error {
	<-k.hold
	k.got <- told{code, bytes.Join(body, nil)}
	return nil
}

// TestNotificationsPassedOn: the client's kernel gets what the program's notifications say with its own numbers, and nothing of
// nodes that it does not have or of malformed ones. While it takes its time, requests are answered.
func TestNotificationsPassedOn(t *testing.T) {
	m := newModel(t, 31)
	file := m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	unknown := m.add(m.root, "unknown", unix.S_IFREG|0o644, "text")
	g := newGuest(t, m, Options{})
	k := &kernel{make(chan told, 100), make(chan struct{})}
	g.fs.Connect(k)
	e := g.lookup(1, "file")
	p := m.process()
	m.tree.Lock()
	id, other := p.id(file), p.id(unknown)
	m.tree.Unlock()
	notify := func(code fp.NotifyCode, parts ...[]byte) {
		body := bytes.Join(parts, nil)
		h := fp.OutHeader{Len: uint32(outHeaderSize + len(body)), Error: int32(code)}
		p.raw(append(bytes.Clone(fp.Bytes(&h)), body...))
	}
	l := g.fs.link.Load()
	// None of these is passed on.
	notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: other}))
	notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: e.NodeID})) // the client's number is not the program's
	notify(fp.NotifyInvalInode, []byte("short"))
	notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 1 << 31}), name("file"))
	notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 3}), name("a/b"))
	notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 4}), []byte("file"))
	notify(fp.NotifyDelete, fp.Bytes(&fp.NotifyDeleteOut{Parent: 1, Child: other, NameLen: 7}), name("unknown"))
	notify(fp.NotifyResend)
	// These are.
	notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: id, Off: 5, Len: 7}))
	notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 4, Flags: ^uint32(0)}), name("file"))
	notify(fp.NotifyDelete, fp.Bytes(&fp.NotifyDeleteOut{Parent: 1, Child: id, NameLen: 4}), name("file"))
	g.must(fp.OpStatfs, 1, 80) // what was sent before was taken; the kernel still takes its time
	if n := l.misbehaved.Load(); n != 5 {
		t.Errorf("%d notifications were refused, want 5", n)
	}
	close(k.hold)
	for _, want := range []told{
		{fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: e.NodeID, Off: 5, Len: 7})},
		{fp.NotifyInvalEntry, append(bytes.Clone(fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 4, Flags: fp.ExpireOnly})), name("file")...)},
		{fp.NotifyDelete, append(bytes.Clone(fp.Bytes(&fp.NotifyDeleteOut{Parent: 1, Child: e.NodeID, NameLen: 4})), name("file")...)},
	} {
		select {
		case got := <-k.got:
			if got.code != want.code || !bytes.Equal(got.body, want.body) {
				t.Errorf("the kernel got %v %x, want %v %x", got.code, got.body, want.code, want.body)
			}
		case <-time.After(deadline):
			t.Fatalf("the kernel did not get %v", want.code)
		}
	}
	g.must(fp.OpStatfs, 1, 80)
	if len(k.got) != 0 {
		t.Errorf("%d more notifications", len(k.got))
	}
}

// TestManyNotifications: a client that does not take notifications costs a bounded amount of memory, and no request.
func TestManyNotifications(t *testing.T) {
	m := newModel(t, 31)
	g := newGuest(t, m, Options{})
	k := &kernel{make(chan told, 3*maxTold), make(chan struct{})}
	g.fs.Connect(k)
	for i := range 2 * maxTold {
		body := fp.Bytes(&fp.NotifyInvalInodeOut{Ino: 1, Off: int64(i)})
		h := fp.OutHeader{Len: uint32(outHeaderSize + len(body)), Error: int32(fp.NotifyInvalInode)}
		m.process().raw(append(bytes.Clone(fp.Bytes(&h)), body...))
	}
	g.must(fp.OpStatfs, 1, 80)
	g.fs.teller.mu.Lock()
	if n := len(g.fs.teller.waiting); n > maxTold {
		t.Errorf("%d notifications wait", n)
	}
	g.fs.teller.mu.Unlock()
	close(k.hold)
	eventually(t, "the goroutine that tells has not ended", func() bool {
		g.fs.teller.mu.Lock()
		defer g.fs.teller.mu.Unlock()
		return !g.fs.teller.running
	})
	last := told{}
	for len(k.got) > 0 {
		last = <-k.got
	}
	if last.code != fp.NotifyIncEpoch {
		t.Errorf("the last notification is %v: the client does not hear that some were lost", last.code)
	}
}
