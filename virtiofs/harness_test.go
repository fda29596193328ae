package virtiofs

import (
	"encoding/binary"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/internal/eventfd"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtqueue"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

func quiet() *slog.Logger {
	return slog.New(slog.DiscardHandler)
}

// testFS answers at once, or does what a test wants.
type testFS struct {
	server.NotImplemented
	getattr func(r *server.Request) unix.Errno
	fsync   func(r *server.Request) unix.Errno
	setlk   func(r *server.Request) unix.Errno
	threads atomic.Int64 // started so far
	start   func(n int64) error
}

func (f *testFS) StartThread(*server.Thread) error {
	n := f.threads.Add(1)
	if f.start != nil {
		return f.start(n)
	}
	return nil
}

func (f *testFS) StopThread(*server.Thread) {}

func (f *testFS) Init(p *server.InitParams) unix.Errno {
	p.Flags |= fp.InitPosixLocks
	return 0
}

func (f *testFS) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	if f.getattr != nil {
		return f.getattr(r)
	}
	out.Attr.Ino = 9
	return 0
}

func (f *testFS) Fsync(r *server.Request, _ *fp.FsyncIn) unix.Errno         { return f.fsync(r) }
func (f *testFS) Setlk(r *server.Request, _ *fp.LkIn, wait bool) unix.Errno { return f.setlk(r) }

// ring is a driver of one request queue: each request has two descriptors, and 8 KiB of
// memory for its request and 64 KiB for its reply.
type ring struct {
	*vqtest.Driver
	t          testing.TB
	queue      *virtqueue.Queue
	call, kick int // the driver's; kick is -1 without one
	notifier   eventfd.Notifier
	errors     eventfd.Notifier
	unique     uint64
	offered    uint16 // since the last kick was considered
	kicks      int
}

const (
	ringSize  = 64
	requestAt = 8 << 10 // bytes a slot has for its request
	replyRoom = 64 << 10
)

func newRing(t testing.TB) *ring {
	t.Helper()
	r := &ring{Driver: vqtest.New(t, ringSize), t: t, kick: -1}
	var err error
	if r.queue, err = virtqueue.New(&r.Space, r.Config()); err != nil {
		t.Fatal(err)
	}
	if r.kick, err = eventfd.New(); err != nil {
		t.Fatal(err)
	}
	if r.call, err = eventfd.New(); err != nil {
		t.Fatal(err)
	}
	ours, err := unix.Dup(r.call)
	if err != nil {
		t.Fatal(err)
	}
	r.notifier.Set(ours)
	t.Cleanup(func() {
		r.notifier.Close()
		_ = unix.Close(r.call)
		_ = unix.Close(r.kick)
	})
	return r
}

func (r *ring) vring() vhostuser.Vring {
	return vhostuser.Vring{Queue: r.queue, Kick: r.kick, Call: &r.notifier, Err: &r.errors}
}

// slots is how many requests there can be at the same time.
const slots = 32

func slotAt(r *ring, slot int) int { return r.DataAt() + slot*(requestAt+replyRoom) }

// send offers a request in a slot and does not kick.
func (r *ring) send(slot int, op fp.Opcode, node uint64, body []byte, room int) {
	r.unique++
	h := fp.InHeader{Opcode: uint32(op), Unique: r.unique, NodeID: node, Len: uint32(fp.Size[fp.InHeader]() + len(body))}
	at := slotAt(r, slot)
	n := copy(r.Mem[at:], fp.Bytes(&h))
	n += copy(r.Mem[at+n:], body)
	clear(r.Mem[at+requestAt : at+requestAt+16])
	r.Set(2*slot, vqtest.Desc{Addr: r.Guest(at), Len: uint32(n), Flags: vqtest.Next, Next: uint16(2*slot + 1)})
	r.Set(2*slot+1, vqtest.Desc{Addr: r.Guest(at + requestAt), Len: uint32(16 + room), Flags: vqtest.Write})
	r.Offer(uint16(2 * slot))
	r.offered++
}

// notify kicks if the device wants that for what was offered.
func (r *ring) notify() {
	if r.WantsKick(r.offered) {
		r.kicks++
		eventfd.Signal(r.kick)
	}
	r.offered = 0
}

// reply is the slot's reply: its error and what follows the header.
func (r *ring) reply(slot int) (unix.Errno, []byte) {
	b := r.Mem[slotAt(r, slot)+requestAt:]
	n := binary.NativeEndian.Uint32(b)
	if n < 16 {
		return 0, nil
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(b[4:]))), b[16:n]
}

// wait returns the slot of the next finished request.
func (r *ring) wait() int {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if id, _, ok := r.Reap(); ok {
			return int(id) / 2
		}
		time.Sleep(50 * time.Microsecond)
	}
	r.t.Fatal("no answer")
	return -1
}

// do sends a request and waits for its reply.
func (r *ring) do(op fp.Opcode, node uint64, body []byte, room int) (unix.Errno, []byte) {
	r.t.Helper()
	r.send(0, op, node, body, room)
	r.notify()
	r.wait()
	return r.reply(0)
}

func (r *ring) init() {
	r.t.Helper()
	in := fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0), Flags2: ^uint32(0)}
	if errno, _ := r.do(fp.OpInit, 0, fp.Bytes(&in), 80); errno != 0 {
		r.t.Fatal("INIT:", errno)
	}
}

// newServer is a server of fs.
func newServer(fs server.FileSystem) *server.Server {
	return server.New(fs, server.Options{Log: quiet()})
}

// start starts a worker for the ring, with a session, and stops it at the end.
func start(t testing.TB, fs server.FileSystem) (*ring, *worker) {
	t.Helper()
	r := newRing(t)
	w, err := startWorker(newServer(fs), nil, r.vring(), BusyPoll{}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !w.stopping.Load() {
			w.stop()
		}
	})
	r.init()
	return r, w
}

// startWorker starts the goroutine of a queue and waits until its thread is
// ready. The queue may be one that is seldom used.
func startWorker(h fuse.Handler, in *host.Host, v vhostuser.Vring, poll BusyPoll, seldom bool, log *slog.Logger) (*worker, error) {
	w, err := newWorker(h, in, v, poll, log)
	if err != nil {
		return nil, err
	}
	if err := w.start(seldom); err != nil {
		return nil, err
	}
	return w, nil
}
