package relay

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// forger makes requests of what a hostile guest can know or make up.
type forger struct {
	g       *guest
	r       *rand.Rand
	numbers []uint64 // node ids, handles and positions, true ones and others
}

func (f *forger) number() uint64 {
	switch f.r.IntN(8) {
	case 0:
		return f.r.Uint64()
	case 1:
		return f.numbers[f.r.IntN(len(f.numbers))] ^ 1<<f.r.IntN(64)
	}
	return f.numbers[f.r.IntN(len(f.numbers))]
}

func (f *forger) name() []byte {
	names := []string{"sub", "file", "new", "a", "..", ".", "", "a/b", strings.Repeat("n", 255), strings.Repeat("n", 300), "sub\x00file"}
	return name(names[f.r.IntN(len(names))])
}

// body is random, with numbers where the opcode has numbers, or with lengths that lie.
func (f *forger) body(op fp.Opcode) []byte {
	s := op.Shape()
	b := make([]byte, s.Body)
	for i := 0; i+8 <= len(b); i += 8 {
		v := f.number()
		switch f.r.IntN(4) {
		case 0:
			v = 0
		case 1:
			v = uint64(f.r.IntN(5000))
		case 2:
			v &= math.MaxUint32
		}
		binary.LittleEndian.PutUint64(b[i:], v)
	}
	if len(b) >= 8 && f.r.IntN(2) == 0 { // what most bodies begin with: a handle
		binary.LittleEndian.PutUint64(b, f.number())
	}
	if op == fp.OpRead || op == fp.OpReaddir || op == fp.OpReaddirplus || op == fp.OpWrite {
		binary.LittleEndian.PutUint64(b[8:], f.number())
		binary.LittleEndian.PutUint32(b[16:], uint32(f.r.IntN(8192)))
	}
	for range s.Names {
		b = append(b, f.name()...)
	}
	if s.Data&fp.ToServer != 0 {
		b = append(b, make([]byte, f.r.IntN(9000))...)
		if op == fp.OpWrite && f.r.IntN(2) == 0 {
			binary.LittleEndian.PutUint32(b[16:], uint32(len(b)-s.Body))
		}
	}
	if f.r.IntN(20) == 0 {
		b = b[:f.r.IntN(len(b)+1)]
	}
	return b
}

// learn keeps what a reply has that looks like a number to send, and fails the test if that is one of the program's.
func (f *forger) learn(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		v := binary.LittleEndian.Uint64(b[i:])
		if v>>40 == 0x55 || v>>48 == 0x7fff {
			f.g.t.Fatalf("a reply has the program's number %#x: %x", v, b)
		}
		if v != 0 && v < 1<<52 && f.r.IntN(50) == 0 {
			if len(f.numbers) < 400 {
				f.numbers = append(f.numbers, v)
			} else {
				f.numbers[f.r.IntN(len(f.numbers))] = v
			}
		}
	}
}

// forge sends n requests. each is called before one.
func (f *forger) forge(m *model, sub *mfile, n int, each func(i int)) {
	g := f.g
	for i := range n {
		each(i)
		op := fp.Opcode(f.r.IntN(fp.NumOpcodes))
		switch op {
		case fp.OpInit, fp.OpDestroy, fp.OpInterrupt:
			continue
		case fp.OpForget, fp.OpBatchForget:
			if f.r.IntN(4) != 0 { // else nothing stays
				continue
			}
		}
		if i%7 == 0 { // something to work on
			dirLink(m, sub)
			pid := g.pid
			g.pid = 4242 // names can be told of to the helper that are not there for it yet
			dir := g.lookup(1, "sub")
			e := as[fp.EntryOut](first(g.do(fp.OpLookup, dir.NodeID, 128, name("file"))))
			g.pid = pid
			f.numbers[f.r.IntN(len(f.numbers))] = dir.NodeID
			if e.NodeID != 0 {
				f.numbers[f.r.IntN(len(f.numbers))] = e.NodeID
				f.numbers[f.r.IntN(len(f.numbers))] = as[fp.OpenOut](first(g.do(fp.OpOpen, e.NodeID, 16, fp.Bytes(&fp.OpenIn{})))).Fh
			}
			f.numbers[f.r.IntN(len(f.numbers))] = as[fp.OpenOut](first(g.do(fp.OpOpendir, dir.NodeID, 16, fp.Bytes(&fp.OpenIn{})))).Fh
			dirLink(m, sub)
		}
		b, _ := g.do(op, f.number(), []int{0, 8, 200, 9000}[f.r.IntN(4)], f.body(op))
		f.learn(b)
	}
}

// TestForged: whatever a guest sends, the program gets nothing that a kernel would not have sent, and none of the
// program's numbers gets to the guest. The model fails the test otherwise.
func TestForged(t *testing.T) {
	n := 30_000
	if os.Getenv("GOVIRTIOFS_LONG") == "1" {
		n = 1_000_000
	}
	for _, minor := range []uint32{8, 31, 45} {
		m := newModel(t, minor)
		sub := m.add(m.root, "sub", unix.S_IFDIR|0o755, "")
		for _, s := range []string{"file", "a", "b"} {
			m.add(sub, s, unix.S_IFREG|0o644, strings.Repeat("x", 10000))
		}
		g := newGuest(t, m, Options{})
		f := &forger{g: g, r: rand.New(rand.NewPCG(1, uint64(minor))),
			numbers: []uint64{0, 1, 2, math.MaxUint64, math.MaxInt64, positionOf(1), positionOf(2), m.process().base + 64, m.process().base + 128}}
		f.forge(m, sub, n/3, func(int) {})
		if misbehaved := g.fs.link.Load().misbehaved.Load(); misbehaved != 0 {
			t.Errorf("7.%d: %d replies of the model were refused", minor, misbehaved)
		}
	}
}

func first[T any](b []byte, _ T) []byte { return b }

// dirLink puts back what the forger has removed.
func dirLink(m *model, sub *mfile) {
	m.tree.Lock()
	defer m.tree.Unlock()
	if m.root.children["sub"] == nil {
		m.root.link("sub", sub)
	}
	if sub.children["file"] == nil {
		m.add(sub, "file", unix.S_IFREG|0o644, strings.Repeat("x", 10000))
	}
}

// TestForgetIsClamped: a guest that forgets more often than it has looked up costs the program nothing, and a node that
// is forgotten is no more.
func TestForgetIsClamped(t *testing.T) {
	m := newModel(t, 31)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	g := newGuest(t, m, Options{})
	var e fp.EntryOut
	for range 3 {
		e = g.lookup(1, "file")
	}
	for range 2 {
		g.do(fp.OpForget, e.NodeID, 0, fp.Bytes(&fp.ForgetIn{NLookup: math.MaxUint64}))
		g.do(fp.OpForget, 1, 0, fp.Bytes(&fp.ForgetIn{NLookup: 10}))
	}
	if _, errno := g.do(fp.OpGetattr, e.NodeID, 104, fp.Bytes(&fp.GetattrIn{})); errno != unix.ESTALE {
		t.Errorf("a forgotten node: %v", errno)
	}
	if again := g.lookup(1, "file"); again.NodeID == e.NodeID {
		t.Error("a forgotten number was given again")
	}
	if n := m.count(fp.OpForget); n != 1 {
		t.Errorf("the program has got %d FORGET, want 1", n)
	}
}

// TestPositions: a guest can go back in a directory, to any position that it was given, and to no other.
func TestPositions(t *testing.T) {
	m := newModel(t, 31)
	for i := range 300 {
		m.add(m.root, "file"+string(rune('a'+i%26))+strings.Repeat("x", i/26), unix.S_IFREG|0o644, "")
	}
	g := newGuest(t, m, Options{})
	for _, op := range []fp.Opcode{fp.OpReaddir, fp.OpReaddirplus} {
		fh := g.open(fp.OpOpendir, 1, 0)
		all := g.list(op, 1, fh, 4096)
		if len(all) != 302 {
			t.Fatalf("%s: %d entries", op, len(all))
		}
		for _, at := range []int{0, 7, 150, 300} {
			b := alignedCopy(g.must(op, 1, 4096, fp.Bytes(&fp.ReadIn{Fh: fh, Offset: all[at].d.Off, Size: 4096})))
			forEntries(b, op == fp.OpReaddirplus, func(_ *fp.EntryOut, d *fp.Dirent, name []byte) bool {
				if string(name) != all[at+1].name || d.Off != all[at+1].d.Off {
					t.Errorf("%s: after %q comes %q", op, all[at].name, name)
				}
				return false
			})
		}
		if _, errno := g.do(op, 1, 4096, fp.Bytes(&fp.ReadIn{Fh: fh, Offset: 303, Size: 4096})); errno != unix.EINVAL {
			t.Errorf("%s from a position that was not given: %v", op, errno)
		}
		other := g.open(fp.OpOpendir, 1, 0)
		if _, errno := g.do(op, 1, 4096, fp.Bytes(&fp.ReadIn{Fh: other, Offset: 1, Size: 4096})); errno != unix.EINVAL {
			t.Errorf("%s from another handle's position: %v", op, errno)
		}
		for _, fh := range []uint64{fh, other} {
			g.must(fp.OpReleasedir, 1, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
		}
	}
	if n := g.fs.positions.Load(); n != 0 {
		t.Errorf("%d positions are kept", n)
	}
}

// TestLimits: nodes and open files are limited, and what is refused is not left in the program.
func TestLimits(t *testing.T) {
	m := newModel(t, 31)
	for _, s := range []string{"a", "b", "c", "d"} {
		m.add(m.root, s, unix.S_IFREG|0o644, "")
	}
	g := newGuest(t, m, Options{MaxNodes: 3, MaxFiles: 2})
	a := g.lookup(1, "a")
	g.lookup(1, "b")
	g.lookup(1, "c")
	if _, errno := g.do(fp.OpLookup, 1, 128, name("d")); errno != unix.ENFILE {
		t.Errorf("one node too many: %v", errno)
	}
	g.open(fp.OpOpen, a.NodeID, 0)
	fh := g.open(fp.OpOpen, a.NodeID, 0)
	if _, errno := g.do(fp.OpOpen, a.NodeID, 16, fp.Bytes(&fp.OpenIn{})); errno != unix.ENFILE {
		t.Errorf("one open file too many: %v", errno)
	}
	g.must(fp.OpRelease, a.NodeID, 0, fp.Bytes(&fp.ReleaseIn{Fh: fh}))
	g.open(fp.OpOpen, a.NodeID, 0)
	g.must(fp.OpDestroy, 0, 0)
	eventually(t, "the program has open files, or nodes, after DESTROY", func() bool {
		m.tree.Lock()
		defer m.tree.Unlock()
		p := m.current
		return len(p.handles) == 0 && len(p.nodes) == 1
	})
}

// TestLongMessages: what does not fit into the program's buffer is refused and not cut off.
func TestLongMessages(t *testing.T) {
	m := newModel(t, 31)
	m.maxWrite, m.options = 4096, "rw,max_read=16384,fd=7"
	m.add(m.root, "file", unix.S_IFREG|0o644, strings.Repeat("0123456789", 10000))
	g := newGuest(t, m, Options{})
	e := g.lookup(1, "file")
	value := bytes.Repeat([]byte{'v'}, 20000)
	if _, errno := g.do(fp.OpSetxattr, e.NodeID, 0, fp.Bytes(&fp.SetxattrIn{Size: 20000})[:8], name("user.a"), value); errno != unix.E2BIG {
		t.Errorf("SETXATTR of 20000 bytes: %v", errno)
	}
	fh := g.open(fp.OpOpen, e.NodeID, unix.O_RDWR)
	if got := g.read(e.NodeID, fh, 10, 60000); len(got) != 60000 || string(got[:10]) != "0123456789" || string(got[59990:]) != "0123456789" {
		t.Errorf("READ of 60000 bytes: %d", len(got))
	}
	if n := m.count(fp.OpRead); n != 4 {
		t.Errorf("READ was cut into %d, want 4 of 16384 bytes", n)
	}
	if _, errno := g.do(fp.OpWrite, e.NodeID, 8, fp.Bytes(&fp.WriteIn{Fh: fh, Size: 8192}), make([]byte, 8192)); errno != unix.EINVAL {
		t.Errorf("WRITE of 8192 bytes: %v", errno)
	}
}

// TestAsker: requests name the process that the program's side has chosen, and never the guest's, also when files are opened
// again.
func TestAsker(t *testing.T) {
	m := newModel(t, 31)
	m.asker = 77
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	got := map[fp.Opcode]uint32{}
	m.hook = func(_ *process, h *fp.InHeader, _ []byte) bool {
		got[fp.Opcode(h.Opcode)] = h.PID
		return false
	}
	g := newGuest(t, m, Options{Restart: true})
	e := g.lookup(1, "file")
	fh := g.open(fp.OpOpen, e.NodeID, 0)
	check := func() {
		t.Helper()
		g.read(e.NodeID, fh, 0, 4)
		m.hookMu.Lock()
		defer m.hookMu.Unlock()
		for _, op := range []fp.Opcode{fp.OpLookup, fp.OpOpen, fp.OpRead} {
			if got[op] != 77 {
				t.Errorf("%s names process %d", op, got[op])
			}
		}
		clear(got)
	}
	check()
	m.process().kill()
	check()
}
