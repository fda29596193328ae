package stretch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol between daemon and helper uses a sequential packet socket. Each message is two
// numbers of 4 bytes. The helper sends 0 and 0 when it is ready. A request has 0, a number of the
// client's choice, and the file's descriptor. The reply has an errno and the request's number. If
// the errno is 0, it also has the descriptor of the stretched file. A client that has died may
// leave a reply in the socket: the next client has other numbers, and ignores it.

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
	if err := send(conn, message{fd: -1}); err != nil {
		return err
	}
	for {
		request, err := receive(conn)
		if errors.Is(err, errClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		long, err := h.Stretch(request.fd)
		request.close()
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = unix.EIO
		}
		err = send(conn, message{errno: errno, id: request.id, fd: long})
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
	last uint32 // number of the last request
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
	m, err := receive(conn)
	if err != nil {
		return nil, err
	}
	m.close()
	if m.errno != 0 {
		return nil, fmt.Errorf("stretch: the helper says %w", m.errno)
	}
	limit = unix.Timeval{}
	if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("stretch: timeout: %w", err)
	}
	return AdoptClient(conn), nil
}

// AdoptClient is NewClient for a helper that is known to be ready. Another client may have used
// the connection, and have died.
func AdoptClient(conn int) *Client { return &Client{conn: conn, last: rand.Uint32()} }

// Stretch returns a stretched file of fd with the same access mode; both are the
// caller's. Safe for concurrent use.
func (c *Client) Stretch(fd int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	if err := send(c.conn, message{id: c.last, fd: fd}); err != nil {
		return -1, err
	}
	for {
		m, err := receive(c.conn)
		switch {
		case err != nil:
			return -1, err
		case m.id != c.last:
			m.close()
		case m.errno != 0:
			m.close()
			return -1, fmt.Errorf("stretch: %w", m.errno)
		case m.fd < 0:
			return -1, errors.New("stretch: no descriptor in the answer")
		default:
			return m.fd, nil
		}
	}
}

// message is a request or a reply; fd is -1 without a descriptor.
type message struct {
	errno unix.Errno
	id    uint32
	fd    int
}

func (m *message) close() {
	if m.fd >= 0 {
		_ = unix.Close(m.fd)
	}
}

// errClosed says that the other side has closed the connection.
var errClosed = errors.New("stretch: connection closed")

func send(conn int, m message) error {
	var rights []byte
	if m.fd >= 0 {
		rights = unix.UnixRights(m.fd)
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(m.errno))
	b = binary.NativeEndian.AppendUint32(b, m.id)
	for {
		err := unix.Sendmsg(conn, b, rights, nil, unix.MSG_NOSIGNAL)
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

func receive(conn int) (message, error) {
	var b [8]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn, flags int
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(conn, b[:], oob, unix.MSG_CMSG_CLOEXEC)
	}
	if errors.Is(err, unix.ECONNRESET) || err == nil && n == 0 {
		return message{}, errClosed
	}
	if err != nil {
		return message{}, fmt.Errorf("stretch: receive: %w", err)
	}
	m := message{fd: -1}
	if list, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(list) == 1 {
		if fds, err := unix.ParseUnixRights(&list[0]); err == nil && len(fds) == 1 {
			m.fd = fds[0]
		}
	}
	if n != len(b) || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		m.close()
		return message{}, errors.New("stretch: malformed message")
	}
	m.errno, m.id = unix.Errno(binary.NativeEndian.Uint32(b[:])), binary.NativeEndian.Uint32(b[4:])
	return m, nil
}
