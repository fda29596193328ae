package frontend

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"sync/atomic"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Client is a FUSE client on a Frontend. Its methods may be called from any
// goroutine.
type Client struct {
	*Frontend
	UID, GID uint32 // of requests
	Init     fp.InitOut

	unique atomic.Uint64
	next   atomic.Uint64 // spreads requests over the queues
}

// NewClient starts to use the queues; Handshake comes first.
func NewClient(f *Frontend) *Client {
	for _, q := range f.Queues {
		q.startReaper()
	}
	return &Client{Frontend: f}
}

// ErrTimeout is returned for a request that the device has not answered in time.
var ErrTimeout = errors.New("no answer from the device")

// timeout is generous: test machines are slow.
const timeout = 30 * time.Second

// Request is one FUSE request.
type Request struct {
	Op     fp.Opcode
	NodeID uint64
	Body   []byte // what follows the header
	Data   []byte // file data of WRITE
	Reply  int    // room for the reply's body
	Read   int    // room for file data in the reply
	Groups []uint32
	// UID and GID, if not 0, take the place of the Client's.
	UID, GID uint32
	// Len, if not 0, is what the header says instead of the truth.
	Len uint32
}

// body joins structs and names to a request's body.
func body(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			b = append(append(b, p...), 0)
		}
	}
	return b
}

// bytesOf is the wire image of a struct.
func bytesOf[T fp.Body](v T) []byte { return fp.Bytes(&v) }

// Do sends a request over a request queue and waits for the reply's body. An errno
// of the device is the error.
func (c *Client) Do(r *Request) ([]byte, error) {
	queues := c.Queues[1:]
	return c.DoOn(queues[c.next.Add(1)%uint64(len(queues))], r)
}

// DoOn is Do on a certain queue.
func (c *Client) DoOn(q *Queue, r *Request) ([]byte, error) {
	s := <-q.free
	select { // of an earlier request that was given up
	case <-s.done:
	default:
	}
	bufs := c.build(s, r)
	q.Submit(s, bufs)
	n, err := c.await(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Op, err) // the slot is lost
	}
	b, err := parseReply(s, r, int(n))
	q.free <- s
	return b, err
}

// lookEvery is how often a request that waits looks whether the connection is still there.
const lookEvery = 50 * time.Millisecond

// await waits for a submitted request and returns what the device says it wrote. When the
// connection has ended it returns ErrGone: a back-end that died answers nothing.
func (c *Client) await(s *Slot) (uint32, error) {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	gone := false
	for end := time.Now().Add(timeout); ; {
		select {
		case n := <-s.done:
			return n, nil
		case now := <-timer.C:
			if gone { // one look ago; a last answer had time to arrive
				return 0, ErrGone
			}
			if now.After(end) {
				return 0, ErrTimeout
			}
			gone = c.HungUp()
			timer.Reset(lookEvery)
		}
	}
}

// build writes the request in the slot and says which buffers it has.
func (c *Client) build(s *Slot, r *Request) []Buf {
	h := fp.InHeader{Opcode: uint32(r.Op), Unique: c.unique.Add(2), NodeID: r.NodeID, UID: c.UID, GID: c.GID, PID: 1}
	if r.UID != 0 {
		h.UID = r.UID
	}
	if r.GID != 0 {
		h.GID = r.GID
	}
	ext := c.extensions(r)
	h.TotalExtLen = uint16(len(ext) / 8)
	h.Len = uint32(len(fp.Bytes(&h)) + len(r.Body) + len(ext) + len(r.Data))
	if r.Len != 0 {
		h.Len = r.Len
	}
	n := copy(s.Out, fp.Bytes(&h))
	n += copy(s.Out[n:], r.Body)
	n += copy(s.Out[n:], ext)
	bufs := []Buf{{At: s.outAt, Len: n}}
	if len(r.Data) > 0 {
		copy(s.Data, r.Data)
		bufs = append(bufs, Buf{At: s.dataAt, Len: len(r.Data)})
	}
	if r.Reply >= 0 {
		clear(s.In[:16])
		bufs = append(bufs, Buf{At: s.inAt, Len: 16 + r.Reply, Write: true})
	}
	if r.Read > 0 {
		bufs = append(bufs, Buf{At: s.dataAt, Len: r.Read, Write: true})
	}
	return bufs
}

// extensions are what follows a request's body: the security context of a new file,
// none of them, once it was agreed that there is one, and the caller's groups.
func (c *Client) extensions(r *Request) (b []byte) {
	switch r.Op {
	case fp.OpCreate, fp.OpMkdir, fp.OpMknod, fp.OpSymlink, fp.OpTmpfile:
		if flags := uint64(c.Init.Flags) | uint64(c.Init.Flags2)<<32; flags&uint64(fp.InitSecurityCtx) != 0 {
			b = bytesOf(fp.SecctxHeader{Size: uint32(fp.Size[fp.SecctxHeader]())})
		}
	}
	return append(b, groupsExtension(r.Groups)...)
}

// groupsExtension is FUSE_EXT_GROUPS for the groups, padded to 8 bytes.
func groupsExtension(groups []uint32) (b []byte) {
	if len(groups) == 0 {
		return nil
	}
	n := (12 + 4*len(groups) + 7) &^ 7
	b = append(b, bytesOf(fp.ExtHeader{Size: uint32(n), Type: fp.ExtGroups})...)
	b = append(b, bytesOf(fp.SuppGroups{NrGroups: uint32(len(groups))})...)
	for _, g := range groups {
		b = append(b, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
	}
	return append(b, make([]byte, n-len(b))...)
}

// parseReply checks the reply's header and copies its body.
func parseReply(s *Slot, r *Request, written int) ([]byte, error) {
	if r.Reply < 0 {
		return nil, nil
	}
	if written < 16 {
		return nil, fmt.Errorf("%s: reply of %d bytes", r.Op, written)
	}
	h, rest, _ := fp.View[fp.OutHeader](s.In)
	switch {
	case h.Error != 0:
		return nil, unix.Errno(-h.Error)
	case int(h.Len) != written:
		return nil, fmt.Errorf("%s: header says %d bytes, device says %d", r.Op, h.Len, written)
	}
	n := written - 16
	b := append([]byte(nil), rest[:min(n, r.Reply)]...)
	if n > r.Reply {
		b = append(b, s.Data[:n-r.Reply]...)
	}
	return b, nil
}

// reply decodes a fixed reply.
func reply[T fp.Body](b []byte, err error) (v T, _ error) {
	if err != nil {
		return v, err
	}
	p, _, ok := fp.View[T](append([]byte(nil), b...))
	if !ok {
		return v, fmt.Errorf("reply body of %d bytes, want %d", len(b), fp.Size[T]())
	}
	return *p, nil
}

// DoRaw sends any body and returns how much the device has written to a reply buffer
// of room bytes, and the buffer.
func (c *Client) DoRaw(q *Queue, op fp.Opcode, node uint64, b []byte, room int) (uint32, []byte) {
	s := <-q.free
	select {
	case <-s.done:
	default:
	}
	r := &Request{Op: op, NodeID: node, Body: b, Reply: -1}
	bufs := c.build(s, r)
	if room > 0 {
		bufs = append(bufs, Buf{At: s.inAt, Len: room, Write: true})
	}
	q.Submit(s, bufs)
	select {
	case n := <-s.done:
		out := append([]byte(nil), s.In[:room]...)
		q.free <- s
		return n, out
	case <-time.After(timeout):
		return 0, nil
	}
}
