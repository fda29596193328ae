package virtiofs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// In these tests a process serves a front-end of package frontend, and is really killed. The test
// is the keeper. What the process serves are sums in a file in memory: each slot of each queue has its
// own, so that the test knows what each reply has to say.

// deathEnv has the numbers of a worker process: generation, request queues, and the point at which
// it ends itself and at which time of coming there (-1: nowhere).
const deathEnv = "GOVIRTIOFS_TEST_WORKER"

// Descriptors of a worker process.
const (
	deathChannel = 3 + iota
	deathLedger
	deathSums
)

const sumsSize = 1 << 16 // bytes

// sumHandler adds what a request says to the sum that its node is the number of.
type sumHandler struct {
	fuse.Handler
	sums []uint64
}

type sumThread struct{ *sumHandler }

func (h *sumHandler) StartThread(fuse.Hooks) (fuse.Thread, error) { return sumThread{h}, nil }
func (h *sumHandler) Started()                                    {}
func (h *sumHandler) Restarted()                                  {}
func (h *sumHandler) Disconnected()                               {}
func (h *sumHandler) Reset()                                      {}
func (t sumThread) Broken() bool                                  { return false }
func (t sumThread) Stop()                                         {}
func (t sumThread) Try(fuse.Pending) (fuse.Reply, bool)           { return fuse.Reply{}, false }
func (t sumThread) Run(p fuse.Pending) fuse.Reply                 { return p.(*sumWait).answer() }
func (t sumThread) Refuse(m *fuse.Message, errno unix.Errno) fuse.Reply {
	return answer(m.Header, m.Out, -int32(errno), 0)
}

func (t sumThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	if fp.Opcode(m.Header.Opcode) == fp.OpFsync {
		p := &sumWait{sumHandler: t.sumHandler, m: *m, add: addend(m)}
		p.m.Out = append(fuse.Buffers(nil), m.Out...)
		return fuse.Reply{}, p
	}
	return answer(m.Header, m.Out, 0, t.add(m.Header.NodeID, addend(m), m.Cell)), nil
}

func addend(m *fuse.Message) uint64 {
	var b [8]byte
	m.In.CopyTo(b[:], uint64(fp.Size[fp.InHeader]()))
	return binary.NativeEndian.Uint64(b[:])
}

// add is a change that must happen once: the evidence is the sum before it.
func (h *sumHandler) add(node, n uint64, cell *fuse.Cell) uint64 {
	p := &h.sums[node%uint64(len(h.sums))]
	before := atomic.LoadUint64(p)
	if _, e, ok := cell.Intent(); ok && before != e[0] {
		return before
	}
	cell.Intend(1, fuse.Evidence{before})
	atomic.StoreUint64(p, before+n)
	return before + n
}

// sumWait is a request that waits for a moment.
type sumWait struct {
	*sumHandler
	m   fuse.Message
	add uint64
}

func (p *sumWait) answer() fuse.Reply {
	time.Sleep(time.Duration(p.add%50) * 20 * time.Microsecond)
	return answer(p.m.Header, p.m.Out, 0, p.sumHandler.add(p.m.Header.NodeID, p.add, p.m.Cell))
}
func (p *sumWait) Start(done func(fuse.Reply)) { go func() { done(p.answer()) }() }
func (p *sumWait) Stop()                       {}
func (p *sumWait) Brief() bool                 { return p.add%3 == 0 }
func (p *sumWait) Lingers() bool               { return false }
func (p *sumWait) ReplyTo(out fuse.Buffers)    { p.m.Out = out }
func (p *sumWait) Out() fuse.Buffers           { return p.m.Out }
func (p *sumWait) Free()                       {}

// channelKeeper is the worker's side of the channel to the test.
type channelKeeper struct{}

// Messages on the channel: what to do, kind and number of a descriptor.
const (
	sayKeep = iota + 1
	sayDrop
	sayBegin   // the worker has all descriptors
	messageLen = 10
)

func channelMessage(op byte, d vhostuser.Descriptor) []byte {
	return binary.NativeEndian.AppendUint64([]byte{op, byte(d.Kind)}, d.Number)
}

func (k *channelKeeper) Keep(d vhostuser.Descriptor, fd int) error {
	return unix.Sendmsg(deathChannel, channelMessage(sayKeep, d), unix.UnixRights(fd), nil, 0)
}

func (k *channelKeeper) Drop(d vhostuser.Descriptor) {
	_ = unix.Sendmsg(deathChannel, channelMessage(sayDrop, d), nil, nil, 0)
}

// readChannel reads one message; fd is -1 without a descriptor. io errors are errors.
func readChannel(sock int) (op byte, d vhostuser.Descriptor, fd int, err error) {
	b, oob := make([]byte, messageLen), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(sock, b, oob, unix.MSG_CMSG_CLOEXEC)
	if errors.Is(err, unix.EINTR) {
		return readChannel(sock)
	}
	if err == nil && n != messageLen {
		err = errors.New("the channel is closed")
	}
	if err != nil {
		return 0, d, -1, err
	}
	fd = -1
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 {
		if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	return b[0], vhostuser.Descriptor{Kind: vhostuser.DescriptorKind(b[1]), Number: binary.NativeEndian.Uint64(b[2:])}, fd, nil
}

// TestWorkerProcess is the worker process of the tests below. It is no test of its own.
func TestWorkerProcess(t *testing.T) {
	spec := os.Getenv(deathEnv)
	if spec == "" {
		return
	}
	var generation, queues, point, nth int
	if _, err := fmt.Sscan(spec, &generation, &queues, &point, &nth); err != nil {
		t.Fatal(err)
	}
	kept := map[vhostuser.Descriptor]int{}
	for {
		op, d, fd, err := readChannel(deathChannel)
		if err != nil {
			t.Fatal(err)
		}
		if op == sayBegin {
			break
		}
		kept[d] = fd
	}
	l, err := ledger.Open(deathLedger)
	if err != nil {
		t.Fatal(err)
	}
	l.Begin()
	b, err := unix.Mmap(deathSums, 0, sumsSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	h := &sumHandler{sums: unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), sumsSize/8)}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d, err := New(h, Options{RequestQueues: queues, Recovery: &Recovery{Ledger: l, Keeper: new(channelKeeper)}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	var came atomic.Int64
	if nth > 0 {
		d.interrupt = func(_ int, at faultPoint) {
			if at == faultPoint(point) && came.Add(1) == int64(nth) {
				_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
				select {}
			}
		}
	}
	f := os.NewFile(uintptr(kept[vhostuser.Descriptor{}]), "connection")
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	delete(kept, vhostuser.Descriptor{})
	if generation == 1 {
		err = d.Serve(context.Background(), c.(*net.UnixConn))
	} else {
		left := Inherited{Killed: true, Inherited: vhostuser.Inherited{Take: func(d vhostuser.Descriptor) (int, bool) {
			fd, ok := kept[d]
			delete(kept, d)
			return fd, ok
		}}}
		for d := range kept {
			left.Kept = append(left.Kept, d)
		}
		left.Kept = append(left.Kept, vhostuser.Descriptor{})
		err = d.Resume(context.Background(), c.(*net.UnixConn), left)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKilledAtPoints: a process that is killed at any point on a request's way has a successor, and the
// guest notices nothing. Each dies several times in a row, at a random request.
func TestKilledAtPoints(t *testing.T) {
	for point := range faultPoints {
		for _, queues := range []int{1, 4} {
			t.Run(fmt.Sprintf("%d/%d", point, queues), func(t *testing.T) {
				t.Parallel()
				seed := uint64(point)*16 + uint64(queues)
				g := newGuest(t, frontend.Options{Queues: queues, Data: 4096})
				deaths := rand.New(rand.NewPCG(seed, 99))
				done := make(chan struct{})
				go func() { defer close(done); g.run(3000, 16, seed, 6) }()
				g.live(done, func(life int) (int, int, time.Duration, bool) {
					return int(point), 1 + deaths.IntN(300), 10 * time.Millisecond, life < 5
				})
			})
		}
	}
}

// TestKilledAtRandom: processes are killed at any moment, while the indexes of the rings go round, while
// the guest's memory and eventfds change, and while rings stop and start.
func TestKilledAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("GOVIRTIOFS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("GOVIRTIOFS_SEED=%d", seed)
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			requests := 80_000 / queues
			g := newGuest(t, frontend.Options{Queues: queues, Data: 4096, NoEventIdx: queues == 4, Indirect: queues == 4})
			deaths := rand.New(rand.NewPCG(seed, 99))
			done := make(chan struct{})
			go func() {
				defer close(done)
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() { defer close(stopped); g.change(stop) }()
				g.run(requests, 24, seed, 26)
				close(stop)
				<-stopped
			}()
			g.live(done, func(life int) (int, int, time.Duration, bool) {
				return -1, 0, time.Duration(deaths.IntN(60_000)) * time.Microsecond, life < 25
			})
			t.Logf("%d processes", g.generation.Load())
		})
	}
}

// change adds and removes memory and exchanges eventfds, until stop is closed. Each message has to be
// answered.
func (g *guest) change(stop <-chan struct{}) {
	fd, err := unix.MemfdCreate("more", unix.MFD_CLOEXEC)
	if err != nil {
		g.t.Error(err)
		return
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 1<<16); err != nil {
		g.t.Error(err)
		return
	}
	region := vhostuser.SingleRegion{Region: vhostuser.MemoryRegion{GuestAddr: 1 << 40, Size: 1 << 16, UserAddr: 1 << 41}}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		err := g.f.Acked(vhostuser.ReqAddMemReg, vhostuser.Bytes(&region), fd)
		if err == nil {
			err = g.f.ExchangeCall(i % (g.queues + 1))
		}
		if err == nil {
			err = g.f.Acked(vhostuser.ReqRemMemReg, vhostuser.Bytes(&region))
		}
		if err == nil && i%8 == 0 {
			if err = g.f.Stop(); err == nil {
				err = g.f.Start()
			}
		}
		if err != nil {
			g.t.Errorf("round %d: %v", i, err)
			return
		}
	}
}
