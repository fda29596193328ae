package stretch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol between daemon and helper uses a sequential packet socket. Each message is a
// number of 4 bytes. The helper sends 0 when it is ready. A request has any number, and the
// file's descriptor. The reply has an errno. If the errno is 0, it also has the descriptor of
// the stretched file.

// Pair returns both ends of a connection.
func Pair() (client, helper int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("stretch: socketpair: %w", err)
	}
	return fds[0], fds[1], nil
}

// Serve serves the connection until the other side closes it.
func (h *Helper) Serve(conn int) error {
	if err := send(conn, 0, -1); err != nil {
		return err
	}
	for {
		_, fd, err := receive(conn)
		if errors.Is(err, errClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		long, err := h.Stretch(fd)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EIO
		}
		err = send(conn, uint32(errno), long)
		if long >= 0 {
			_ = unix.Close(long)
		}
		if err != nil {
			return err
		}
	}
}

// Client asks a Helper in another process. It implements passthrough.Stretcher.
type Client struct {
	mu   sync.Mutex // one request at a time
	conn int
}

// startTimeout is the time limit for a helper to be ready.
const startTimeout = 10 * time.Second

// NewClient waits until the helper at the other end of conn is ready, and takes conn
// over.
func NewClient(conn int) (*Client, error) {
	limit := unix.NsecToTimeval(startTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("stretch: timeout: %w", err)
	}
	n, fd, err := receive(conn)
	if fd >= 0 {
		_ = unix.Close(fd)
	}
	if err != nil {
		return nil, err
	}
	if n != 0 {
		return nil, fmt.Errorf("stretch: the helper says %w", unix.Errno(n))
	}
	limit = unix.Timeval{}
	if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("stretch: timeout: %w", err)
	}
	return &Client{conn: conn}, nil
}

// AdoptClient is NewClient for a helper that is known to be ready.
func AdoptClient(conn int) *Client { return &Client{conn: conn} }

// Stretch returns a stretched file of fd with the same access mode; both are the
// caller's. Safe for concurrent use.
func (c *Client) Stretch(fd int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := send(c.conn, 0, fd); err != nil {
		return -1, err
	}
	n, long, err := receive(c.conn)
	if n != 0 && long >= 0 {
		_ = unix.Close(long)
	}
	switch {
	case err != nil:
		return -1, err
	case n != 0:
		return -1, fmt.Errorf("stretch: %w", unix.Errno(n))
	case long < 0:
		return -1, errors.New("stretch: no descriptor in the answer")
	}
	return long, nil
}

// errClosed says that the other side has closed the connection.
var errClosed = errors.New("stretch: connection closed")

func send(conn int, n uint32, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(conn, binary.NativeEndian.AppendUint32(nil, n), rights, nil, unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EPIPE, unix.ECONNRESET:
			return errClosed
		default:
			return fmt.Errorf("stretch: send: %w", err)
		}
	}
}

// receive returns a message's number and descriptor, or -1.
func receive(conn int) (uint32, int, error) {
	var b [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn, flags int
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(conn, b[:], oob, unix.MSG_CMSG_CLOEXEC)
	}
	if errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 {
		return 0, -1, errClosed
	}
	if err != nil {
		return 0, -1, fmt.Errorf("stretch: receive: %w", err)
	}
	fd := -1
	if list, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(list) == 1 {
		if fds, err := unix.ParseUnixRights(&list[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	if n != len(b) || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return 0, -1, errors.New("stretch: malformed message")
	}
	return binary.NativeEndian.Uint32(b[:]), fd, nil
}
