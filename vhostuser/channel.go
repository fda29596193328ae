package vhostuser

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors of requests to the front-end, on which a caller may decide.
var (
	// ErrDisconnected ends requests to a front-end that is gone, or that has
	// opened no back-end channel.
	ErrDisconnected = errors.New("vhostuser: front-end disconnected")
	// ErrRefused is wrapped when the front-end answers with a failure.
	ErrRefused = errors.New("vhostuser: front-end refused")
)

// channel carries our own requests to the front-end (vhost-user, "Back-end
// communication"). Any goroutine may send. The front-end answers in order, and a
// goroutine of the channel reads the answers. So a goroutine that waits for an
// answer never keeps Serve from reading the control socket, which the front-end may
// need before it answers.
//
// QEMU answers from its main loop, which stands still while it waits for us: when it
// stops a ring, no answer comes before StopQueue has returned. A device must be able to
// end a ring's requests without the answers that they wait for.
type channel struct {
	sock     *Socket
	protocol ProtocolFeatures // as negotiated when the channel was opened
	done     chan struct{}    // closed when the reader has ended

	sendMu sync.Mutex // held while sending, so that waiting has the order of the requests

	mu      sync.Mutex // a leaf; guards what follows
	waiting []*pending
	closed  bool
	room    sync.Cond // waiting has become shorter, or the channel is closed
	journal journal
}

// pending is a request without an answer yet.
type pending struct {
	request BackendRequest
	answer  chan error // buffered; gets exactly one error or nil

	maps           bool  // it has a descriptor
	id             uint8 // of the shared memory, and the range in it
	offset, length uint64
	unsure         bool // it is being sent
	doubtful       bool // another process has died while it sent it
}

// mostWaiting is how many requests have no answer at most: those that come later wait before they are
// sent. A front-end serves one at a time anyway.
const mostWaiting = 64

// setBackendReqFD opens the back-end channel, in place of an earlier one.
func (c *Conn) setBackendReqFD(m *message) ([]byte, error) {
	number := c.keep(DescriptorChannel, 0, m.FDs[0])
	sock, err := OpenSocket(m.TakeFD(0), ToFrontend)
	if err != nil {
		c.drop(DescriptorChannel, number)
		return nil, err
	}
	c.drop(DescriptorChannel, c.recovery.channel)
	c.recovery.channel = number
	c.closeChannel()
	ch := newChannel(sock, c.protocol)
	c.beginJournal(ch)
	c.openChannel(ch)
	return nil, nil
}

// channelProtocol is what was negotiated when the channel was opened.
func (c *Conn) channelProtocol() ProtocolFeatures {
	if ch := c.channel.Load(); ch != nil {
		return ch.protocol
	}
	return 0
}

func newChannel(sock *Socket, p ProtocolFeatures) *channel {
	ch := &channel{sock: sock, protocol: p, done: make(chan struct{})}
	ch.room.L = &ch.mu
	return ch
}

// openChannel begins to use a back-end channel.
func (c *Conn) openChannel(ch *channel) {
	c.channel.Store(ch)
	go ch.read()
	c.attachSharedMemory(ch)
}

// closeChannel closes the channel, if there is one, and waits for its goroutine.
func (c *Conn) closeChannel() {
	ch := c.channel.Swap(nil)
	if ch == nil {
		return
	}
	ch.close()
	<-ch.done
	ch.sendMu.Lock() // nobody sends any more
	ch.journal.close()
	ch.sendMu.Unlock()
	c.attachSharedMemory(nil)
}

// ConfigChanged tells the front-end to read the configuration space again. It may
// be called from any goroutine.
func (c *Conn) ConfigChanged() error {
	ch := c.channel.Load()
	if ch == nil {
		return ErrDisconnected
	}
	if needs := FormatOf(ToFrontend, uint32(BackendConfigChange)).Needs; !ch.protocol.Has(needs) {
		return fmt.Errorf("vhostuser: %s was not negotiated", needs)
	}
	return ch.call(&pending{request: BackendConfigChange}, nil)
}

// call sends a request and waits for its acknowledgement, if the front-end
// acknowledges requests at all. fds stay the caller's.
func (ch *channel) call(p *pending, body []byte, fds ...int) error {
	if len(fds) > 0 && !ch.protocol.Has(ProtocolBackendSendFD) {
		return fmt.Errorf("vhostuser: %s was not negotiated", ProtocolBackendSendFD)
	}
	p.answer = make(chan error, 1)
	acked := ch.protocol.Has(ProtocolReplyAck)
	if err := ch.send(p, body, fds, acked); err != nil {
		return fmt.Errorf("%s: %w", p.request, err)
	}
	if !acked {
		return nil
	}
	if err := <-p.answer; err != nil {
		return fmt.Errorf("%s: %w", p.request, err)
	}
	return nil
}

// send writes the request and puts it in line for an answer.
func (ch *channel) send(p *pending, body []byte, fds []int, acked bool) error {
	ch.sendMu.Lock()
	defer ch.sendMu.Unlock()
	if acked {
		if err := ch.settle(p); err != nil {
			return err
		}
	}
	return ch.sendNext(p, body, fds, acked)
}

// sendNext is send for a caller that has sendMu.
func (ch *channel) sendNext(p *pending, body []byte, fds []int, acked bool) error {
	m := &Message{Number: uint32(p.request), Flags: FlagVersion, Body: body, FDs: fds}
	if acked {
		m.Flags |= FlagNeedReply
	}
	if err := ch.waitForRoom(acked); err != nil {
		return err
	}
	err := ch.journal.outbox.put(m)
	if err == nil {
		err = ch.queue(p, acked)
	}
	if err == nil {
		err = ch.journal.outbox.send(ch.sock, m)
	}
	if err != nil {
		ch.close() // part of a message may have been sent
		if disconnected(err) {
			return ErrDisconnected
		}
		return fmt.Errorf("vhostuser: %w", err)
	}
	if acked {
		ch.noteSent(p)
	}
	return nil
}

// waitForRoom returns when one more request may be sent.
func (ch *channel) waitForRoom(acked bool) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for acked && !ch.closed && len(ch.waiting) >= mostWaiting {
		ch.room.Wait()
	}
	if ch.closed {
		return ErrDisconnected
	}
	return nil
}

// queue puts a request in line for an answer, if there is to be one.
func (ch *channel) queue(p *pending, acked bool) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.closed {
		return ErrDisconnected
	}
	ch.journal.slots = ch.journal.outbox.slots
	if !acked {
		return nil
	}
	p.unsure = true
	ch.waiting = append(ch.waiting, p)
	return ch.journal.note(ch.waiting)
}

// read hands out answers until the channel ends.
func (ch *channel) read() {
	defer close(ch.done)
	defer ch.close()
	for {
		m, err := ch.sock.Receive()
		if err != nil {
			return
		}
		p := ch.deliver(m)
		if p != nil && ch.sock.peek {
			if ch.sock.take(HeaderSize+len(m.Body)) != nil {
				p.answer <- ErrDisconnected
				p = nil
			} else {
				ch.noteTaken()
			}
		}
		m.Close()
		if p == nil {
			return
		}
		ack, _ := Decode[U64](m.Body)
		if ack.Value == 0 {
			p.answer <- nil
		} else {
			p.answer <- refusal(ack.Value)
		}
	}
}

// deliver finds the request that an acknowledgement is for, the first in line; nil when it is for
// another one, or none.
func (ch *channel) deliver(m *Message) *pending {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for len(ch.waiting) > 0 {
		p := ch.waiting[0]
		match := m.CheckReply(uint32(p.request)) == nil
		if !match && !p.doubtful {
			return nil
		}
		ch.waiting = ch.waiting[1:]
		ch.room.Signal()
		if match {
			ch.journal.taking = ch.sock.peek
			if ch.journal.note(ch.waiting) != nil {
				p.answer <- ErrDisconnected
				return nil
			}
			return p
		}
		p.answer <- ErrDisconnected // it was never sent
	}
	return nil
}

// refusal is the error for a failure; QEMU answers with a negated errno, others
// with any number.
func refusal(ack uint64) error {
	if errno := unix.Errno(-ack); errno < 4096 {
		return fmt.Errorf("%w: %w", ErrRefused, errno)
	}
	return fmt.Errorf("%w with %#x", ErrRefused, ack)
}

// close ends the channel and all that wait for an answer.
func (ch *channel) close() {
	// Not under mu: this is what ends a send that blocks.
	_ = ch.sock.Close()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.closed = true
	ch.room.Broadcast()
	for _, p := range ch.waiting {
		p.answer <- ErrDisconnected
	}
	ch.waiting = nil
}
