package server

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// Options are the parts of a Server's behaviour that no client decides.
type Options struct {
	ReadOnly bool   // refuse every opcode that changes something with EROFS
	MaxWrite uint32 // bytes of data in one request; 0 is fuse.DefaultMaxWrite, more than maxMaxWrite is that
	// MaxWaiting is how many requests may block in system calls at the same time
	// outside the queues' threads; 0 is 32. More of them queue up.
	MaxWaiting int
	// RequestTimeout has the client give up the session when a request takes longer, in
	// seconds, if it can (fp.InitRequestTimeout); 0 has it wait.
	RequestTimeout uint16
	// ThreadState, if not nil, says for messages what a thread of the process does at the
	// moment, by its number in the operating system (gettid(2)). It may be called by any goroutine.
	ThreadState func(tid int) string
	// Host is what this server has in common with others of the process; nil is nothing.
	Host *host.Host
	// Ledger is where the session is noted for a successor of this process, see Resume. The file
	// system has the same one. nil is nowhere.
	Ledger *ledger.Ledger
	// Log is where messages go; nil is slog.Default(). At LevelTrace there is one for each
	// request and reply.
	Log *slog.Logger
}

// Server serves FUSE requests from a FileSystem. It is a fuse.Handler.
type Server struct {
	fs     FileSystem
	opts   Options
	log    *slog.Logger
	oops   rate.Sometimes
	panics atomic.Uint64
	traced atomic.Bool // see lookAtLevel

	session   atomic.Pointer[session] // nil before INIT
	restarted atomic.Bool             // see Restarted
	initMu    sync.Mutex              // INIT, DESTROY and Reset one at a time
	leaving   bool                    // the client's state is being sent, and it has not run since; guarded by initMu
	left      bool                    // the client's state was saved, and it has not run since; guarded by initMu

	users   users
	pool    pool
	waiting waitingTable
	runners runners
	watch   watch
	backing backing
}

// session is what INIT has settled.
type session struct {
	minor    uint32 // of the protocol
	flags    fp.InitFlags
	maxWrite uint32
	maxRead  uint32
}

// New returns a server for fs.
func New(fs FileSystem, opts Options) *Server {
	if opts.MaxWrite == 0 {
		opts.MaxWrite = fuse.DefaultMaxWrite
	}
	if opts.MaxWaiting == 0 {
		opts.MaxWaiting = 32
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Server{
		fs:   fs,
		opts: opts,
		log:  opts.Log,
		oops: rate.Sometimes{Interval: time.Second},
	}
	s.lookAtLevel()
	s.watch.init(s)
	s.runners.init()
	s.pool.init(s, opts.MaxWaiting)
	s.waiting.part = opts.Host.Memory()
	return s
}

// Handle implements fuse.Thread.
func (t *thread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	r, d := t.serve(m)
	if d != nil {
		return r, d
	}
	return r, nil
}

func (t *thread) serve(m *fuse.Message) (fuse.Reply, *pending) {
	o, errno := t.load(m)
	if t.tracing = t.server.tracing(); t.tracing {
		t.traceRequest(o)
	}
	var written uint32
	if errno == 0 {
		written, errno = t.run(o)
		if waits(errno) {
			inGo := waitsInGo(o, errno)
			var d *pending
			if d, errno = t.pend(o, errno); d != nil {
				return fuse.Reply{}, d
			}
			written, errno = t.unqueued(o, inGo || t.detour, errno)
		}
	} else if !o.NoReply {
		written = t.fail(errno)
	}
	return fuse.Reply{Len: written, Errno: sent(errno)}, nil
}

// unqueued finishes a request that has to wait when too many others wait. If it waits in a
// system call its queue's thread does so for it: a client with many requests is slowed down.
// A request is refused if it waits for another client or process, possibly for ever, or where others hang.
func (t *thread) unqueued(o *op, forEver bool, refused unix.Errno) (written uint32, errno unix.Errno) {
	if forEver {
		return t.fail(refused), refused
	}
	t.request.MayWait = true
	defer func() { t.request.MayWait = false }()
	return t.run(o)
}

// Refuse implements fuse.Thread.
func (t *thread) Refuse(m *fuse.Message, errno unix.Errno) fuse.Reply {
	r := fuse.Reply{Errno: errno}
	if !t.begin(m) {
		return r
	}
	t.tracing = t.server.tracing()
	o := opOf(fp.Opcode(t.request.Header.Opcode))
	if !o.NoReply {
		r.Len = t.fail(errno)
	}
	return r
}

// begin forgets the last request and takes the next; false if that has no header.
func (t *thread) begin(m *fuse.Message) bool {
	t.total = m.In.Len()
	t.writeTo, t.room = m.Out, m.Out.Len()
	t.args, t.dataLen = nil, 0
	if t.data = t.data[:0]; cap(t.data) > keptBuffers {
		t.data = nil
	}
	r := &t.request
	r.Groups, r.Security = r.Groups[:0], r.Security[:0]
	r.Header = m.Header
	r.Cell, r.Again, r.parked = m.Cell, again(m.Cell), nil
	return t.total >= uint64(headerSize)
}

// load checks a request against its row of the table and copies what is decided on.
func (t *thread) load(m *fuse.Message) (*op, unix.Errno) {
	if !t.begin(m) {
		return &unknownOp, unix.EINVAL
	}
	o := opOf(fp.Opcode(t.request.Header.Opcode))
	if uint64(t.request.Header.Len) != t.total {
		return o, unix.EINVAL
	}
	if errno := t.admit(o); errno != 0 {
		return o, errno
	}
	n := t.total - uint64(headerSize)
	if o.payload {
		n = min(n, uint64(o.Body))
		t.dataLen = t.total - uint64(headerSize) - n
		t.data = m.In.Cut(t.data, uint64(headerSize)+n, t.dataLen)
	}
	if n > maxArgs {
		return o, unix.E2BIG
	}
	if n > uint64(len(t.scratch)) {
		t.args = alignedBytes(int(n))
	} else {
		t.args = t.scratch[:n]
	}
	m.In.CopyTo(t.args, uint64(headerSize))
	return o, t.split(o)
}

// admit checks what does not need the request's body: the session, negotiated
// features and room for the reply.
func (t *thread) admit(o *op) unix.Errno {
	if !o.NoReply && t.room < uint64(outHeaderSize+o.Reply) {
		return unix.EINVAL
	}
	if o.handle == nil {
		return unix.ENOSYS
	}
	// The whole request goes by this session, even if it ends meanwhile.
	t.session = t.server.session.Load()
	if t.session == nil && !o.noSession {
		return unix.EINVAL // not ENOSYS: clients remember that for good
	}
	if o.needs != 0 && t.session.flags&o.needs == 0 {
		return unix.ENOSYS
	}
	return 0
}

// split checks the body's length and takes the extensions off its end.
func (t *thread) split(o *op) unix.Errno {
	r := &t.request
	if ext := int(r.Header.TotalExtLen) * 8; ext != 0 && !o.payload {
		if ext > len(t.args)-o.Body {
			return unix.EINVAL
		}
		at := len(t.args) - ext
		if errno := r.parseExtensions(t.args[at:]); errno != 0 {
			return errno
		}
		t.args = t.args[:at:at]
	}
	if len(t.args) < o.Body {
		return unix.EINVAL
	}
	if t.server.opts.ReadOnly && o.modifies != nil && o.modifies(t) {
		return unix.EROFS
	}
	return 0
}

// run calls the method and writes the reply.
func (t *thread) run(o *op) (written uint32, errno unix.Errno) {
	if t.detour = t.server.watch.detour.Load() != 0 && t.detours(o); t.detour {
		return 0, WouldBlock
	}
	clear(t.out[:o.Reply])
	t.reply = nil
	n, errno := t.call(o)
	switch {
	case o.NoReply:
		return 0, errno
	case waits(errno) && !t.request.MayWait:
		return 0, errno
	case errno != 0:
		return t.fail(errno), errno
	}
	if n < 0 || uint64(outHeaderSize+n) > t.room { // a mistake of the method's: nothing is cut off silently
		return t.fail(unix.EIO), unix.EIO
	}
	t.putHeader(uint32(outHeaderSize+n), 0)
	if t.reply == nil && !o.inPlace {
		t.reply = t.out[:n]
	}
	if t.reply != nil {
		t.writeTo.CopyFrom(t.reply[:n], uint64(outHeaderSize))
	}
	if t.tracing {
		t.traceReply(n, 0)
	}
	return uint32(outHeaderSize + n), 0
}

// call runs the method. A panic in it costs the request and the thread, because the
// thread's credentials are not known then.
func (t *thread) call(o *op) (n int, errno unix.Errno) {
	t.op = o
	t.enter()
	returned := false
	defer func() {
		if returned { // recover takes a while
			return
		}
		r := recover()
		t.leave()
		if r == nil {
			return
		}
		s := t.server
		if t.clientFault(r) {
			panic(r)
		}
		n, errno = 0, unix.EIO
		t.Break()
		s.panics.Add(1)
		s.oops.Do(func() {
			s.log.Error(fmt.Sprintf("%s: panic: %v\n%s", fp.Opcode(t.request.Header.Opcode), r, debug.Stack()))
		})
	}()
	n, errno = o.handle(t)
	returned = true
	t.leave()
	return n, errno
}

// clientFault reports whether a panic comes from touching a buffer of the client's that
// is gone. That is the transport's to handle, as a fault in Handle itself is, and not a
// mistake of the method's.
func (t *thread) clientFault(r any) bool {
	fault, ok := r.(interface{ Addr() uintptr })
	return ok && (t.data.Holds(fault.Addr()) || t.writeTo.Holds(fault.Addr()))
}

// maxErrno is the largest errno that goes over the wire: what is above is the kernel's
// own (fs/fuse/dev.c: fuse_dev_do_write).
const maxErrno = 511

// sent is errno as it goes over the wire.
func sent(errno unix.Errno) unix.Errno {
	if errno > maxErrno {
		return unix.EIO
	}
	return errno
}

// fail replies with an error. It returns 0 if there is no room for that.
func (t *thread) fail(errno unix.Errno) uint32 {
	if t.room < uint64(outHeaderSize) {
		return 0
	}
	errno = sent(errno)
	if t.tracing {
		t.traceReply(0, errno)
	}
	t.putHeader(uint32(outHeaderSize), errno)
	return uint32(outHeaderSize)
}

func (t *thread) putHeader(length uint32, errno unix.Errno) {
	h := fp.OutHeader{Len: length, Error: -int32(errno), Unique: t.request.Header.Unique}
	b := fp.Bytes(&h)
	if p := t.writeTo.Piece(0); len(p) >= len(b) {
		copy(p, b)
		return
	}
	t.writeTo.CopyFrom(b, 0)
}

// Panics is how many methods have panicked, which cost a request each.
func (s *Server) Panics() uint64 { return s.panics.Load() }
