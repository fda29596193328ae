package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/fuse/stats"
	"github.com/govirtiofs/govirtiofs/fusedev"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// observer is a Handler around a Handler. It notes each request and its result.
type observer struct {
	fuse.Handler
	mu   sync.Mutex // guards seen
	seen []observed
}

// observed is what the header of a request and the reply tell.
type observed struct {
	header fp.InHeader
	in     uint64 // bytes of the request
	began  time.Time
	took   time.Duration
	waited bool // it was a Pending
	reply  fuse.Reply
}

func (o *observer) note(e observed, r fuse.Reply) {
	e.reply, e.took = r, time.Since(e.began)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, e)
}

func (o *observer) StartThread(h fuse.Hooks) (fuse.Thread, error) {
	t, err := o.Handler.StartThread(h)
	if err != nil {
		return nil, err
	}
	return &observedThread{t, o}, nil
}

type observedThread struct {
	fuse.Thread
	o *observer
}

func (t *observedThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	e := observed{header: m.Header, in: m.In.Len(), began: time.Now()}
	r, p := t.Thread.Handle(m)
	if p != nil {
		e.waited = true
		return r, &observedPending{p, t.o, e}
	}
	t.o.note(e, r)
	return r, nil
}

func (t *observedThread) Run(p fuse.Pending) fuse.Reply {
	q := p.(*observedPending)
	r := t.Thread.Run(q.Pending)
	t.o.note(q.e, r)
	return r
}

func (t *observedThread) Try(p fuse.Pending) (fuse.Reply, bool) {
	q := p.(*observedPending)
	r, ok := t.Thread.Try(q.Pending)
	if ok {
		t.o.note(q.e, r)
	}
	return r, ok
}

type observedPending struct {
	fuse.Pending
	o *observer
	e observed
}

func (p *observedPending) Start(done func(fuse.Reply)) {
	p.Pending.Start(func(r fuse.Reply) {
		p.o.note(p.e, r)
		done(r)
	})
}

// count is how many requests of an opcode were seen, how many failed, and how many waited.
func (o *observer) count(op fp.Opcode) (requests, failed, waited uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.seen {
		e := &o.seen[i]
		if fp.Opcode(e.header.Opcode) != op {
			continue
		}
		requests++
		if e.reply.Errno != 0 {
			failed++
		}
		if e.waited {
			waited++
		}
	}
	return requests, failed, waited
}

// reluctant is a file system that wants to wait for each FSYNC, and briefly for each READ.
type reluctant struct{ server.FileSystem }

func (f reluctant) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno {
	if !r.MayWait {
		return server.WouldBlock
	}
	return f.FileSystem.Fsync(r, in)
}

func (f reluctant) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	if !r.MayWait {
		return 0, server.WouldBlockBriefly
	}
	return f.FileSystem.Read(r, in, dst)
}

func newReluctant(fs server.FileSystem) server.FileSystem { return reluctant{fs} }

const observedText = "some text"

// observedDir is a directory with a file.
func observedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(observedText), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestMiddlewareVirtiofs: a Handler around the server sees all requests of a guest, also
// those that the worker completes later.
func TestMiddlewareVirtiofs(t *testing.T) {
	_, s := newDecorated(t, observedDir(t), defaults(), 1, newReluctant)
	o := &observer{Handler: s}
	counted := stats.New(o)
	device, err := virtiofs.New(counted, virtiofs.Options{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	f, done := connect(t, device, frontend.Options{})
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	e, err := c.Lookup(fp.RootID, "file")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lookup(fp.RootID, "absent"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("an absent name: %v", err)
	}
	fh, err := c.Open(e.NodeID, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Read(e.NodeID, fh, 0, 4096); err != nil || string(b) != observedText {
		t.Errorf("READ: %q, %v", b, err)
	}
	if err := c.Fsync(e.NodeID, fh); err != nil {
		t.Errorf("FSYNC: %v", err)
	}
	if n, err := c.Write(e.NodeID, fh, 0, []byte("more text")); err != nil || n != 9 {
		t.Errorf("WRITE: %d, %v", n, err)
	}
	if err := c.Destroy(); err != nil {
		t.Errorf("DESTROY: %v", err)
	}
	f.Close()
	<-done
	o.check(t, counted)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.seen {
		if fp.Opcode(e.header.Opcode) == fp.OpWrite && (e.in != 40+40+9 || e.reply.Len != 16+8) {
			t.Errorf("WRITE of 9 bytes: %+v", e)
		}
	}
}

// TestMiddlewareFusedev: the same Handler serves this machine's own kernel.
func TestMiddlewareFusedev(t *testing.T) {
	guest.NeedFUSE(t)
	_, s := newDecorated(t, observedDir(t), defaults(), 1, newReluctant)
	o := &observer{Handler: s}
	counted := stats.New(o)
	target := t.TempDir()
	m, err := fusedev.New(target, fusedev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- m.Serve(counted, 2) }()
	// This process serves the mount, so other processes must use it.
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	file := filepath.Join(target, "file")
	out, err := exec.CommandContext(ctx, "sh", "-c", `cat "$0" && sync "$0" && echo more text >"$0"; test ! -e "$0.absent"`, file).CombinedOutput()
	if err != nil || string(out) != observedText {
		t.Errorf("%v, %q", err, out)
	}
	if err := m.Unmount(); err != nil {
		t.Error(err)
		_ = m.Detach()
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	o.check(t, counted)
}

// check compares the observed requests with the counters of another Handler around this
// one. READ and FSYNC have waited, a LOOKUP has failed.
func (o *observer) check(t *testing.T, s *stats.Handler) {
	t.Helper()
	for op, counts := range s.Counts() {
		op := fp.Opcode(op)
		requests, failed, waited := o.count(op)
		if requests != counts.Requests || failed != counts.Errors || waited != counts.Waited {
			t.Errorf("%v: saw %d requests, %d with an errno, %d that have waited; counted are %+v", op, requests, failed, waited, counts)
		}
		switch op {
		case fp.OpRead, fp.OpFsync:
			if requests == 0 || waited != requests {
				t.Errorf("%v: %d of %d have waited", op, waited, requests)
			}
		case fp.OpLookup:
			if failed == 0 || waited != 0 {
				t.Errorf("%v: %d of %d have failed, %d have waited", op, failed, requests, waited)
			}
		case fp.OpInit, fp.OpWrite:
			if requests == 0 || failed != 0 {
				t.Errorf("%v: %d of %d have failed", op, failed, requests)
			}
		}
	}
}
