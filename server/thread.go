package server

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const (
	// argsSize is what a Thread keeps for bodies, names and extensions. Longer
	// requests (extended attributes) get memory of their own, up to maxArgs.
	argsSize = 8 << 10
	maxArgs  = 1 << 20
	// keptBuffers is how many buffers of file data a Thread has room for from one request
	// to the next; memory for more is given back.
	keptBuffers = 4096

	headerSize    = int(unsafe.Sizeof(fp.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fp.OutHeader{}))

	// outSize holds the largest fixed reply, struct fuse_statx_out.
	outSize = 512
	// bulkSize holds a reply of variable length: a directory listing, an extended
	// attribute. A client that asks for more of a listing gets this much.
	bulkSize = 128 << 10
)

// Thread is what one goroutine needs to serve requests: request, scratch memory
// and the file system's state of this thread. It is not shared.
type Thread struct {
	// Local belongs to the file system; see Threads. It is nil on a Thread
	// that waits for a lock.
	Local any

	// Alone, if not nil, reports whether nothing else waits for this thread at the
	// moment: a method may then rather wait a short time itself than answer WouldBlock.
	Alone func() bool

	// MayLinger, if not nil, reports whether the request that is served may wait for another
	// client, which may take for ever. What waits like that must not be all that the client
	// can have under way: without room a lock is refused with ENOLCK.
	MayLinger func() bool

	server  *Server
	request Request
	broken  bool

	header  []byte       // of the request, as received
	scratch []byte       // for args
	args    []byte       // body, names and extensions of the request
	out     []byte       // fixed reply
	bulk    []byte       // reply of variable length, made when first needed
	reply   []byte       // what follows the reply's header, in out or bulk
	data    []unix.Iovec // file data in the client's buffers
	dataLen uint64       // of the request, for WRITE
	room    uint64       // of the client's reply buffers, header included
	writeTo []unix.Iovec // the client's reply buffers
	dir     DirWriter
	session *session // that the request belongs to
	moved   uint64   // bytes of file data that the request moved
	stats   [fp.NumOpcodes + 1]opCounters

	// Bodies that the wire has in another form than the method wants them.
	rename   fp.Rename2In
	setxattr fp.SetxattrIn
	mappings []fp.RemoveMappingOne
}

// opCounters count one opcode's requests on one thread; written by the thread,
// read by anybody.
type opCounters struct {
	requests, errors, unanswered, bytes atomic.Uint64
}

func newThread(s *Server) *Thread {
	t := newWaiter(s)
	t.header = alignedBytes(headerSize)
	t.scratch = alignedBytes(argsSize)
	return t
}

// newWaiter is a Thread that only finishes a request that was received on another.
func newWaiter(s *Server) *Thread {
	t := &Thread{server: s, out: alignedBytes(outSize)}
	t.request.Thread = t
	return t
}

// Break marks the thread as not fit for another request, because its credentials
// could not be put back. Its owner ends the goroutine, and with it the operating
// system thread, and goes on with a new Thread.
func (t *Thread) Break() { t.broken = true }

// Broken reports whether Break was called.
func (t *Thread) Broken() bool { return t.broken }

// bulkBuf is n bytes of memory for a reply of variable length.
func (t *Thread) bulkBuf(n int) []byte {
	if t.bulk == nil {
		t.bulk = alignedBytes(bulkSize)
	}
	return t.bulk[:n]
}

// StartThread makes the calling goroutine's Thread: it locks the goroutine to its
// operating system thread for good and starts the file system's state.
func (s *Server) StartThread() (*Thread, error) {
	runtime.LockOSThread()
	t := newThread(s)
	if err := s.fs.StartThread(t); err != nil {
		return nil, err
	}
	s.addThread(t)
	return t, nil
}

// StopThread releases t. The goroutine must end soon after, without unlocking its
// operating system thread: the thread ends with it.
func (s *Server) StopThread(t *Thread) {
	s.fs.StopThread(t)
	s.removeThread(t)
}
