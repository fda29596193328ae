package relay

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// keeper holds requests of one opcode back.
type keeper struct {
	op   fp.Opcode
	mu   sync.Mutex
	kept []keptRequest
	open bool
}

type keptRequest struct {
	p    *process
	h    fp.InHeader
	body []byte
}

func (k *keeper) hook(p *process, h *fp.InHeader, body []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if fp.Opcode(h.Opcode) != k.op || k.open {
		return false
	}
	k.kept = append(k.kept, keptRequest{p, *h, body})
	return true
}

func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.kept)
}

// release serves what was held back, last first, and holds nothing back any more.
func (k *keeper) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open = true
	for i := len(k.kept) - 1; i >= 0; i-- {
		r := &k.kept[i]
		r.p.serve(&r.h, r.body)
	}
	k.kept = nil
}

// keptRead is a READ of "file", which holds "text", that the program does not answer until it is released.
type keptRead struct {
	model   *model
	program *keeper
	node    uint64
	fh      uint64
	reply   <-chan result
}

func newKeptRead(t *testing.T) (*guest, keptRead) {
	t.Helper()
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	k := &keeper{op: fp.OpRead}
	m.hook = k.hook
	g := newGuest(t, m, Options{})
	node := g.lookup(1, "file").NodeID
	fh := g.open(fp.OpOpen, node, 0)
	reply := g.start(fp.OpRead, node, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10}))
	eventually(t, "no READ", func() bool { return k.count() == 1 })
	return g, keptRead{m, k, node, fh, reply}
}

// nothingLeft waits until the program has no open file, and no node but the root.
func (m *model) nothingLeft(t *testing.T, what string) {
	t.Helper()
	eventually(t, what+" has left something in the program", func() bool {
		m.tree.Lock()
		defer m.tree.Unlock()
		return len(m.current.handles) == 0 && len(m.current.nodes) == 1
	})
}

func threads(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestSlowProgram: 1,000 requests that a slow program has not answered hold no thread and little memory, and others are
// served meanwhile. Each gets its own reply, in whatever order they come.
func TestSlowProgram(t *testing.T) {
	const n = 1000
	m := newModel(t, 31)
	text := make([]byte, n*8)
	for i := range n {
		copy(text[i*8:], fmt.Sprintf("%08d", i))
	}
	m.add(m.root, "file", unix.S_IFREG|0o644, string(text))
	m.add(m.root, "other", unix.S_IFREG|0o644, "")
	k := &keeper{op: fp.OpRead}
	m.hook = k.hook
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	before := threads(t)
	var heap runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&heap)
	was := heap.HeapAlloc + heap.StackInuse
	var waiting []<-chan result
	for i := range n {
		waiting = append(waiting, g.start(fp.OpRead, e.NodeID, 8, fp.Bytes(&fp.ReadIn{Fh: fh, Offset: uint64(i * 8), Size: 8})))
	}
	eventually(t, "the program has not got all requests", func() bool { return k.count() == n })
	if got := threads(t); got > before+n/2 { // the runtime starts some for itself
		t.Errorf("%d threads with %d requests under way, %d without", got, n, before)
	}
	runtime.GC()
	runtime.ReadMemStats(&heap)
	if got := int64(heap.HeapAlloc+heap.StackInuse) - int64(was); got > n*(20<<10) {
		t.Errorf("%d requests under way take %d bytes", n, got)
	}
	other := g.lookup(1, "other")
	g.do(fp.OpForget, other.NodeID, 0, fp.Bytes(&fp.ForgetIn{NLookup: 1}))
	eventually(t, "FORGET waits for the requests", func() bool { return m.count(fp.OpForget)+m.count(fp.OpBatchForget) > 0 })
	k.release()
	for i, c := range waiting {
		if b, errno := g.wait(c); errno != 0 || string(b) != fmt.Sprintf("%08d", i) {
			t.Fatalf("request %d: %q, %v", i, b, errno)
		}
	}
}

// TestNoRoom: a program that does not even read its socket costs memory only, FORGET included, and gets all in the end.
func TestNoRoom(t *testing.T) {
	const n = 600
	m := newModel(t, 31)
	for i := range n {
		m.add(m.root, fmt.Sprint("file", i), unix.S_IFREG|0o644, "")
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.hook = func(_ *process, h *fp.InHeader, _ []byte) bool {
		if fp.Opcode(h.Opcode) == fp.OpStatfs {
			once.Do(func() { close(stopped); <-stop })
		}
		return false
	}
	g := newGuest(t, m, Options{})
	var all []fp.EntryOut
	for i := range n {
		all = append(all, g.lookup(1, fmt.Sprint("file", i)))
	}
	fh := g.open(fp.OpOpen, all[0].NodeID, unix.O_RDWR)
	statfs := g.start(fp.OpStatfs, 1, 80)
	<-stopped
	var waiting []<-chan result
	data := bytes.Repeat([]byte{'d'}, 60_000)
	for range 100 {
		waiting = append(waiting, g.start(fp.OpWrite, all[0].NodeID, 8, fp.Bytes(&fp.WriteIn{Fh: fh, Size: uint32(len(data))}), data))
	}
	l := g.fs.link.Load()
	eventually(t, "nothing was queued", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.queue) > 0 })
	for _, e := range all[1:] {
		g.do(fp.OpForget, e.NodeID, 0, fp.Bytes(&fp.ForgetIn{NLookup: 1}))
	}
	close(stop)
	g.wait(statfs)
	for _, c := range waiting {
		if b, errno := g.wait(c); errno != 0 || as[fp.WriteOut](b).Size != uint32(len(data)) {
			t.Fatalf("WRITE: %v", errno)
		}
	}
	eventually(t, "the program has not got all FORGET", func() bool {
		m.tree.Lock()
		defer m.tree.Unlock()
		return len(m.current.nodes) == 2
	})
}

// TestTimeout: a hung program costs the guest a time-out. What it answers later is taken back.
func TestTimeout(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "")
	g := newGuest(t, m, Options{Timeout: 100 * time.Millisecond})
	for _, op := range []fp.Opcode{fp.OpLookup, fp.OpCreate, fp.OpRead} {
		k := &keeper{op: op, open: true}
		m.hookMu.Lock()
		m.hook = k.hook
		m.hookMu.Unlock()
		var e fp.EntryOut
		fh := uint64(0)
		if op == fp.OpRead {
			e = g.lookup(1, "file")
			fh = g.open(fp.OpOpen, e.NodeID, 0)
		}
		k.mu.Lock()
		k.open = false
		k.mu.Unlock()
		var errno unix.Errno
		switch op {
		case fp.OpLookup:
			_, errno = g.do(op, 1, 128, name("file"))
		case fp.OpCreate:
			_, errno = g.do(op, 1, 144, fp.Bytes(&fp.CreateIn{}), name("new"))
		case fp.OpRead:
			_, errno = g.do(op, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Fh: fh, Size: 10}))
		}
		if errno != unix.ETIMEDOUT {
			t.Errorf("%s: %v", op, errno)
		}
		eventually(t, "the program has not got the request", func() bool { return k.count() == 1 })
		k.release()
		if op == fp.OpRead {
			g.must(fp.OpRelease, e.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
			g.do(fp.OpForget, e.NodeID, 0, fp.Bytes(&fp.ForgetIn{NLookup: 1}))
		}
		m.nothingLeft(t, op.String())
	}
	l := g.fs.link.Load()
	eventually(t, "orphans are left", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.orphans) == 0 })
}

// TestEndOfSession: requests under way end with the guest's session, and a new session begins on the same program.
func TestEndOfSession(t *testing.T) {
	g, r := newKeptRead(t)
	g.must(fp.OpDestroy, 0, 0)
	if _, errno := g.wait(r.reply); errno != unix.ENOTCONN && errno != unix.EINTR {
		t.Errorf("READ at the end of a session: %v", errno)
	}
	r.program.release()
	g.init()
	if _, errno := g.do(fp.OpGetattr, r.node, 104, fp.Bytes(&fp.GetattrIn{})); errno != unix.ESTALE {
		t.Errorf("a node of the session before: %v", errno)
	}
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	if got := g.read(e.NodeID, fh, 0, 10); string(got) != "text" {
		t.Errorf("READ: %q", got)
	}
	if n := r.model.count(fp.OpInit); n != 1 {
		t.Errorf("the program has got %d INIT", n)
	}
}

// TestInterrupt: INTERRUPT gets to the program with the program's unique number, and the request waits for its answer.
func TestInterrupt(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	var held fp.InHeader
	asked := make(chan struct{})
	tries := 0
	m.hook = func(p *process, h *fp.InHeader, body []byte) bool {
		switch fp.Opcode(h.Opcode) {
		case fp.OpSetlkw:
			held = *h
			close(asked)
			return true
		case fp.OpInterrupt:
			if in := as[fp.InterruptIn](body); in.Unique != held.Unique {
				p.violation("INTERRUPT of %d, want %d", in.Unique, held.Unique)
			}
			if tries++; tries < 3 {
				p.reply(h.Unique, unix.EAGAIN) // it has not come to it yet
				return true
			}
			p.reply(held.Unique, unix.EINTR)
			return true
		}
		return false
	}
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	lock := g.start(fp.OpSetlkw, e.NodeID, 0, fp.Bytes(&fp.LkIn{Fh: fh, Lk: fp.FileLock{Type: unix.F_WRLCK, End: 10}}))
	unique := g.unique
	<-asked
	g.do(fp.OpInterrupt, 0, 0, fp.Bytes(&fp.InterruptIn{Unique: unique}))
	if _, errno := g.wait(lock); errno != unix.EINTR {
		t.Errorf("an interrupted lock: %v", errno)
	}
	m.hookMu.Lock()
	defer m.hookMu.Unlock()
	if tries != 3 {
		t.Errorf("%d INTERRUPT", tries)
	}
}

// TestNotifications: from the first one on, replies promise little. What a program wants from the guest's memory is
// answered with nothing.
func TestNotifications(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	retrieved := make(chan fp.InHeader, 1)
	m.hook = func(_ *process, h *fp.InHeader, _ []byte) bool {
		if fp.Opcode(h.Opcode) == fp.OpNotifyReply {
			retrieved <- *h
		}
		return false
	}
	g := newGuest(t, m, Options{Notified: 1500 * time.Millisecond})
	if e := g.lookup(1, "file"); e.EntryValid != 100 || e.AttrValid != 1<<40 {
		t.Errorf("before: %d s and %d s", e.EntryValid, e.AttrValid)
	}
	l := g.fs.link.Load()
	notify := func(code fp.NotifyCode, body []byte) {
		n := l.notifications.Load()
		h := fp.OutHeader{Len: uint32(outHeaderSize + len(body)), Error: int32(code)}
		m.process().raw(append(bytes.Clone(fp.Bytes(&h)), body...))
		eventually(t, "a notification was not taken", func() bool { return l.notifications.Load() > n })
	}
	notify(fp.NotifyRetrieve, fp.Bytes(&fp.NotifyRetrieveOut{NotifyUnique: 99, NodeID: 1, Size: 4096}))
	select {
	case h := <-retrieved:
		if h.Unique != 99 || int(h.Len) != inHeaderSize+fp.Size[fp.NotifyRetrieveIn]() {
			t.Errorf("NOTIFY_REPLY: %+v", h)
		}
	case <-time.After(deadline):
		t.Fatal("no NOTIFY_REPLY")
	}
	notify(fp.NotifyPoll, make([]byte, 8))
	notify(77, nil)
	if e := g.lookup(1, "file"); e.EntryValid != 100 {
		t.Errorf("promises are lowered too early: %d s", e.EntryValid)
	}
	notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: 1}))
	e := g.lookup(1, "file")
	a := as[fp.AttrOut](g.must(fp.OpGetattr, e.NodeID, 104, fp.Bytes(&fp.GetattrIn{})))
	for what, p := range map[string][2]uint64{"name": {e.EntryValid, uint64(e.EntryValidNsec)},
		"entry's attributes": {e.AttrValid, uint64(e.AttrValidNsec)}, "attributes": {a.AttrValid, uint64(a.AttrValidNsec)}} {
		if p != [2]uint64{1, 500_000_000} {
			t.Errorf("after: %s for %d s and %d ns", what, p[0], p[1])
		}
	}
}

// TestNeedsNoOpen: ENOSYS to OPEN means that no file handle is needed. A guest that knows that is told; for another
// one the relay remembers which files are open.
func TestNeedsNoOpen(t *testing.T) {
	for _, minor := range []uint32{22, 31} {
		m := newModel(t, minor)
		if minor == 22 {
			m.flags &^= fp.InitNoOpenSupport | fp.InitNoOpendirSupport
		}
		file := m.add(m.root, "file", unix.S_IFREG|0o644, "text")
		m.hook = func(p *process, h *fp.InHeader, _ []byte) bool {
			switch fp.Opcode(h.Opcode) {
			case fp.OpOpen, fp.OpOpendir:
				m.tree.Lock()
				p.handles[0] = file
				m.tree.Unlock()
				p.reply(h.Unique, unix.ENOSYS)
				return true
			}
			return false
		}
		g := newGuest(t, m, Options{})
		e := g.lookup(1, "file")
		if _, errno := g.do(fp.OpRead, e.NodeID, 10, fp.Bytes(&fp.ReadIn{Size: 10})); errno != unix.EBADF {
			t.Errorf("READ without OPEN, before it is known that none is needed: %v", errno)
		}
		b, errno := g.do(fp.OpOpen, e.NodeID, 16, fp.Bytes(&fp.OpenIn{}))
		if want := map[uint32]unix.Errno{22: 0, 31: unix.ENOSYS}[minor]; errno != want {
			t.Errorf("7.%d: OPEN: %v, want %v", minor, errno, want)
		}
		if got := g.read(e.NodeID, as[fp.OpenOut](b).Fh, 0, 10); string(got) != "text" {
			t.Errorf("7.%d: READ: %q", minor, got)
		}
	}
}
