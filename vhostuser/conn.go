package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Conn is one front-end's connection. All its state belongs to Serve's goroutine,
// except channel.
type Conn struct {
	sock    *Socket
	device  Device
	log     *slog.Logger
	grumble rate.Sometimes  // for messages that were refused
	private sync.Once       // for what to do about memory that is not shared
	begun   sync.Once       // for what was agreed on
	ended   <-chan struct{} // closed when Serve's context ends

	features uint64 // acknowledged
	protocol ProtocolFeatures
	status   uint64
	space    virtqueue.Space
	regions  []*virtqueue.Region // those in space
	rings    []ring
	dirty    dirtyLog
	inflight inflightArea
	transfer transfer
	channel  atomic.Pointer[channel] // nil until SET_BACKEND_REQ_FD
	recovery recovery
	echoes   *echoes    // of mappings in shared memory
	left     *Left      // of the last connection, or when Serve has returned of this one
	follows  bool       // Follow was called
	met      bool       // Device.Connected was called
	resumed  []leftRing // rings of the last connection, if the guest is the same

	echoLimits echoLimits // of echoes to come
}

// NewConn prepares to serve a front-end; Serve closes sock. With a log that is nil messages
// go to slog.Default().
func NewConn(sock *net.UnixConn, d Device, log *slog.Logger) *Conn {
	if log == nil {
		log = slog.Default()
	}
	c := &Conn{
		sock:    NewSocket(sock, ToBackend),
		device:  d,
		log:     log,
		grumble: rate.Sometimes{First: 20, Interval: time.Second},
		rings:   make([]ring, d.NumQueues()),

		transfer:   transfer{idle: checkIdle},
		echoLimits: defaultEchoLimits,
	}
	for i := range c.rings {
		c.rings[i].kick = -1
	}
	return c
}

// Serve serves the front-end until it disconnects (nil), ctx ends (its error) or
// its messages can't be followed any more. Before it returns it stops all queues,
// unmaps all memory and closes the connection.
func (c *Conn) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	defer stop()
	c.ended = ctx.Done()
	// Starting a queue reads memory that a front-end may take away meanwhile.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer c.teardown()
	c.beginNotes()
	for {
		err := c.next()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case disconnected(err):
			return nil
		default:
			return fmt.Errorf("vhostuser: %w", err)
		}
	}
}

// disconnected reports whether err only says that the other side is gone.
func disconnected(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// next serves one message. Its error ends the connection.
func (c *Conn) next() error {
	received, err := c.sock.Receive()
	switch {
	case errors.Is(err, errVersion):
		return fmt.Errorf("%w: is this a vhost-user front-end?", err)
	case err != nil:
		return err
	}
	m := &message{Message: received}
	defer m.close()
	if c.log.Enabled(context.Background(), slog.LevelDebug) {
		c.log.Debug(fmt.Sprintf("vhost-user: %s, %d bytes, %d descriptors", m, len(m.Body), len(m.FDs)))
	}
	if m.Flags&FlagReply != 0 {
		// Nothing that we send on this socket is a request. To answer an answer may
		// continue for ever.
		c.refused(m, errors.New("it is marked as a reply"))
		return c.send(m, nil)
	}
	handle, err := c.lookup(m)
	var body []byte
	if err == nil {
		body, err = handle(c, m)
	}
	if err != nil {
		c.refused(m, err)
	}
	if err := c.send(m, c.answer(m, body, err)); err != nil {
		return fmt.Errorf("%s: answer: %w", m, err)
	}
	return nil
}

// send ends serving a message, with its answer unless that is nil.
func (c *Conn) send(m *message, reply *Message) error {
	switch {
	case c.sock.peek:
		return c.answerNoted(m, reply)
	case reply == nil:
		return nil
	}
	return c.sock.Send(reply)
}

// refused logs what is wrong with a message, in words that help the user who set
// up the VMM. The number of these messages is limited, because the front-end
// decides how often it is called.
func (c *Conn) refused(m *message, err error) {
	if errors.Is(err, errNotShared) || errors.Is(err, errNoMemory) {
		c.private.Do(func() { c.log.Warn(fmt.Sprintf("vhost-user: %s refused: %v. %s", m, err, ShareHint)) })
		c.log.Debug(fmt.Sprintf("vhost-user: %s refused: %v", m, err))
		return
	}
	c.grumble.Do(func() { c.log.Warn(fmt.Sprintf("vhost-user: %s refused: %v", m, err)) })
}

// answer is what the front-end waits for, or nil; err is what came of the request.
func (c *Conn) answer(m *message, body []byte, err error) *Message {
	reply := &Message{Number: m.Number, Flags: FlagVersion | FlagReply}
	switch kind := m.answerKind(); {
	case kind == ReplyBody && err != nil: // an empty one
	case kind == ReplyStatus && err != nil:
		reply.Body = replyU64(1 | TransferNoFD)
	case kind == ReplyBody || kind == ReplyStatus:
		reply.Body = body
		if m.hasReply {
			reply.FDs = []int{m.replyFD}
		}
	case m.Flags&FlagNeedReply != 0 && c.protocol.Has(ProtocolReplyAck):
		var failed uint64
		if err != nil {
			failed = 1
		}
		reply.Body = replyU64(failed)
	default:
		return nil
	}
	return reply
}

// teardown gives everything back. The channel goes first: a queue may wait for an
// answer that does not come any more.
func (c *Conn) teardown() {
	_ = c.sock.Close()
	if ch := c.channel.Load(); ch != nil {
		ch.close()
	}
	ran := c.abandonQueues()
	for i := range c.rings {
		c.stopRing(i)
		c.rings[i].close()
	}
	c.leave(ran)
	c.transfer.abort()
	c.closeChannel()
	c.space.Store(nil)
	c.regions = nil
	c.dirty.close()
	c.inflight.close()
	c.forget()
}
