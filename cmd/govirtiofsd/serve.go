package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// serveInside is the daemon in the child of the namespace sandbox.
func serveInside(ctx context.Context, opts *options, log *logrus.Entry) error {
	files, err := sandbox.Enter()
	if err != nil {
		return err
	}
	opts.sharedDir = sandbox.Root(opts.sharedDir)
	return serve(ctx, opts, files[0], log)
}

// serve shuts the process in, as far as the options say, and serves front-ends on
// sock, a listening or a connected socket.
func serve(ctx context.Context, opts *options, sock *os.File, log *logrus.Entry) error {
	proc, err := sandbox.ProcFD()
	if err != nil {
		return err
	}
	if opts.sandbox == sandbox.Chroot {
		if err := sandbox.EnterChroot(opts.sharedDir); err != nil {
			return err
		}
		opts.sharedDir = sandbox.Root(opts.sharedDir)
	}
	root, err := unix.Open(opts.sharedDir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open shared directory %s: %w", opts.sharedDir, err)
	}
	if err := sandbox.DropCapabilities(opts.modcaps); err != nil {
		return err
	}
	opts.fs.RootFD, opts.fs.ProcFD = root, proc
	fs, err := passthrough.New(opts.fs)
	if err != nil {
		return err
	}
	device, err := virtiofs.New(
		server.New(fs, server.Options{ReadOnly: opts.fs.ReadOnly, Log: log}),
		virtiofs.Options{Tag: opts.tag, RequestQueues: opts.requestQueues, Log: log})
	if err != nil {
		return err
	}
	if err := sandbox.Seccomp(opts.seccomp, opts.syslog); err != nil {
		return err
	}
	return accept(ctx, opts, device, sock, log)
}

// accept serves one front-end after the other: one, unless --keep-listening.
func accept(ctx context.Context, opts *options, device *virtiofs.Device, sock *os.File, log *logrus.Entry) error {
	next, stop, err := connections(ctx, sock)
	if err != nil {
		return err
	}
	defer stop()
	for {
		log.Info("Waiting for vhost-user socket connection...")
		conn, err := next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		log.Info("Client connected, servicing requests")
		err = device.Serve(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !opts.keepListening {
			return err
		}
		if err != nil {
			log.Error(err)
		}
		if !opts.keepListening {
			log.Info("Client disconnected, shutting down")
			return nil
		}
		log.Info("Client disconnected")
	}
}

// connections returns a function that gives the next front-end. A socket that is
// connected already gives itself, once.
func connections(ctx context.Context, sock *os.File) (next func() (*net.UnixConn, error), stop func(), err error) {
	listening, err := unix.GetsockoptInt(int(sock.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, nil, fmt.Errorf("descriptor %d: %w; want a unix socket", sock.Fd(), err)
	}
	if listening == 0 {
		c, err := net.FileConn(sock)
		if err != nil {
			return nil, nil, err
		}
		_ = sock.Close()
		conn, ok := c.(*net.UnixConn)
		if !ok {
			return nil, nil, errors.New("the descriptor is not a unix socket")
		}
		used := false
		return func() (*net.UnixConn, error) {
			if used {
				return nil, errors.New("the front-end of a connected descriptor does not come back; --keep-listening needs a listening socket")
			}
			used = true
			return conn, nil
		}, func() {}, nil
	}
	l, err := net.FileListener(sock)
	if err != nil {
		return nil, nil, err
	}
	_ = sock.Close()
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, nil, errors.New("the descriptor is not a unix socket")
	}
	ul.SetUnlinkOnClose(false)
	cancel := context.AfterFunc(ctx, func() { _ = ul.Close() })
	return ul.AcceptUnix, func() { cancel(); _ = ul.Close() }, nil
}
