package server

import (
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// fakeKernel is what takes backing files.
type fakeKernel struct {
	refuse unix.Errno
	last   int32
	open   map[int32]int
}

func (k *fakeKernel) OpenBacking(fd int) (int32, error) {
	if k.refuse != 0 {
		return 0, k.refuse
	}
	k.last++
	k.open[k.last] = fd
	return k.last, nil
}

func (k *fakeKernel) CloseBacking(id int32) error {
	delete(k.open, id)
	return nil
}

// backedFS has a descriptor for each open file: ten times the node's number.
type backedFS struct {
	fakeFS
	fail, releaseFails, wait unix.Errno
}

func (f *backedFS) Open(r *Request, _ *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	r.Back(r.Header.NodeID, int(10*r.Header.NodeID))
	out.OpenFlags = fp.FopenKeepCache | fp.FopenDirectIO | fp.FopenNoflush
	return f.fail
}

func (f *backedFS) Create(r *Request, _ *fp.CreateIn, _ fp.Name, out *fp.CreateOut) unix.Errno {
	out.Entry.NodeID = 77
	r.Back(77, 770)
	return f.fail
}

func (f *backedFS) Release(r *Request, _ *fp.ReleaseIn) unix.Errno {
	if f.wait != 0 && !r.MayWait {
		return f.wait
	}
	return f.releaseFails
}

// backedServer has a session whose kernel is k.
func backedServer(t *testing.T, fs *backedFS, k fuse.Backing) (*Server, *thread) {
	t.Helper()
	fs.want = fp.InitPassthrough
	s := New(fs, Options{Log: slog.New(slog.DiscardHandler)})
	thread := newThread(s)
	thread.hooks.Backing = k
	in := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0), Flags2: ^uint32(0)}
	reply, errno := serve(thread, fp.OpInit, fp.Bytes(&in), 80)
	if errno != 0 {
		t.Fatal("INIT:", errno)
	}
	out, _, _ := fp.View[fp.InitOut](reply)
	agreed := fp.InitFlags(out.Flags2)<<32&fp.InitPassthrough != 0
	if agreed != (k != nil) || (out.MaxStackDepth != 0) != agreed {
		t.Fatalf("INIT's reply has flags %#x, stack depth %d", out.Flags2, out.MaxStackDepth)
	}
	return s, thread
}

// openOn opens a node, and returns FOPEN flags and number of the backing file.
func openOn(t *testing.T, thread *thread, node uint64) (flags uint32, id int32) {
	t.Helper()
	in := fp.OpenIn{}
	out, errno := serveOn(thread, fp.OpOpen, node, fp.Bytes(&in), fp.Size[fp.OpenOut]())
	if errno != 0 {
		t.Fatal("OPEN:", errno)
	}
	v, _, _ := fp.View[fp.OpenOut](out[outHeaderSize:])
	return v.OpenFlags, v.BackingID
}

func releaseOn(thread *thread, node uint64) unix.Errno {
	in := fp.ReleaseIn{}
	_, errno := serveOn(thread, fp.OpRelease, node, fp.Bytes(&in), 0)
	return errno
}

// serveOn is serve for a node.
func serveOn(thread *thread, op fp.Opcode, node uint64, body []byte, room int) ([]byte, unix.Errno) {
	in := message(op, body)
	h, _, _ := fp.View[fp.InHeader](in)
	h.NodeID = node
	out := alignedBytes(outHeaderSize + room)
	n, p := handle(thread, fuse.Over(in), fuse.Over(out))
	if p != nil {
		done := make(chan fuse.Reply)
		p.Start(func(r fuse.Reply) { done <- r })
		n = (<-done).Len
		p.Free()
	}
	head, _, _ := fp.View[fp.OutHeader](out)
	return out[:n], unix.Errno(-head.Error)
}

// TestBacking: all open files of a node have the same backing file, from the first open to the last
// RELEASE, whichever way they end.
func TestBacking(t *testing.T) {
	fs, k := &backedFS{}, &fakeKernel{open: map[int32]int{}}
	s, thread := backedServer(t, fs, k)
	flags, first := openOn(t, thread, 5)
	if first == 0 || k.open[first] != 50 || flags != fp.FopenPassthrough|fp.FopenNoflush {
		t.Errorf("the first open has flags %#x, number %d of %v", flags, first, k.open)
	}
	if _, id := openOn(t, thread, 5); id != first {
		t.Errorf("the second open has number %d, want %d", id, first)
	}
	if _, id := openOn(t, thread, 6); id == first || k.open[id] != 60 {
		t.Errorf("another node has number %d of %v", id, k.open)
	}
	fs.fail = unix.EMFILE
	in := fp.OpenIn{}
	for range 3 { // those count nothing
		if _, errno := serveOn(thread, fp.OpOpen, 5, fp.Bytes(&in), fp.Size[fp.OpenOut]()); errno != unix.EMFILE {
			t.Error("OPEN:", errno)
		}
		if _, errno := serveOn(thread, fp.OpOpen, 8, fp.Bytes(&in), fp.Size[fp.OpenOut]()); errno != unix.EMFILE {
			t.Error("OPEN:", errno)
		}
	}
	fs.fail, fs.wait = 0, WouldBlock // a RELEASE that waits counts once, and so does one that fails
	if errno := releaseOn(thread, 5); errno != 0 || len(k.open) != 2 {
		t.Errorf("RELEASE: %v, open are %v", errno, k.open)
	}
	fs.releaseFails = unix.EIO
	if errno := releaseOn(thread, 5); errno != unix.EIO || len(k.open) != 1 {
		t.Errorf("RELEASE: %v, open are %v", errno, k.open)
	}
	releaseOn(thread, 5) // one too many is nobody's
	if _, id := openOn(t, thread, 5); id == first || k.open[id] != 50 {
		t.Errorf("after the last RELEASE: number %d of %v", id, k.open)
	}
	name := append(fp.Bytes(&fp.CreateIn{}), "new\x00"...)
	out, errno := serveOn(thread, fp.OpCreate, 1, name, fp.Size[fp.CreateOut]())
	created, _, _ := fp.View[fp.CreateOut](out[outHeaderSize:])
	if errno != 0 || k.open[created.Open.BackingID] != 770 || created.Open.OpenFlags != fp.FopenPassthrough {
		t.Errorf("CREATE: %v, %+v", errno, created.Open)
	}
	s.Reset()
	if len(k.open) != 0 || len(s.backing.nodes) != 0 {
		t.Errorf("after the session %v are open", k.open)
	}
}

// TestBackingRefused: a file that the kernel refuses is served as without, for as long as it is open.
func TestBackingRefused(t *testing.T) {
	k := &fakeKernel{open: map[int32]int{}, refuse: unix.ELOOP}
	_, thread := backedServer(t, &backedFS{}, k)
	for range 2 {
		if flags, id := openOn(t, thread, 5); id != 0 || flags != fp.FopenKeepCache|fp.FopenDirectIO|fp.FopenNoflush {
			t.Errorf("flags %#x, number %d", flags, id)
		}
		k.refuse = 0 // too late for this node
	}
	releaseOn(thread, 5)
	releaseOn(thread, 5)
	if _, id := openOn(t, thread, 5); id == 0 {
		t.Error("the refusal outlives the open files")
	}
	_, thread = backedServer(t, &backedFS{}, nil) // a transport without
	if flags, id := openOn(t, thread, 5); id != 0 || flags&fp.FopenPassthrough != 0 {
		t.Errorf("flags %#x, number %d", flags, id)
	}
}
