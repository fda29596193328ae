package stream

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// restarts serves h at a path, by one Server after the other.
type restarts struct {
	t      *testing.T
	h      *recorder
	path   string
	state  bytes.Buffer
	cancel func()
	ended  chan struct{}
}

func (r *restarts) start() {
	r.t.Helper()
	s, err := New(r.h, Options{Save: &r.state, Log: quiet()})
	if err != nil {
		r.t.Fatal(err)
	}
	s.stopTime = time.Minute
	if err := s.Load(&r.state); err != nil {
		r.t.Fatal(err)
	}
	if r.state.Len() != 0 {
		r.t.Fatalf("%d bytes of the state are left", r.state.Len())
	}
	l, err := net.Listen("unix", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan struct{})
	ended := r.ended
	go func() { _ = s.Serve(ctx, l); close(ended) }()
}

func (r *restarts) stop() {
	r.cancel()
	<-r.ended
}

// TestRestart: servers are ended and started 30 times while requests of all sizes are under way. Each
// request is handled once, and each is answered once with its own reply.
func TestRestart(t *testing.T) {
	const channels, times = 3, 30
	r := &restarts{t: t, h: newRecorder(), path: filepath.Join(t.TempDir(), "s")}
	r.start()
	c, err := Dial(t.Context(), ClientOptions{Dial: dialer(r.path), Channels: channels, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	var devices []Device
	var kernels []*kernel
	for range channels {
		k := newKernel()
		kernels, devices = append(kernels, k), append(devices, k)
	}
	served := make(chan error, 1)
	go func() { served <- c.Serve(devices) }()
	var stop atomic.Bool
	var unique atomic.Uint64
	var wg sync.WaitGroup
	for i, k := range kernels {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(i)))
			ops := []fp.Opcode{fp.OpWrite, fp.OpRead, fp.OpGetattr, fp.OpForget}
			for !stop.Load() {
				k.ask(ops[rnd.IntN(len(ops))], unique.Add(1), rnd.IntN(DefaultMaxWrite))
			}
		})
	}
	for range times {
		before := unique.Load()
		eventually(t, "requests after a restart", func() bool {
			select {
			case err := <-served:
				t.Fatalf("the client has ended: %v", err)
			default:
			}
			return unique.Load() > before+30
		})
		r.stop()
		r.start()
	}
	stop.Store(true)
	wg.Wait()
	for i, k := range kernels {
		eventually(t, "all replies", func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return len(k.waiting) == 0
		})
		for _, e := range k.errs {
			t.Errorf("channel %d: %s", i+1, e)
		}
	}
	for n := uint64(1); n <= unique.Load(); n++ {
		eventually(t, "a request without a reply", func() bool { return r.h.seen(n) > 0 })
		if k := r.h.seen(n); k != 1 {
			t.Errorf("request %d was handled %d times", n, k)
		}
	}
	for _, k := range kernels {
		close(k.asked)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if r.h.ends.Load() != 0 {
		t.Error("the session has ended while it was in use")
	}
	c.Close()
	eventually(t, "the end of the session", func() bool { return r.h.ends.Load() == 1 })
	r.stop()
	if r.state.Len() != 0 {
		t.Errorf("a session that has ended is saved: %d bytes", r.state.Len())
	}
	t.Logf("%d requests, %d restarts", unique.Load(), times)
}

// TestForgedState: a state that is not one of ours is refused, whatever it says, and there is no
// session then.
func TestForgedState(t *testing.T) {
	r := &restarts{t: t, h: newRecorder(), path: filepath.Join(t.TempDir(), "s")}
	r.start()
	g := dialGuest(t, r.path)
	if _, err := g.greet(hello{Channel: 1}, "", ""); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		if _, err := g.Write(message(fp.OpGetattr, 3*i+1, make([]byte, 16))); err != nil {
			t.Fatal(err)
		}
		if _, err := g.receive(); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	state := bytes.Clone(r.state.Bytes())
	load := func(b []byte) (*Server, error) {
		s, err := New(newRecorder(), Options{Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Load(bytes.NewReader(b))
		if err != nil && s.session != nil {
			t.Error("a session is left")
		}
		if s.session != nil {
			for _, c := range s.session.channels {
				if c.used < 0 || c.used > c.window || c.out.bytes > c.window {
					t.Errorf("%d used and %d bytes of %d", c.used, c.out.bytes, c.window)
				}
			}
			s.close()
		}
		return s, err
	}
	if s, err := load(state); err != nil || s == nil {
		t.Fatal(err)
	}
	for n := range state {
		if n > 0 {
			if _, err := load(state[:n]); err == nil {
				t.Errorf("%d of %d bytes are a state", n, len(state))
			}
		}
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			b := bytes.Clone(state)
			b[n] = v
			_, _ = load(b)
		}
	}
	if _, err := load([]byte(strings.Repeat("x", 100))); err == nil {
		t.Error("any text is a state")
	}
	// The state begins a session that the guest can go on with, and no other.
	r.state.Reset()
	r.state.Write(state)
	r.start()
	defer r.stop()
	if _, err := dialGuest(t, r.path).greet(hello{Mode: modeResume, Channel: 1, Session: id{9}}, "", ""); err == nil {
		t.Error("another session goes on")
	}
}
