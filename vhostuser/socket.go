package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// Message is a request or an answer, with its descriptors.
type Message struct {
	Direction Direction // of the request: an answer has the same as what it answers
	Number    uint32    // of the request
	Flags     uint32
	Body      []byte
	// FDs came with the message, or go with it. Those that came belong to the message
	// until TakeFD takes them; they are not inherited by other programs. -1 is none.
	FDs []int
	// FDsLost says that more came than could be received; the kernel has closed them.
	FDsLost bool
}

// String is the name of the request.
func (m *Message) String() string { return nameOf(m.Direction, m.Number) }

// TakeFD hands descriptor i over to the caller; -1 when there is none.
func (m *Message) TakeFD(i int) int {
	if i >= len(m.FDs) {
		return -1
	}
	fd := m.FDs[i]
	m.FDs[i] = -1
	return fd
}

// Close closes the descriptors of the message that were not taken.
func (m *Message) Close() {
	for _, fd := range m.FDs {
		if fd >= 0 {
			fdstat.Close(fd)
		}
	}
	m.FDs = nil
}

// Socket is one end of a connection: messages instead of bytes. Both sides use it, for the
// requests and for the answers. One goroutine may send while another one receives.
type Socket struct {
	*net.UnixConn
	direction Direction
	peek      bool // Receive leaves the message in the socket, see take
}

// NewSocket returns the messages on a Unix stream socket on which requests go in direction d.
func NewSocket(conn *net.UnixConn, d Direction) *Socket { return &Socket{UnixConn: conn, direction: d} }

// OpenSocket is NewSocket for a descriptor, which it closes in any case. Anything but a Unix
// stream socket is an error.
func OpenSocket(fd int, d Direction) (*Socket, error) {
	if info, err := fdstat.Stat(fd); err != nil || info.Kind() != unix.S_IFSOCK {
		fdstat.Close(fd)
		return nil, errors.New("not a socket")
	}
	f := os.NewFile(uintptr(fd), "vhost-user socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("not a socket: %w", err)
	}
	sock, ok := conn.(*net.UnixConn)
	if !ok || conn.LocalAddr().Network() != "unix" {
		_ = conn.Close()
		return nil, errors.New("not a unix stream socket")
	}
	return NewSocket(sock, d), nil
}

// Send writes a message as it is: nothing compares it with the table. Its descriptors stay
// the caller's. After an error a part may have been sent, so the connection is useless.
func (s *Socket) Send(m *Message) error {
	b := m.encode()
	var oob []byte
	if len(m.FDs) > 0 {
		oob = unix.UnixRights(m.FDs...)
	}
	n, _, err := s.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = s.Write(b[n:]) // the descriptors went with the first byte
	}
	return err
}

// encode is the message as it is sent.
func (m *Message) encode() []byte {
	h := Header{Request: m.Number, Flags: m.Flags, Size: uint32(len(m.Body))}
	return append(append(make([]byte, 0, HeaderSize+len(m.Body)), Bytes(&h)...), m.Body...)
}

// errVersion is wrapped when the bytes are hardly vhost-user.
var errVersion = errors.New("version")

// Receive reads one message; the caller closes it. What it returns as an error ends the
// connection, since the start of the next message can't be found; it wraps io.EOF when the
// other side has closed it. The body has at most MaxBodySize bytes and there are at most 2*MaxMessageFDs
// descriptors. Nothing else was compared with the table: see Check and CheckReply.
func (s *Socket) Receive() (*Message, error) {
	m := &Message{Direction: s.direction}
	if err := s.receive(m); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (s *Socket) receive(m *Message) error {
	if s.peek {
		return s.receivePeek(m)
	}
	var h Header
	if err := s.readFull(Bytes(&h), m); err != nil {
		return err
	}
	if err := m.begin(&h); err != nil {
		return err
	}
	if err := s.readFull(m.Body, m); err != nil {
		return fmt.Errorf("%s: within the message: %w", m, err)
	}
	return nil
}

// begin takes over a header, and makes room for the body.
func (m *Message) begin(h *Header) error {
	m.Number, m.Flags = h.Request, h.Flags
	switch {
	case h.Flags&FlagVersionMask != FlagVersion:
		return fmt.Errorf("%s has %w %d, want %d", m, errVersion, h.Flags&FlagVersionMask, FlagVersion)
	case h.Size > MaxBodySize:
		return fmt.Errorf("%s has a body of %d bytes, more than %d", m, h.Size, MaxBodySize)
	}
	m.Body = make([]byte, h.Size)
	return nil
}

// oobSize has room for one descriptor more than allowed, so that a surplus is seen.
var oobSize = unix.CmsgSpace(4 * (MaxMessageFDs + 1))

// readFull fills b and collects the descriptors that come with it, whether with the
// header, as they should, or later.
func (s *Socket) readFull(b []byte, m *Message) error {
	oob := make([]byte, oobSize)
	for len(b) > 0 {
		// ReadMsgUnix sets MSG_CMSG_CLOEXEC.
		n, oobn, flags, _, err := s.ReadMsgUnix(b, oob)
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
			m.FDsLost = true // the kernel has closed those that did not fit
		}
		b = b[n:]
	}
	return nil
}

// addFDs takes the descriptors out of a control message. There may be one in every byte of
// a message; a sender that does so is up to no good.
func (m *Message) addFDs(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			m.FDs = append(m.FDs, fds...)
		}
	}
	if len(m.FDs) > 2*MaxMessageFDs {
		return fmt.Errorf("%s comes with more than %d descriptors", m, 2*MaxMessageFDs)
	}
	return nil
}

// HungUp reports whether the other side has closed the connection, or this side has. It
// does not wait, and what was sent before the end may still be there to receive.
func (s *Socket) HungUp() bool {
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	var gone bool
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}
