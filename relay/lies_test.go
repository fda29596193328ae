package relay

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// liar answers the requests of one opcode with a body of the fuzzer's.
func liar(t testing.TB, minor uint32, op fp.Opcode, errno int32, unique uint64, body []byte, o Options) *guest {
	m := newModel(t, minor)
	m.add(m.root, "file", unix.S_IFREG|0o644, "text")
	m.add(m.root, "link", unix.S_IFLNK|0o777, "file")
	lied := false
	m.hook = func(p *process, h *fp.InHeader, _ []byte) bool {
		if fp.Opcode(h.Opcode) != op || lied {
			return lied && fp.Opcode(h.Opcode) != fp.OpDestroy // after a lie there is nothing that is known of the program
		}
		lied = true
		out := fp.OutHeader{Len: uint32(outHeaderSize + len(body)), Error: errno, Unique: h.Unique ^ unique}
		p.raw(append(bytes.Clone(fp.Bytes(&out)), body...))
		return true
	}
	return newGuest(t, m, o)
}

// FuzzReplies: whatever a program answers, the relay keeps to the protocol towards the guest: replies of the right length, with
// nodes and open files that exist, valid kinds and names.
func FuzzReplies(f *testing.F) {
	for _, op := range []fp.Opcode{fp.OpLookup, fp.OpGetattr, fp.OpReaddir, fp.OpReaddirplus, fp.OpRead, fp.OpCreate, fp.OpReadlink,
		fp.OpOpen, fp.OpGetxattr, fp.OpListxattr, fp.OpMkdir, fp.OpStatfs, fp.OpWrite, fp.OpGetlk, fp.OpLseek, fp.OpIoctl} {
		f.Add(uint32(31), uint32(op), int32(0), uint64(0), make([]byte, op.Shape().Reply))
		f.Add(uint32(8), uint32(op), int32(0), uint64(0), make([]byte, max(0, op.Shape().Reply-8)))
		f.Add(uint32(31), uint32(op), int32(-600), uint64(0), []byte{})
		f.Add(uint32(31), uint32(op), int32(2), ^uint64(0), []byte("12345678901234567890123456789012"))
	}
	e := fp.EntryOut{NodeID: 0x1234, Attr: fp.Attr{Mode: unix.S_IFREG}}
	f.Add(uint32(31), uint32(fp.OpLookup), int32(0), uint64(0), bytes.Clone(fp.Bytes(&e)))
	e.NodeID = 1
	f.Add(uint32(31), uint32(fp.OpLookup), int32(0), uint64(0), bytes.Clone(fp.Bytes(&e)))
	d := fp.Dirent{Ino: 5, Off: 7, NameLen: 3}
	f.Add(uint32(31), uint32(fp.OpReaddir), int32(0), uint64(0), append(bytes.Clone(fp.Bytes(&d)), "a/b\x00\x00\x00\x00\x00"...))
	d.NameLen = 1 << 31
	f.Add(uint32(31), uint32(fp.OpReaddir), int32(0), uint64(0), append(bytes.Clone(fp.Bytes(&d)), "abcdefgh"...))
	f.Fuzz(func(t *testing.T, minor, opcode uint32, errno int32, unique uint64, body []byte) {
		op := fp.Opcode(opcode % fp.NumOpcodes)
		switch op {
		case fp.OpInit, fp.OpDestroy, fp.OpForget, fp.OpBatchForget, fp.OpInterrupt, fp.OpNotifyReply:
			return
		case fp.OpSetlkw: // without an answer it waits for ever, as it should: for another client
			return
		}
		g := liar(t, minMinor+minor%(fp.KernelMinorVersion-minMinor+1), op, errno, unique, body[:min(len(body), 60_000)],
			Options{Timeout: 20 * time.Millisecond}) // not all lies are answers
		reply, got := g.lieTo(op)
		g.checkReply(op, reply, got)
	})
}

// lieTo sends one valid request of the opcode.
func (g *guest) lieTo(op fp.Opcode) ([]byte, unix.Errno) {
	node, fh, room := uint64(1), uint64(0), 4096
	lookup := func(s string) {
		if b, errno := g.do(fp.OpLookup, 1, 128, name(s)); errno == 0 {
			node = as[fp.EntryOut](b).NodeID
		}
	}
	var parts [][]byte
	s := op.Shape()
	body := make([]byte, s.Body)
	switch op {
	case fp.OpReaddir, fp.OpReaddirplus, fp.OpReleasedir, fp.OpFsyncdir:
		b, _ := g.do(fp.OpOpendir, 1, 16, fp.Bytes(&fp.OpenIn{}))
		fh = as[fp.OpenOut](b).Fh
	case fp.OpReadlink:
		lookup("link")
	case fp.OpRead, fp.OpWrite, fp.OpFlush, fp.OpFsync, fp.OpRelease, fp.OpLseek, fp.OpFallocate, fp.OpGetlk, fp.OpSetlk, fp.OpSetlkw, fp.OpIoctl,
		fp.OpPoll, fp.OpCopyFileRange, fp.OpCopyFileRange64:
		lookup("file")
		b, _ := g.do(fp.OpOpen, node, 16, fp.Bytes(&fp.OpenIn{}))
		fh = as[fp.OpenOut](b).Fh
	case fp.OpOpen, fp.OpGetattr, fp.OpStatx, fp.OpSetattr, fp.OpGetxattr, fp.OpListxattr:
		lookup("file")
	}
	if fh != 0 {
		binary.LittleEndian.PutUint64(body, fh)
	}
	switch op {
	case fp.OpRead, fp.OpReaddir, fp.OpReaddirplus:
		binary.LittleEndian.PutUint32(body[16:], 4096)
	case fp.OpGetxattr, fp.OpListxattr:
		binary.LittleEndian.PutUint32(body, 4096)
	case fp.OpMknod:
		binary.LittleEndian.PutUint32(body, unix.S_IFREG|0o644)
	case fp.OpIoctl:
		binary.LittleEndian.PutUint32(body[28:], 100) // OutSize
	}
	parts = append(parts, body)
	for range s.Names {
		parts = append(parts, name("name"))
	}
	return g.do(op, node, room, parts...)
}

// checkReply is what a guest's kernel may rely on.
func (g *guest) checkReply(op fp.Opcode, b []byte, errno unix.Errno) {
	g.t.Helper()
	if errno != 0 {
		if len(b) != 0 || errno > 511 {
			g.t.Fatalf("%s: error %d with %d bytes", op, errno, len(b))
		}
		return
	}
	entry := func(e fp.EntryOut) {
		if e.NodeID != 0 && (g.fs.nodes.Get(e.NodeID) == nil || !validAttr(&e.Attr)) || e.Generation != 0 || e.Attr.Flags != 0 || e.NodeID == 1 ||
			e.NodeID == 0 && op != fp.OpLookup && op != fp.OpReaddirplus || e.EntryValidNsec >= 1e9 {
			g.t.Fatalf("%s: entry %+v", op, e)
		}
	}
	open := func(o fp.OpenOut) {
		if f := g.fs.files.Acquire(o.Fh); f == nil || o.BackingID != 0 || o.OpenFlags&^passedOpenFlags != 0 {
			g.t.Fatalf("%s: open file %+v", op, o)
		} else {
			g.fs.files.Release(f)
		}
	}
	switch op {
	case fp.OpLookup, fp.OpMkdir, fp.OpMknod, fp.OpSymlink, fp.OpLink:
		entry(as[fp.EntryOut](b))
	case fp.OpCreate, fp.OpTmpfile:
		entry(as[fp.CreateOut](b).Entry)
		open(as[fp.CreateOut](b).Open)
	case fp.OpOpen, fp.OpOpendir:
		open(as[fp.OpenOut](b))
	case fp.OpGetattr, fp.OpSetattr:
		if a := as[fp.AttrOut](b); !validAttr(&a.Attr) || a.AttrValidNsec >= 1e9 || a.Attr.Flags != 0 {
			g.t.Fatalf("%s: attributes %+v", op, a)
		}
	case fp.OpReaddir, fp.OpReaddirplus:
		last := uint64(0)
		if !forEntries(alignedCopy(b), op == fp.OpReaddirplus, func(e *fp.EntryOut, d *fp.Dirent, _ []byte) bool {
			if e != nil {
				entry(*e)
			}
			if last++; d.Off != last {
				g.t.Fatalf("position %d of entry %d", d.Off, last)
			}
			return true
		}) {
			g.t.Fatalf("%s: malformed listing %x", op, b)
		}
	case fp.OpWrite:
		if as[fp.WriteOut](b).Size != 0 {
			g.t.Fatalf("WRITE of nothing has written %d bytes", as[fp.WriteOut](b).Size)
		}
	}
}

// TestLies: replies that are wrong cost their request, and leave nothing.
func TestLies(t *testing.T) {
	entry := func(change func(e *fp.EntryOut)) []byte {
		e := fp.EntryOut{NodeID: 0x1234, Attr: fp.Attr{Mode: unix.S_IFREG | 0o644, Size: 4}}
		change(&e)
		return bytes.Clone(fp.Bytes(&e))
	}
	for _, c := range []struct {
		what  string
		op    fp.Opcode
		errno int32
		body  []byte
	}{
		{"the root for a name", fp.OpLookup, 0, entry(func(e *fp.EntryOut) { e.NodeID = 1 })},
		{"no kind of file", fp.OpLookup, 0, entry(func(e *fp.EntryOut) { e.Attr.Mode = 0o644 })},
		{"a negative size", fp.OpLookup, 0, entry(func(e *fp.EntryOut) { e.Attr.Size = 1 << 63 })},
		{"no node for a new file", fp.OpMkdir, 0, entry(func(e *fp.EntryOut) { e.NodeID, e.Attr.Mode = 0, unix.S_IFDIR })},
		{"a file for a directory", fp.OpMkdir, 0, entry(func(*fp.EntryOut) {})},
		{"another kind of file", fp.OpGetattr, 0, bytes.Clone(fp.Bytes(&fp.AttrOut{Attr: fp.Attr{Mode: unix.S_IFDIR}}))},
		{"too short", fp.OpGetattr, 0, make([]byte, 96)},
		{"too long", fp.OpGetattr, 0, make([]byte, 112)},
		{"more than was asked for", fp.OpRead, 0, make([]byte, 4097)},
		{"an error with a body", fp.OpRead, -int32(unix.EPERM), make([]byte, 8)},
		{"an error that is positive", fp.OpRead, int32(unix.EPERM), nil},
		{"an error of the kernel's own", fp.OpRead, -512, nil},
		{"a name with a slash", fp.OpReaddir, 0, append(bytes.Clone(fp.Bytes(&fp.Dirent{NameLen: 3, Off: 1})), "a/b\x00\x00\x00\x00\x00"...)},
		{"a target with a zero byte", fp.OpReadlink, 0, []byte("a\x00b")},
		{"more bytes than were written", fp.OpWrite, 0, bytes.Clone(fp.Bytes(&fp.WriteOut{Size: 1}))},
	} {
		t.Run(c.what, func(t *testing.T) {
			g := liar(t, 31, c.op, c.errno, 0, c.body, Options{})
			if _, errno := g.lieTo(c.op); errno != unix.EIO {
				t.Errorf("%v, want EIO", errno)
			}
			if n := g.fs.nodeCount.Load(); n > 1 {
				t.Errorf("%d nodes are left", n)
			}
		})
	}
}

// TestBrokenFraming: a program whose messages are cut or joined is ended, because nothing that comes after can be trusted.
func TestBrokenFraming(t *testing.T) {
	for _, length := range []uint32{0, 15, 17, 1 << 31} {
		m := newModel(t, 31)
		m.hook = func(p *process, h *fp.InHeader, _ []byte) bool {
			if fp.Opcode(h.Opcode) != fp.OpStatfs {
				return false
			}
			p.raw(fp.Bytes(&fp.OutHeader{Len: length, Unique: h.Unique}))
			return true
		}
		g := newGuest(t, m, Options{})
		if _, errno := g.do(fp.OpStatfs, 1, 80); errno != unix.EIO {
			t.Errorf("a header that says %d bytes: %v", length, errno)
		}
		<-g.fs.Ended()
	}
}

var _ server.FileSystem = (*FS)(nil)
