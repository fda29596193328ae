// Package stats counts the requests that go through a fuse.Handler, for any transport and
// any inner Handler.
package stats

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Counts are the requests of one opcode that were answered.
type Counts struct {
	Requests uint64
	Errors   uint64 // of Requests, those with an errno
	Waited   uint64 // of Requests, those that could not be answered at once
	Received uint64 // bytes of the requests, headers included
	Sent     uint64 // bytes of the replies, headers included
}

// numRows has one row more than there are opcodes, for the unknown ones.
const numRows = fp.NumOpcodes + 1

// Handler is a fuse.Handler that counts what another one does.
type Handler struct {
	fuse.Handler
	mu      sync.Mutex // guards threads; a leaf
	threads map[*thread]struct{}
	ended   counters // of threads that have stopped, and of requests that were finished elsewhere
}

// New returns a Handler around h.
func New(h fuse.Handler) *Handler {
	return &Handler{Handler: h, threads: make(map[*thread]struct{})}
}

// Counts are the requests so far, by opcode. The row fp.NumOpcodes has the unknown
// opcodes. A request that is too short for a header has opcode 0.
func (h *Handler) Counts() [fp.NumOpcodes + 1]Counts {
	var sum [numRows]Counts
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended.addTo(&sum)
	for t := range h.threads {
		t.counters.addTo(&sum)
	}
	return sum
}

// StartThread implements fuse.Handler.
func (h *Handler) StartThread(hooks fuse.Hooks) (fuse.Thread, error) {
	inner, err := h.Handler.StartThread(hooks)
	if err != nil {
		return nil, err
	}
	t := &thread{Thread: inner, handler: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.threads[t] = struct{}{}
	return t, nil
}

// counters are Counts that may be read while they grow.
type counters [numRows]struct {
	requests, errors, waited, received, sent atomic.Uint64
}

func (c *counters) add(q request, r fuse.Reply, waited uint64) {
	row := &c[min(q.opcode, numRows-1)]
	row.requests.Add(1)
	row.received.Add(q.size)
	row.sent.Add(uint64(r.Len))
	if r.Errno != 0 {
		row.errors.Add(1)
	}
	if waited != 0 {
		row.waited.Add(waited)
	}
}

func (c *counters) addTo(sum *[numRows]Counts) {
	for i := range sum {
		row := &c[i]
		sum[i].Requests += row.requests.Load()
		sum[i].Errors += row.errors.Load()
		sum[i].Waited += row.waited.Load()
		sum[i].Received += row.received.Load()
		sum[i].Sent += row.sent.Load()
	}
}

// merge adds the counts of a thread that has stopped.
func (c *counters) merge(of *counters) {
	for i := range c {
		to, from := &c[i], &of[i]
		to.requests.Add(from.requests.Load())
		to.errors.Add(from.errors.Load())
		to.waited.Add(from.waited.Load())
		to.received.Add(from.received.Load())
		to.sent.Add(from.sent.Load())
	}
}

// request is what is remembered of a request.
type request struct {
	opcode uint32
	size   uint64
}

func requestOf(m *fuse.Message) request { return request{m.Header.Opcode, m.In.Len()} }

// thread counts in counters of its own: no other thread writes them.
type thread struct {
	fuse.Thread
	handler  *Handler
	counters counters
}

// Handle implements fuse.Thread.
func (t *thread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	r, p := t.Thread.Handle(m)
	if p != nil {
		return r, &pending{p, t.handler, requestOf(m)}
	}
	t.counters.add(requestOf(m), r, 0)
	return r, nil
}

// Refuse implements fuse.Thread.
func (t *thread) Refuse(m *fuse.Message, errno unix.Errno) fuse.Reply {
	r := t.Thread.Refuse(m, errno)
	t.counters.add(requestOf(m), r, 0)
	return r
}

// Run implements fuse.Thread.
func (t *thread) Run(p fuse.Pending) fuse.Reply {
	q := p.(*pending)
	r := t.Thread.Run(q.Pending)
	t.counters.add(q.request, r, 1)
	return r
}

// Try implements fuse.Thread.
func (t *thread) Try(p fuse.Pending) (fuse.Reply, bool) {
	q := p.(*pending)
	r, ok := t.Thread.Try(q.Pending)
	if ok {
		t.counters.add(q.request, r, 1)
	}
	return r, ok
}

// Stop implements fuse.Thread.
func (t *thread) Stop() {
	t.Thread.Stop()
	t.handler.mu.Lock()
	defer t.handler.mu.Unlock()
	delete(t.handler.threads, t)
	t.handler.ended.merge(&t.counters)
}

// pending is counted when it is finished, on any goroutine.
type pending struct {
	fuse.Pending
	handler *Handler
	request request
}

// Start implements fuse.Pending.
func (p *pending) Start(done func(fuse.Reply)) {
	p.Pending.Start(func(r fuse.Reply) {
		p.handler.ended.add(p.request, r, 1)
		done(r)
	})
}
