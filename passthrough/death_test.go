package passthrough

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/server"
)

// A process serves a few requests and is killed, with SIGKILL, at one of its points: before a system
// call, or after a store to memory that a successor reads. A successor goes on, which may be killed
// too. In the end all replies, the tree, what the client has and what the keeper holds must
// be what they are when nobody dies. See deathcases_test.go for the requests.

// deathCase is a row of requests of a client. The process dies while it serves one of them.
type deathCase struct {
	name  string
	edit  func(*Config)
	setup func(dir string)
	// before are requests that lead to the one; after are those that look at what has come of it.
	before []step
	target step
	after  []step
	// refused has a successor answer EIO to the one.
	refused bool
	// locked says that byte 0 of f is locked before the one, and stays so; hostLocks that a process on the host
	// has locked a part of it.
	locked, hostLocks bool
}

// step makes a request. What it needs of earlier replies is in the board.
type step func(b *board) request

type request struct {
	op   fp.Opcode
	node uint64
	body []byte
	uid  uint32
	room int // for data in the reply
}

func (c *deathCase) steps() []step {
	return slices.Concat([]step{initStep}, c.before, []step{c.target}, c.after)
}

func (c *deathCase) targetStep() int { return 1 + len(c.before) }

func initStep(*board) request {
	flags := uint64(boardFlags)
	in := fp.InitIn{Major: 7, Minor: fp.KernelMinorVersion, MaxReadahead: 1 << 17, Flags: uint32(flags), Flags2: uint32(flags >> 32)}
	return request{op: fp.OpInit, body: fp.Bytes(&in), room: 0}
}

const boardFlags = fp.InitExt | fp.InitDoReaddirplus | fp.InitPosixLocks | fp.InitFlockLocks | fp.InitMaxPages | fp.InitBigWrites |
	fp.InitAtomicOTrunc | fp.InitHandleKillprivV2 | fp.InitSecurityCtx | fp.InitSetxattrExt

// board is memory of the client's, which outlives the processes.
type board struct {
	memory []byte
	fd     int
}

const (
	boardSteps = 24
	boardRoom  = 16 << 10 // for a reply
	boardSize  = 4096 + boardSteps*boardRoom
)

func (b *board) close() {
	_ = unix.Munmap(b.memory)
	_ = unix.Close(b.fd)
}

func newBoard(t testing.TB) *board {
	fd, err := unix.MemfdCreate("board", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, boardSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	return mapBoard(t, fd)
}

func mapBoard(t testing.TB, fd int) *board {
	m, err := unix.Mmap(fd, 0, boardSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return &board{m, fd}
}

// next is the number of the request that comes next.
func (b *board) next() *uint32 { return (*uint32)(unsafe.Pointer(&b.memory[0])) }

// length is how long a reply is.
func (b *board) length(i int) *uint32 { return (*uint32)(unsafe.Pointer(&b.memory[8+4*i])) }

func (b *board) reply(i int) []byte { return b.memory[4096+i*boardRoom:][:boardRoom] }

// body is the body of the reply to request i of a case, whose INIT is 0.
func body[T fp.Body](b *board, i int) *T {
	v, _, _ := fp.View[T](b.reply(i)[16:])
	return v
}

// entry is the node that a reply is about, fh the open file; fhMade that of a CREATE.
func (b *board) entry(i int) uint64  { return body[fp.EntryOut](b, i).NodeID }
func (b *board) fh(i int) uint64     { return body[fp.OpenOut](b, i).Fh }
func (b *board) fhMade(i int) uint64 { return body[fp.CreateOut](b, i).Open.Fh }

// process is one that serves.
type process struct {
	fs     *FS
	server *server.Server
	thread fuse.Thread
	queue  *ledger.Queue
}

// startProcess makes what a process has, and takes over what is in the ledger.
func startProcess(c *deathCase, l *ledger.Ledger, dir string, k Keeper) (*process, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	cfg := Config{RootFD: root, ProcFD: proc, Xattr: true, PosixLocks: true, Flocks: true, KillprivV2: true, Ledger: l, Keeper: k}
	if c.edit != nil {
		c.edit(&cfg)
	}
	p := &process{}
	if p.fs, err = New(cfg); err != nil {
		return nil, err
	}
	p.fs.sweeper.after = func(time.Duration, func()) {}
	p.server = server.New(p.fs, server.Options{Ledger: l, Log: slog.New(slog.DiscardHandler)})
	if l != nil {
		l.Begin()
	}
	if err = p.server.Resume(); err != nil {
		return nil, err
	}
	if p.queue, err = l.Queue(0, 64); err != nil {
		return nil, err
	}
	p.thread, err = p.server.StartThread(fuse.Hooks{})
	return p, err
}

// serve serves all requests that are left. at is called as each begins.
func (p *process) serve(c *deathCase, b *board, at func(step int)) {
	steps := c.steps()
	for i := int(*b.next()); i < len(steps); i++ {
		r := steps[i](b)
		cell, order := &fuse.Cell{}, uint64(i)
		if p.queue != nil {
			cell, order = p.queue.Cell(uint16(i)), p.queue.Order()
		}
		h := fp.InHeader{Len: uint32(40 + len(r.body)), Opcode: uint32(r.op), Unique: uint64(2*i + 2), NodeID: r.node, UID: r.uid, GID: r.uid}
		in := alignedBytes(len(r.body) + 40)
		copy(in, fp.Bytes(&h))
		copy(in[40:], r.body)
		room := r.op.Shape().Reply + 16 + r.room
		if r.op == fp.OpInit {
			room = 16 + fp.Size[fp.InitOut]()
		}
		if r.op.Shape().NoReply {
			room = 0
		}
		m := fuse.Message{}
		if p.queue != nil {
			m.Cell = cell
		}
		m.Set(fuse.Over(in), fuse.Over(b.reply(i)[:room]))
		at(i)
		again := cell.Phase() != fuse.PhaseFree
		switch cell.Phase() {
		case fuse.PhaseFree:
			cell.Take(&m.Header, order, uint16(i), 0)
		case fuse.PhaseTaken, fuse.PhaseIntent:
			cell.TakeAgain(uint16(i))
		case fuse.PhaseDone: // the reply is there
		}
		switch {
		case cell.Phase() == fuse.PhaseDone:
		case again && c.refused:
			cell.Done(p.thread.Refuse(&m, unix.EIO).Len, uint16(i))
		default:
			reply, pending := p.thread.Handle(&m)
			if pending != nil {
				reply = p.thread.Run(pending)
				pending.Free()
			}
			cell.Done(reply.Len, uint16(i))
		}
		*b.length(i), _ = cell.Reply()
		*b.next() = uint32(i + 1)
		cell.Free()
		runtime.KeepAlive(in)
	}
	at(len(steps))
}

// lastWill is a Keeper whose descriptors outlive this process: they are in a socket.
type lastWill struct {
	*safe
	socket int
}

func (l *lastWill) send(k keeper.Key, drop uint64, rights []byte) {
	b := binary.NativeEndian.AppendUint64(nil, uint64(k.Kind))
	for _, v := range []uint64{k.ID, k.Sub, drop} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	storing.Note() // a point as others
	if err := unix.Sendmsg(l.socket, b, rights, nil, 0); err != nil {
		panic(err)
	}
	storing.Note()
}

func (l *lastWill) Keep(k keeper.Key, fd int) error {
	l.send(k, 0, unix.UnixRights(fd))
	return nil
}

func (l *lastWill) Drop(k keeper.Key) {
	l.send(k, 1, nil)
	l.safe.Drop(k) // the copy that this process was started with
}

// receive takes what a process that has died has sent.
func (s *safe) receive(socket int) {
	for {
		b, oob := make([]byte, 32), make([]byte, unix.CmsgSpace(4))
		n, m, _, _, err := unix.Recvmsg(socket, b, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != nil || n == 0 {
			return
		}
		word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
		k := keeper.Key{Kind: keeper.Kind(word(0)), ID: word(1), Sub: word(2)}
		if word(3) == 1 {
			s.Drop(k)
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(messages) != 1 {
			s.t.Error("no descriptor with", k, err)
			return
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			s.t.Error(err)
			return
		}
		if old, ok := s.held[k]; ok {
			_ = unix.Close(old)
		}
		s.held[k] = fds[0]
	}
}

// Environment of a process that is to die: which case, at which point, counted from where, where its
// share is, and the keys of the descriptors that the keeper has.
const deathEnv = "GOVIRTIOFS_TEST_DEATH"

// TestDeathOf is not a test: it is the process that dies.
func TestDeathOf(t *testing.T) {
	words := strings.Split(os.Getenv(deathEnv), "|")
	if len(words) != 5 {
		return
	}
	c := findCase(words[0])
	point, _ := strconv.Atoi(words[1])
	fromStart, dir := words[2] == "start", words[3]
	l, err := ledger.Open(3)
	if err != nil {
		t.Fatal(err)
	}
	k := &lastWill{newSafe(t), 5}
	k.left = map[keeper.Key]bool{}
	for i, key := range strings.Fields(words[4]) {
		var kind, id, sub uint64
		_, _ = fmt.Sscanf(key, "%d.%d.%d", &kind, &id, &sub)
		k.held[keeper.Key{Kind: keeper.Kind(kind), ID: id, Sub: sub}] = 6 + i
		k.left[keeper.Key{Kind: keeper.Kind(kind), ID: id, Sub: sub}] = true
	}
	b := mapBoard(t, 4)
	armed, n := fromStart, 0
	die := func() {
		if !armed {
			return
		}
		if n++; n == point {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		if point == 0 {
			fmt.Println("point", where())
		}
	}
	storing.SetHook(die)
	onCall.Store(&die)
	p, err := startProcess(c, l, dir, k)
	if err != nil {
		t.Fatal(err)
	}
	p.serve(c, b, func(step int) { armed = fromStart && step <= c.targetStep() || step == c.targetStep() })
	armed = false
	fmt.Println("served")
	os.Exit(0)
}

// where names the point at which this is called, by the functions that led to it.
func where() string {
	pc := make([]uintptr, 12)
	frames := runtime.CallersFrames(pc[:runtime.Callers(4, pc)])
	var names []string
	for range 4 {
		f, _ := frames.Next()
		names = append(names, f.Function[strings.LastIndexByte(f.Function, '.')+1:])
	}
	return strings.Join(names, "<")
}

func findCase(name string) *deathCase {
	for i := range deathCases {
		if deathCases[i].name == name {
			return &deathCases[i]
		}
	}
	panic(name)
}
