package fuse

import (
	"context"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// DefaultMaxWrite is the default limit of the data in one request, in bytes: what
// Linux can send with 256 pages.
const DefaultMaxWrite = 1 << 20

const headerSize = int(unsafe.Sizeof(fp.InHeader{}))

// Handler answers the requests of one client, over any number of queues. Its methods may be
// called from any goroutine.
//
// A Handler around another one (statistics, recording, limits) embeds it, and defines the
// methods that it changes. A Thread and a Pending may be embedded in the same way. The
// methods of the inner Handler must get the values that it has returned: a Thread that wraps
// Pending values also wraps Run and Try, whose arguments they are.
type Handler interface {
	// StartThread makes the calling goroutine's Thread. It locks the goroutine to its
	// operating system thread for good, because credentials belong to the thread. The
	// hooks are the transport's.
	StartThread(h Hooks) (Thread, error)
	// Close ends the Handler and frees all that it holds. The transports have stopped their
	// threads and no longer use it. Close waits until ctx ends for what still runs, for
	// example a request on a file system of the host that does not answer. It returns an error
	// if something still runs. The rest is then freed when that ends.
	Close(ctx context.Context) error
	Session
	State
}

// Session is what happens to the client in addition to its requests. A session begins with
// INIT and ends with DESTROY, or with a method of this interface.
type Session interface {
	// Started says that a queue runs, before its first request. If the client was saved,
	// it continues here and not at the destination.
	Started()
	// Restarted says that the client's queues were stopped and run again. It comes before
	// Started. An INIT without a DESTROY before it is then a reboot and not a mistake.
	Restarted()
	// Reset ends the session, if there is one, as DESTROY does: the client is gone.
	Reset()
	// Disconnected ends the session because the client has disconnected. The next client
	// may be another one.
	Disconnected()
}

// State moves a session to another process, possibly on another host. No request runs
// meanwhile.
type State interface {
	// Save writes the session. The Handler can continue with it afterwards; then Started is called.
	Save(w io.Writer) error
	// Load begins the session that Save wrote. Its input is not trusted and is
	// checked. After an error there is no session.
	Load(r io.Reader) error
}

// Thread serves requests, one at a time, on the goroutine that started it.
type Thread interface {
	// Handle serves a request and writes its reply to m.Out. If the request has to wait,
	// Handle returns it as p and has written nothing. The caller owns p.
	//
	// Handle panics when a buffer is not accessible. The transport, which owns the
	// buffers, recovers. Handlers in between do not recover the panic. After each call
	// the transport calls Broken.
	Handle(m *Message) (r Reply, p Pending)
	// Refuse answers a request that a party before the Handler refuses. If it has no
	// header, or wants no reply, Refuse writes nothing.
	Refuse(m *Message, errno unix.Errno) Reply
	// Run finishes p here, and may wait for it for any time. It may be called
	// instead of p.Start, on a Thread of the same Handler.
	Run(p Pending) Reply
	// Try is Run for a request that need not wait any more. If it still has to wait, ok
	// is false and Try has done nothing.
	Try(p Pending) (r Reply, ok bool)
	// Broken reports whether the thread can't serve another request. Its owner then stops it,
	// ends the goroutine and with it the operating system thread, and continues with a new one.
	Broken() bool
	// Stop releases the thread. The goroutine must end soon after, without unlocking its
	// operating system thread.
	Stop()
}

// Hooks are what a transport and the Handler tell each other about a thread's queue. They are
// called on the thread while it serves a request, unless their comment says otherwise. Each may
// be nil.
type Hooks struct {
	// Alone reports whether nothing else waits for this thread at the moment. The thread
	// may then wait a short time itself instead of returning a Pending. nil means never.
	Alone func() bool
	// MayLinger reports whether the request may wait for another client, possibly for
	// ever. Such requests must not take all places that the client has for requests.
	// nil means always.
	MayLinger func() bool
	// Stuck says that the thread's request has not returned for a while, so that other requests
	// wait behind it. It is called at most once for a thread, on another goroutine, while
	// Handle, Run or Try is under way; that call does not return before Stuck has. The
	// transport continues with another thread. The result of the call, whenever it returns, is
	// only for its own request; the thread gets no other request, and no other hook is called
	// after it. A transport whose Stuck is nil waits.
	Stuck func()
	// Backing is where the client's kernel can be given files that it reads and writes itself; nil
	// is nowhere. Other than the rest it may be used by any goroutine.
	Backing Backing
}

// Backing gives the client's kernel files that it reads and writes itself, without a request
// (FUSE_PASSTHROUGH). Only the kernel of this machine can do that. Numbers and descriptors are
// valid until the mount ends.
type Backing interface {
	// OpenBacking gives it the file behind fd, which stays the caller's. It returns the number of
	// the file in replies to OPEN (fuseproto.OpenOut.BackingID), which is above 0. Errors are, among others,
	// EPERM: this process has no CAP_SYS_ADMIN; ELOOP: the file is on a file system that is
	// stacked on another.
	OpenBacking(fd int) (id int32, err error)
	// CloseBacking takes a number back. Files that are open with it continue.
	CloseBacking(id int32) error
}

// Message is one request as a transport received it, and the room for its reply. The
// transport owns it and reuses it for the next request.
//
// It is the place for what a transport knows of a request and the Handler needs: every
// Handler passes it on unchanged.
type Message struct {
	// Header is a copy of the request's header, which the client can't change any more. It is
	// zero if In is shorter than a header. Nothing in it has been checked, not even Len.
	Header fp.InHeader
	// Cell notes the request for a successor of this process; nil means that it is not
	// noted.
	Cell *Cell
	In   Buffers // the request, header included
	Out  Buffers // room for the reply, header included; empty if none is wanted
}

// Set makes m the request in the buffers.
func (m *Message) Set(in, out Buffers) {
	m.In, m.Out = in, out
	if len(in) > 0 && in[0].Len >= uint64(headerSize) { // as all clients have it
		m.Header = *(*fp.InHeader)(unsafe.Pointer(in[0].Base))
		return
	}
	if in.CopyTo(fp.Bytes(&m.Header), 0) < headerSize {
		m.Header = fp.InHeader{}
	}
}

// Reply is the outcome of a request.
type Reply struct {
	Len   uint32     // bytes written to Message.Out, header included; 0 is no reply
	Errno unix.Errno // the errno in the reply; 0 is success
	// Stopped says that the request has ended because of Pending.Stop, and had no effect. A
	// transport that can serve it again later need not send this reply.
	Stopped bool
}

// Pending is a request that waits. It keeps what it needs of the Message, which may be
// reused. The client's memory of the buffers must remain until the request is done.
//
// The transport calls either Start or Thread.Run, once, or Try until it is ok. It
// calls Free afterwards.
type Pending interface {
	// Start finishes the request elsewhere and returns at once. done is called once, on any
	// goroutine, even before Start has returned. No thread needs to wait meanwhile: a Handler
	// that relays requests to another process keeps only the Pending.
	Start(done func(Reply))
	// Stop makes a request that may wait for ever end soon, because the transport wants it
	// back. It may be called at any time, also when the request is done. (A client ends a
	// request by another request, INTERRUPT, which the Handler serves.)
	Stop()
	// Brief reports whether the request waits for something that is under way and will not
	// take long. A thread that has nothing else to do may Run it.
	Brief() bool
	// Lingers reports whether the request waits for another client, possibly for ever.
	Lingers() bool
	// ReplyTo writes the reply to other buffers than Message.Out. It is called before
	// Start, Run and Try.
	ReplyTo(out Buffers)
	// Out are the buffers for the reply, for a transport that has to know what was written.
	// The Pending owns them; do not change them.
	Out() Buffers
	// Free releases what the request keeps. The transport calls it once, when the request
	// has been answered and nothing of it is needed any more, not even Out.
	Free()
}

// Notifier sends a notification to the client's kernel: code and body as /dev/fuse takes them. It may wait until the
// kernel has done it. fusedev.Mount and stream.Server are Notifiers; virtio-fs has none.
type Notifier interface {
	Notify(code fp.NotifyCode, body ...[]byte) error
}
