package stream

import (
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// frame is a message that was sent, or will be.
type frame struct {
	b    []byte
	cost int   // of the request that it answers; the server's
	slot *slot // where b is, so that a successor finds it; nil is elsewhere
}

// outbox is one side's messages of a channel. They are numbered from 0 on. Each is kept until
// the other side says that it has it, and sent again over the next connection if that
// comes first.
//
// It also knows how many messages have come from the other side, because that is told with what
// is sent.
type outbox struct {
	mu     sync.Mutex
	first  uint64  // number of frames[0]
	frames []frame // that the other side may not have
	bytes  int     // in frames
	socket *socket // nil without a connection

	next   uint64 // number of the message that is to be written next on the socket
	offset int    // bytes of it that were
	upto   uint64 // how many the other side can have: what the kernel was given as a whole
	ever   uint64 // how many any connection was given, see position
	whole  int    // of the pieces: those that end a message
	ack    []byte // what is left of an ack that is being written
	ackBuf [ackSize]byte

	journal  *channelJournal // nil without recovery
	received uint64          // messages that have come and were dealt with
	told     uint64          // the received that the other side knows
	due      bool            // it shall be told soon, by itself if nothing else is sent

	// busy says that a goroutine writes, and looks for more when it is done. If it may not
	// wait, it leaves the rest to the writer's goroutine: left.
	busy, left bool
	closed     bool
	wake       sync.Cond
	pieces     [][]byte // of the goroutine that is busy
}

func newOutbox() *outbox {
	o := &outbox{}
	o.wake.L = &o.mu
	return o
}

// add appends messages, which flush sends. They are the outbox's from now on. It
// returns the number of the last one.
func (o *outbox) add(f ...frame) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.append(f...)
	return o.first + uint64(len(o.frames)) - 1
}

func (o *outbox) append(f ...frame) {
	for i := range f {
		if o.closed && f[i].slot != nil {
			f[i].slot.release() // nobody waits for it
			continue
		}
		f[i].slot.done(len(f[i].b), o.first+uint64(len(o.frames)))
		o.frames = append(o.frames, f[i])
		o.bytes += len(f[i].b)
	}
}

// sent is how many messages there were.
func (o *outbox) sent() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first + uint64(len(o.frames))
}

// got counts a message from the other side, unless it was counted before. due says that the other side waits
// for the acknowledgement.
func (o *outbox) got(due, counted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !counted {
		o.count1()
	}
	o.due = o.due || due
}

// answered is got and add for a message that is answered at once.
func (o *outbox) answered(f frame, counted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.append(f) // a successor that finds the reply counts the message by it
	if !counted {
		o.count1()
	}
}

func (o *outbox) count1() {
	if o.closed {
		return // what is recorded may be the next session's
	}
	o.received++
	o.journal.setReceived(o.received)
}

// count is how many messages have come and were dealt with.
func (o *outbox) count() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.received
}

// renumber gives the first message that is there another number.
func (o *outbox) renumber(first uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first, o.next, o.offset, o.upto = first, first, 0, first
	o.ever = first + uint64(len(o.frames))
}

var errAck = errors.New("the other side has more messages than it was sent")

// release forgets the messages before number n, which the other side has, and calls
// free for each.
func (o *outbox) release(n uint64, free func(frame)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	if n > o.upto {
		return errAck
	}
	o.drop(n, free)
	return nil
}

func (o *outbox) drop(n uint64, free func(frame)) {
	if n <= o.first {
		return // an old one
	}
	o.journal.setFirst(n)
	k := n - o.first
	for i := range o.frames[:k] {
		o.bytes -= len(o.frames[i].b)
		free(o.frames[i])
	}
	kept := copy(o.frames, o.frames[k:])
	clear(o.frames[kept:])
	o.frames = o.frames[:kept]
	o.first = n
}

// at is how far this side has come.
func (o *outbox) at() position {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.position()
}

func (o *outbox) position() position {
	return position{First: o.first, Sent: max(o.first, o.ever), Received: o.received}
}

// fits reports whether a side that is at p can continue with this one.
func (o *outbox) fits(p position) bool {
	own := o.position()
	return own.First <= p.Received && p.Received <= own.Sent && p.First <= own.Received && own.Received <= p.Sent
}

// couldFit is fits for callers without o.mu.
func (o *outbox) couldFit(p position) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fits(p)
}

// reset ends the connection, if there is one.
func (o *outbox) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget()
}

// attach continues over a new connection, whose other side is at p. It takes a reference of the
// socket. It fails if the other side is not where this one has left it.
func (o *outbox) attach(s *socket, p position, free func(frame)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || !o.fits(p) {
		return ErrStale
	}
	o.forget()
	o.drop(p.Received, free)
	o.next, o.offset, o.upto = o.first, 0, o.first
	o.ack, o.told, o.due = nil, o.received, false
	o.socket = s.get()
	return nil
}

// tell has the other side told what has come, even if it was told before.
func (o *outbox) tell() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told, o.due = o.received+1, true
}

// detach forgets the connection if it is s.
func (o *outbox) detach(s *socket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.socket == s {
		o.forget()
	}
}

func (o *outbox) forget() {
	if o.socket == nil {
		return
	}
	o.socket.shutdown()
	o.socket.put()
	o.socket = nil
}

// flush sends what is there. Without leave to wait, what finds no room in the socket is
// left to the goroutine of write.
func (o *outbox) flush(wait bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy {
		return // the goroutine that is busy sends this, too
	}
	o.busy = true
	o.drain(wait)
}

// drain sends until nothing is left. o.mu is held, and let go while it sends; busy is the
// caller's, and is passed on or returned.
func (o *outbox) drain(wait bool) {
	for o.socket != nil && o.gather() {
		s := o.socket.get()
		o.mu.Unlock()
		n, err := s.send(o.pieces, wait)
		o.mu.Lock()
		same := o.socket == s
		s.put()
		switch {
		case !same: // a new connection begins from what attach has said
		case errors.Is(err, unix.EAGAIN):
			o.left = true
			o.wake.Signal()
			return
		case err != nil:
			o.forget() // the reader of the connection notices
		default:
			o.wrote(n)
		}
	}
	o.busy = false
	clear(o.pieces)
}

// write sends what flush has left, until close.
func (o *outbox) write() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		for !o.left && !o.closed {
			o.wake.Wait()
		}
		if o.closed {
			return
		}
		o.left = false
		o.drain(true)
	}
}

// close ends write and the connection.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.forget()
	if o.journal != nil {
		for _, f := range o.frames {
			f.slot.release()
		}
		o.frames, o.bytes = nil, 0
	}
	o.wake.Signal()
}

// maxPieces is how many messages are sent with one call.
const maxPieces = 64

// gather collects in o.pieces what is sent next. It returns false if there is nothing. An
// ack is sent before the next message: a request may rely on what the other side frees when
// it is told of a reply.
func (o *outbox) gather() bool {
	if len(o.ack) == 0 && o.offset == 0 && o.received != o.told && (o.due || o.next < o.first+uint64(len(o.frames))) {
		binary.LittleEndian.PutUint32(o.ackBuf[:], uint32(ackSize))
		binary.LittleEndian.PutUint64(o.ackBuf[16:], o.received)
		o.ack, o.told, o.due = o.ackBuf[:], o.received, false
	}
	o.pieces, o.whole = o.pieces[:0], 0
	room := o.socket.most
	if len(o.ack) > 0 {
		o.pieces = append(o.pieces, o.ack)
		room -= len(o.ack)
	}
	offset := o.offset
	for _, f := range o.frames[o.next-o.first:] {
		if room == 0 || len(o.pieces) == maxPieces {
			break
		}
		b := f.b[offset:]
		offset = 0
		if len(b) > room {
			o.pieces = append(o.pieces, b[:room])
			break
		}
		o.pieces = append(o.pieces, b)
		o.whole++
		room -= len(b)
	}
	o.upto = max(o.upto, o.next+uint64(o.whole))
	o.ever = max(o.ever, o.upto)
	return len(o.pieces) > 0
}

// wrote counts n bytes of what gather has collected. The other side may have acknowledged
// them already.
func (o *outbox) wrote(n int) {
	pieces := o.pieces
	if len(o.ack) > 0 {
		k := min(n, len(o.ack))
		o.ack = o.ack[k:]
		n -= k
		pieces = pieces[1:]
	}
	for i, b := range pieces {
		if n < len(b) || i == o.whole {
			o.offset += n
			return
		}
		n -= len(b)
		o.next, o.offset = o.next+1, 0
	}
}

// offer is add for a message that is left out if the messages which the other side may not have
// would be more than so many bytes together.
func (o *outbox) offer(f frame, most int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.bytes+len(f.b) > most {
		return false
	}
	o.append(f)
	return true
}

// owes reports whether the other side was not told of so many messages that have come.
func (o *outbox) owes(n uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.due || o.received >= o.told+n && o.told <= o.received
}

// restart begins with number 0 again, without a connection. It returns the messages that were there: those that the
// other side can have, and those that it can't.
func (o *outbox) restart() (sent, unsent []frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget()
	k := max(o.upto, o.first) - o.first
	sent, unsent = o.frames[:k:k], o.frames[k:]
	o.first, o.frames, o.bytes = 0, nil, 0
	o.next, o.offset, o.upto, o.ever = 0, 0, 0, 0
	o.ack, o.received, o.told, o.due = nil, 0, 0, false
	return sent, unsent
}
