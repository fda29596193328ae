package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// clientChannel is the mounting machine's end of a channel.
type clientChannel struct {
	client *Client
	index  int
	device Device
	out    *outbox
	ticket id      // for the next hello; of Dial and then of receive
	socket *socket // the same

	buffers pool
	window  int

	mu   sync.Mutex // guards the following > outbox.mu
	room sync.Cond  // used has become less
	used int        // cost of the requests under way
	// flight has the requests that wait for their replies, by their unique number. Those of
	// channel 0, which have none, stand there by the number of the message, from settled on,
	// until the host has them.
	flight  map[uint64]flight
	settled uint64
	ended   chan struct{} // closed at the reply to DESTROY

	unread int // bytes of replies since the last ack; receive's
}

// flight is a request that waits for its reply.
type flight struct {
	number uint64 // of the message
	cost   int
	lost   unix.Errno // the answer if nobody knows whether it was carried out

	interrupted bool // the kernel has sent INTERRUPT for it, and does so once
}

// dial connects and says hello. The socket's reference is the caller's.
func (ch *clientChannel) dial(ctx context.Context, m mode) (*socket, welcome, error) {
	c := ch.client
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := c.opts.Dial(ctx)
	if err != nil {
		return nil, welcome{}, err
	}
	_ = conn.SetDeadline(time.Now().Add(dialTime))
	h := hello{Mode: m, Session: c.id, Ticket: ch.ticket, Channel: uint32(ch.index), Channels: uint32(len(c.channels)), At: ch.out.at()}
	var w welcome
	if err = writeHello(conn, h, c.opts.Share, c.opts.Token); err == nil {
		w, err = readWelcome(conn)
	} else if refused, readErr := readWelcome(conn); readErr != nil && refused.Status != statusOK {
		err = readErr // it was refused before it was read
	}
	if err != nil {
		_ = conn.Close()
		return nil, w, fmt.Errorf("host: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	most := 1 << 30
	if a := conn.RemoteAddr(); a != nil && a.Network() == "vsock" {
		most = sendSize
	}
	s, err := newSocket(conn, most)
	return s, w, err
}

// begin is attach for the first connection.
func (ch *clientChannel) begin(s *socket, m welcome) error {
	if ch.index == 0 {
		ch.client.limits = m
	}
	if l := ch.client.limits; m.MaxMessage != l.MaxMessage || m.MaxWrite != l.MaxWrite || m.Window != l.Window {
		s.put()
		return fmt.Errorf("%w: the host's channels have different limits", ErrRefused)
	}
	ch.buffers.largest, ch.window = int(m.MaxMessage), int(m.Window)
	return ch.attach(s, m)
}

// attach continues over a new connection.
func (ch *clientChannel) attach(s *socket, m welcome) error {
	if err := ch.out.attach(s, m.At, ch.free); err != nil {
		s.put()
		return err
	}
	ch.ticket, ch.socket = m.Ticket, s
	ch.settle(m.At.Received)
	ch.out.tell() // the host learns that its welcome has arrived
	return nil
}

func (ch *clientChannel) free(f frame) { ch.buffers.put(f.b) }

// carry reads requests from the device and sends them.
func (ch *clientChannel) carry() error {
	largest := ch.buffers.largest
	b := ch.buffers.get(largest)
	urgent := ch.client.channels[0]
	for {
		ch.wait(cost(largest, largest, ch.window))
		n, err := ch.device.Read(b)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n < inHeaderSize {
			return fmt.Errorf("a request of %d bytes from the kernel", n)
		}
		request := b[:n]
		if n <= smallSize { // it may be kept for a while
			request = ch.buffers.get(n)
			copy(request, b)
		} else {
			b = ch.buffers.get(largest)
		}
		if !ch.client.begun.Load() {
			ch.client.init.sent(request)
		}
		room := replyRoom(request, largest)
		if room == 0 {
			ch.client.interrupting(request)
			urgent.wait(cost(n, 0, urgent.window))
			urgent.send(request, 0)
		} else {
			ch.send(request, room)
		}
	}
}

// wait waits until a request of that cost may be sent. On channel 0 several goroutines send, and
// may exceed what they have waited for by a request each: see limit.
func (ch *clientChannel) wait(k int) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for ch.used+k > ch.limit() {
		ch.room.Wait()
	}
}

// limit is what the requests under way may cost. Four goroutines have channel 0 in common.
func (ch *clientChannel) limit() int {
	if ch.index == 0 {
		return ch.window / 2
	}
	return ch.window
}

// send sends a request. b is the outbox's from now on.
func (ch *clientChannel) send(b []byte, room int) {
	ch.mu.Lock()
	ch.post(b, room)
	ch.mu.Unlock()
	ch.out.flush(true)
}

// post counts a request and puts it into the outbox; ch.mu is held.
func (ch *clientChannel) post(b []byte, room int) {
	k := cost(len(b), room, ch.window)
	ch.used += k
	number := ch.out.add(frame{b: b, cost: k})
	unique := header(b).Unique
	if room == 0 {
		unique = number // they have no replies
	}
	ch.flight[unique] = flight{number: number, cost: k, lost: lostErrno(b)}
}

// destroy sends DESTROY. The channel that it returns is closed at the reply.
func (ch *clientChannel) destroy() <-chan struct{} {
	ended := make(chan struct{})
	ch.mu.Lock()
	ch.ended = ended
	ch.mu.Unlock()
	h := fp.InHeader{Len: uint32(inHeaderSize), Opcode: uint32(fp.OpDestroy), Unique: destroyUnique}
	b := ch.buffers.get(inHeaderSize)
	copy(b, fp.Bytes(&h))
	ch.send(b, replyRoom(b, ch.buffers.largest))
	return ended
}

// destroyUnique is a number that the kernel does not use: its own have no such bit.
const destroyUnique = 1 << 62

// receive delivers what the host sends, over one connection after the other.
func (ch *clientChannel) receive() {
	in := make([]byte, 2*ch.buffers.largest)
	ch.out.flush(true)
	for {
		err := ch.read(ch.socket, in)
		ch.out.detach(ch.socket)
		ch.socket.put()
		ch.socket = nil
		if ch.client.closing.Load() {
			return
		}
		if ch.index == 1 {
			ch.client.log.Warn(fmt.Sprintf("Connection lost: %v", err))
		}
		if err := ch.reconnect(); err != nil {
			ch.client.fail(err)
			return
		}
		if ch.index == 1 {
			ch.client.log.Info("Connected again")
		}
		ch.out.flush(true)
	}
}

// read delivers what comes over one connection.
func (ch *clientChannel) read(s *socket, in []byte) error {
	r, w := 0, 0
	for {
		for w-r >= 4 {
			n := int(binary.LittleEndian.Uint32(in[r:]))
			if n < outHeaderSize || n > ch.buffers.largest {
				return fmt.Errorf("message of %d bytes from the host", n)
			}
			if w-r < n {
				break
			}
			if err := ch.deliver(in[r : r+n]); err != nil {
				return err
			}
			r += n
		}
		if r == w || len(in)-r < ch.buffers.largest {
			r, w = 0, copy(in, in[r:w])
		}
		ch.acknowledge()
		n, err := s.read(in[w:])
		if err != nil {
			return err
		}
		w += n
	}
}

// ackBytes and ackCount are how much the host keeps of replies that the kernel has while
// there are no more requests.
const (
	ackBytes = 128 << 10
	ackCount = 64
)

// acknowledge tells the host of the replies that have come, if it keeps many. Otherwise
// they are told with the next request.
func (ch *clientChannel) acknowledge() {
	if ch.unread < ackBytes && !ch.out.owes(ackCount) {
		return
	}
	ch.unread = 0
	ch.out.tell()
	ch.out.flush(true)
}

// deliver takes one message.
func (ch *clientChannel) deliver(b []byte) error {
	if n, ok := isAck(b); ok {
		return ch.acked(n)
	}
	ch.unread += len(b)
	if ch.index == 0 {
		return ch.notification(b)
	}
	h, _, _ := fp.View[fp.OutHeader](b)
	ch.mu.Lock()
	_, ok := ch.flight[h.Unique]
	ended := ch.ended
	ch.mu.Unlock()
	if !ok {
		return fmt.Errorf("reply to no request (%#x) from the host", h.Unique)
	}
	if !ch.client.begun.Load() && ch.client.init.answered(h.Unique, b) {
		ch.client.begun.Store(true)
	}
	if h.Unique == destroyUnique {
		close(ended)
	} else if err := ch.device.Answer(b); err != nil {
		ch.client.log.Warn(fmt.Sprintf("Reply dropped: %v", err))
		ch.fail(h.Unique, unix.EIO)
	}
	ch.out.got(false, false)
	ch.client.tellDelivered()
	return ch.answered(h.Unique)
}

// answered takes a request off the count that was answered.
func (ch *clientChannel) answered(unique uint64) error {
	ch.mu.Lock()
	f := ch.flight[unique]
	delete(ch.flight, unique)
	ch.used -= f.cost
	ch.room.Broadcast()
	ch.mu.Unlock()
	return ch.out.release(f.number+1, ch.free) // messages come in order
}

// fail answers a request with an error: also one whose reply the kernel calls malformed.
func (ch *clientChannel) fail(unique uint64, errno unix.Errno) {
	h := fp.OutHeader{Len: uint32(outHeaderSize), Error: -int32(errno), Unique: unique}
	_ = ch.device.Answer(fp.Bytes(&h))
}

// acked is told how many messages the host has.
func (ch *clientChannel) acked(n uint64) error {
	if err := ch.out.release(n, ch.free); err != nil {
		return err
	}
	ch.settle(n)
	return nil
}

// settle takes requests without a reply off the count when the host has them.
func (ch *clientChannel) settle(n uint64) {
	if ch.index != 0 {
		return
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for ; ch.settled < n; ch.settled++ {
		ch.used -= ch.flight[ch.settled].cost
		delete(ch.flight, ch.settled)
	}
	ch.room.Broadcast()
}

// notification delivers a notification when the replies before it were.
func (ch *clientChannel) notification(b []byte) error {
	n := len(ch.client.channels)
	if len(b) < envelopeSize+8*n+outHeaderSize || int(binary.LittleEndian.Uint32(b[4:])) != n {
		return errors.New("malformed notification from the host")
	}
	counts := make([]uint64, n)
	for i := range counts {
		counts[i] = binary.LittleEndian.Uint64(b[envelopeSize+8*i:])
	}
	ch.client.await(counts)
	if ch.client.renewing.Load() {
		return errRenew
	}
	if err := ch.device.Answer(b[envelopeSize+8*n:]); err != nil {
		ch.client.log.Debug(fmt.Sprintf("Notification: %v", err)) // what it is about may be gone
	}
	ch.out.got(true, false)
	return nil
}
