package server

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const (
	// argsSize is what a Thread keeps for bodies, names and extensions. Longer
	// requests (extended attributes) get memory of their own, up to maxArgs.
	argsSize = 8 << 10
	maxArgs  = 1 << 20
	// keptBuffers is how many buffers of file data a Thread has room for from one request
	// to the next; memory for more is returned.
	keptBuffers = 4096

	headerSize    = int(unsafe.Sizeof(fp.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fp.OutHeader{}))

	// outSize holds the largest fixed reply, struct fuse_statx_out.
	outSize = 512
	// bulkSize holds a reply of variable length: a directory listing, an extended
	// attribute. A client that asks for more of a listing gets this much.
	bulkSize = 128 << 10
)

// Thread is what a file system knows of the thread that serves a request. The zero value is
// one for tests.
type Thread struct {
	// Local belongs to the file system; see Threads. It is nil on a Thread
	// that waits for a lock.
	Local any

	// Alone, if not nil, reports whether nothing else waits for this thread at the
	// moment: a method may then rather wait a short time itself than answer WouldBlock.
	Alone func() bool

	broken bool
}

// Break marks the thread as unfit for another request, because its credentials
// could not be restored. Its owner ends the goroutine, and with it the operating
// system thread, and continues with a new Thread.
func (t *Thread) Break() { t.broken = true }

// Broken reports whether Break was called.
func (t *Thread) Broken() bool { return t.broken }

// thread is what one goroutine needs to serve requests: request, scratch memory
// and the file system's state of this thread. It is not shared.
type thread struct {
	Thread
	server  *Server
	request Request
	hooks   fuse.Hooks
	tid     int  // the operating system's number of the thread; 0 on one that only waits for a lock
	pooled  bool // of the pool's

	// See watch.go.
	turn    uint64 // set with setTurn
	held    atomic.Bool
	turns   uint64 // turn without turnBusy
	tracing bool   // the request has lines in the log
	detour  bool   // the last request was not served here because others hang
	op      *op    // of the last method that was called
	sight   sight  // guarded by the watch's lock
	lost    bool   // the transport continues without this thread

	scratch []byte       // for args
	total   uint64       // length of the request in the client's buffers
	args    []byte       // body, names and extensions of the request
	out     []byte       // fixed reply
	bulk    []byte       // reply of variable length, made when first needed
	reply   []byte       // what follows the reply's header, in out or bulk
	data    fuse.Buffers // file data in the client's buffers
	dataLen uint64       // of the request, for WRITE
	room    uint64       // of the client's reply buffers, header included
	writeTo fuse.Buffers // the client's reply buffers
	dir     DirWriter
	session *session // that the request belongs to

	// Bodies that the wire has in another form than the method wants them.
	rename   fp.Rename2In
	setxattr fp.SetxattrIn
	mappings []fp.RemoveMappingOne
}

func newThread(s *Server) *thread {
	t := newWaiter(s)
	t.scratch = alignedBytes(argsSize)
	return t
}

// newWaiter is a thread that only finishes a request that was received on another.
func newWaiter(s *Server) *thread {
	t := &thread{server: s, out: alignedBytes(outSize)}
	t.request.Thread, t.request.of = &t.Thread, t
	return t
}

// bulkBuf is n bytes of memory for a reply of variable length.
func (t *thread) bulkBuf(n int) []byte {
	if t.bulk == nil {
		t.bulk = alignedBytes(bulkSize)
	}
	return t.bulk[:n]
}

// StartThread implements fuse.Handler.
func (s *Server) StartThread(h fuse.Hooks) (fuse.Thread, error) {
	t, err := s.startThread(h)
	if err != nil {
		return nil, err
	}
	s.watch.add(t)
	return t, nil
}

func (s *Server) startThread(h fuse.Hooks) (*thread, error) {
	runtime.LockOSThread()
	if !s.users.enter() {
		return nil, errClosed
	}
	t := newThread(s)
	t.tid = unix.Gettid()
	if t.hooks = h; h.Alone != nil {
		t.Alone = func() bool { return t.ask(h.Alone) }
	}
	if err := s.fs.StartThread(&t.Thread); err != nil {
		s.leaveFS()
		return nil, err
	}
	return t, nil
}

// mayLinger reports whether the request that is served may wait for another client; without room a
// lock is refused with ENOLCK. It is called between turns. A thread that is lost has one request
// more that waits at most.
func (t *thread) mayLinger() bool { return t.hooks.MayLinger == nil || t.lost || t.hooks.MayLinger() }

// Stop implements fuse.Thread.
func (t *thread) Stop() {
	t.server.watch.remove(t)
	t.server.fs.StopThread(&t.Thread)
	t.server.leaveFS()
}

// alignedBytes is memory for n bytes, aligned to 8 for fuseproto.View.
func alignedBytes(n int) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)[:n]
}
