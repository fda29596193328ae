package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// afterlife is a keeper and a ledger. The process dies at the operation with the number dieAt, before or
// after it.
type afterlife struct {
	t  testing.TB
	mu sync.Mutex

	notes []byte
	fds   map[Descriptor]int

	ops    int
	dieAt  int // 0: never
	before bool
	died   chan struct{} // closed then
	served bool          // the last notes say that a message was served
}

func newAfterlife(t testing.TB) *afterlife {
	a := &afterlife{t: t, fds: map[Descriptor]int{}, died: make(chan struct{})}
	t.Cleanup(func() {
		for _, fd := range a.fds {
			_ = unix.Close(fd)
		}
	})
	return a
}

// op is one operation. The goroutine of a process that has died does not come back from it.
func (a *afterlife) op(f func() (sending bool)) {
	a.mu.Lock()
	a.ops++
	dies := a.ops == a.dieAt
	if dies && a.before {
		close(a.died)
		a.mu.Unlock()
		select {}
	}
	sending := f()
	// After this one an answer with a descriptor is sent. In between is the moment that can't be told from others.
	if dies && !sending {
		close(a.died)
		a.mu.Unlock()
		select {}
	}
	a.mu.Unlock()
}

func (a *afterlife) Store(b []byte) error {
	a.op(func() bool {
		a.notes = append([]byte(nil), b...)
		if len(b) < 2 {
			return false
		}
		n, err := readNotes(b, testQueues)
		if err != nil {
			a.t.Error(err)
			return false
		}
		sending := a.served && n.answer.phase == answerSending && n.answer.fd != 0
		a.served = n.answer.phase == answerServed
		return sending
	})
	return nil
}

func (a *afterlife) Keep(d Descriptor, fd int) error {
	a.op(func() bool {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			a.t.Error(err)
		}
		if old, ok := a.fds[d]; ok {
			_ = unix.Close(old)
		}
		a.fds[d] = own
		return false
	})
	return nil
}

func (a *afterlife) Drop(d Descriptor) {
	a.op(func() bool {
		if fd, ok := a.fds[d]; ok {
			_ = unix.Close(fd)
			delete(a.fds, d)
		}
		return false
	})
}

// left is what a successor gets: copies of the descriptors.
func (a *afterlife) left() Inherited {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Inherited{Notes: append([]byte(nil), a.notes...), Kept: slices.Collect(maps.Keys(a.fds)), Take: func(d Descriptor) (int, bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		fd, ok := a.fds[d]
		if !ok {
			return -1, false
		}
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return own, err == nil
	}}
}

// again is the connection for a successor.
func (a *afterlife) again() *net.UnixConn {
	fd, ok := a.left().Take(Descriptor{Kind: DescriptorSocket})
	if !ok {
		a.t.Fatal("the connection is lost")
	}
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		a.t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// serveLeft serves d on a connection whose process may die, and then a successor of it. It returns
// the device that is served, and what Serve returns at the end.
func serveLeft(t testing.TB, a *afterlife, sock *net.UnixConn) (last func() *fakeDevice, done chan error) {
	var mu sync.Mutex
	d := newFakeDevice()
	done = make(chan error, 1)
	conn := NewConn(sock, d, testLog())
	conn.Recover(Recovery{Notes: a, Keeper: a})
	go func() { done <- conn.Serve(context.Background()) }()
	go func() {
		<-a.died
		next := newFakeDevice()
		mu.Lock()
		d = next
		mu.Unlock()
		c := NewConn(a.again(), next, testLog())
		c.Recover(Recovery{Notes: a, Keeper: a})
		if err := c.Resume(a.left()); err != nil {
			t.Error(err)
			done <- err
			return
		}
		done <- c.Serve(context.Background())
	}()
	return func() *fakeDevice { mu.Lock(); defer mu.Unlock(); return d }, done
}

// playAll is a front-end that uses all messages which change something. Each answer has to come
// once.
func playAll(fe *frontEnd) {
	fe.negotiate()
	ram, _ := fe.ram()
	fe.startRing(0)
	fe.setUpRing(1)
	fe.must(ReqSetVringCall, replyU64(0), eventFD(fe.t))
	fe.must(ReqSetVringErr, replyU64(0), eventFD(fe.t))
	fe.must(ReqSetVringCall, replyU64(1|VringNoFD))
	more := memfd(fe.t, 1<<16)
	region := MemoryRegion{GuestAddr: 1 << 40, Size: 1 << 16, UserAddr: 1 << 41}
	fe.must(ReqAddMemReg, slot(region), more)
	fe.must(ReqSetVringEnable, state(1, 1))
	if got := fe.number(ReqGetQueueNum, nil); got != testQueues {
		fe.t.Errorf("%d queues", got)
	}
	fe.must(ReqRemMemReg, slot(region))
	fe.must(ReqSetVringKick, replyU64(0), eventFD(fe.t)) // restarts it
	log := LogDescription{Size: 4096}
	if got := fe.number(ReqSetLogBase, reply(log), memfd(fe.t, 4096)); got != 0 {
		fe.t.Errorf("SET_LOG_BASE: %d", got)
	}
	fe.must(ReqSetFeatures, replyU64(allFeatures|FeatureLogAll))
	fe.must(ReqSetStatus, replyU64(7))
	fe.must(ReqSetVringEnable, state(1, 0))
	if b, _ := Decode[VringState](fe.ask(ReqGetVringBase, state(1, 0))); b.Index != 1 || b.Num != 0 {
		fe.t.Errorf("ring 1 has stopped at %d", b.Num)
	}
	fe.mustNot(ReqSetVringNum, state(0, 7))
	// A message without an answer, and one that is behind it in the socket at once.
	fe.write(append(frame(ReqSetVringBase, FlagVersion, state(1, 0)), frame(ReqGetStatus, FlagVersion, nil)...))
	if v, _ := Decode[U64](fe.reply(ReqGetStatus)); v.Value != 7 {
		fe.t.Errorf("status %d", v.Value)
	}
	// Messages without descriptors before one that has some.
	fe.send(ReqSetOwner, nil)
	fe.send(ReqSetVringBase, state(1, 0))
	fe.must(ReqSetVringErr, replyU64(1), eventFD(fe.t))
	area := InflightDescription{NumQueues: testQueues, QueueSize: 256}
	fe.send(ReqGetInflightFD, reply(area))
	_, body, fds, err := receive(fe.sock)
	if err != nil || len(fds) != 1 {
		fe.t.Fatalf("GET_INFLIGHT_FD: %d descriptors, %v", len(fds), err)
	}
	defer unix.Close(fds[0])
	if d, _ := Decode[InflightDescription](body); d.MmapSize == 0 {
		fe.t.Error("the in-flight area has no size")
	}
	fe.must(ReqSetMemTable, table(MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}), ram)
	fe.must(ReqSetOwner, nil)
}

// TestResumeEverywhere: a process that dies before or after any of its operations while it serves
// a front-end has a successor that goes on, and the front-end notices nothing.
func TestResumeEverywhere(t *testing.T) {
	want := ""
	for at := 2; ; at++ { // the first one hands up the connection
		ops := 0
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d,%v", at, before), func(t *testing.T) {
				a := newAfterlife(t)
				a.dieAt, a.before = at, before
				ours, theirs := socketpair.New(t)
				last, done := serveLeft(t, a, ours)
				fe := &frontEnd{t: t, sock: theirs}
				playAll(fe)
				a.mu.Lock()
				n, err := readNotes(a.notes, testQueues)
				ops = a.ops
				a.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				n.starts, n.last = 0, 0 // each life has its own
				got := summary(n)
				if want == "" {
					want = got
				}
				if got != want {
					t.Errorf("left\n%s\nwant\n%s", got, want)
				}
				// A process that has died behind the last answer has a successor that may just begin.
				for end := time.Now().Add(60 * time.Second); last().vring(0).Queue == nil; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("ring 0 does not run")
					}
				}
				if last().vring(1).Queue != nil {
					t.Error("ring 1 runs")
				}
				_ = theirs.Close()
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(60 * time.Second):
					t.Fatal("Serve does not return")
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				if len(a.notes) != 0 || len(a.fds) != 0 {
					t.Errorf("%d bytes and %d descriptors are left of a connection that has ended", len(a.notes), len(a.fds))
				}
			})
		}
		if t.Failed() || at > ops {
			if at < 45 {
				t.Errorf("there were only %d operations", at)
			}
			return
		}
	}
}

// summary is what has to be the same, whatever happened.
func summary(n *notes) (s string) {
	s = fmt.Sprintf("features %#x, %s, status %d, log %#x, area %v, channel %v\n", n.features, n.protocol, n.status, n.log.size, n.inflight.number != 0, n.channel != 0)
	for _, r := range n.regions {
		s += fmt.Sprintf("%#x+%#x at %#x\n", r.GuestAddr, r.Size, r.UserAddr)
	}
	for _, r := range n.rings {
		s += fmt.Sprintf("bits %#x size %d base %d %#x\n", r.bits, r.size, r.base, r.addr.Used)
	}
	return s
}

// TestResumeLost: without a descriptor or with forged numbers there is an error, and nothing is
// left behind.
func TestResumeLost(t *testing.T) {
	a := newAfterlife(t)
	ours, theirs := socketpair.New(t)
	_, done := serveLeft(t, a, ours)
	fe := &frontEnd{t: t, sock: theirs}
	playAll(fe)
	left := a.left()
	_ = theirs.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkLeaks(t)
	for name, edit := range map[string]func(*Inherited){
		"no descriptor": func(l *Inherited) { l.Take = func(Descriptor) (int, bool) { return -1, false } },
		"cut off":       func(l *Inherited) { l.Notes = l.Notes[:len(l.Notes)/2] },
		"longer":        func(l *Inherited) { l.Notes = append(l.Notes, 0) },
		"lost":          func(l *Inherited) { l.Notes = []byte{notesLost} },
		"wrong files": func(l *Inherited) {
			l.Take = func(Descriptor) (int, bool) {
				fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
				return fd, err == nil
			}
		},
	} {
		ours, _ := socketpair.New(t)
		l := left
		edit(&l)
		c := NewConn(ours, newFakeDevice(), testLog())
		c.Recover(Recovery{Notes: newAfterlife(t), Keeper: newAfterlife(t)})
		if err := c.Resume(l); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// refusingKeeper can't keep a kind.
type refusingKeeper struct {
	*afterlife
	kind DescriptorKind
}

func (k refusingKeeper) Keep(d Descriptor, fd int) error {
	if d.Kind == k.kind {
		return errors.New("too many")
	}
	return k.afterlife.Keep(d, fd)
}

// TestKeeperFull: a front-end notices nothing of a keeper that has no room. The connection can't be
// recovered then.
func TestKeeperFull(t *testing.T) {
	a := newAfterlife(t)
	ours, theirs := socketpair.New(t)
	c := NewConn(ours, newFakeDevice(), testLog())
	c.Recover(Recovery{Notes: a, Keeper: refusingKeeper{a, DescriptorRegion}})
	done := make(chan error, 1)
	go func() { done <- c.Serve(context.Background()) }()
	fe := &frontEnd{t: t, sock: theirs}
	playAll(fe)
	if _, err := readNotes(a.left().Notes, testQueues); err == nil {
		t.Error("there are numbers of a connection whose memory is lost")
	}
	held := func() (list []Descriptor) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for d := range a.fds {
			list = append(list, d)
		}
		return list
	}
	if list := held(); len(list) != 1 || list[0].Kind != DescriptorSocket {
		t.Errorf("the keeper holds %v for a connection that can't be recovered", list)
	}
	_ = theirs.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if list := held(); len(list) != 0 {
		t.Errorf("the keeper holds %v of a connection that has ended", list)
	}
}
