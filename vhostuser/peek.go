package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// receivePeek is receive for a message that stays in the socket until take: so it is there for a
// successor if this process dies before it has done what the message asks for. Its descriptors
// are copies of those in the socket.
//
// The socket's peek offset (SO_PEEK_OFF) is the number of bytes that were peeked at. It is the
// kernel's, so a successor sees it: take moves it back.
func (s *Socket) receivePeek(m *Message) error {
	if err := s.setPeeked(0); err != nil {
		return err
	}
	var h Header
	if err := s.peekFull(Bytes(&h), nil); err != nil {
		return err
	}
	if err := m.begin(&h); err != nil {
		return err
	}
	// Once more from the start, as a whole: descriptors come with each look at a byte that
	// they are attached to.
	if err := s.setPeeked(0); err != nil {
		return err
	}
	b := make([]byte, HeaderSize+len(m.Body)+1)
	if err := s.peekFull(b, m); err != nil {
		return fmt.Errorf("%s: within the message: %w", m, err)
	}
	copy(m.Body, b[HeaderSize:])
	return nil
}

// peekFull fills b with the bytes from the peek offset on, which it moves. With a message that is
// not nil it collects the descriptors that come with them, and the last byte of b is one that may be there
// or not: of the next message.
//
// A peek ends behind the bytes that descriptors are attached to. Without this last byte it would
// continue to the descriptors of later bytes, even without room for these bytes, and nothing
// would tell whose descriptors they are. At the end the peek offset is behind the message.
func (s *Socket) peekFull(b []byte, m *Message) error {
	want := len(b)
	var oob []byte
	if m != nil {
		oob, want = make([]byte, oobSize), want-1
	}
	for got := 0; got < want; {
		n, oobn, flags, err := s.recvmsg(b[got:], oob, unix.MSG_PEEK)
		got += n
		switch {
		case oobn > 0 && got > want:
			var next Message
			_ = next.addFDs(oob[:oobn])
			next.Close()
		case oobn > 0:
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
		if m != nil && flags&unix.MSG_CTRUNC != 0 && got <= want {
			m.FDsLost = true
		}
		if got > want {
			return s.setPeeked(want)
		}
	}
	return nil
}

// take takes bytes out of the socket that were peeked at. The kernel closes the descriptors that come
// with them.
func (s *Socket) take(n int) error {
	b := make([]byte, n)
	for len(b) > 0 {
		got, _, _, err := s.recvmsg(b, nil, 0)
		if err != nil {
			return err
		}
		if got == 0 {
			return io.EOF
		}
		b = b[got:]
	}
	return nil
}

// takeNow is take for bytes that are there.
func (s *Socket) takeNow(n int) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	b := make([]byte, n)
	failed := raw.Control(func(fd uintptr) {
		for len(b) > 0 && err == nil {
			var got int
			if got, _, _, _, err = unix.Recvmsg(int(fd), b, nil, unix.MSG_DONTWAIT); err == nil && got == 0 {
				err = io.EOF
			}
			b = b[max(got, 0):]
		}
	})
	if failed != nil {
		return failed
	}
	return os.NewSyscallError("recvmsg", err)
}

// recvmsg waits for bytes as Read does.
func (s *Socket) recvmsg(b, oob []byte, flags int) (n, oobn, got int, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, 0, 0, err
	}
	waiting := raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, got, _, err = unix.Recvmsg(int(fd), b, oob, flags|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	if waiting != nil {
		return 0, 0, 0, waiting
	}
	return n, oobn, got, os.NewSyscallError("recvmsg", err)
}

// peeked is how many bytes were peeked at and not taken.
func (s *Socket) peeked() (n int, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF) })
	if failed != nil {
		return 0, failed
	}
	return n, os.NewSyscallError("getsockopt SO_PEEK_OFF", err)
}

func (s *Socket) setPeeked(n int) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, n) })
	if failed != nil {
		return failed
	}
	return os.NewSyscallError("setsockopt SO_PEEK_OFF", err)
}
