package relay

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const (
	inHeaderSize  = int(unsafe.Sizeof(fp.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fp.OutHeader{}))
	maxBody       = 104 // the largest fixed body of a request or, CREATE and STATX excepted, a reply
	maxFixed      = int(unsafe.Sizeof(fp.StatxOut{}))
	// maxIovecs is how many pieces a system call takes (UIO_MAXIOV), less those that are ours.
	maxIovecs = 1024 - 8
)

// form is what the reply of a call looks like behind its header.
type form uint8

const (
	formNone  form = iota // nothing
	formEntry             // fuse_entry_out
	formAttr              // fuse_attr_out
	formOpen              // fuse_open_out
	formMake              // fuse_entry_out, fuse_open_out
	formFixed             // call.fixedSize bytes
	formBytes             // up to len(call.out) bytes
	formData              // up to call.dst.Len() bytes, into the client's memory
)

// call is one request to the program and its reply.
type call struct {
	header fp.InHeader
	// body is the fixed part, in the newest form; it is cut for an older program when it is sent.
	body     [maxBody / 8]uint64
	bodySize int
	names    [2]fp.Name
	tail     []byte       // what follows body and names: a value
	data     fuse.Buffers // or the client's file data

	// What stands for a number of the program's: it may have other ones by the time that the call is sent. The
	// numbers go into the header, or into the body at the offsets.
	node, other         *node
	file, otherFile     *file
	otherAt             int // of other's id in body; only with other
	fileAt, otherFileAt int // of fh in body; only with the files

	form      form
	fixedSize int
	fixed     [(maxFixed + 7) / 8]uint64
	out       []byte
	dst       fuse.Buffers

	// The result, valid after done has a value.
	n     int // bytes of the reply behind its header
	errno unix.Errno
	gone  bool // no reply will come: the program has ended
	done  chan struct{}

	refused bool // the client may not make files with its ids

	link *link // that it was last sent to
	sent bool

	queued     bool // the program can't have it yet; guarded by link.mu
	interrupts int  // how often INTERRUPT was sent; guarded by link.mu

	parked  *parkedCall  // nil is not; see park
	holders atomic.Int32 // of a call that is parked: how many let it go before it is another request's, see launch
	unseen  bool         // it is parked and was answered with success, and nobody has checked that
	place   parkedCall   // for parked
	kept    struct {     // memory for park
		name   []byte
		pieces fuse.Buffers
	}

	raw    [inHeaderSize + maxBody]byte
	iov    []unix.Iovec
	msg    unix.Msghdr
	bounce []byte // data that has too many pieces
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

func newCall() *call { return calls.Get().(*call) }

// free makes c another request's. Its result was received, or it was never sent. While it is parked it does nothing: Drop follows.
func (c *call) free() {
	if c.parked != nil {
		return
	}
	iov, done, kept := c.iov[:0], c.done, c.kept
	clear(c.iov)
	clear(kept.pieces)
	*c = call{iov: iov, done: done, kept: kept}
	calls.Put(c)
}

// letGo is free for a call that was parked, if nobody else needs it any more.
func (c *call) letGo() {
	if c.holders.Add(-1) <= 0 {
		c.free()
	}
}

// bodyOf makes the body of c a T, which is zero.
func bodyOf[T fp.Body](c *call) *T {
	c.bodySize = fp.Size[T]()
	return (*T)(unsafe.Pointer(&c.body))
}

// replyOf is the fixed reply.
func replyOf[T fp.Body](c *call) *T { return (*T)(unsafe.Pointer(&c.fixed)) }

func (c *call) bodyBytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&c.body)), len(c.body)*8)
}

func (c *call) fixedBytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&c.fixed)), len(c.fixed)*8)
}

// putWord stores a number of the program's in the body.
func (c *call) putWord(at int, v uint64) { *(*uint64)(unsafe.Pointer(&c.bodyBytes()[at])) = v }

// finish gives the call its result. It is called once for each call that was registered. For one that is parked it is called on the
// receiving goroutine, which then answers the client.
func (c *call) finish(n int, errno unix.Errno) {
	c.n, c.errno = n, errno
	if c.parked != nil {
		c.unseen = errno == 0
		c.parked.resumer.Resume(&c.link.finisher)
		return
	}
	c.done <- struct{}{}
}

// looks reports whether the reply's data is to be received where it belongs.
func (c *call) looks() bool {
	return c.form == formData && (c.parked == nil || c.dst.Len() > smallData)
}

// message fills in c.msg. The length of all is known then.
func (c *call) message(minor uint32) (total int) {
	body := c.compat(minor)
	c.iov = append(c.iov[:0], unix.Iovec{})
	total = inHeaderSize + len(body)
	for _, name := range c.names {
		total += c.piece(name)
	}
	total += c.piece(c.tail)
	if len(c.data) > maxIovecs {
		c.bounce = make([]byte, c.data.Len())
		c.data.CopyTo(c.bounce, 0)
		total += c.piece(c.bounce)
	} else {
		c.iov = append(c.iov, c.data...)
		total += int(c.data.Len())
	}
	c.header.Len = uint32(total)
	head := append(append(c.raw[:0], fp.Bytes(&c.header)...), body...)
	c.iov[0].Base = unsafe.SliceData(head)
	c.iov[0].SetLen(len(head))
	c.msg = unix.Msghdr{Iov: unsafe.SliceData(c.iov)}
	c.msg.SetIovlen(len(c.iov))
	return total
}

func (c *call) piece(b []byte) int {
	if len(b) > 0 {
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		v.SetLen(len(b))
		c.iov = append(c.iov, v)
	}
	return len(b)
}
