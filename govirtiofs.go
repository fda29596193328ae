// Package govirtiofs serves a file system that is written in Go to virtual machines.
//
//	archive, err := zip.OpenReader("archive.zip")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(govirtiofs.ListenAndServe("/run/archive.sock", "archive", iofs.New(archive)))
//
// A guest mounts it with "mount -t virtiofs archive /mnt". doc/library.md is a guide from nothing to
// there.
//
// There are three ways to write a file system: package iofs serves what is an fs.FS already, package
// vfs is for nodes with the methods that they need, and server.FileSystem is the FUSE protocol itself,
// which costs least. All three are a server.FileSystem here.
//
// # Versions
//
// The module has semantic versions. Until 1.0 a minor version may change the packages below this
// one; CHANGELOG.md says how. This package, vfs, iofs, server and fusedev are meant to stay as they are.
package govirtiofs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/internal/accept"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// ListenAndServe serves a file system on a vhost-user socket, to one virtual machine after the other.
// tag is the name by which a guest mounts it. It returns only errors, as http.ListenAndServe does.
func ListenAndServe(socket, tag string, fs server.FileSystem) error {
	s := Server{FS: fs, Tag: tag}
	return s.ListenAndServe(context.Background(), socket)
}

// Server serves one file system. Its fields are not changed while it serves.
type Server struct {
	// FS is the file system. Handler, if it is not nil, is served instead: it is what server.New
	// makes, or a fuse.Handler around it.
	FS      server.FileSystem
	Handler fuse.Handler
	// Tag is the name by which a guest mounts the file system: 1 to 36 bytes.
	Tag string
	// Queues is how many request queues a guest may use; 0 is 1.
	Queues int
	// ReadOnly refuses all that changes something.
	ReadOnly bool
	// Log is where messages go; nil is slog.Default().
	Log *slog.Logger

	once    sync.Once
	handler fuse.Handler
	host    *host.Host
	err     error
}

// init makes the handler, once.
func (s *Server) init() error {
	s.once.Do(func() {
		if s.Log == nil {
			s.Log = slog.Default()
		}
		// A queue's thread that spins must not keep the others from running.
		s.host, s.err = host.New(host.Options{
			Processors:    func(n int) { runtime.GOMAXPROCS(max(n, runtime.NumCPU())) },
			MaxProcessors: runtime.NumCPU(),
		})
		if s.err != nil {
			return
		}
		s.handler = s.Handler
		if s.handler == nil && s.FS == nil {
			s.err = errors.New("govirtiofs: a Server needs FS or Handler")
			return
		}
		if s.handler == nil {
			s.handler = server.New(s.FS, server.Options{ReadOnly: s.ReadOnly, Host: s.host, Log: s.Log})
		}
	})
	return s.err
}

// ListenAndServe serves on a vhost-user socket until ctx ends; then the error is nil. A socket that
// nobody listens on any more is replaced, and it is removed at the end. Only the user of this process
// can connect.
func (s *Server) ListenAndServe(ctx context.Context, socket string) error {
	l, err := listen(socket)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	return s.Serve(ctx, l)
}

// Serve serves the virtual machines that connect to l, one after the other, until ctx ends or l is
// closed; then the error is nil.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	if err := s.init(); err != nil {
		return err
	}
	if len(s.Tag) == 0 || len(s.Tag) > maxTag {
		return fmt.Errorf("the tag %q has %d bytes, and must have 1 to %d", s.Tag, len(s.Tag), maxTag)
	}
	d, err := virtiofs.New(s.handler, virtiofs.Options{Tag: s.Tag, RequestQueues: s.Queues, Host: s.host, Log: s.Log})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := accept.Next(ctx, l.AcceptUnix, func(err error) {
			s.Log.Warn("a virtual machine can't connect for now", "tag", s.Tag, "error", err)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		s.Log.Info("a virtual machine has connected", "tag", s.Tag)
		err = d.Serve(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.Log.Warn("the virtual machine has disconnected", "tag", s.Tag, "error", err)
		} else {
			s.Log.Info("the virtual machine has disconnected", "tag", s.Tag)
		}
	}
}

// maxTag is the length of the tag in the device's configuration space (virtio 1.2, 5.11.4).
const maxTag = 36

// Mount serves on a directory of this machine until ctx ends or somebody unmounts it; then the error is
// nil. For a root that is a file see fusedev.New. When ctx ends, who still uses the directory gets ENOTCONN. It needs root, or fusermount3 (package fuse3 of most distributions). See package fusedev for
// what a process may not do with its own mount.
func (s *Server) Mount(ctx context.Context, dir string, o fusedev.Options) error {
	if err := s.init(); err != nil {
		return err
	}
	// The kernel would mount a directory on a file, and answer EIO to all that is asked of it.
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return fmt.Errorf("mount on %s: %w: give a directory to mount on", dir, unix.ENOTDIR)
	}
	o.ReadOnly = o.ReadOnly || s.ReadOnly
	if o.Host == nil {
		o.Host = s.host
	}
	m, err := fusedev.New(dir, o)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = m.End() })
	defer stop()
	if n, ok := s.FS.(interface{ Connect(fuse.Notifier) }); ok {
		n.Connect(m)
		defer n.Connect(nil)
	}
	return m.Serve(s.handler, max(s.Queues, 1))
}

// Close lets go of what the file system holds, after Serve and Mount have returned. It waits until ctx
// ends for requests that still run.
func (s *Server) Close(ctx context.Context) error {
	if err := s.init(); err != nil {
		return err
	}
	return s.handler.Close(ctx)
}

// maxSocket is the length of a path in struct sockaddr_un.
const maxSocket = 107

// listen makes a socket for this user alone.
func listen(path string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("socket %s: somebody listens there: %w", path, unix.EADDRINUSE)
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	if len(path) > maxSocket {
		return nil, fmt.Errorf("socket %s: the path has %d bytes, and may have %d", path, len(path), maxSocket)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: make the directory first", err)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}
