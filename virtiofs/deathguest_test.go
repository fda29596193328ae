package virtiofs

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// guest is a front-end, and the keeper of the processes that serve it.
type guest struct {
	t      *testing.T
	queues int
	ledger *ledger.Ledger
	sums   *os.File
	kept   map[vhostuser.Descriptor]int

	generation atomic.Int64
	process    *exec.Cmd
	channel    int
	stderr     strings.Builder
	f          *frontend.Frontend
}

func newGuest(t *testing.T, opts frontend.Options) *guest {
	t.Helper()
	fd, err := unix.MemfdCreate("sums", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, sumsSize); err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, queues: opts.Queues, ledger: newLedger(t), sums: os.NewFile(uintptr(fd), "sums"), kept: map[vhostuser.Descriptor]int{}, channel: -1}
	ours, theirs := socketpair.New(t)
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
		}
		g.kept[vhostuser.Descriptor{}] = own
	}); err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	g.start(-1, 0)
	t.Cleanup(g.close)
	if g.f, err = frontend.New(theirs, opts); err != nil {
		t.Fatal(err)
	}
	return g
}

// start starts the next process, which ends itself when it comes to a point for the nth time.
func (g *guest) start(point, nth int) {
	g.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	if g.channel >= 0 {
		_ = unix.Close(g.channel)
	}
	g.channel = pair[0]
	g.generation.Add(1)
	ledgerFD, err := unix.FcntlInt(uintptr(g.ledger.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	theirs, left := os.NewFile(uintptr(pair[1]), "channel"), os.NewFile(uintptr(ledgerFD), "ledger")
	g.process = exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
	g.process.ExtraFiles = []*os.File{theirs, left, g.sums}
	g.process.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %d %d", deathEnv, g.generation.Load(), g.queues, point, nth))
	g.process.Stderr = &g.stderr
	g.process.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := g.process.Start(); err != nil {
		g.t.Fatal(err)
	}
	_ = theirs.Close()
	_ = left.Close()
	for d, fd := range g.kept {
		if err := unix.Sendmsg(g.channel, channelMessage(sayKeep, d), unix.UnixRights(fd), nil, 0); err != nil {
			g.t.Fatal(err)
		}
	}
	if err := unix.Sendmsg(g.channel, channelMessage(sayBegin, vhostuser.Descriptor{}), nil, nil, 0); err != nil {
		g.t.Fatal(err)
	}
}

// keep does what the process says until it is dead.
func (g *guest) keep() {
	for {
		op, d, fd, err := readChannel(g.channel)
		if err != nil {
			break
		}
		if old, ok := g.kept[d]; ok {
			_ = unix.Close(old)
			delete(g.kept, d)
		}
		if op == sayKeep {
			g.kept[d] = fd
		}
	}
	_ = g.process.Wait()
}

// live has one process after the other serve, until done is closed. die tells how each of them ends;
// false lets it live.
func (g *guest) live(done <-chan struct{}, die func(life int) (point, nth int, after time.Duration, ok bool)) {
	for life := 0; ; life++ {
		_, nth, after, ok := die(life)
		process := g.process.Process
		var timer *time.Timer
		if life == 0 { // it is there already
			nth, after = 0, max(after, time.Millisecond)
		}
		if ok && nth == 0 {
			timer = time.AfterFunc(after, func() { _ = process.Kill() })
		}
		ended := make(chan struct{})
		go func() { g.keep(); close(ended) }()
		select {
		case <-done:
			if timer != nil {
				timer.Stop()
			}
			g.f.Close()
			<-ended
			return
		case <-ended:
		}
		point, nth, _, ok := die(life + 1)
		if !ok {
			nth = 0
		}
		g.start(point, nth)
	}
}

func (g *guest) close() {
	_ = g.process.Process.Kill()
	_ = g.process.Wait()
	for _, fd := range g.kept {
		_ = unix.Close(fd)
	}
	_ = unix.Close(g.channel)
	_ = g.sums.Close()
	if g.t.Failed() {
		g.t.Logf("%d processes. What they have said:\n%s", g.generation.Load(), g.stderr.String())
	}
}

// sums is a frontend.Source: requests of one queue, and the model of what they do.
type sums struct {
	queue  int
	left   int            // requests to send at least
	enough func() bool    // reports whether that will do
	want   map[int]uint64 // by slot
	rand   *rand.Rand
	sent   map[int]uint64
}

func (s *sums) Next(slot *frontend.Slot) bool {
	if s.left <= 0 && s.enough() {
		return false
	}
	s.left--
	slot.SetShape(frontend.Shape{Args: 8, Reply: 8})
	h := slot.Header()
	h.Opcode = uint32(fp.OpWrite)
	if s.rand.IntN(8) == 0 {
		h.Opcode = uint32(fp.OpFsync)
	}
	h.NodeID = uint64(s.queue*64 + slot.Index())
	n := s.rand.Uint64N(1000) + 1
	s.sent[slot.Index()] = n
	binary.NativeEndian.PutUint64(slot.Args(), n)
	clear(slot.In[:24])
	return true
}

func (s *sums) Done(slot *frontend.Slot) error {
	if err := slot.Err(); err != nil {
		return err
	}
	i := slot.Index()
	s.want[i] += s.sent[i]
	if got := binary.NativeEndian.Uint64(slot.In[16:]); got != s.want[i] {
		return fmt.Errorf("slot %d: the sum is %d, want %d", i, got, s.want[i])
	}
	return nil
}

// run sends requests over all queues and checks the replies, until so many processes have lived.
func (g *guest) run(requests, depth int, seed uint64, lives int64) {
	g.t.Helper()
	var all sync.WaitGroup
	for i, q := range g.f.Queues[1:] {
		p, err := q.NewPipe(depth)
		if err != nil {
			g.t.Fatal(err)
		}
		p.Timeout = 90 * time.Second
		all.Add(1)
		go func() {
			defer all.Done()
			defer p.Close()
			s := &sums{queue: i, left: requests, enough: func() bool { return g.generation.Load() >= lives }, want: map[int]uint64{}, sent: map[int]uint64{}, rand: rand.New(rand.NewPCG(seed, uint64(i)))}
			if err := p.Run(s); err != nil {
				g.t.Errorf("queue %d, %d requests left: %v", i, s.left, err)
			}
		}()
	}
	all.Wait()
}
