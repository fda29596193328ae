package passthrough

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
		switch cell.Phase() {
		case fuse.PhaseFree:
			cell.Take(&m.Header, order, uint16(i), 0)
		case fuse.PhaseTaken, fuse.PhaseIntent:
			cell.TakeAgain(uint16(i))
		case fuse.PhaseDone: // the reply is there
		}
		if cell.Phase() != fuse.PhaseDone {
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

// life is one client with the processes that serve it.
type life struct {
	t      *testing.T
	c      *deathCase
	dir    string
	ledger *ledger.Ledger
	board  *board
	safe   *safe
	socket [2]int
}

func newLife(t *testing.T, c *deathCase) *life {
	l := &life{t: t, c: c, dir: t.TempDir(), board: newBoard(t), safe: newSafe(t)}
	var err error
	if l.ledger, err = ledger.Create(); err != nil {
		t.Fatal(err)
	}
	if l.socket, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if c.setup != nil {
		c.setup(l.dir)
	}
	return l
}

// close lets go of all: there are thousands of lives, and a ledger takes much room of addresses.
func (l *life) close() {
	_ = l.ledger.Close()
	_, _ = unix.Close(l.socket[0]), unix.Close(l.socket[1])
	l.board.close()
	_ = os.RemoveAll(l.dir)
}

// run runs a process that dies at a point; 0 is none, of which it names all. It reports whether the
// process has died there.
func (l *life) run(point int, from string) (died bool, points []string) {
	l.t.Helper()
	file := func(fd int) *os.File {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			l.t.Fatal(err)
		}
		return os.NewFile(uintptr(copied), "")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeathOf$", "-test.count=1")
	cmd.ExtraFiles = []*os.File{file(l.ledger.FD()), file(l.board.fd), file(l.socket[1])}
	var keys []string
	for k, fd := range l.safe.held {
		keys = append(keys, fmt.Sprintf("%d.%d.%d", k.Kind, k.ID, k.Sub))
		cmd.ExtraFiles = append(cmd.ExtraFiles, file(fd))
	}
	cmd.Env = append(os.Environ(), deathEnv+"="+strings.Join([]string{l.c.name, strconv.Itoa(point), from, l.dir, strings.Join(keys, " ")}, "|"))
	out, err := cmd.CombinedOutput()
	for _, f := range cmd.ExtraFiles {
		_ = f.Close()
	}
	l.safe.receive(l.socket[0])
	if err == nil && bytes.Contains(out, []byte("served")) {
		lines := bufio.NewScanner(bytes.NewReader(out))
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "point "); ok {
				points = append(points, name)
			}
		}
		return false, points
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return true, nil
		}
	}
	l.t.Fatalf("%s, point %d from %s: %v\n%s", l.c.name, point, from, err, out)
	return false, nil
}

// finish has a last process, which does not die, serve what is left, and says what there is then.
func (l *life) finish() []string {
	l.t.Helper()
	// A child of another life has copies of all descriptors until it is another program, locks too.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l.safe.next()
	result := make(chan []string)
	go func() { // with a thread of its own, which ends with it
		defer close(result)
		p, err := startProcess(l.c, l.ledger, l.dir, l.safe)
		if err != nil {
			l.t.Error(err)
			return
		}
		p.serve(l.c, l.board, func(int) {})
		result <- l.look(p)
		p.thread.Stop()
		p.fs.Destroy()
		_, _ = unix.Close(p.fs.cfg.RootFD), unix.Close(p.fs.cfg.ProcFD)
	}()
	list := <-result
	<-result // closed when the process has ended
	return list
}

// look is all that must be the same whoever dies.
func (l *life) look(p *process) (list []string) {
	for i, step := range l.c.steps() {
		list = append(list, fmt.Sprintf("reply %d: %s", i, masked(step(l.board).op, l.board.reply(i)[:*l.board.length(i)])))
	}
	path := func(n *inode) string {
		if n == p.fs.root {
			return "/"
		}
		var names []string
		for at := n; at != nil && at != p.fs.root && len(names) < 20; at = at.currentParent() {
			_, name := at.locationOf()
			names = append(names, name)
		}
		slices.Reverse(names)
		return strings.Join(names, "/")
	}
	for n := range p.fs.nodes.All {
		list = append(list, fmt.Sprintf("node %s: %d lookups", path(n), p.fs.nodes.Lookups(n)))
	}
	for f := range p.fs.openFiles.All {
		list = append(list, fmt.Sprintf("open file of %s: %#x, locks %v", path(f.node), f.flags, f.node.heldLocks()))
	}
	list = append(list, fmt.Sprintf("%d open files are counted", p.fs.io.opens.Load()))
	for k := range l.safe.held {
		list = append(list, "kept: "+k.Kind.String())
	}
	err := filepath.Walk(l.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("file %s: %o, %d names, %d:%d, device %d", strings.TrimPrefix(path, l.dir), st.Mode, st.Nlink, st.Uid, st.Gid, st.Rdev)
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(", %q", content)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + target
		}
		names := make([]byte, 1024)
		if n, err := unix.Llistxattr(path, names); err == nil {
			for _, name := range strings.FieldsFunc(string(names[:n]), func(r rune) bool { return r == 0 }) {
				value := make([]byte, 256)
				n, _ := unix.Lgetxattr(path, name, value)
				line += fmt.Sprintf(", %s=%q", name, value[:max(n, 0)])
			}
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		l.t.Error(err)
	}
	slices.Sort(list)
	return list
}

// heldLocks are the ranges that are locked, of both kinds.
func (n *inode) heldLocks() (list []string) {
	n.Lock()
	defer n.Unlock()
	l := n.fileLocks()
	if l == nil {
		return nil
	}
	for _, t := range []*lockTable{&l.posix, &l.flock} {
		for _, o := range t.holders {
			list = append(list, fmt.Sprintf("%v", o.held))
		}
	}
	return list
}

// masked is a reply without what differs from one run to the next: numbers, times, inodes.
func masked(op fp.Opcode, reply []byte) string {
	if len(reply) < 16 {
		return "none"
	}
	errno := -int32(binary.NativeEndian.Uint32(reply[4:]))
	reply = reply[16:]
	if errno != 0 || len(reply) == 0 {
		return unix.ErrnoName(unix.Errno(errno))
	}
	attr := func(a *fp.Attr) string {
		return fmt.Sprintf("mode %o, %d names, %d:%d, %d bytes, device %d", a.Mode, a.Nlink, a.UID, a.GID, a.Size, a.Rdev)
	}
	aligned := alignedBytes(len(reply))
	copy(aligned, reply)
	switch op {
	case fp.OpLookup, fp.OpMknod, fp.OpMkdir, fp.OpSymlink, fp.OpLink:
		v, _, _ := fp.View[fp.EntryOut](aligned)
		return fmt.Sprintf("a node %v, %s", v.NodeID != 0, attr(&v.Attr))
	case fp.OpCreate, fp.OpTmpfile:
		v, _, _ := fp.View[fp.CreateOut](aligned)
		return fmt.Sprintf("a node %v, open %v, %s", v.Entry.NodeID != 0, v.Open.Fh != 0, attr(&v.Entry.Attr))
	case fp.OpGetattr, fp.OpSetattr:
		v, _, _ := fp.View[fp.AttrOut](aligned)
		return attr(&v.Attr)
	case fp.OpOpen, fp.OpOpendir:
		v, _, _ := fp.View[fp.OpenOut](aligned)
		return fmt.Sprintf("open %v, %#x", v.Fh != 0, v.OpenFlags)
	case fp.OpReaddir, fp.OpReaddirplus:
		var names []string
		for _, l := range parseListing(aligned, op == fp.OpReaddirplus) {
			names = append(names, fmt.Sprintf("%s %v", l.name, l.entry.NodeID != 0))
		}
		slices.Sort(names)
		return strings.Join(names, ", ")
	case fp.OpStatfs, fp.OpStatx:
		return fmt.Sprintf("%d bytes", len(reply))
	}
	return fmt.Sprintf("%q", reply)
}

// TestDeaths kills a process at each point of each request, and in each of these cases another one
// that takes over, at a point or two of its own.
func TestDeaths(t *testing.T) {
	guestsNeedRoot(t)
	all := os.Getenv("GOVIRTIOFS_DEATHS") == "all"
	tried := map[fp.Opcode]int{}
	for i := range deathCases {
		c := &deathCases[i]
		l := newLife(t, c)
		_, points := l.run(0, "target")
		tried[c.target(l.board).op] += len(points)
		want := l.finish()
		l.close()
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(len(points)), 7))
			for point := 1; point <= len(points); point++ {
				l := newLife(t, c)
				if died, _ := l.run(point, "target"); !died {
					t.Fatalf("the process does not die at point %d, %s", point, points[point-1])
				}
				compareLife(t, fmt.Sprintf("killed at point %d, %s", point, points[point-1]), l.finish(), want)
				l.close()
				seconds := []int{1 + random.IntN(len(points)+8)}
				if all {
					seconds = nil
					for second := 1; second <= len(points)+40; second++ {
						seconds = append(seconds, second)
					}
				}
				for _, second := range seconds {
					l := newLife(t, c)
					l.run(point, "target")
					died, _ := l.run(second, "start")
					compareLife(t, fmt.Sprintf("killed at point %d, %s, and at point %d of the successor", point, points[point-1], second), l.finish(), want)
					l.close()
					if !died {
						break
					}
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	for op := range fp.Opcode(fp.NumOpcodes) {
		if why := notKilled[op]; (tried[op] == 0) != (why != "") && op.Shape().Name != "" {
			t.Errorf("%v: killed at %d points, and said to be left out because %q", op, tried[op], why)
		}
	}
}

func compareLife(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	var b strings.Builder
	for _, s := range want {
		if !slices.Contains(got, s) {
			fmt.Fprintf(&b, "\n\twant %s", s)
		}
	}
	for _, s := range got {
		if !slices.Contains(want, s) {
			fmt.Fprintf(&b, "\n\tgot  %s", s)
		}
	}
	t.Errorf("%s:%s", what, b.String())
}

func guestsNeedRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("some requests are made as another user, which only root can")
	}
}

// alignedBytes is memory for n bytes, aligned to 8.
func alignedBytes(n int) []byte {
	words := make([]uint64, (n+7)/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n)
}
