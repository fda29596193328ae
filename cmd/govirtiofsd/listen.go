package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/accept"
	"github.com/govirtiofs/govirtiofs/keeper"
)

// endpoint is where the front-end is found: a socket to accept connections from,
// or one connection. file is the descriptor in either case.
type endpoint struct {
	file      *os.File
	connected bool
	socket    *entry   // nil when the socket is not ours to remove
	pid       *pidFile // nil unless the socket is ours
	once      sync.Once
}

// openEndpoint makes or takes over the socket that the options name.
func openEndpoint(o *options, p *passed) (*endpoint, error) {
	path, other := o.SocketPath, "another --socket-path"
	switch {
	case o.VsockPort != 0:
		return vsockEndpoint(o.VsockPort)
	case o.VsockUDS != "":
		path, other = o.VsockUDS, "another path for --vsock-uds"
	case path == "" && o.FD < 0:
		return p.socket()
	case path == "":
		return adoptEndpoint(o.FD)
	}
	pid, err := createPIDFile(path+".pid", other)
	if err != nil {
		return nil, err
	}
	e := &endpoint{pid: pid}
	var patience time.Duration
	if pid.orphaned {
		patience = endGrace + 2*time.Second // its worker, which has the socket, is about to end
	}
	if e.file, e.socket, err = bind(path, o.SocketGroup, patience); err != nil {
		e.remove()
		return nil, err
	}
	return e, nil
}

// firstPassed is the first descriptor that a service manager passes (SD_LISTEN_FDS_START).
const firstPassed = 3

// adoptEndpoint takes over an open descriptor.
func adoptEndpoint(fd int) (*endpoint, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case errors.Is(err, unix.EBADF):
		return nil, fmt.Errorf("descriptor %d is not open", fd)
	case errors.Is(err, unix.ENOTSOCK):
		return nil, fmt.Errorf("descriptor %d is not a socket", fd)
	case err != nil:
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return nil, fmt.Errorf("descriptor %d is not a unix stream socket", fd)
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	unix.CloseOnExec(fd)
	return &endpoint{file: os.NewFile(uintptr(fd), "vhost-user socket"), connected: listening == 0}, nil
}

// remove removes the files that belong to the endpoint and closes it.
func (e *endpoint) remove() {
	e.removeFiles()
	if e.file != nil {
		e.file.Close()
	}
}

// removeFiles removes the files that belong to the endpoint. It may be called twice, also
// at the same time.
func (e *endpoint) removeFiles() {
	e.once.Do(func() {
		if e.socket != nil {
			e.socket.remove()
		}
		if e.pid != nil {
			e.pid.remove()
		}
	})
}

// acceptor yields the connections of an endpoint, one after the other.
type acceptor struct {
	listener *net.UnixListener
	keeper   *keeper.Client // nil, or accepts front-ends in place of us, and holds each before it is ours
	first    *net.UnixConn
	vsock    net.Listener // instead of listener, for guests
}

// frontends is called if front-ends are to come, and not guests over vsock, which connect by the socket of --vsock-uds.
func (a *acceptor) frontends() {
	if a.keeper != nil {
		a.close()
		a.listener = nil
	}
}

// newAcceptor takes the endpoint's descriptor.
func newAcceptor(e *endpoint) (*acceptor, error) {
	defer e.file.Close()
	if isVsock(e.file) {
		l, err := vsock.FileListener(e.file)
		if err != nil {
			return nil, fmt.Errorf("vsock socket: %w", err)
		}
		return &acceptor{vsock: l}, nil
	}
	if e.connected {
		c, err := net.FileConn(e.file)
		if err != nil {
			return nil, fmt.Errorf("vhost-user socket: %w", err)
		}
		return &acceptor{first: c.(*net.UnixConn)}, nil
	}
	l, err := net.FileListener(e.file)
	if err != nil {
		return nil, fmt.Errorf("vhost-user socket: %w", err)
	}
	return &acceptor{listener: l.(*net.UnixListener)}, nil
}

// next waits for a front-end, or the end of ctx. A connection that is closed before the header
// of a message has come does not count: a process has checked whether the daemon is ready. warn
// is called once if an error makes the wait longer. The error io.EOF means that there was only
// one connection, which has ended.
func (a *acceptor) next(ctx context.Context, warn func(error)) (*net.UnixConn, error) {
	for {
		c, err := a.accept(ctx, warn)
		if err != nil {
			return nil, err
		}
		err = spoken(ctx, c)
		if err == nil {
			return c, nil
		}
		c.Close()
		a.keeper.Drop(keeper.Accepted())
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// accept waits for a connection.
func (a *acceptor) accept(ctx context.Context, warn func(error)) (*net.UnixConn, error) {
	if c := a.first; c != nil {
		a.first = nil
		return c, nil
	}
	if a.keeper != nil {
		return a.acceptKept(ctx)
	}
	if a.listener == nil {
		return nil, io.EOF
	}
	stop := context.AfterFunc(ctx, func() { a.listener.Close() })
	defer stop()
	c, err := accept.Next(ctx, a.listener.AcceptUnix, warn)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return c, nil
}

// acceptKept is accept by the keeper.
func (a *acceptor) acceptKept(ctx context.Context) (*net.UnixConn, error) {
	fd, err := a.keeper.Accept(ctx)
	if err != nil {
		return nil, err
	}
	c, err := newAcceptor(&endpoint{file: os.NewFile(uintptr(fd), "vhost-user socket"), connected: true})
	if err != nil {
		a.keeper.Drop(keeper.Accepted())
		return nil, fmt.Errorf("accept: %w", err)
	}
	return c.first, nil
}

// firstHeader is how many bytes a front-end's first message has at least: its header.
const firstHeader = 12

// spoken waits until the header of a message has come from c, and leaves it there. It returns
// an error if the other side closes the connection before, or ctx ends, after which c is
// closed.
func spoken(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var said error
	err = raw.Read(func(fd uintptr) bool {
		var n int
		if n, said = peek(int(fd)); said == nil && n < firstHeader && hungUp(int(fd)) {
			if n, said = peek(int(fd)); said == nil && n < firstHeader { // what came last was in time
				said = io.EOF
			}
		}
		return said == nil && n >= firstHeader || said != nil && !errors.Is(said, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return said
}

// peek is how much of a header has come. At the end of the connection it returns io.EOF.
func peek(fd int) (n int, err error) {
	for {
		n, _, _, _, err = unix.Recvmsg(fd, make([]byte, firstHeader), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			return 0, io.EOF
		}
		return n, err
	}
}

// hungUp reports whether the other side has closed the connection.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// close stops listening. Later connections are refused.
func (a *acceptor) close() {
	if a.listener != nil {
		a.listener.Close()
	}
}
