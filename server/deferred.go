package server

import (
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Deferred is a request that waits. It holds its own copy of everything but the
// memory behind the client's buffers, which the transport keeps accessible until
// done was called.
type Deferred struct {
	server   *Server
	op       *op
	session  *session
	header   fp.InHeader
	args     []byte
	data     []unix.Iovec
	dataLen  uint64
	writeTo  []unix.Iovec
	room     uint64
	groups   []uint32
	security []SecurityContext
	cost     int  // bytes that it is counted with; see maxHeld
	brief    bool // see Brief
	done     func(written uint32)
	once     sync.Once
	canceled chan struct{}
	stopped  atomic.Bool // see Stop
}

// What requests that wait keep of the host's memory is counted, all of it, and bounded for
// each client. A ring of 32768 entries may hold as many requests, and each may have a body of
// maxArgs and 32768 buffers.
const (
	// maxHeld is how much all requests of a client that wait may keep, in bytes.
	maxHeld = 64 << 20
	// heldBase is what each of them takes beside its copies: Deferred, the channel that
	// cancels it, entries of tables, and what the transport remembers it with.
	heldBase = 1 << 10
	// heldGoroutine is what a goroutine of its own takes, with its stack and Thread.
	heldGoroutine = 16 << 10
)

// heldSize is how many bytes the request that t is serving takes while it waits.
func (t *Thread) heldSize(o *op) int {
	n := len(t.args) + int(unsafe.Sizeof(unix.Iovec{}))*(len(t.data)+len(t.writeTo)) + 4*len(t.request.Groups)
	for i := range t.request.Security {
		c := &t.request.Security[i]
		n += int(unsafe.Sizeof(*c)) + len(c.Name) + len(c.Value) + 16
	}
	n += n/4 + heldBase // the runtime rounds the sizes of objects up
	if o.waits {
		n += heldGoroutine
	}
	return n
}

// newDeferred copies the request that t is serving; nil when those that wait have all the
// memory that they may have. From here on INTERRUPT finds it.
func newDeferred(t *Thread, o *op) *Deferred {
	cost := t.heldSize(o)
	if !t.server.waiting.reserve(cost) {
		return nil
	}
	args := alignedBytes(len(t.args))
	copy(args, t.args)
	d := &Deferred{
		server:   t.server,
		op:       o,
		session:  t.session,
		header:   t.request.Header,
		args:     args,
		data:     slices.Clone(t.data),
		dataLen:  t.dataLen,
		writeTo:  slices.Clone(t.writeTo),
		room:     t.room,
		groups:   slices.Clone(t.request.Groups),
		cost:     cost,
		canceled: make(chan struct{}),
	}
	for _, c := range t.request.Security {
		d.security = append(d.security, SecurityContext{Name: slices.Clone(c.Name), Value: slices.Clone(c.Value)})
	}
	t.server.waiting.add(d)
	return d
}

// deferred is newDeferred for a method that returned errno, one of those of waits. Otherwise
// it returns the errno to answer with.
func (t *Thread) deferred(o *op, errno unix.Errno) (*Deferred, unix.Errno) {
	if o.lingers && t.MayLinger != nil && !t.MayLinger() {
		return nil, unix.ENOLCK
	}
	d := newDeferred(t, o)
	if d == nil {
		return nil, unix.ENOMEM
	}
	d.brief = errno == WouldBlockBriefly
	return d, 0
}

// Start finishes the request on a goroutine of the server's and then calls done
// there, once, with the length of the reply.
func (d *Deferred) Start(done func(written uint32)) {
	d.done = done
	if !d.op.waits {
		d.server.pool.submit(d)
		return
	}
	// It sleeps in Go, possibly for ever: it gets no thread.
	go func() {
		t := newWaiter(d.server)
		d.finish(t)
		d.server.removeThread(t)
	}()
}

// Cancel makes a request that waits for another client end soon with EINTR. It may
// be called at any time, also after done.
func (d *Deferred) Cancel() { d.once.Do(func() { close(d.canceled) }) }

// Stop is Cancel for a client that has not asked for it: a lock ends with ENOLCK.
func (d *Deferred) Stop() {
	d.stopped.Store(true)
	d.Cancel()
}

// Lingers reports whether the request waits for another client, which may take for ever.
func (d *Deferred) Lingers() bool { return d.op.lingers }

// ReplyTo has the reply written to other buffers than those that Handle was given. It is
// called before Start.
func (d *Deferred) ReplyTo(out []unix.Iovec) { d.writeTo, d.room = out, iovLen(out) }

// Buffers are the client's buffers for the reply, as Handle got them, for a transport that has
// to know what was written. They are the Deferred's, and not to be changed.
func (d *Deferred) Buffers() []unix.Iovec { return d.writeTo }

// Free takes the request off the count of what the client keeps. The transport calls it once,
// when the request has been answered and nothing of it is needed any more, Buffers included.
func (d *Deferred) Free() { d.server.waiting.free(d.cost) }

// Brief reports whether what the request waits for is under way and will not take long: a
// queue whose thread has nothing else to do may Run it instead.
func (d *Deferred) Brief() bool { return d.brief }

// Run finishes the request on a queue's thread instead of Start, and returns the length of
// the reply. After it the transport looks at Thread.Broken.
func (d *Deferred) Run(t *Thread) (written uint32) {
	written = d.serve(t)
	t.request = Request{Thread: t} // it may not wait any more
	return written
}

// Try is Run for a request that need not wait any more; ok is false, and nothing is done, if
// it does.
func (d *Deferred) Try(t *Thread) (written uint32, ok bool) {
	ok = true
	written = d.attempt(t, false, func() (uint32, unix.Errno) {
		written, errno := d.again(t)
		ok = !waits(errno)
		return written, errno
	})
	t.request = Request{Thread: t}
	if ok {
		d.server.waiting.remove(d)
	}
	return written, ok
}

// finish serves the request on t and reports it.
func (d *Deferred) finish(t *Thread) { d.done(d.serve(t)) }

// serve calls the method again, with leave to wait.
func (d *Deferred) serve(t *Thread) (written uint32) {
	written = d.attempt(t, true, func() (uint32, unix.Errno) { return d.again(t) })
	d.server.waiting.remove(d)
	return written
}

// again calls the method on t, to which the request is lent.
func (d *Deferred) again(t *Thread) (uint32, unix.Errno) {
	if d.server.session.Load() != d.session {
		// Its nodes and handles are gone, or other files' by now.
		return t.fail(unix.ENOTCONN), unix.ENOTCONN
	}
	return t.run(d.op)
}

// refuse answers the request with an error instead.
func (d *Deferred) refuse(errno unix.Errno) {
	t := newWaiter(d.server)
	written := d.attempt(t, true, func() (uint32, unix.Errno) { return t.fail(errno), errno })
	d.server.waiting.remove(d)
	d.server.removeThread(t)
	d.done(written)
}

// attempt lends t the request, and maybe leave to wait, while f serves it. Buffers that are
// gone cost the reply.
func (d *Deferred) attempt(t *Thread, mayWait bool, f func() (uint32, unix.Errno)) (written uint32) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			written = 0
			// A method may have been cut off half-way.
			t.Break()
			d.server.oops.Do(func() { d.server.log.Warnf("%s: reply lost: %v", fp.Opcode(d.header.Opcode), r) })
		}
	}()
	t.request = Request{Header: d.header, Groups: d.groups, Security: d.security,
		MayWait: mayWait, Canceled: d.canceled, Thread: t, deferred: d}
	t.session, t.moved = d.session, 0
	t.args, t.data, t.dataLen = d.args, d.data, d.dataLen
	t.writeTo, t.room = d.writeTo, d.room
	written, errno := f()
	if mayWait || !waits(errno) {
		t.count(d.op, errno)
	}
	return written
}

// waitingTable finds the waiting requests by their unique number, for INTERRUPT.
type waitingTable struct {
	mu    sync.Mutex // guards the following; a leaf
	table map[uint64]*Deferred
	held  int // bytes that requests which were not freed are counted with

	// early are numbers that were interrupted while no such request waited, the
	// latest at next-1. With /dev/fuse another thread may have the request and not be
	// here yet.
	early [16]uint64
	next  int
}

// reserve counts n bytes; false when that would be too many.
func (w *waitingTable) reserve(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > maxHeld-w.held {
		return false
	}
	w.held += n
	return true
}

func (w *waitingTable) free(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held -= n
}

func (w *waitingTable) add(d *Deferred) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.table == nil {
		w.table = make(map[uint64]*Deferred)
	}
	// A client that uses a number twice can interrupt only one of the two.
	w.table[d.header.Unique] = d
	if i := slices.Index(w.early[:], d.header.Unique); i >= 0 && d.header.Unique != 0 {
		w.early[i] = 0
		d.Cancel()
	}
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
	defer w.mu.Unlock()
	if d := w.table[unique]; d != nil {
		d.Cancel()
		return
	}
	w.early[w.next] = unique
	w.next = (w.next + 1) % len(w.early)
}

// cancelAll ends what waits for other clients, at the end of a session.
func (w *waitingTable) cancelAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.table {
		d.Stop()
	}
	w.early = [16]uint64{}
}

func interrupt(t *Thread) (int, unix.Errno) {
	v, _ := in[fp.InterruptIn](t)
	t.server.waiting.cancel(v.Unique)
	return 0, 0
}
