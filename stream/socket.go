package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a connected stream socket in blocking mode. It is closed when the last reference is
// put back; shutdown makes all calls on it end before.
type socket struct {
	fd   int
	most int // bytes that are sent with one call
	refs atomic.Int32
	down atomic.Bool
}

// newSocket takes a connection, which is closed, and returns its socket with one reference.
func newSocket(c net.Conn, most int) (*socket, error) {
	defer func() { _ = c.Close() }()
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T is no socket", c)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr == nil {
		dupErr = unix.SetNonblock(fd, false)
	}
	if dupErr != nil {
		return nil, fmt.Errorf("socket: %w", dupErr)
	}
	o := &socket{fd: fd, most: most}
	o.refs.Store(1)
	return o, nil
}

func (s *socket) get() *socket {
	s.refs.Add(1)
	return s
}

func (s *socket) put() {
	if s.refs.Add(-1) == 0 {
		_ = unix.Close(s.fd)
	}
}

// shutdown ends the connection: reads and writes on both sides end.
func (s *socket) shutdown() {
	if !s.down.Swap(true) {
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR)
	}
}

// read waits for bytes. The error is io.EOF at the end.
func (s *socket) read(b []byte) (int, error) {
	for {
		n, _, _, _, err := unix.Recvmsg(s.fd, b, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("receive: %w", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// send sends what it can of the pieces, waiting for room or not. The error is EAGAIN if there
// is none and it may not wait.
func (s *socket) send(pieces [][]byte, wait bool) (int, error) {
	flags := unix.MSG_NOSIGNAL
	if !wait {
		flags |= unix.MSG_DONTWAIT
	}
	for {
		n, err := unix.SendmsgBuffers(s.fd, pieces, nil, nil, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n, err
	}
}
