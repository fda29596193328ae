package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// channel is the host's end of one.
type channel struct {
	session  *session
	index    int
	out      *outbox
	journal  *channelJournal // nil without recovery
	window   int
	notifyMu sync.Mutex // channel 0: the order of notifications

	waiting atomic.Int32 // hellos that wait for mu

	mu     sync.Mutex    // guards the following: one hello at a time
	ended  chan struct{} // closed when the last connection's goroutine has ended
	closed bool
	adopt  bool // the guest says how many notifications there were

	ticketMu sync.Mutex
	tickets  [2]id // one that the guest has used, and the one that it was given then

	kept atomic.Int32 // requests that wait and keep what has come with them

	// The following belongs to the connection's goroutine.
	buffers pool
	used    int    // cost of the requests under way
	in      []byte // what has come is in[r:w]
	r, w    int
	small   []byte // a request that is not long
	fresh   bool   // nothing has come over this connection yet
	partial *slot  // of the next message, if another process has begun to serve it
	inList  fuse.Buffers
	outList fuse.Buffers
}

// connect answers a hello and continues the channel over the new connection.
func (c *channel) connect(conn net.Conn, h hello) (status, error) {
	// One waits, as a guest that has just got a welcome may connect again. A guest that says many hellos does
	// not have them all wait here.
	if c.waiting.Add(1) > 1 {
		c.waiting.Add(-1)
		return statusLater, errors.New("other connections of this channel have just been made")
	}
	c.mu.Lock()
	c.waiting.Add(-1)
	defer c.mu.Unlock()
	if c.closed && c.session.suspended.Load() {
		return statusLater, errors.New("the server ends, and another one goes on")
	}
	if c.closed {
		return statusStale, errors.New("the session has ended: unmount and mount again")
	}
	if c.adopt && c.knows(h.Ticket) {
		c.adopt = false
		c.out.renumber(h.At.Received)
	}
	if !c.knows(h.Ticket) || !c.out.couldFit(h.At) {
		return statusStale, errors.New("the session has gone on without this guest, which was restored from an earlier state: unmount and mount again")
	}
	// All that the last connection has brought is served first, because the new
	// connection continues after it. When the welcome says how far that is, nothing
	// more may come from the old one.
	c.out.reset()
	select {
	case <-c.ended:
	case <-time.After(endTime):
		return statusLater, errors.New("a request of the last connection takes long")
	}
	if !c.out.couldFit(h.At) {
		return statusStale, errors.New("the session has gone on without this guest: unmount and mount again")
	}
	m := welcome{Ticket: c.issue(h.Ticket), At: c.out.at(), MaxMessage: uint32(c.buffers.largest),
		MaxWrite: c.session.server.opts.MaxWrite, Window: uint32(c.window)}
	// A guest that has the welcome is connected: another hello that comes then has to find it so.
	c.session.count(1)
	s, err := greeted(conn, m)
	if err != nil {
		c.session.count(-1)
		return statusLater, err
	}
	defer s.put()
	// It is attached here: the next hello, which may come at once, has to find what to reset.
	err = c.out.attach(s, h.At, c.free)
	c.ended = make(chan struct{})
	go c.serve(s.get(), err, c.ended)
	return statusOK, nil
}

// greeted sends the welcome. The socket is the caller's.
func greeted(conn net.Conn, m welcome) (*socket, error) {
	if err := writeWelcome(conn, m, ""); err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return newSocket(conn, 1<<30)
}

// knows reports whether a guest with this ticket may continue. The ticket must be the
// last one that was given out or, if that was not used yet, the one before.
func (c *channel) knows(ticket id) bool {
	c.ticketMu.Lock()
	defer c.ticketMu.Unlock()
	return ticket == c.tickets[0] || ticket == c.tickets[1]
}

// issue makes a new ticket for the guest that has this one.
func (c *channel) issue(ticket id) id {
	c.ticketMu.Lock()
	given := newID()
	c.tickets = [2]id{ticket, given}
	c.ticketMu.Unlock()
	c.session.note()
	return given
}

// confirm says that the guest has the welcome. The ticket before is no longer valid.
func (c *channel) confirm() {
	c.fresh = false
	c.ticketMu.Lock()
	c.tickets[0] = c.tickets[1]
	c.ticketMu.Unlock()
	c.session.note()
}

// close ends the channel, and does not wait for what is under way.
func (c *channel) close() {
	c.out.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// serve serves one connection to its end. err is that of attaching it.
func (c *channel) serve(s *socket, err error, ended chan struct{}) {
	defer s.put()
	if err == nil {
		c.r, c.w, c.fresh = 0, 0, true
		c.out.flush(false) // what was not there yet
		err = c.threads(s)
	}
	c.out.detach(s)
	s.shutdown()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		c.session.server.log.Warn(fmt.Sprintf("Connection of %s dropped: %v", c.session.name(), err))
	}
	none := c.session.count(-1)
	close(ended)
	if none {
		c.session.server.left(c.session)
	}
}

// threads reads and serves requests. A thread that is unfit ends, and another goroutine replaces
// it.
func (c *channel) threads(s *socket) error {
	for {
		again := false
		err := c.onThread(func(t fuse.Thread) (err error) {
			again, err = c.read(s, t)
			return err
		})
		if err != nil || !again {
			return err
		}
	}
}

// onThread calls f with a thread, on a goroutine that ends with it.
func (c *channel) onThread(f func(t fuse.Thread) error) error {
	ended := make(chan error)
	go func() {
		t, err := c.session.server.handler.StartThread(fuse.Hooks{
			Alone:     func() bool { return false },
			MayLinger: func() bool { return c.session.linger.Load() < maxLinger },
		})
		if err != nil {
			ended <- err
			return
		}
		err = f(t)
		t.Stop()
		ended <- err
	}()
	return <-ended
}

// flushEvery is after how many messages replies are sent although more messages are there.
const flushEvery = 8

// read serves what comes over s on t; again tells that t is broken and another has to continue.
func (c *channel) read(s *socket, t fuse.Thread) (again bool, err error) {
	var m fuse.Message
	if c.in == nil {
		c.in = make([]byte, 2*c.buffers.largest)
	}
	for {
		for i := 1; ; i++ {
			b, err := c.next()
			if err != nil {
				return false, err
			}
			if b == nil {
				break
			}
			if err := c.message(t, &m, b); err != nil {
				return false, err
			}
			if t.Broken() {
				return true, nil
			}
			if i%flushEvery == 0 {
				c.out.flush(false)
			}
			c.session.server.journal.replied()
		}
		c.out.flush(false)
		n, err := s.read(c.in[c.w:])
		if err != nil {
			return false, err
		}
		c.w += n
		if c.fresh {
			c.confirm()
		}
	}
}

// next takes a whole message off what has come. If there is none it returns nil, and there is
// room for the rest of it.
func (c *channel) next() ([]byte, error) {
	have := c.in[c.r:c.w]
	if len(have) >= 4 {
		n := int(binary.LittleEndian.Uint32(have))
		if n != ackSize && n < inHeaderSize || n > c.buffers.largest {
			return nil, fmt.Errorf("message of %d bytes: %d to %d are possible", n, inHeaderSize, c.buffers.largest)
		}
		if len(have) >= n {
			c.r += n
			return have[:n:n], nil
		}
	}
	if len(have) == 0 || len(c.in)-c.r < c.buffers.largest { // to the beginning again
		c.r, c.w = 0, copy(c.in, have)
	}
	return nil, nil
}

// message serves one message.
func (c *channel) message(t fuse.Thread, m *fuse.Message, b []byte) error {
	if n, ok := isAck(b); ok {
		return c.out.release(n, c.free)
	}
	if len(b) < inHeaderSize {
		return fmt.Errorf("message of %d bytes that is none", len(b))
	}
	room := replyRoom(b, c.buffers.largest)
	if room != 0 && c.index == 0 {
		return errors.New("a request with a reply on channel 0")
	}
	r := request{b: b, room: room, cost: cost(len(b), room, c.window)}
	if c.used+r.cost > c.window {
		return errors.New("the guest has more requests under way than the window allows")
	}
	c.used += r.cost
	switch { // it may have to be kept, and what is around it not
	case len(b) <= smallSize:
		if c.small == nil {
			c.small = make([]byte, smallSize)
		}
		r.b, r.place = c.small[:copy(c.small, b)], placeSmall
	case c.kept.Load() >= maxKeptIn:
		r.b, r.place = bytes.Clone(b), placeOwn
	}
	if err := c.note(&r); err != nil {
		c.used -= r.cost // it comes again
		return err
	}
	return c.serveRequest(t, m, r)
}

// request is one that is served.
type request struct {
	b       []byte
	room    int   // of the reply; 0 if there is none
	cost    int   // see cost
	place   place // where b is
	keeps   bool  // counted in c.kept
	slot    *slot // nil without recovery
	again   bool  // another process has begun to serve it
	counted bool  // the guest knows that it has arrived
}

// place is in what memory a request is.
type place uint8

const (
	placeIn    place = iota // with others, in what has come
	placeSmall              // channel.small
	placeOwn                // its own
)

// maxKeptIn is how many long requests that wait keep all that has come with them. More are copied.
const maxKeptIn = windowMessages

// note notes a message that has come for a successor.
func (c *channel) note(r *request) (err error) {
	if c.journal == nil {
		return nil
	}
	if r.slot, c.partial = c.partial, nil; r.slot != nil {
		r.again, r.slot.record.cost = true, uint32(r.cost)
		return nil
	}
	r.slot, err = c.journal.take(header(r.b), c.out.count(), r.cost, c.session.number)
	return err
}

// serveRequest serves a request that is counted and noted.
func (c *channel) serveRequest(t fuse.Thread, m *fuse.Message, r request) error {
	var out []byte
	c.inList, c.outList = c.inList[:0].Append(r.b), c.outList[:0]
	if r.room > 0 {
		var err error
		if out, err = c.replyBuffer(r); err != nil {
			r.slot.release()
			c.used -= r.cost
			return err
		}
		c.outList = c.outList.Append(out)
	}
	m.Set(c.inList, c.outList)
	reply, p := c.handle(t, m, r)
	if fp.Opcode(m.Header.Opcode) == fp.OpDestroy {
		c.session.destroyed.Store(true)
	}
	switch {
	case p != nil:
		if r.slot == nil {
			c.keep(&r)
		} else if !r.counted {
			c.session.forgetIf(r.slot.wait(r.b))
			c.keep(&r)
		}
		c.wait(p, m.Header.Unique, out, r)
	case r.room == 0:
		c.used -= r.cost
		r.slot.done(0, 0)
		c.out.got(true, r.counted)
		r.slot.release()
	case r.slot != nil:
		c.out.answered(frame{b: finish(out, reply, m.Header.Unique), cost: r.cost, slot: r.slot}, r.counted)
	default:
		c.out.answered(frame{b: c.trim(finish(out, reply, m.Header.Unique)), cost: r.cost}, false)
	}
	return nil
}

// replyBuffer is the room for a reply.
func (c *channel) replyBuffer(r request) ([]byte, error) {
	if r.slot == nil {
		return c.buffers.get(r.room), nil
	}
	b, err := r.slot.buffer(0, r.room)
	if err != nil {
		c.session.forgetIf(err)
	}
	return b, err
}

// handle has the Handler serve the request, unless it is given up.
func (c *channel) handle(t fuse.Thread, m *fuse.Message, r request) (fuse.Reply, fuse.Pending) {
	if r.slot == nil {
		m.Cell = nil
		return t.Handle(m)
	}
	m.Cell = r.slot.cell
	if r.again {
		errno, end := c.again(r.slot, &m.Header)
		defer end()
		if errno != 0 {
			return t.Refuse(m, errno), nil
		}
	}
	return t.Handle(m)
}

// smallSize is how long a request is at most that is copied out of what has come.
const smallSize = 4 << 10

// finish is the reply in the buffer. What the Handler could not answer is EIO.
func finish(out []byte, r fuse.Reply, unique uint64) []byte {
	if int(r.Len) >= outHeaderSize && int(r.Len) <= len(out) {
		return out[:r.Len]
	}
	h := fp.OutHeader{Len: uint32(outHeaderSize), Error: -int32(unix.EIO), Unique: unique}
	return out[:copy(out, fp.Bytes(&h))]
}

// trim is a reply in a buffer that is not much larger.
func (c *channel) trim(b []byte) []byte {
	if len(b) > smallSize || cap(b) <= smallSize {
		return b
	}
	s := c.buffers.get(len(b))
	copy(s, b)
	c.buffers.put(b)
	return s
}

// keep leaves the memory of the last request to it.
func (c *channel) keep(r *request) {
	switch r.place {
	case placeSmall:
		c.small = nil
		return
	case placeOwn:
		return
	}
	c.kept.Add(1)
	r.keeps = true
	in := make([]byte, len(c.in))
	c.r, c.w = 0, copy(in, c.in[c.r:c.w])
	c.in = in
}

// wait has p finished and answered elsewhere.
func (c *channel) wait(p fuse.Pending, unique uint64, out []byte, r request) {
	lingers := p.Lingers()
	c.session.begin(p)
	c.out.got(len(out) == 0, r.counted)
	if len(out) == 0 {
		c.used -= r.cost
	}
	p.Start(func(reply fuse.Reply) {
		defer c.session.end(p, lingers)
		if r.keeps {
			c.kept.Add(-1)
		}
		if len(out) > 0 {
			c.out.add(frame{b: finish(out, reply, unique), cost: r.cost, slot: r.slot})
			c.out.flush(false)
			return
		}
		r.slot.done(0, 0)
		r.slot.release()
	})
}

// free takes a message back that the guest has.
func (c *channel) free(f frame) {
	c.used -= f.cost
	if f.slot != nil {
		f.slot.release()
		return
	}
	c.buffers.put(f.b)
}
