package server

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
)

// pending is a request that waits. It holds its own copy of everything but the
// memory behind the client's buffers, which the transport keeps accessible until
// done was called. It implements fuse.Pending.
type pending struct {
	server   *Server
	op       *op
	session  *session
	header   fp.InHeader
	cell     *fuse.Cell
	past     *Again
	args     []byte
	data     fuse.Buffers
	dataLen  uint64
	writeTo  fuse.Buffers
	room     uint64
	groups   []uint32
	security []SecurityContext
	spot     spot
	detour   bool                   // it waits here because others hang
	thread   atomic.Pointer[thread] // that serves it by now, of those that are watched
	hang     hang                   // guarded by the watch's lock, told excepted
	cost     int                    // bytes that it is counted with; see maxHeld
	brief    bool                   // see Brief
	inGo     bool                   // the wait holds no thread
	done     func(fuse.Reply)
	once     sync.Once
	parking  parking
	small    small
	stopped  atomic.Bool // by Stop, not by the client
	ended    bool        // because of that
}

// small is room for what most requests have.
type small struct {
	args          [8]uint64
	data, writeTo [1]unix.Iovec
}

// copyArgs copies what most requests have to a place without an allocation of its own.
func (d *pending) copyArgs(t *thread) {
	if len(t.args) <= len(d.small.args)*8 {
		d.args = unsafe.Slice((*byte)(unsafe.Pointer(&d.small.args)), len(d.small.args)*8)[:len(t.args)]
	} else {
		d.args = alignedBytes(len(t.args))
	}
	copy(d.args, t.args)
	d.data = append(d.small.data[:0], t.data...)
	d.writeTo = append(d.small.writeTo[:0], t.writeTo...)
}

// Memory of the host that waiting requests keep is counted and limited for each client. A
// ring of 32768 entries may hold as many requests, and each may have a body of maxArgs and
// 32768 buffers.
const (
	// maxHeld is how much all requests of a client that wait may keep, in bytes.
	maxHeld = 64 << 20
	// heldBase is the memory of each in addition to its copies: the pending, the
	// channel that cancels it, entries of tables, and the transport's own record.
	heldBase = 1 << 10
	// heldGoroutine is what a goroutine of its own takes, with its stack and Thread.
	heldGoroutine = 16 << 10
)

// heldSize is how many bytes the request that t is serving takes while it waits.
func (t *thread) heldSize(o *op, inGo bool) int {
	n := len(t.args) + int(unsafe.Sizeof(unix.Iovec{}))*(len(t.data)+len(t.writeTo)) + 4*len(t.request.Groups)
	for i := range t.request.Security {
		c := &t.request.Security[i]
		n += int(unsafe.Sizeof(*c)) + len(c.Name) + len(c.Value) + 16
	}
	n += n/4 + heldBase // the runtime rounds the sizes of objects up
	if inGo {
		n += heldGoroutine
		if o.Data&fp.FromServer != 0 && !o.inPlace {
			n += bulkSize
		}
	}
	return n
}

// newPending copies the request that t is serving; nil when those that wait have all the
// memory that they may have. From here on INTERRUPT finds it.
func newPending(t *thread, o *op, inGo bool) *pending {
	cost := t.heldSize(o, inGo)
	if !t.server.waiting.reserve(cost) {
		return nil
	}
	d := &pending{
		server:  t.server,
		op:      o,
		session: t.session,
		header:  t.request.Header,
		cell:    t.request.Cell,
		past:    t.request.Again,
		dataLen: t.dataLen,
		room:    t.room,
		groups:  slices.Clone(t.request.Groups),
		spot:    t.spotOf(o),
		cost:    cost,
		inGo:    inGo,
		parking: parking{parked: t.request.parked},
	}
	d.copyArgs(t)
	d.hang.since = t.server.watch.count.Load()
	for _, c := range t.request.Security {
		d.security = append(d.security, SecurityContext{Name: slices.Clone(c.Name), Value: slices.Clone(c.Value)})
	}
	t.server.waiting.add(d)
	return d
}

// waitsInGo reports whether a method of o that returned errno will hold no thread while it waits.
func waitsInGo(o *op, errno unix.Errno) bool {
	return o.waits || errno == WouldBlockInGo || errno == wouldBlockParked
}

// pend is newPending for a method that returned errno, one of those of waits. Otherwise
// it returns the errno to answer with, and what the method has parked is dropped.
func (t *thread) pend(o *op, errno unix.Errno) (*pending, unix.Errno) {
	if o.lingers && !t.mayLinger() {
		t.request.dropParked()
		return nil, unix.ENOLCK
	}
	d := newPending(t, o, waitsInGo(o, errno))
	if d == nil {
		t.request.dropParked()
		return nil, unix.ENOMEM
	}
	d.brief = errno == WouldBlockBriefly
	d.detour = t.detour
	return d, 0
}

// Start implements fuse.Pending, on a goroutine of the server's.
func (d *pending) Start(done func(fuse.Reply)) {
	d.done = done
	if !d.inGo {
		d.server.pool.submit(d)
		return
	}
	if d.parking.parked != nil && d.startParked() {
		return
	}
	// It sleeps in Go, possibly for ever: it gets no thread.
	if !d.server.users.enter() {
		d.refuse(unix.ENOTCONN)
		return
	}
	d.server.runners.serve(d)
}

// cancel makes a request that waits for another client end soon with EINTR. It may
// be called at any time, also after done.
func (d *pending) cancel() { d.once.Do(d.endWait) }

// Stop implements fuse.Pending. The client has not asked for it: a lock ends with ENOLCK.
func (d *pending) Stop() {
	d.once.Do(func() {
		d.stopped.Store(true)
		d.endWait()
	})
}

// Lingers implements fuse.Pending.
func (d *pending) Lingers() bool { return d.op.lingers }

// ReplyTo implements fuse.Pending.
func (d *pending) ReplyTo(out fuse.Buffers) {
	d.dropParked() // it may know the old ones
	d.writeTo, d.room = out, out.Len()
}

// Out implements fuse.Pending.
func (d *pending) Out() fuse.Buffers { return d.writeTo }

// Free implements fuse.Pending: it takes the request off the count of what the client keeps.
func (d *pending) Free() { d.server.waiting.free(d.cost) }

// Brief implements fuse.Pending.
func (d *pending) Brief() bool { return d.brief }

// Run implements fuse.Thread.
func (t *thread) Run(p fuse.Pending) fuse.Reply {
	d := p.(*pending)
	d.dropParked()
	r := d.serve(t)
	t.request = Request{Thread: &t.Thread} // it may not wait any more
	return r
}

// Try implements fuse.Thread.
func (t *thread) Try(p fuse.Pending) (r fuse.Reply, ok bool) {
	d := p.(*pending)
	d.dropParked()
	r = d.attempt(t, false, func() (uint32, unix.Errno) { return d.again(t) })
	t.request.dropParked()
	t.request = Request{Thread: &t.Thread}
	if ok = !waits(r.Errno); ok {
		d.server.waiting.remove(d)
	}
	return r, ok
}

// finish serves the request on t and reports it.
func (d *pending) finish(t *thread) { d.done(d.serve(t)) }

// serve calls the method again, with leave to wait.
func (d *pending) serve(t *thread) fuse.Reply {
	r := d.attempt(t, true, func() (uint32, unix.Errno) { return d.again(t) })
	d.server.waiting.remove(d)
	return r
}

// again calls the method on t, to which the request is lent.
func (d *pending) again(t *thread) (uint32, unix.Errno) {
	if d.server.session.Load() != d.session {
		// Its nodes and open files are gone, or other files' by now.
		return t.fail(unix.ENOTCONN), unix.ENOTCONN
	}
	return t.run(d.op)
}

// refuse answers the request with an error instead.
func (d *pending) refuse(errno unix.Errno) {
	t := newWaiter(d.server)
	r := d.attempt(t, true, func() (uint32, unix.Errno) { return t.fail(errno), errno })
	d.server.waiting.remove(d)
	d.done(r)
}

// attempt lends t the request, and maybe leave to wait, while f serves it. Buffers that are
// gone cost the reply.
func (d *pending) attempt(t *thread, mayWait bool, f func() (uint32, unix.Errno)) (r fuse.Reply) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			r = fuse.Reply{Errno: unix.EIO}
			// A method may have been cut off half-way.
			t.Break()
			d.server.oops.Do(func() { d.server.log.Warn(fmt.Sprintf("%s: reply lost: %v", fp.Opcode(d.header.Opcode), fault)) })
		}
	}()
	if t.tid != 0 {
		d.thread.Store(t)
		defer d.thread.Store(nil)
	}
	t.request = Request{Header: d.header, Groups: d.groups, Security: d.security,
		MayWait: mayWait, Thread: &t.Thread,
		Cell: d.cell, Again: d.past, pending: d, parked: d.parking.parked}
	if mayWait {
		t.request.Canceled = d.canceled()
	}
	t.session, t.tracing = d.session, d.server.tracing()
	t.args, t.data, t.dataLen = d.args, d.data, d.dataLen
	t.writeTo, t.room = d.writeTo, d.room
	written, errno := f()
	if mayWait || !waits(errno) {
		errno = sent(errno)
	}
	return fuse.Reply{Len: written, Errno: errno, Stopped: d.ended}
}

// waitingTable finds the waiting requests by their unique number, for INTERRUPT.
type waitingTable struct {
	mu    sync.Mutex // guards the following; a leaf
	table map[uint64]*pending
	held  int        // bytes that requests which were not freed are counted with
	part  *host.Part // of the memory of all servers

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
	if n > maxHeld-w.held || !w.part.Take(int64(n)) {
		return false
	}
	w.held += n
	return true
}

func (w *waitingTable) free(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held -= n
	w.part.Put(int64(n))
}

func (w *waitingTable) add(d *pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.table == nil {
		w.table = make(map[uint64]*pending)
	}
	// A client that uses a number twice can interrupt only one of the two.
	w.table[d.header.Unique] = d
	if d.cell.Interrupted() { // by a predecessor of this process
		d.cancel()
	}
	if i := slices.Index(w.early[:], d.header.Unique); i >= 0 && d.header.Unique != 0 {
		w.early[i] = 0
		d.cancel()
	}
}

func (w *waitingTable) remove(d *pending) {
	w.mu.Lock()
	if w.table[d.header.Unique] == d {
		delete(w.table, d.header.Unique)
	}
	w.mu.Unlock()
	d.server.watch.notWaiting(d)
}

// withoutThread are the requests that wait and that no thread serves, but those that wait for
// another client.
func (w *waitingTable) withoutThread() []*pending {
	return w.which(func(d *pending) bool { return !d.op.lingers && d.thread.Load() == nil })
}

// locks are those that wait for another client.
func (w *waitingTable) locks() []*pending {
	return w.which(func(d *pending) bool { return d.op.lingers })
}

func (w *waitingTable) which(yes func(*pending) bool) (list []*pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.table {
		if yes(d) {
			list = append(list, d)
		}
	}
	return list
}

// some reports whether there is a request that waits, and not for another client.
func (w *waitingTable) some() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.table {
		if !d.op.lingers {
			return true
		}
	}
	return false
}

// cancel ends the wait of a request. early says that it does not wait yet, or no more.
func (w *waitingTable) cancel(unique uint64) (early bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.table[unique]; d != nil {
		d.cell.Interrupt() // the client does not ask twice
		d.cancel()
		return false
	}
	w.early[w.next] = unique
	w.next = (w.next + 1) % len(w.early)
	return true
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

func interrupt(t *thread) (int, unix.Errno) {
	v, _ := in[fp.InterruptIn](t)
	s := t.server
	if early := s.waiting.cancel(v.Unique); early && s.opts.Ledger != nil {
		s.initMu.Lock()
		defer s.initMu.Unlock()
		s.noteAgain()
	}
	return 0, 0
}
