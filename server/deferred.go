package server

import (
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Deferred is a request that waits. It holds its own copy of everything but the
// memory behind the client's buffers, which the transport keeps accessible until
// done was called.
type Deferred struct {
	server   *Server
	op       *op
	header   fp.InHeader
	args     []byte
	data     []unix.Iovec
	dataLen  uint64
	writeTo  []unix.Iovec
	room     uint64
	groups   []uint32
	security []SecurityContext
	done     func(written uint32)
	once     sync.Once
	canceled chan struct{}
}

// newDeferred copies the request that t is serving.
func newDeferred(t *Thread, o *op) *Deferred {
	args := alignedBytes(len(t.args))
	copy(args, t.args)
	d := &Deferred{
		server:   t.server,
		op:       o,
		header:   t.request.Header,
		args:     args,
		data:     slices.Clone(t.data),
		dataLen:  t.dataLen,
		writeTo:  slices.Clone(t.writeTo),
		room:     t.room,
		groups:   slices.Clone(t.request.Groups),
		canceled: make(chan struct{}),
	}
	for _, c := range t.request.Security {
		d.security = append(d.security, SecurityContext{Name: slices.Clone(c.Name), Value: slices.Clone(c.Value)})
	}
	return d
}

// Start finishes the request on a goroutine of the server's and then calls done
// there, once, with the length of the reply.
func (d *Deferred) Start(done func(written uint32)) {
	d.done = done
	d.server.waiting.add(d)
	if d.op.waits {
		// It sleeps in Go, possibly for ever: it gets no thread.
		go d.finish(newThread(d.server))
		return
	}
	d.server.pool.submit(d)
}

// Cancel makes a request that waits for another client end soon with EINTR. It may
// be called at any time after Start, also after done.
func (d *Deferred) Cancel() { d.once.Do(func() { close(d.canceled) }) }

// finish serves the request on t and reports it.
func (d *Deferred) finish(t *Thread) {
	written := d.serve(t)
	d.server.waiting.remove(d)
	d.done(written)
}

// serve runs the method again, now with leave to wait. Buffers that are gone cost
// the reply.
func (d *Deferred) serve(t *Thread) (written uint32) {
	debug.SetPanicOnFault(true)
	defer func() {
		if r := recover(); r != nil {
			written = 0
			d.server.oops.Do(func() { d.server.log.Warnf("reply lost: %v", r) })
		}
	}()
	t.request = Request{Header: d.header, Groups: d.groups, Security: d.security,
		MayWait: true, Canceled: d.canceled, Thread: t}
	t.args, t.data, t.dataLen = d.args, d.data, d.dataLen
	t.writeTo, t.room = d.writeTo, d.room
	written, errno := t.run(d.op)
	t.count(errno)
	return written
}

// waitingTable finds the waiting requests by their unique number, for INTERRUPT.
type waitingTable struct {
	mu    sync.Mutex
	table map[uint64]*Deferred
}

func (w *waitingTable) add(d *Deferred) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.table == nil {
		w.table = make(map[uint64]*Deferred)
	}
	// A client that uses a number twice can interrupt only one of the two.
	w.table[d.header.Unique] = d
}

func (w *waitingTable) remove(d *Deferred) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.table[d.header.Unique] == d {
		delete(w.table, d.header.Unique)
	}
}

func (w *waitingTable) cancel(unique uint64) {
	w.mu.Lock()
	d := w.table[unique]
	w.mu.Unlock()
	if d != nil {
		d.Cancel()
	}
}

func interrupt(t *Thread) (int, unix.Errno) {
	v, _ := in[fp.InterruptIn](t)
	t.server.waiting.cancel(v.Unique)
	return 0, 0
}

// poolIdle is how long a thread of the pool stays without work.
const poolIdle = 5 * time.Second

// pool is the threads on which requests may block in system calls: as many as
// needed, up to a limit.
type pool struct {
	server *Server
	max    int
	idle   chan *Deferred // taken by threads that have nothing to do

	mu      sync.Mutex // guards the following
	threads int
	queue   []*Deferred // when all threads are busy
}

func (p *pool) init(s *Server, max int) {
	p.server, p.max, p.idle = s, max, make(chan *Deferred)
}

// submit has d finished by an idle thread, a new one, or the next that is done.
func (p *pool) submit(d *Deferred) {
	select {
	case p.idle <- d:
		return
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.threads >= p.max {
		p.queue = append(p.queue, d)
		return
	}
	p.threads++
	go p.run(d)
}

// next is the next queued request; without one the thread counts as idle no more
// once it has waited in vain.
func (p *pool) next() *Deferred {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	d := p.queue[0]
	p.queue = p.queue[1:]
	return d
}

// run is one thread of the pool.
func (p *pool) run(d *Deferred) {
	t, err := p.server.StartThread()
	if err != nil {
		p.server.log.WithError(err).Error("no thread for waiting requests")
		t = newThread(p.server)
	}
	timer := time.NewTimer(poolIdle)
	for d != nil {
		if err != nil {
			t.writeTo, t.room, t.request.Header = d.writeTo, d.room, d.header
			d.server.waiting.remove(d)
			d.done(t.fail(unix.EIO))
		} else {
			d.finish(t)
		}
		if t.Broken() {
			break
		}
		if d = p.next(); d != nil {
			continue
		}
		timer.Reset(poolIdle)
		select {
		case d = <-p.idle:
		case <-timer.C:
		}
	}
	if err == nil {
		p.server.StopThread(t)
	}
	p.leave()
}

// leave takes a thread off the count. What was queued while it was leaving goes to
// a new one.
func (p *pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		d := p.queue[0]
		p.queue = p.queue[1:]
		go p.run(d)
		return
	}
	p.threads--
}
