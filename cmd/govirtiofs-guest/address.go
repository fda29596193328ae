package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// address is where the host is, and which share of it.
type address struct {
	text  string
	cid   uint32 // of vsock
	port  uint32
	path  string // of a Unix socket, if that is what it is
	share string
}

// parseAddress reads vsock:CID:PORT[/SHARE] or unix:PATH.
func parseAddress(s string) (address, error) {
	a := address{text: s}
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "unix":
		if a.path = rest; rest == "" {
			return a, usagef("address %q: want unix:PATH", s)
		}
		return a, nil
	case "vsock":
	default:
		return a, usagef("address %q: want vsock:CID:PORT/SHARE, such as vsock:2:1024/data; 2 is the host", s)
	}
	place, name, _ := strings.Cut(rest, "/")
	a.share = name
	cid, port, found := strings.Cut(place, ":")
	if !found { // the host is meant
		cid, port = "2", place
	}
	for _, n := range []struct {
		text string
		to   *uint32
	}{{cid, &a.cid}, {port, &a.port}} {
		v, err := strconv.ParseUint(n.text, 10, 32)
		if err != nil || v == 0 {
			return a, usagef("address %q: %q is not a number: want vsock:CID:PORT/SHARE", s, n.text)
		}
		*n.to = uint32(v)
	}
	return a, nil
}

// dial connects.
func (a address) dial(ctx context.Context) (net.Conn, error) {
	if a.path != "" {
		return new(net.Dialer).DialContext(ctx, "unix", a.path)
	}
	c, err := dialVsock(ctx, a.cid, a.port)
	if err == nil {
		return c, nil
	}
	err = fmt.Errorf("%s: %w", a.text, err)
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return nil, fmt.Errorf("%w: the kernel has no vsock: modprobe vmw_vsock_virtio_transport", err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%w: this machine has no vsock device: give it one in the VMM's configuration, and modprobe vmw_vsock_virtio_transport", err)
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ETIMEDOUT):
		return nil, fmt.Errorf("%w: nobody listens there: is govirtiofsd --vsock or --vsock-uds running on the host?", err)
	}
	return nil, err
}

// Source ports that only a process with CAP_NET_BIND_SERVICE can have, by which the host knows
// the guest's root. Those below are left to services.
const (
	firstPort = 512
	lastPort  = 1023
)

func dialVsock(ctx context.Context, cid, port uint32) (net.Conn, error) {
	s, err := socket.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0, "vsock", nil)
	if err != nil {
		return nil, err
	}
	if err = bindLow(s); err == nil {
		_, err = s.Connect(ctx, &unix.SockaddrVM{CID: cid, Port: port})
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return vsockConn{s, vsockAddr{cid, port}}, nil
}

// bindLow takes a free port that only root can have. Without the right to one, the host has
// to be content with a token.
func bindLow(s *socket.Conn) error {
	const n = lastPort - firstPort + 1
	start := rand.Uint32N(n)
	for i := range uint32(n) {
		err := s.Bind(&unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: firstPort + (start+i)%n})
		switch {
		case err == nil, errors.Is(err, unix.EACCES):
			return nil
		case !errors.Is(err, unix.EADDRINUSE):
			return err
		}
	}
	return fmt.Errorf("all source ports from %d to %d are in use: %w", firstPort, lastPort, unix.EADDRINUSE)
}

// vsockConn is a socket of vsock as a net.Conn.
type vsockConn struct {
	*socket.Conn
	remote vsockAddr
}

func (c vsockConn) LocalAddr() net.Addr  { return vsockAddr{} }
func (c vsockConn) RemoteAddr() net.Addr { return c.remote }

type vsockAddr struct{ cid, port uint32 }

func (vsockAddr) Network() string  { return "vsock" }
func (a vsockAddr) String() string { return fmt.Sprintf("vsock:%d:%d", a.cid, a.port) }
