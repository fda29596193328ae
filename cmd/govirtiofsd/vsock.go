package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/mdlayher/vsock"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/internal/token"
	"github.com/govirtiofs/govirtiofs/stream"
)

// vsockEndpoint listens on a port of the host's vsock.
func vsockEndpoint(port uint32) (*endpoint, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
			err = unix.Listen(fd, unix.SOMAXCONN)
		}
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return nil, fmt.Errorf("vsock: this kernel has none: load it with 'modprobe vhost_vsock': %w", err)
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("vsock: another program listens on port %d: %w", port, err)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("vsock: port %d is below 1024, which only root may use: %w", port, err)
	case err != nil:
		return nil, fmt.Errorf("vsock: port %d: %w", port, err)
	}
	return &endpoint{file: os.NewFile(uintptr(fd), "vsock socket")}, nil
}

// isVsock tells a vsock socket from others.
func isVsock(f *os.File) bool {
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && domain == unix.AF_VSOCK
}

// readToken reads the file that says what a guest has to know; nil is nothing.
func readToken(path string) ([]byte, error) {
	if path == "" || path == share.NoToken {
		return nil, nil
	}
	b, err := token.Read(path)
	if err != nil {
		return nil, fmt.Errorf("--vsock-token: %w", err)
	}
	return b, nil
}

// vsockFiles are what the daemon reads and writes outside of its sandbox.
type vsockFiles struct {
	token []byte   // nil is none
	state *os.File // nil is none
}

func openVsockFiles(o *options) (f *vsockFiles, err error) {
	f = &vsockFiles{}
	if f.token, err = readToken(o.VsockToken); err != nil || o.VsockState == "" {
		return f, err
	}
	f.state, err = os.OpenFile(o.VsockState, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--vsock-state: %w", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.state.Fd()), &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid()) {
		err = errors.New("it must be a regular file of the daemon's user that nobody else can read or change: remove it, the daemon makes one")
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("--vsock-state %s: %w", o.VsockState, err)
	}
	return f, nil
}

func (f *vsockFiles) close() {
	if f.state != nil {
		f.state.Close()
	}
}

// load has s go on with the session that was saved. It can do so once.
func (f *vsockFiles) load(s *stream.Server, log *logrus.Logger) error {
	if f.state == nil {
		return nil
	}
	if err := s.Load(bufio.NewReader(f.state)); err != nil {
		log.WithError(err).Error("The guest has to mount again")
	}
	err := f.state.Truncate(0)
	if err == nil {
		_, err = f.state.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("--vsock-state: %w", err)
	}
	return nil
}

// maxPrivileged is the last port that only a guest's root can connect from.
const maxPrivileged = 1023

// admit decides who may connect, by the address.
func (o *options) admit(a net.Addr) (guest string, err error) {
	v, ok := a.(*vsock.Addr)
	if !ok {
		return "", nil // a VMM's Unix socket, which its permissions guard
	}
	switch {
	case o.VsockGuest != 0 && v.ContextID != o.VsockGuest:
		return "", fmt.Errorf("only the guest with CID %d may connect", o.VsockGuest)
	case o.VsockGuest == 0 && v.ContextID == vsock.Local:
		return "", errors.New("programs of this host may connect only with --vsock=1:PORT")
	case o.VsockToken == "" && v.Port > maxPrivileged:
		return "", fmt.Errorf("source port %d: without a token it must be below 1024, which only the guest's root can have", v.Port)
	}
	return fmt.Sprintf("CID %d", v.ContextID), nil
}

// newStreams serves guests over vsock.
func newStreams(o *options, h fuse.Handler, f *vsockFiles, opts stream.Options, log *logrus.Logger) (service, error) {
	opts.Token = f.token
	if f.state != nil {
		opts.Save = f.state
	}
	s, err := stream.New(h, opts)
	if err != nil {
		return nil, err
	}
	if o.onStreams != nil {
		o.onStreams(s)
	}
	return func(ctx context.Context, a *acceptor) error {
		var l net.Listener = a.listener
		if a.vsock != nil {
			l = a.vsock
		}
		if o.onConnection != nil {
			o.onConnection()
		}
		if err := f.load(s, log); err != nil {
			return err
		}
		log.Info("Waiting for guests on vsock...")
		log.Info(o.describe(nil))
		return signalOr(ctx, s.Serve(ctx, l))
	}, nil
}
