package server

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// fakeFS checks what reaches it and answers what a test wants.
type fakeFS struct {
	NotImplemented
	t       testing.TB
	want    fp.InitFlags
	lookup  func(r *Request, name fp.Name, out *fp.EntryOut) unix.Errno
	setlk   func(r *Request, wait bool) unix.Errno
	fsync   func(r *Request) unix.Errno
	destroy int
	closed  atomic.Int32
	closing func() // called by Close
}

func (f *fakeFS) Init(p *InitParams) unix.Errno { p.Flags |= f.want; return 0 }
func (f *fakeFS) Destroy()                      { f.destroy++ }
func (f *fakeFS) Close() {
	if f.closing != nil {
		f.closing()
	}
	f.closed.Add(1)
}

func (f *fakeFS) checkName(n fp.Name) {
	s := n.String()
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") || len(s) > fp.NameMax || n[len(n)-1] != 0 {
		f.t.Errorf("the name %q reaches the file system", s)
	}
}

func (f *fakeFS) Lookup(r *Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	if f.lookup != nil {
		return f.lookup(r, name, out)
	}
	f.checkName(name)
	out.NodeID = 7
	return 0
}

func (f *fakeFS) Getattr(_ *Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	out.Attr.Ino = 9
	return 0
}

func (f *fakeFS) Mkdir(_ *Request, _ *fp.MkdirIn, name fp.Name, _ *fp.EntryOut) unix.Errno {
	f.checkName(name)
	return 0
}

func (f *fakeFS) Rename(_ *Request, _ *fp.Rename2In, a, b fp.Name) unix.Errno {
	f.checkName(a)
	f.checkName(b)
	return 0
}

func (f *fakeFS) Read(_ *Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	if dst.Len() != uint64(in.Size) {
		f.t.Errorf("READ of %d bytes gets buffers of %d", in.Size, dst.Len())
	}
	for i := range dst {
		b := dst.Piece(i)
		for j := range b {
			b[j] = 'r'
		}
	}
	return int(in.Size), 0
}

func (f *fakeFS) Write(_ *Request, in *fp.WriteIn, src fuse.Buffers) (int, unix.Errno) {
	if src.Len() != uint64(in.Size) {
		f.t.Errorf("WRITE of %d bytes gets buffers of %d", in.Size, src.Len())
	}
	return int(in.Size), 0
}

func (f *fakeFS) Readdirplus(_ *Request, _ *fp.ReadIn, out *DirWriter) unix.Errno {
	var e fp.EntryOut
	for i := range uint64(10) {
		out.AddPlus(&e, i, i, 0, []byte("name"))
	}
	return 0
}

func (f *fakeFS) Setlk(r *Request, _ *fp.LkIn, wait bool) unix.Errno { return f.setlk(r, wait) }
func (f *fakeFS) Fsync(r *Request, _ *fp.FsyncIn) unix.Errno         { return f.fsync(r) }

// newServer is a server with a session.
func newServer(t testing.TB, fs *fakeFS, opts Options) (*Server, *thread) {
	t.Helper()
	opts.Log = slog.New(slog.DiscardHandler)
	fs.t = t
	s := New(fs, opts)
	thread := newThread(s)
	in := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0), Flags2: ^uint32(0)}
	if _, errno := serve(thread, fp.OpInit, fp.Bytes(&in), 80); errno != 0 {
		t.Fatal("INIT:", errno)
	}
	return s, thread
}

// message is a request's bytes.
func message(op fp.Opcode, body []byte) []byte {
	h := fp.InHeader{Len: uint32(headerSize + len(body)), Opcode: uint32(op), Unique: 5, NodeID: 1}
	return append(append([]byte(nil), fp.Bytes(&h)...), body...)
}

// split makes buffers of at most n bytes.
func split(b []byte, n int) fuse.Buffers { return fuse.Over(slices.Collect(slices.Chunk(b, n))...) }

// handle has t serve the request in in, without a transport.
func handle(t *thread, in, out fuse.Buffers) (written uint32, d *pending) {
	var m fuse.Message
	m.Set(in, out)
	r, d := t.serve(&m)
	return r.Len, d
}

// serve sends one request and returns the reply's body.
func serve(t *thread, op fp.Opcode, body []byte, room int) ([]byte, unix.Errno) {
	out := alignedBytes(room)
	var m fuse.Message
	m.Set(split(message(op, body), 1<<20), split(out, 1<<20))
	r, p := t.Handle(&m)
	if p != nil {
		done := make(chan fuse.Reply)
		p.Start(func(r fuse.Reply) { done <- r })
		r = <-done
	}
	if r.Len < 16 {
		return nil, unix.ENODATA
	}
	h, rest, _ := fp.View[fp.OutHeader](out)
	if h.Error != -int32(r.Errno) || h.Len != r.Len {
		panic(fmt.Sprintf("%v: the reply is %+v, and %+v is reported", op, *h, r))
	}
	return rest[:r.Len-16], r.Errno
}

// TestSplits cuts requests and replies at every byte.
func TestSplits(t *testing.T) {
	_, thread := newServer(t, &fakeFS{}, Options{})
	for n := 1; n < 60; n++ {
		out := make([]byte, 16+128)
		written, _ := handle(thread, split(message(fp.OpLookup, []byte("name\x00")), n), split(out, 61-n))
		if written != 16+128 || out[8] != 5 || out[16] != 7 {
			t.Fatalf("cut every %d bytes: %d bytes, % x", n, written, out[:24])
		}
		in := fp.ReadIn{Size: 100}
		clear(out)
		written, _ = handle(thread, split(message(fp.OpRead, fp.Bytes(&in)), n), split(out, 61-n))
		if written != 116 || out[16] != 'r' || out[115] != 'r' || out[116] != 0 {
			t.Fatalf("READ cut every %d bytes: %d, % x", n, written, out)
		}
	}
}

func TestInit(t *testing.T) {
	for _, c := range []struct {
		major, minor uint32
		size         int
		errno        unix.Errno
		minorOut     uint32
	}{
		{7, 45, 64, 0, 45}, {7, 99, 64, 0, 45}, {7, 27, 16, 0, 27}, {7, 31, 16, 0, 31},
		{7, 26, 16, unix.EPROTO, 0}, {6, 45, 64, unix.EPROTO, 0}, {7, 45, 15, unix.EINVAL, 0},
	} {
		s := New(&fakeFS{t: t}, Options{Log: slog.New(slog.DiscardHandler)})
		in := fp.InitIn{Major: c.major, Minor: c.minor, Flags: uint32(fp.InitMaxPages)}
		b, errno := serve(newThread(s), fp.OpInit, fp.Bytes(&in)[:c.size], 80)
		if errno != c.errno {
			t.Errorf("%+v: %v", c, errno)
		}
		if errno == 0 {
			if out, _, _ := fp.View[fp.InitOut](b); out.Minor != c.minorOut || out.MaxPages != 256 || out.MaxWrite != 1<<20 {
				t.Errorf("%+v: %+v", c, out)
			}
		}
	}
	s := New(&fakeFS{t: t}, Options{Log: slog.New(slog.DiscardHandler)})
	thread := newThread(s)
	in := fp.InitIn{Major: 8}
	if b, errno := serve(thread, fp.OpInit, fp.Bytes(&in), 80); errno != 0 || len(b) != 8 || b[0] != 7 {
		t.Errorf("a newer major: %v, %v", b, errno)
	}
	if _, errno := serve(thread, fp.OpGetattr, make([]byte, 16), 200); errno == 0 {
		t.Error("a session has begun without agreement")
	}
}

// TestRequestTimeout: a client that knows how is told when to give up, if there is a limit; and one
// that came from elsewhere keeps what it was told.
func TestRequestTimeout(t *testing.T) {
	all := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0), Flags2: ^uint32(0)}
	old := all
	old.Flags2 &^= uint32(fp.InitRequestTimeout >> 32)
	for _, c := range []struct {
		limit uint16
		in    fp.InitIn
		want  uint16
	}{{0, all, 0}, {90, all, 90}, {65535, all, 65535}, {90, old, 0}} {
		s := New(&fakeFS{t: t}, Options{RequestTimeout: c.limit, Log: slog.New(slog.DiscardHandler)})
		b, errno := serve(newThread(s), fp.OpInit, fp.Bytes(&c.in), 80)
		if errno != 0 {
			t.Fatal(errno)
		}
		out, _, _ := fp.View[fp.InitOut](b)
		if agreed := out.Flags2&uint32(fp.InitRequestTimeout>>32) != 0; agreed != (c.want != 0) || out.RequestTimeout != c.want {
			t.Errorf("limit %d: %d seconds, agreed %v", c.limit, out.RequestTimeout, agreed)
		}
	}
	s := New(&fakeFS{t: t}, Options{Log: slog.New(slog.DiscardHandler)})
	if err := s.resume(&session{minor: 45, flags: fp.InitRequestTimeout}); err != nil {
		t.Error("a client that has a limit can't come to a daemon without one:", err)
	}
}

// TestNeeds refuses what was not agreed, and what changes a read-only share.
func TestNeeds(t *testing.T) {
	_, thread := newServer(t, &fakeFS{}, Options{ReadOnly: true})
	in := fp.ReadIn{Size: 4096}
	if _, errno := serve(thread, fp.OpReaddirplus, fp.Bytes(&in), 4200); errno != unix.ENOSYS {
		t.Errorf("READDIRPLUS: %v", errno)
	}
	for op, body := range map[fp.Opcode][]byte{
		fp.OpMkdir: append(make([]byte, 8), "d\x00"...), fp.OpSetattr: make([]byte, 88), fp.OpUnlink: []byte("x\x00"),
		fp.OpWrite: make([]byte, 40), fp.OpFallocate: make([]byte, 32), fp.OpOpen: {2, 0, 0, 0, 0, 0, 0, 0},
		fp.OpTmpfile: make([]byte, 18), fp.OpCopyFileRange64: make([]byte, 56), fp.OpRemovexattr: []byte("user.a\x00"),
	} {
		if _, errno := serve(thread, op, body, 300); errno != unix.EROFS {
			t.Errorf("%s on a read-only share: %v", op, errno)
		}
	}
	truncating := []byte{0, 2, 0, 0, 0, 0, 0, 0} // O_RDONLY|O_TRUNC
	if _, errno := serve(thread, fp.OpOpen, truncating, 300); errno != unix.EROFS {
		t.Errorf("O_RDONLY|O_TRUNC: %v", errno)
	}
}

// TestWaiting: a request that would block is finished elsewhere, once, and can be
// interrupted.
func TestWaiting(t *testing.T) {
	fs := &fakeFS{want: fp.InitPosixLocks}
	_, thread := newServer(t, fs, Options{MaxWaiting: 2})
	fs.fsync = func(r *Request) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		time.Sleep(5 * time.Millisecond)
		return unix.ENOSPC
	}
	results := make(chan uint32, 20)
	var replies [20][16]byte
	for i := range replies {
		in := fp.FsyncIn{}
		_, d := handle(thread, split(message(fp.OpFsync, fp.Bytes(&in)), 100), split(replies[i][:], 100))
		if d == nil {
			t.Fatal("not deferred")
		}
		d.Start(func(r fuse.Reply) { results <- r.Len })
	}
	for range replies {
		if n := <-results; n != 16 {
			t.Errorf("reply of %d bytes", n)
		}
	}
	if h, _, _ := fp.View[fp.OutHeader](replies[19][:]); h.Error != -int32(unix.ENOSPC) {
		t.Errorf("errno %d", h.Error)
	}
	fs.setlk = func(r *Request, wait bool) unix.Errno {
		if !wait || !r.MayWait {
			return WouldBlock
		}
		<-r.Canceled
		return unix.EINTR
	}
	in := fp.LkIn{}
	_, d := handle(thread, split(message(fp.OpSetlkw, fp.Bytes(&in)), 100), split(replies[0][:], 100))
	d.Start(func(r fuse.Reply) { results <- r.Len })
	stop := fp.InterruptIn{Unique: 5}
	handle(thread, split(message(fp.OpInterrupt, fp.Bytes(&stop)), 100), nil)
	<-results
	if h, _, _ := fp.View[fp.OutHeader](replies[0][:]); h.Error != -int32(unix.EINTR) {
		t.Errorf("interrupted: errno %d", h.Error)
	}
	d.cancel()
}

// TestLinger: what waits for another client needs room to do so, and ends with ENOLCK when
// the transport ends it. What waits for itself only needs none.
func TestLinger(t *testing.T) {
	fs := &fakeFS{want: fp.InitPosixLocks}
	_, thread := newServer(t, fs, Options{})
	fs.setlk = func(r *Request, _ bool) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		<-r.Canceled
		return unix.EINTR
	}
	fs.fsync = func(*Request) unix.Errno { return WouldBlock }
	room := false
	thread.hooks.MayLinger = func() bool { return room }
	defer func() { thread.hooks.MayLinger = nil }()
	lock := message(fp.OpSetlkw, fp.Bytes(&fp.LkIn{}))
	var reply, other [16]byte
	wantError := func(what string, reply []byte, want unix.Errno) {
		t.Helper()
		if h, _, _ := fp.View[fp.OutHeader](reply); h.Error != -int32(want) {
			t.Errorf("%s: errno %d, want %d", what, -h.Error, want)
		}
	}
	if n, d := handle(thread, split(lock, 100), split(reply[:], 100)); n != 16 || d != nil {
		t.Fatalf("without room: %d bytes, deferred %v", n, d)
	}
	wantError("without room", reply[:], unix.ENOLCK)
	if _, d := handle(thread, split(message(fp.OpFsync, fp.Bytes(&fp.FsyncIn{})), 100), split(reply[:], 100)); d == nil || d.Lingers() {
		t.Errorf("FSYNC needs no room, deferred %v", d)
	}
	room = true
	_, d := handle(thread, split(lock, 100), split(reply[:], 100))
	if d == nil || !d.Lingers() {
		t.Fatalf("with room: deferred %v", d)
	}
	clear(reply[:])
	d.ReplyTo(split(other[:], 100))
	done := make(chan uint32, 1)
	d.Start(func(r fuse.Reply) { done <- r.Len })
	d.Stop()
	if n := <-done; n != 16 || reply != [16]byte{} {
		t.Errorf("reply of %d bytes, and %x where it does not belong", n, reply)
	}
	wantError("stopped", other[:], unix.ENOLCK)
}

// TestRun: a short wait may be on the thread that received the request, which may not wait
// for the next.
func TestRun(t *testing.T) {
	var mayWait []bool
	var wait unix.Errno
	fs := &fakeFS{}
	_, thread := newServer(t, fs, Options{})
	fs.fsync = func(r *Request) unix.Errno {
		mayWait = append(mayWait, r.MayWait)
		if r.Thread != &thread.Thread {
			t.Error("served on another thread")
		}
		if !r.MayWait {
			return wait
		}
		return unix.ENOSPC
	}
	in := fp.FsyncIn{}
	for _, wait = range []unix.Errno{WouldBlockBriefly, WouldBlock} {
		var reply [16]byte
		n, d := handle(thread, split(message(fp.OpFsync, fp.Bytes(&in)), 100), split(reply[:], 100))
		if n != 0 || d == nil || d.Brief() != (wait == WouldBlockBriefly) {
			t.Fatalf("%d bytes, deferred %v", n, d)
		}
		if n := thread.Run(d).Len; n != 16 {
			t.Errorf("reply of %d bytes", n)
		}
		if h, _, _ := fp.View[fp.OutHeader](reply[:]); h.Error != -int32(unix.ENOSPC) {
			t.Errorf("errno %d", h.Error)
		}
	}
	if want := []bool{false, true, false, true}; !slices.Equal(mayWait, want) {
		t.Errorf("leave to wait: %v, want %v", mayWait, want)
	}
}

// TestTry: a request that still has to wait is as it was before.
func TestTry(t *testing.T) {
	var there bool
	fs := &fakeFS{}
	s, thread := newServer(t, fs, Options{})
	fs.fsync = func(r *Request) unix.Errno {
		if r.MayWait {
			t.Error("it may wait")
		}
		if !there {
			return WouldBlockBriefly
		}
		return unix.ENOSPC
	}
	in := fp.FsyncIn{}
	var reply [16]byte
	_, d := handle(thread, split(message(fp.OpFsync, fp.Bytes(&in)), 100), split(reply[:], 100))
	if d == nil {
		t.Fatal("it does not wait")
	}
	for range 3 {
		if r, ok := thread.Try(d); r.Len != 0 || ok {
			t.Fatalf("%+v, done: %v", r, ok)
		}
	}
	if reply != [16]byte{} || len(s.waiting.table) != 1 {
		t.Errorf("reply % x, %d requests wait", reply, len(s.waiting.table))
	}
	there = true
	if r, ok := thread.Try(d); r != (fuse.Reply{Len: 16, Errno: unix.ENOSPC}) || !ok {
		t.Errorf("%+v, done: %v", r, ok)
	}
	if h, _, _ := fp.View[fp.OutHeader](reply[:]); h.Error != -int32(unix.ENOSPC) || len(s.waiting.table) != 0 {
		t.Errorf("errno %d, %d requests wait", h.Error, len(s.waiting.table))
	}
}

// TestPanic: a mistake in a method costs the request.
func TestPanic(t *testing.T) {
	_, thread := newServer(t, &fakeFS{lookup: func(*Request, fp.Name, *fp.EntryOut) unix.Errno { panic("oops") }}, Options{})
	if _, errno := serve(thread, fp.OpLookup, []byte("x\x00"), 200); errno != unix.EIO {
		t.Error(errno)
	}
	if _, errno := serve(thread, fp.OpGetattr, make([]byte, 16), 200); errno != 0 {
		t.Error(errno)
	}
}

func TestExtensions(t *testing.T) {
	groups := func(size, n uint32, list ...byte) []byte {
		return append(append(append([]byte(nil), fp.Bytes(&fp.ExtHeader{Size: size, Type: fp.ExtGroups})...),
			fp.Bytes(&fp.SuppGroups{NrGroups: n})...), list...)
	}
	var r Request
	if errno := r.parseExtensions(groups(16, 1, 4, 1, 0, 0)); errno != 0 || len(r.Groups) != 1 || r.Groups[0] != 260 {
		t.Error(errno, r.Groups)
	}
	for i, bad := range [][]byte{
		{1, 2, 3}, groups(7, 0), groups(100, 1, 1, 2, 3, 4), groups(16, 2, 1, 2, 3, 4), groups(16, 0xffffffff, 1, 2, 3, 4),
		fp.Bytes(&fp.ExtHeader{Size: 8, Type: 99}), fp.Bytes(&fp.SecctxHeader{Size: 8, NrSecctx: 3}),
	} {
		var r Request
		if errno := r.parseExtensions(bad); errno != unix.EINVAL {
			t.Errorf("malformed extension %d: %v", i, errno)
		}
	}
}

func TestAllocations(t *testing.T) {
	fs := &fakeFS{want: fp.InitDoReaddirplus}
	_, thread := newServer(t, fs, Options{})
	read, write := fp.ReadIn{Size: 4096}, fp.WriteIn{Size: 4096}
	for op, body := range map[fp.Opcode][]byte{
		fp.OpLookup: []byte("name\x00"), fp.OpGetattr: make([]byte, 16), fp.OpRead: fp.Bytes(&read),
		fp.OpWrite: append(append([]byte(nil), fp.Bytes(&write)...), make([]byte, 4096)...), fp.OpReaddirplus: fp.Bytes(&read),
	} {
		fs.lookup = func(*Request, fp.Name, *fp.EntryOut) unix.Errno { return 0 }
		in, out := split(message(op, body), 1<<20), split(make([]byte, 16+4096), 512)
		if n := testing.AllocsPerRun(200, func() { handle(thread, in, out) }); n != 0 {
			t.Errorf("%s: %v allocations", op, n)
		}
	}
}

// FuzzHandle sends any bytes, cut in any way, with any room for the reply.
func FuzzHandle(f *testing.F) {
	f.Add(message(fp.OpLookup, []byte("name\x00")), uint16(200), uint8(7))
	f.Add(message(fp.OpRename2, append(make([]byte, 16), "a\x00b\x00"...)), uint16(16), uint8(100))
	f.Add(message(fp.OpBatchForget, append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 32)...)), uint16(0), uint8(1))
	for op := range fp.Opcode(fp.NumOpcodes) {
		f.Add(message(op, make([]byte, 90)), uint16(300), uint8(50))
	}
	f.Fuzz(func(t *testing.T, b []byte, room uint16, cutAt uint8) {
		fs := &fakeFS{want: fp.InitDoReaddirplus | fp.InitSetxattrExt}
		fs.setlk = func(r *Request, _ bool) unix.Errno { return unix.EAGAIN }
		fs.fsync = func(r *Request) unix.Errno { return 0 }
		_, thread := newServer(t, fs, Options{})
		if len(b) >= 4 && cutAt%2 == 0 { // a length that is true gets further
			b[0], b[1], b[2], b[3] = byte(len(b)), byte(len(b)>>8), byte(len(b)>>16), 0
		}
		written, d := handle(thread, split(b, int(cutAt)+1), split(make([]byte, room), rand.IntN(200)+1))
		if d != nil {
			t.Fatal("deferred")
		}
		if written > uint32(room) || written > 0 && written < 16 {
			t.Fatal(fmt.Sprint(written, " bytes written, room for ", room))
		}
	})
}
