package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// recorder is a Handler that remembers how often it was given each request. The reply to
// READ n is as long as it asks for and says n everywhere. Every third one waits.
type recorder struct {
	mu    sync.Mutex
	times map[uint64]int
	ends  atomic.Int32 // of sessions
}

func (*recorder) Started() {}

func (*recorder) Save(w io.Writer) error {
	_, err := io.WriteString(w, "recorder")
	return err
}

func (*recorder) Load(r io.Reader) error {
	if b, err := io.ReadAll(r); err != nil || string(b) != "recorder" {
		return fmt.Errorf("state %q: %w", b, err)
	}
	return nil
}

func (*recorder) Restarted()      {}
func (h *recorder) Reset()        { h.ends.Add(1) }
func (h *recorder) Disconnected() { h.ends.Add(1) }

func (*recorder) Close(context.Context) error { return nil }

func (h *recorder) StartThread(fuse.Hooks) (fuse.Thread, error) {
	runtime.LockOSThread()
	return &recorderThread{h: h}, nil
}

func (h *recorder) seen(unique uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.times[unique]
}

type recorderThread struct {
	fuse.Thread
	h    *recorder
	many int
}

func (t *recorderThread) Stop()        {}
func (t *recorderThread) Broken() bool { return t.many > 100 } // now and then another goes on

func (t *recorderThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	t.many++
	t.h.mu.Lock()
	t.h.times[m.Header.Unique]++
	t.h.mu.Unlock()
	if len(m.Out) == 0 {
		return fuse.Reply{}, nil
	}
	if m.Header.Unique%3 == 0 {
		return fuse.Reply{}, &recorderPending{h: m.Header, in: m.In.Cut(nil, 0, 1<<20), out: m.Out.Cut(nil, 0, 1<<20)}
	}
	return respond(m.Header, m.In, m.Out), nil
}

// respond writes the reply. WRITE's data must be what its number says.
func respond(h fp.InHeader, in, out fuse.Buffers) fuse.Reply {
	n := out.Len()
	o := fp.OutHeader{Len: uint32(n), Unique: h.Unique}
	if fp.Opcode(h.Opcode) == fp.OpWrite {
		b := make([]byte, in.Len())
		in.CopyTo(b, 0)
		for _, v := range b[min(inHeaderSize+fp.Size[fp.WriteIn](), len(b)):] { // it may be malformed
			if v != byte(h.Unique) {
				o.Error = -int32(unix.EILSEQ)
			}
		}
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.Unique)
	}
	copy(b, fp.Bytes(&o))
	out.CopyFrom(b, 0)
	return fuse.Reply{Len: uint32(n)}
}

type recorderPending struct {
	fuse.Pending
	h       fp.InHeader
	in, out fuse.Buffers
}

func (p *recorderPending) Lingers() bool { return false }
func (p *recorderPending) Free()         {}
func (p *recorderPending) Start(done func(fuse.Reply)) {
	go func() {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		done(respond(p.h, p.in, p.out))
	}()
}

// kernel is a /dev/fuse that asks for what asked has.
type kernel struct {
	asked    chan []byte
	mu       sync.Mutex
	waiting  map[uint64]int // by number: length of the reply
	answered int
	notes    [][]byte
	atNote   func() []uint64 // called at each, with mu held
	atNotes  [][]uint64
	errs     []string
}

func newKernel() *kernel {
	return &kernel{asked: make(chan []byte), waiting: make(map[uint64]int)}
}

func (k *kernel) Read(b ...[]byte) (int, error) {
	r, ok := <-k.asked
	if !ok {
		return 0, io.EOF
	}
	return copy(b[0], r), nil
}

func (k *kernel) Answer(b ...[]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	h, body, _ := fp.View[fp.OutHeader](b[0])
	if h.Unique == 0 {
		k.notes = append(k.notes, append([]byte(nil), b[0]...))
		if k.atNote != nil {
			k.atNotes = append(k.atNotes, k.atNote())
		}
		return nil
	}
	want, ok := k.waiting[h.Unique]
	if !ok || len(b[0]) != want || h.Error != 0 {
		k.errs = append(k.errs, fmt.Sprintf("reply to %d: %d bytes and error %d, want %d bytes (%v)", h.Unique, len(b[0]), h.Error, want, ok))
	}
	for _, v := range body {
		if v != byte(h.Unique) {
			k.errs = append(k.errs, fmt.Sprintf("reply to %d has %d in it", h.Unique, v))
			break
		}
	}
	delete(k.waiting, h.Unique)
	k.answered++
	return nil
}

func (k *kernel) replies() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.answered
}

// ask sends a request, which has to be as op says.
func (k *kernel) ask(op fp.Opcode, unique uint64, size int) {
	h := fp.InHeader{Opcode: uint32(op), Unique: unique}
	b := append([]byte(nil), fp.Bytes(&h)...)
	switch op {
	case fp.OpRead:
		b = append(b, fp.Bytes(&fp.ReadIn{Size: uint32(size)})...)
	case fp.OpWrite:
		b = append(b, fp.Bytes(&fp.WriteIn{Size: uint32(size)})...)
		for range size {
			b = append(b, byte(unique))
		}
	case fp.OpForget:
		b = append(b, fp.Bytes(&fp.ForgetIn{})...)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	aligned := make([]byte, len(b))
	copy(aligned, b)
	if room := replyRoom(aligned, maxMessage); room > 0 {
		k.mu.Lock()
		k.waiting[unique] = room
		k.mu.Unlock()
	}
	k.asked <- aligned
}

// cutter passes connections on, and can cut those that there are.
type cutter struct {
	to   string
	mu   sync.Mutex
	live map[net.Conn]bool
	cuts int
}

func (c *cutter) serve(l net.Listener) {
	for {
		a, err := l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("unix", c.to)
		if err != nil {
			_ = a.Close()
			continue
		}
		c.mu.Lock()
		c.live[a], c.live[b] = true, true
		c.mu.Unlock()
		for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				_, _ = io.Copy(p[0], p[1])
				_ = p[0].Close()
				_ = p[1].Close()
				c.mu.Lock()
				delete(c.live, p[0])
				c.mu.Unlock()
			}()
		}
	}
}

// cut ends some connections, and what they have under way is lost.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.live {
		if rand.IntN(3) > 0 {
			if u, ok := conn.(*net.UnixConn); ok {
				_ = u.SetWriteBuffer(1) // what is in it is lost all the more
			}
			_ = conn.Close()
		}
	}
	c.cuts++
}

// pair is a server and a client that are connected through a cutter.
type pair struct {
	handler *recorder
	server  *Server
	client  *Client
	cutter  *cutter
	kernels []*kernel
	served  chan error
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// startServer has a Server of h listen on a socket.
func startServer(t *testing.T, h fuse.Handler, o Options) (s *Server, path string) {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet()
	}
	s, err := New(h, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "s")
	l := listenUnix(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		_ = s.Serve(ctx, l)
		close(ended)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return s, path
}

func dialer(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}

func newPair(t *testing.T, channels int, o Options) *pair {
	t.Helper()
	p := &pair{handler: &recorder{times: make(map[uint64]int)}, served: make(chan error, 1)}
	var path string
	p.server, path = startServer(t, p.handler, o)
	p.cutter = &cutter{to: path, live: make(map[net.Conn]bool)}
	front := filepath.Join(t.TempDir(), "c")
	l := listenUnix(t, front)
	go p.cutter.serve(l)
	var err error
	p.client, err = Dial(t.Context(), ClientOptions{Dial: dialer(front), Share: o.Share, Token: o.Token, Channels: channels, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	var devices []Device
	for range channels {
		k := newKernel()
		p.kernels = append(p.kernels, k)
		devices = append(devices, k)
	}
	go func() { p.served <- p.client.Serve(devices) }()
	return p
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%s: not in time\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// TestCut: connections are cut 100 times while requests of all sizes are under way. Each
// request is handled once, and each is answered once with its own reply.
func TestCut(t *testing.T) {
	const channels, cuts = 3, 100
	p := newPair(t, channels, Options{})
	var stop atomic.Bool
	var unique atomic.Uint64
	var wg sync.WaitGroup
	var forgets sync.Map
	for i := range channels {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for !stop.Load() {
				n := unique.Add(1)
				switch r.IntN(4) {
				case 0:
					p.kernels[i].ask(fp.OpWrite, n, r.IntN(DefaultMaxWrite))
				case 1:
					p.kernels[i].ask(fp.OpRead, n, r.IntN(DefaultMaxWrite))
				case 2:
					forgets.Store(n, true)
					p.kernels[i].ask(fp.OpForget, n, 0)
				default:
					p.kernels[i].ask(fp.OpGetattr, n, 0)
				}
			}
		})
	}
	for p.cutter.cuts < cuts {
		before := unique.Load()
		p.cutter.cut()
		eventually(t, "requests after a cut", func() bool { return unique.Load() > before+20 })
	}
	stop.Store(true)
	wg.Wait()
	for i, k := range p.kernels {
		eventually(t, "all replies", func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return len(k.waiting) == 0
		})
		for _, e := range k.errs {
			t.Errorf("channel %d: %s", i+1, e)
		}
	}
	forgets.Range(func(n, _ any) bool {
		eventually(t, "FORGET", func() bool { return p.handler.seen(n.(uint64)) > 0 })
		return true
	})
	for n := uint64(1); n <= unique.Load(); n++ {
		if k := p.handler.seen(n); k != 1 {
			t.Errorf("request %d was handled %d times", n, k)
		}
	}
	for _, k := range p.kernels {
		close(k.asked)
	}
	if err := <-p.served; err != nil {
		t.Error(err)
	}
	if p.handler.ends.Load() != 0 {
		t.Error("the session has ended while it was in use")
	}
	p.client.Close()
	eventually(t, "the end of the session", func() bool { return p.handler.ends.Load() == 1 })
	t.Logf("%d requests, %d cuts", unique.Load(), p.cutter.cuts)
}
