package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/accept"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/vsock"
)

// vsockOptions are the options of the subcommand vsock-device.
type vsockOptions struct {
	socket, uds string
	cid         uint32
	keep        bool
}

func newVsockDevice() *cobra.Command {
	o := &vsockOptions{}
	c := &cobra.Command{
		Use:   "vsock-device --socket-path SOCKET --uds-path PATH --guest-cid CID",
		Short: "Serve a virtio-vsock device, with Unix sockets on this machine's side",
		Long: `Serves a virtio-vsock device for QEMU (vhost-user-vsock-pci) or a User-Mode Linux kernel. It needs
neither /dev/vhost-vsock nor root. On this machine's side there are Unix sockets, as with Firecracker
and cloud-hypervisor:

A connection of the guest to PORT of CID 2 becomes a connection to the Unix socket PATH_PORT, if a
program listens there. 'govirtiofsd --vsock-uds PATH:PORT' is such a program.

A program of this machine connects to PATH, and writes "CONNECT PORT" and a newline. When the guest
has accepted the connection, the program reads "OK" with a number, and a newline. All bytes after
that come from the guest.

The command ends when the VMM disconnects.`,
		Example: `  govirtiofs vsock-device --socket-path /tmp/vsock.sock --uds-path /tmp/vm.vsock --guest-cid 3
  qemu-system-x86_64 -chardev socket,id=vsock,path=/tmp/vsock.sock \
      -device vhost-user-vsock-pci,chardev=vsock ...`,
		RunE: func(*cobra.Command, []string) error { return runVsockDevice(o) },
	}
	f := c.Flags()
	f.StringVar(&o.socket, "socket-path", "", "make a vhost-user `socket` here, for the VMM")
	f.StringVar(&o.uds, "uds-path", "", "make a socket at this `path` for programs of this machine; each port of the host is at path_PORT")
	f.Uint32Var(&o.cid, "guest-cid", 3, "the guest's `CID`")
	f.BoolVar(&o.keep, "keep-listening", false, "when the VMM disconnects, wait for the next one instead of ending")
	return c
}

func runVsockDevice(o *vsockOptions) error {
	if o.socket == "" || o.uds == "" {
		return usagef("--socket-path and --uds-path are needed")
	}
	d, err := vsock.New(vsock.Options{CID: o.cid, Path: o.uds, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return usagef("--guest-cid: %w", err)
	}
	signalled, stop := untilSignal()
	defer stop()
	ctx, cancel := context.WithCancel(signalled)
	defer cancel()
	programs, err := listenUnix(o.uds)
	if err != nil {
		return fmt.Errorf("--uds-path: %w", err)
	}
	defer func() { _ = os.Remove(o.uds) }()
	l, err := listenUnix(o.socket)
	if err != nil {
		return fmt.Errorf("--socket-path: %w", err)
	}
	defer func() { _ = os.Remove(o.socket) }()
	context.AfterFunc(ctx, func() { _ = l.Close() })
	ended := make(chan struct{})
	go func() {
		_ = d.Listen(ctx, programs)
		close(ended)
	}()
	err = serveVsock(ctx, o, d, l)
	cancel()
	<-ended
	if signalled.Err() != nil {
		return nil // as a daemon ends
	}
	return err
}

// listenUnix listens on a path that only this user can connect to. A socket that is left from a program
// that is gone is replaced.
func listenUnix(path string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s: another program uses the socket that is there", path)
		} else if errors.Is(err, unix.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
	defer unix.Umask(unix.Umask(0o077))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false)
	}
	return l, err
}

// serveVsock serves one front-end, or one after the other.
func serveVsock(ctx context.Context, o *vsockOptions, d *vsock.Device, l *net.UnixListener) error {
	for {
		c, err := accept.Next(ctx, l.AcceptUnix, func(err error) {
			fmt.Fprintf(os.Stderr, "govirtiofs: a VMM can't connect for now: %v\n", err)
		})
		if err != nil {
			return err
		}
		err = vhostuser.NewConn(c, d, nil).Serve(ctx)
		d.Disconnected()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !o.keep {
			return err
		}
		if err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintf(os.Stderr, "govirtiofs: VMM dropped: %v\n", err)
		}
	}
}
