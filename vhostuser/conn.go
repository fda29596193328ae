package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Conn is one front-end's connection. All its state belongs to Serve's goroutine,
// except channel.
type Conn struct {
	sock     *net.UnixConn
	device   Device
	stateful StateTransferrer   // device, if it can
	sharing  SharedMemoryDevice // device, if it can
	log      *logrus.Entry
	grumble  rate.Sometimes  // for messages that were refused
	private  sync.Once       // for what to do about memory that is not shared
	begun    sync.Once       // for what was agreed on
	ended    <-chan struct{} // closed when Serve's context ends

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
	echoes   *echoes                 // of mappings in shared memory

	echoLimits echoLimits // of echoes to come
}

// NewConn prepares to serve a front-end; Serve closes sock.
func NewConn(sock *net.UnixConn, d Device, log *logrus.Entry) *Conn {
	c := &Conn{
		sock:    sock,
		device:  d,
		log:     log,
		grumble: rate.Sometimes{First: 20, Interval: time.Second},
		rings:   make([]ring, d.NumQueues()),

		transfer:   transfer{idle: checkIdle},
		echoLimits: defaultEchoLimits,
	}
	c.stateful, _ = d.(StateTransferrer)
	if s, ok := d.(SharedMemoryDevice); ok && len(s.SharedMemory()) > 0 {
		c.sharing = s
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
	// Starting a queue looks at memory that a front-end may take away meanwhile.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer c.teardown()
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
	m := &message{}
	defer m.close()
	if err := c.receive(m); err != nil {
		return err
	}
	if c.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
		c.log.Debugf("vhost-user: %s, %d bytes, %d descriptors", m.request, len(m.body), len(m.fds))
	}
	if m.flags&FlagReply != 0 {
		// Nothing that we send on this socket is a request. To answer an answer may
		// go on for ever.
		c.refused(m, errors.New("it is marked as a reply"))
		return nil
	}
	row, err := c.lookup(m)
	var body []byte
	if err == nil {
		body, err = row.handle(c, m)
	}
	if err != nil {
		c.refused(m, err)
	}
	if err := c.answer(row, m, body, err); err != nil {
		return fmt.Errorf("%s: answer: %w", m.request, err)
	}
	return nil
}

// refused logs what is wrong with a message: in words that help whoever set up the
// VMM, and not without end, because the front-end decides how often.
func (c *Conn) refused(m *message, err error) {
	if errors.Is(err, errNotShared) || errors.Is(err, errNoMemory) {
		c.private.Do(func() { c.log.Warnf("vhost-user: %s refused: %v. %s", m.request, err, ShareHint) })
		c.log.Debugf("vhost-user: %s refused: %v", m.request, err)
		return
	}
	c.grumble.Do(func() { c.log.Warnf("vhost-user: %s refused: %v", m.request, err) })
}

// answer sends what the front-end waits for. row is nil for an unknown request, err
// what came of the request.
func (c *Conn) answer(row *request, m *message, body []byte, err error) error {
	fd := -1
	switch {
	case row != nil && row.answer != ackIfAsked:
		if err != nil {
			body = nil
		}
		if err != nil && row.answer == replyStatus {
			body = replyU64(1 | TransferNoFD)
		}
		if err == nil && m.hasReply {
			fd = m.replyFD
		}
	case m.flags&FlagNeedReply != 0 && c.protocol.Has(ProtocolReplyAck):
		var ack uint64
		if err != nil {
			ack = 1
		}
		body = replyU64(ack)
	default:
		return nil
	}
	return sendMessage(c.sock, uint32(m.request), FlagVersion|FlagReply, body, fd)
}

// receive reads one message. What it returns as an error ends the connection: the
// start of the next message could not be found.
func (c *Conn) receive(m *message) error {
	var h Header
	if err := c.readFull(Bytes(&h), m); err != nil {
		return err
	}
	m.request, m.flags = Request(h.Request), h.Flags
	switch {
	case h.Flags&FlagVersionMask != FlagVersion:
		return fmt.Errorf("%s has version %d, want %d: is this a vhost-user front-end?", m.request, h.Flags&FlagVersionMask, FlagVersion)
	case h.Size > MaxBodySize:
		return fmt.Errorf("%s has a body of %d bytes, more than %d", m.request, h.Size, MaxBodySize)
	}
	m.body = make([]byte, h.Size)
	if err := c.readFull(m.body, m); err != nil {
		return fmt.Errorf("%s: within the message: %w", m.request, err)
	}
	return nil
}

// oobSize has room for one descriptor more than allowed, so that a surplus is seen.
var oobSize = unix.CmsgSpace(4 * (MaxMessageFDs + 1))

// readFull fills b and collects the descriptors that come with it, whether with the
// header, as they should, or later.
func (c *Conn) readFull(b []byte, m *message) error {
	oob := make([]byte, oobSize)
	for len(b) > 0 {
		// ReadMsgUnix sets MSG_CMSG_CLOEXEC.
		n, oobn, flags, _, err := c.sock.ReadMsgUnix(b, oob)
		if oobn > 0 {
			if err := m.addFDs(oob[:oobn]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		if flags&unix.MSG_CTRUNC != 0 {
			m.fdsLost = true // the kernel has closed those that did not fit
		}
		b = b[n:]
	}
	return nil
}

// addFDs takes the descriptors out of a control message. There may be one in every
// byte of a message; a front-end that does so is up to no good.
func (m *message) addFDs(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			m.fds = append(m.fds, fds...)
		}
	}
	if len(m.fds) > 2*MaxMessageFDs {
		return fmt.Errorf("%s comes with more than %d descriptors", m.request, 2*MaxMessageFDs)
	}
	return nil
}

// sendMessage writes header and body at once. fd stays the caller's; -1 is none.
func sendMessage(sock *net.UnixConn, request, flags uint32, body []byte, fd int) error {
	h := Header{Request: request, Flags: flags, Size: uint32(len(body))}
	b := append(append(make([]byte, 0, HeaderSize+len(body)), Bytes(&h)...), body...)
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	n, _, err := sock.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = sock.Write(b[n:])
	}
	return err
}

// teardown gives everything back. The channel goes first: a queue may wait for an
// answer that does not come any more.
func (c *Conn) teardown() {
	_ = c.sock.Close()
	if ch := c.channel.Load(); ch != nil {
		ch.close()
	}
	for i := range c.rings {
		c.stopRing(i)
		c.rings[i].close()
	}
	c.transfer.abort()
	c.closeChannel()
	c.space.Store(nil)
	c.regions = nil
	c.dirty.close()
	c.inflight.close()
}
