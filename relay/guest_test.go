package relay

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// deadline is for what happens soon on a machine that does something.
const deadline = 60 * time.Second

// guest is a client of a relay.
type guest struct {
	t      testing.TB
	fs     *FS
	model  *model
	server *server.Server
	thread fuse.Thread
	unique uint64
	pid    uint32 // of who asks
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// newGuest serves a model to a guest that can do all.
func newGuest(t testing.TB, m *model, o Options) *guest {
	t.Cleanup(func() { // after the guest's
		select {
		case <-m.process().done:
		case <-time.After(deadline):
			t.Error("the program has not ended")
		}
		m.check()
	})
	g := newGuestOf(t, m, o)
	g.model = m
	return g
}

// newGuestOf is newGuest for any program.
func newGuestOf(t testing.TB, source Source, o Options) *guest {
	if o.Log == nil {
		o.Log = quiet
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	fs, err := New(ctx, source, o)
	if err != nil {
		t.Fatal(err)
	}
	return newGuestOn(t, fs, fs)
}

// newGuestOn is a guest of a file system around the relay's.
func newGuestOn(t testing.TB, fs *FS, around server.FileSystem) *guest {
	var err error
	g := &guest{t: t, fs: fs, server: server.New(around, server.Options{Log: quiet}), pid: 4242}
	runtime.LockOSThread() // as StartThread does
	if g.thread, err = g.server.StartThread(fuse.Hooks{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.thread.Stop()
		if err := g.server.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	g.init()
	return g
}

func (g *guest) init() {
	in := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0) &^ uint32(fp.InitReserved), Flags2: 0x7ff, MaxReadahead: 1 << 20}
	if _, errno := g.do(fp.OpInit, 0, 200, fp.Bytes(&in)); errno != 0 {
		g.t.Fatal(errno)
	}
}

// start begins a request; the reply, without its header, and the errno come in the channel.
func (g *guest) start(op fp.Opcode, node uint64, room int, parts ...[]byte) <-chan result {
	g.unique += 2
	h := fp.InHeader{Opcode: uint32(op), Unique: g.unique, NodeID: node, UID: 1, GID: 2, PID: g.pid}
	req := bytes.Join(append([][]byte{fp.Bytes(&h)}, parts...), nil)
	(*fp.InHeader)(unsafe.Pointer(unsafe.SliceData(req))).Len = uint32(len(req))
	out := make([]byte, outHeaderSize+room)
	var m fuse.Message
	m.Set(fuse.Over(req), fuse.Over(out))
	done := make(chan result, 1)
	finish := func(r fuse.Reply) {
		n := max(int(r.Len), outHeaderSize)
		done <- result{out[outHeaderSize:n], r.Errno}
	}
	r, p := g.thread.Handle(&m)
	if p == nil {
		finish(r)
		return done
	}
	p.Start(func(r fuse.Reply) {
		p.Free()
		finish(r)
	})
	return done
}

type result struct {
	data  []byte
	errno unix.Errno
}

func (g *guest) wait(c <-chan result) ([]byte, unix.Errno) {
	select {
	case r := <-c:
		return r.data, r.errno
	case <-time.After(deadline):
		g.t.Fatal("no reply")
	}
	return nil, 0
}

func (g *guest) do(op fp.Opcode, node uint64, room int, parts ...[]byte) ([]byte, unix.Errno) {
	g.t.Helper()
	return g.wait(g.start(op, node, room, parts...))
}

// must is do for what has to succeed.
func (g *guest) must(op fp.Opcode, node uint64, room int, parts ...[]byte) []byte {
	g.t.Helper()
	b, errno := g.do(op, node, room, parts...)
	if errno != 0 {
		g.t.Fatalf("%s: %v", op, errno)
	}
	return b
}

func as[T fp.Body](b []byte) (v T) {
	copy(fp.Bytes(&v), b)
	return v
}

func name(s string) []byte { return append([]byte(s), 0) }

func (g *guest) lookup(dir uint64, s string) fp.EntryOut {
	g.t.Helper()
	return as[fp.EntryOut](g.must(fp.OpLookup, dir, 128, name(s)))
}

func (g *guest) open(op fp.Opcode, node uint64, flags uint32) uint64 {
	g.t.Helper()
	return as[fp.OpenOut](g.must(op, node, 16, fp.Bytes(&fp.OpenIn{Flags: flags}))).Fh
}

func (g *guest) read(node, fh, off uint64, size int) []byte {
	g.t.Helper()
	return g.must(fp.OpRead, node, size, fp.Bytes(&fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)}))
}

type listed struct {
	name  string
	entry fp.EntryOut
	d     fp.Dirent
}

// list reads a directory to its end, in pieces.
func (g *guest) list(op fp.Opcode, node, fh uint64, size int) (all []listed) {
	g.t.Helper()
	off := uint64(0)
	for {
		b := alignedCopy(g.must(op, node, size, fp.Bytes(&fp.ReadIn{Fh: fh, Offset: off, Size: uint32(size)})))
		if len(b) == 0 {
			return all
		}
		ok := forEntries(b, op == fp.OpReaddirplus, func(e *fp.EntryOut, d *fp.Dirent, name []byte) bool {
			l := listed{name: string(name), d: *d}
			if e != nil {
				l.entry = *e
			}
			all, off = append(all, l), d.Off
			return true
		})
		if !ok {
			g.t.Fatalf("malformed listing %x", b)
		}
	}
}

// eventually waits until ok returns true; what says what is wrong until then.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}
