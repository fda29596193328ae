package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Conn is one front-end's connection.
type Conn struct {
	sock    *net.UnixConn
	device  Device
	log     *logrus.Entry
	grumble rate.Sometimes // for messages that were refused

	features uint64 // acknowledged
	protocol ProtocolFeatures
	status   uint64
	space    virtqueue.Space
	regions  []*virtqueue.Region
	rings    []ring
	dirty    dirtyLog
	inflight inflightArea
	channel  *channel
	transfer transfer
}

// NewConn prepares to serve a front-end; it takes over sock.
func NewConn(sock *net.UnixConn, d Device, log *logrus.Entry) *Conn {
	return &Conn{
		sock:    sock,
		device:  d,
		log:     log,
		grumble: rate.Sometimes{First: 20, Interval: time.Second},
		rings:   make([]ring, d.NumQueues()),
	}
}

// Serve serves the front-end until it disconnects (nil), ctx ends (its error) or
// its messages can't be followed any more. Before it returns it stops all queues,
// unmaps all memory and closes the connection.
func (c *Conn) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	defer stop()
	defer c.teardown()
	for {
		m, err := c.receive()
		if err != nil {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed):
				return nil
			}
			return fmt.Errorf("vhostuser: %w", err)
		}
		err = c.serve(m)
		m.closeFDs()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("vhostuser: %s: %w", m.request, err)
		}
	}
}

// serve handles one message. Its error ends the connection.
func (c *Conn) serve(m *message) error {
	if c.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
		c.log.Debugf("vhost-user: %s, %d bytes, %d descriptors", m.request, len(m.body), len(m.fds))
	}
	row, err := c.lookup(m)
	var reply []byte
	if err == nil {
		reply, err = row.handle(c, m)
	}
	if errors.Is(err, errReplied) {
		return nil
	}
	if err != nil {
		c.grumble.Do(func() { c.log.Warnf("vhost-user: %s refused: %v", m.request, err) })
	}
	switch {
	case row != nil && row.replies:
		// A refused request that the front-end waits for is answered with an empty
		// body, which it takes for a failure.
		return c.reply(m.request, reply, -1)
	case m.flags&FlagNeedReply != 0 && c.protocol.Has(ProtocolReplyAck):
		ack := uint64(0)
		if err != nil {
			ack = 1
		}
		return c.reply(m.request, u64(ack), -1)
	}
	return nil
}

// receive reads one message. Descriptors come with the header.
func (c *Conn) receive() (*message, error) {
	m := &message{}
	var h Header
	err := c.readFull(Bytes(&h), m)
	if err == nil {
		m.request, m.flags = Request(h.Request), h.Flags
		switch {
		case h.Flags&FlagVersionMask != FlagVersion:
			err = fmt.Errorf("%s has version %d, want %d: not a vhost-user front-end?", m.request, h.Flags&FlagVersionMask, FlagVersion)
		case h.Size > MaxBodySize:
			err = fmt.Errorf("%s has a body of %d bytes, more than %d", m.request, h.Size, MaxBodySize)
		default:
			m.body = make([]byte, h.Size)
			if err = c.readFull(m.body, m); errors.Is(err, io.EOF) && h.Size > 0 {
				err = fmt.Errorf("%s: connection ends within a message: %w", m.request, err)
			}
		}
	}
	if err != nil {
		m.closeFDs()
		return nil, err
	}
	return m, nil
}

// readFull fills b and collects descriptors that come with it.
func (c *Conn) readFull(b []byte, m *message) error {
	// One more than allowed, so that a surplus is seen and not cut off.
	oob := make([]byte, unix.CmsgSpace(4*(MaxMessageFDs+1)))
	for len(b) > 0 {
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
			return fmt.Errorf("more than %d descriptors attached", MaxMessageFDs+1)
		}
		b = b[n:]
	}
	return nil
}

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
	if len(m.fds) > 4*MaxMessageFDs {
		return errors.New("too many descriptors in one message")
	}
	return nil
}

// reply sends the answer to a request, with a descriptor if fd is not -1.
func (c *Conn) reply(r Request, body []byte, fd int) error {
	return sendMessage(c.sock, uint32(r), FlagVersion|FlagReply, body, fd)
}

// sendMessage writes header and body at once. fd stays the caller's.
func sendMessage(sock *net.UnixConn, request, flags uint32, body []byte, fd int) error {
	h := Header{Request: request, Flags: flags, Size: uint32(len(body))}
	b := append(append(make([]byte, 0, HeaderSize+len(body)), Bytes(&h)...), body...)
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	n, _, err := sock.WriteMsgUnix(b, oob, nil)
	for err == nil && n < len(b) {
		b = b[n:]
		n, err = sock.Write(b)
	}
	return err
}

// teardown gives everything back.
func (c *Conn) teardown() {
	for i := range c.rings {
		c.stopRing(i)
		c.rings[i].close()
	}
	c.transfer.wait()
	if c.channel != nil {
		c.closeChannel()
	}
	c.space.Store(nil)
	c.regions = nil
	c.dirty.close()
	c.inflight.close()
	_ = c.sock.Close()
}
