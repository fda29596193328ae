package server

import (
	"golang.org/x/sys/unix"
)

// Options are the parts of a Server's behaviour that no client decides.
type Options struct {
	ReadOnly bool   // refuse every opcode that changes something with EROFS
	MaxWrite uint32 // bytes of data in one request; 0 is 1 MiB
}

// Server serves FUSE requests from a FileSystem.
type Server struct {
	fs   FileSystem
	opts Options
}

// New returns a server for fs.
func New(fs FileSystem, opts Options) *Server { return &Server{fs: fs, opts: opts} }

// StartThread makes the calling goroutine's Thread: it locks the goroutine to
// its operating system thread for good and starts the file system's state.
func (s *Server) StartThread() (*Thread, error) { return nil, nil }

// StopThread releases t. The goroutine must end soon after, without unlocking
// its operating system thread.
func (s *Server) StopThread(t *Thread) {}

// Handle serves the request in the device-readable buffers in and writes its
// reply to the device-writable buffers out. It returns how many bytes it wrote.
// When the request has to wait, d is not nil: nothing was written, and d.Start
// finishes it elsewhere. Safe for concurrent use, one Thread each.
func (s *Server) Handle(t *Thread, in, out []unix.Iovec) (written uint32, d *Deferred) {
	return 0, nil
}

// Deferred is a request that waits. It holds its own copy of everything but
// the memory that in and out point to, which the caller keeps mapped until done
// was called.
type Deferred struct{}

// Start finishes the request on a goroutine of the server's and then calls done
// there, once, with the length of the reply.
func (d *Deferred) Start(done func(written uint32)) {}

// Cancel makes a request that waits for another client end soon with EINTR. It
// may be called at any time after Start, also after done.
func (d *Deferred) Cancel() {}

// Restarted tells the server that the client's queues were stopped and started
// again, so that an INIT without a DESTROY before it is a reboot and no mistake.
func (s *Server) Restarted() {}

// Reset ends the session, if there is one, as DESTROY does: the client is gone.
func (s *Server) Reset() {}
