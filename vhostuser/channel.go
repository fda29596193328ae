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
}

// pending is a request without an answer yet.
type pending struct {
	request BackendRequest
	answer  chan error // buffered; gets exactly one error or nil
}

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
	c.openChannel(sock, c.protocol)
	return nil, nil
}

// channelProtocol is what was negotiated when the channel was opened.
func (c *Conn) channelProtocol() ProtocolFeatures {
	if ch := c.channel.Load(); ch != nil {
		return ch.protocol
	}
	return 0
}

// openChannel begins to use a back-end channel.
func (c *Conn) openChannel(sock *Socket, p ProtocolFeatures) {
	ch := &channel{sock: sock, protocol: p, done: make(chan struct{})}
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
	ch.mu.Lock()
	var err error
	switch {
	case ch.closed:
		err = ErrDisconnected
	case acked:
		ch.waiting = append(ch.waiting, p)
	}
	ch.mu.Unlock()
	if err != nil {
		return err
	}
	m := &Message{Number: uint32(p.request), Flags: FlagVersion, Body: body, FDs: fds}
	if acked {
		m.Flags |= FlagNeedReply
	}
	if err := ch.sock.Send(m); err != nil {
		ch.close() // part of a message may have been sent
		if disconnected(err) {
			return ErrDisconnected
		}
		return fmt.Errorf("vhostuser: %w", err)
	}
	return nil
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
		ok := ch.deliver(m)
		m.Close()
		if !ok {
			return
		}
	}
}

// deliver gives an acknowledgement to the first in line; false when it is for another
// request, or none.
func (ch *channel) deliver(m *Message) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if len(ch.waiting) == 0 || m.CheckReply(uint32(ch.waiting[0].request)) != nil {
		return false
	}
	ack, _ := Decode[U64](m.Body)
	p := ch.waiting[0]
	ch.waiting = ch.waiting[1:]
	if ack.Value == 0 {
		p.answer <- nil
	} else {
		p.answer <- refusal(ack.Value)
	}
	return true
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
	for _, p := range ch.waiting {
		p.answer <- ErrDisconnected
	}
	ch.waiting = nil
}
