package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// beginner is a recorder that answers INIT as all of them do, and only requests after it.
type beginner struct {
	*recorder
	flags uint32
	begun atomic.Bool
	early atomic.Int32 // requests before INIT
}

func (h *beginner) StartThread(k fuse.Hooks) (fuse.Thread, error) {
	t, err := h.recorder.StartThread(k)
	return &beginnerThread{t, h}, err
}

type beginnerThread struct {
	fuse.Thread
	h *beginner
}

func (t *beginnerThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	if fp.Opcode(m.Header.Opcode) != fp.OpInit {
		if !t.h.begun.Load() {
			t.h.early.Add(1)
		}
		return t.Thread.Handle(m)
	}
	t.h.begun.Store(true)
	o := fp.OutHeader{Len: uint32(outHeaderSize + fp.Size[fp.InitOut]()), Unique: m.Header.Unique}
	init := fp.InitOut{Major: 7, Flags: t.h.flags}
	m.Out.CopyFrom(append(append([]byte(nil), fp.Bytes(&o)...), fp.Bytes(&init)...), 0)
	return fuse.Reply{Len: o.Len}, nil
}

// strict is a /dev/fuse whose replies may be errors.
type strict struct {
	*kernel
	mu   sync.Mutex
	errs map[uint64]unix.Errno // answered, with 0 or an error
	twos []uint64              // answered twice
}

func (k *strict) Answer(b ...[]byte) error {
	h, _, _ := fp.View[fp.OutHeader](b[0])
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, twice := k.errs[h.Unique]; twice {
		k.twos = append(k.twos, h.Unique)
	}
	k.errs[h.Unique] = unix.Errno(-h.Error)
	return nil
}

func (k *strict) answers() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.errs)
}

// hosts are servers that follow each other at one address, and know nothing of each other.
type hosts struct {
	t        *testing.T
	path     string
	handlers []*beginner
	stop     func()
}

func (h *hosts) start(o Options, flags uint32) {
	h.t.Helper()
	b := &beginner{recorder: newRecorder(), flags: flags}
	h.handlers = append(h.handlers, b)
	o.Log = quiet()
	s, err := New(b, o)
	if err != nil {
		h.t.Fatal(err)
	}
	l := listenUnix(h.t, h.path)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		_ = s.Serve(ctx, l)
		close(ended)
	}()
	h.stop = func() { cancel(); <-ended }
	h.t.Cleanup(h.stop)
}

// renewing is a client of hosts that has begun.
func renewing(t *testing.T, h *hosts, channels int) (kernels []*strict, served <-chan error, renewed *atomic.Int32) {
	t.Helper()
	_, kernels, served, renewed = renewingClient(t, h, channels)
	return kernels, served, renewed
}

func renewingClient(t *testing.T, h *hosts, channels int) (c *Client, kernels []*strict, served <-chan error, renewed *atomic.Int32) {
	t.Helper()
	renewed = &atomic.Int32{}
	c, err := Dial(t.Context(), ClientOptions{Dial: dialer(h.path), Channels: channels, Log: quiet(), Renewed: func() { renewed.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var devices []Device
	for range channels {
		k := &strict{kernel: newKernel(), errs: make(map[uint64]unix.Errno)}
		kernels, devices = append(kernels, k), append(devices, k)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(devices) }()
	kernels[0].ask(fp.OpInit, 1, 0)
	eventually(t, "INIT", func() bool { return kernels[0].answers() == 1 })
	return c, kernels, ended, renewed
}

// TestRenew: the host is replaced 12 times by one that knows nothing, under load. The mount goes on. Each request has one
// answer. None is done twice, and each that has succeeded was done. A host is told INIT before anything else.
func TestRenew(t *testing.T) {
	const channels, hostCount = 3, 12
	h := &hosts{t: t, path: filepath.Join(t.TempDir(), "s")}
	h.start(Options{Renew: true}, 5)
	kernels, served, renewed := renewing(t, h, channels)
	var stop atomic.Bool
	var wg sync.WaitGroup
	asked := make([][]uint64, channels)
	var changes sync.Map
	var unique atomic.Uint64
	unique.Store(1)
	for i := range channels {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for !stop.Load() {
				n := unique.Add(1)
				switch r.IntN(4) {
				case 0:
					changes.Store(n, true)
					kernels[i].ask(fp.OpWrite, n, r.IntN(DefaultMaxWrite))
				case 1:
					kernels[i].ask(fp.OpRead, n, r.IntN(DefaultMaxWrite))
				case 2:
					kernels[i].ask(fp.OpForget, n, 0)
					continue
				default:
					kernels[i].ask(fp.OpGetattr, n, 0)
				}
				asked[i] = append(asked[i], n)
			}
		})
	}
	for n := range hostCount {
		before := unique.Load()
		eventually(t, "requests", func() bool { return unique.Load() > before+50 })
		h.stop()
		h.start(Options{Renew: true}, 5)
		eventually(t, "another session", func() bool { return renewed.Load() == int32(n+1) })
	}
	stop.Store(true)
	wg.Wait()
	failed := 0
	for i, k := range kernels {
		eventually(t, "all answers", func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			for _, n := range asked[i] {
				if _, ok := k.errs[n]; !ok {
					return false
				}
			}
			return true
		})
		k.mu.Lock()
		if len(k.twos) > 0 {
			t.Errorf("answered twice: %v", k.twos)
		}
		for _, n := range asked[i] {
			errno, ok := k.errs[n]
			want := unix.ESTALE
			if _, ok := changes.Load(n); ok {
				want = unix.EIO
			}
			done := 0
			for _, b := range h.handlers {
				done += b.seen(n)
			}
			switch {
			case !ok, errno != 0 && errno != want, done > 1, errno == 0 && done == 0:
				t.Errorf("request %d: answered %v with %v, done %d times", n, ok, errno, done)
			case errno != 0:
				failed++
			}
		}
		k.mu.Unlock()
	}
	for i, b := range h.handlers {
		if b.early.Load() > 0 {
			t.Errorf("host %d: %d requests before INIT", i, b.early.Load())
		}
	}
	for _, k := range kernels {
		close(k.asked)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	t.Logf("%d requests, %d of them with an error", unique.Load(), failed)
}

// TestRenewRefused: a host that is not as before, or that can't promise that numbers are others, ends the mount.
func TestRenewRefused(t *testing.T) {
	for name, c := range map[string]struct {
		next  Options
		flags uint32
		want  error
	}{
		"other options": {Options{Renew: true}, 6, ErrRefused},
		"other limits":  {Options{Renew: true, MaxWrite: 64 << 10}, 5, ErrRefused},
		"same numbers":  {Options{}, 5, ErrStale},
		"other token":   {Options{Renew: true, Token: []byte("secret")}, 5, ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hosts{t: t, path: filepath.Join(t.TempDir(), "s")}
			h.start(Options{Renew: true}, 5)
			_, served, _ := renewing(t, h, 2)
			h.stop()
			h.start(c.next, c.flags)
			if err := <-served; !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// snapshot is a client as a snapshot of its guest has it.
func snapshot(c *Client) *Client {
	n := &Client{opts: c.opts, id: c.id, limits: c.limits, log: c.log, failed: make(chan error, maxChannels)}
	n.delivered.L, n.renewal.changed.L = &n.deliveredMu, &n.renewal.mu
	n.init.unique, n.init.request, n.init.reply = c.init.unique, c.init.request, c.init.reply
	n.begun.Store(true)
	for _, ch := range c.channels {
		o, at := newOutbox(), ch.out.at()
		o.first, o.next, o.upto, o.received = at.First, at.First, at.First, at.Received
		r := &clientChannel{client: n, index: ch.index, out: o, ticket: ch.ticket, window: ch.window,
			buffers: pool{largest: ch.buffers.largest}, settled: at.First, flight: make(map[uint64]flight)}
		r.room.L = &r.mu
		n.channels = append(n.channels, r)
	}
	return n
}

// restore has a client go on from a snapshot: its connections are gone.
func restore(n *Client) (k *strict, served <-chan error) {
	k = &strict{kernel: newKernel(), errs: make(map[uint64]unix.Errno)}
	ended := make(chan error, 1)
	for _, ch := range n.channels {
		ch.device = k
		go func() {
			if err := ch.reconnect(); err != nil {
				n.fail(err)
				return
			}
			ch.receive()
		}()
	}
	go func() {
		carried := make(chan error, 1)
		go func() { carried <- n.channels[1].carry() }()
		select {
		case err := <-n.failed:
			ended <- err
		case err := <-carried:
			n.Close()
			ended <- err
		}
	}()
	return k, ended
}

// TestSnapshot: what becomes of a guest that was restored from a snapshot.
func TestSnapshot(t *testing.T) {
	for name, c := range map[string]struct {
		since bool // the session has gone on since the snapshot
		both  bool // the guest of which it was made is still there
		newer bool // the host's daemon is another one
		want  error
		again bool // another session begins
	}{
		"nothing has happened":         {},
		"the session has gone on":      {since: true, again: true},
		"the daemon was replaced":      {newer: true, again: true},
		"the first guest is connected": {since: true, both: true, want: ErrBusy},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hosts{t: t, path: filepath.Join(t.TempDir(), "s")}
			h.start(Options{Renew: true}, 5)
			client, kernels, first, renewed := renewingClient(t, h, 1)
			kernels[0].ask(fp.OpGetattr, 2, 0)
			eventually(t, "a reply, and that it was counted", func() bool { return client.channels[1].out.at().Received == 2 })
			frozen := snapshot(client)
			if c.since {
				kernels[0].ask(fp.OpGetattr, 4, 0)
				eventually(t, "a reply", func() bool { return kernels[0].answers() == 3 })
			}
			if c.since { // the clone has sent other requests under the same numbers, when it finds that its connection is gone
				frozen.channels[1].post(message(fp.OpGetattr, 16, make([]byte, 16)), 200)
			}
			if !c.both {
				client.Close()
			}
			if c.newer {
				h.stop()
				h.start(Options{Renew: true}, 5)
			}
			k, served := restore(frozen)
			if c.want != nil { // one of the two gets the share, most often the first guest
				var err error
				select {
				case err = <-served:
				case err = <-first:
				}
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				return
			}
			k.ask(fp.OpGetattr, 8, 0)
			eventually(t, "a reply to who was restored", func() bool {
				k.mu.Lock()
				defer k.mu.Unlock()
				errno, ok := k.errs[8]
				return ok && errno == 0
			})
			eventually(t, "what is said of another session", func() bool { return (renewed.Load() > 0) == c.again })
			if n := h.handlers[0].ends.Load(); c.again == (n == 0) {
				t.Errorf("%d sessions have ended", n)
			}
			close(k.asked)
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRenewInterrupted: a request that was interrupted before a host had it is answered. The next host would not be
// told of the signal.
func TestRenewInterrupted(t *testing.T) {
	h := &hosts{t: t, path: filepath.Join(t.TempDir(), "s")}
	h.start(Options{Renew: true}, 5)
	c, kernels, _, renewed := renewingClient(t, h, 1)
	h.stop()
	for _, ch := range c.channels {
		eventually(t, "the loss of the connection", func() bool {
			ch.out.mu.Lock()
			defer ch.out.mu.Unlock()
			return ch.out.socket == nil
		})
	}
	kernels[0].ask(fp.OpGetattr, 8, 0)
	kernels[0].ask(fp.OpGetattr, 10, 0)
	in := fp.InterruptIn{Unique: 8}
	kernels[0].asked <- message(fp.OpInterrupt, 9, fp.Bytes(&in))
	eventually(t, "INTERRUPT", func() bool { return c.channels[0].out.sent() == 1 })
	h.start(Options{Renew: true}, 5)
	eventually(t, "another session", func() bool { return renewed.Load() == 1 })
	eventually(t, "all answers", func() bool { return kernels[0].answers() == 3 })
	kernels[0].mu.Lock()
	defer kernels[0].mu.Unlock()
	if e := kernels[0].errs; e[8] != unix.EINTR || e[10] != 0 {
		t.Errorf("answers %v", e)
	}
	if b := h.handlers[1]; b.seen(8) != 0 || b.seen(10) != 1 {
		t.Errorf("done %d and %d times", b.seen(8), b.seen(10))
	}
}

// TestRenewClosed: Close ends channels that wait for one that can't go on.
func TestRenewClosed(t *testing.T) {
	h := &hosts{t: t, path: filepath.Join(t.TempDir(), "s")}
	h.start(Options{Renew: true}, 5)
	client, _, _, _ := renewingClient(t, h, 1)
	c := snapshot(client)
	ended := make(chan error, 1)
	go func() { ended <- c.renew(ErrStale) }()
	eventually(t, "a channel that waits", func() bool {
		c.renewal.mu.Lock()
		defer c.renewal.mu.Unlock()
		return c.renewal.arrived == 1
	})
	c.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Error("it waits for ever")
	}
}
