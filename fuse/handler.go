package fuse

import (
	"context"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// DefaultMaxWrite is how many bytes of data one request has at most, if nobody says
// otherwise: what Linux can send with 256 pages.
const DefaultMaxWrite = 1 << 20

const headerSize = int(unsafe.Sizeof(fp.InHeader{}))

// Handler answers the requests of one client, over any number of queues. Its methods may be
// called from any goroutine.
//
// A Handler around another one (statistics, recording, limits) embeds it, and writes the
// methods that it changes. A Thread and a Pending may be embedded in the same way. What the
// inner Handler returned is what its methods must be given back: a Thread that wraps Pending
// values also wraps Run and Try, which get them.
type Handler interface {
	// StartThread makes the calling goroutine's Thread. It locks the goroutine to its
	// operating system thread for good: credentials and the like are the thread's. The
	// hooks are the transport's.
	StartThread(h Hooks) (Thread, error)
	// Close ends the Handler, which lets go of all that it holds. The transports have stopped
	// their threads, and use nothing of it any more. Close waits until ctx ends for what still
	// runs, for example a request on a file system of the host that does not answer. The error
	// says that something does; then the rest happens when it has come back.
	Close(ctx context.Context) error
	Session
	State
}

// Session is what happens to the client beside its requests. A session is what begins with
// INIT and ends with DESTROY, or here.
type Session interface {
	// Started says that a queue runs, before its first request. If the client was saved it
	// goes on here after all.
	Started()
	// Restarted says that the client's queues were stopped and run again, before Started. An
	// INIT without a DESTROY before it is a reboot then and no mistake.
	Restarted()
	// Reset ends the session, if there is one, as DESTROY does: the client is gone.
	Reset()
	// Disconnected says that nobody asks any more, and ends the session. Whoever connects
	// next may be another client.
	Disconnected()
}

// State moves a session to another process, possibly on another host. No request runs
// meanwhile.
type State interface {
	// Save writes the session. The Handler can go on with it afterwards, when Started is called.
	Save(w io.Writer) error
	// Load begins the session that Save wrote. What it reads comes from outside and is
	// checked. After an error there is no session.
	Load(r io.Reader) error
}

// Thread serves requests, one at a time, on the goroutine that started it.
type Thread interface {
	// Handle serves a request and writes its reply to m.Out. A request that has to wait is
	// returned as p, and nothing was written; whoever gets it owns it.
	//
	// It panics when a buffer is not accessible. The transport, which owns the buffers,
	// recovers; everybody between leaves the panic alone. After each call the transport
	// looks at Broken.
	Handle(m *Message) (r Reply, p Pending)
	// Refuse answers a request that somebody in front of the Handler does not let through.
	// If it has no header, or wants no reply, nothing is written.
	Refuse(m *Message, errno unix.Errno) Reply
	// Run finishes p here, and may wait for it as long as it takes. It may be called
	// instead of p.Start, on a Thread of the same Handler.
	Run(p Pending) Reply
	// Try is Run for a request that need not wait any more. ok is false, and nothing was
	// done, if it does.
	Try(p Pending) (r Reply, ok bool)
	// Broken reports whether the thread is not fit for another request. Its owner stops
	// it, ends the goroutine and with it the operating system thread, and goes on with a new one.
	Broken() bool
	// Stop releases the thread. The goroutine must end soon after, without unlocking its
	// operating system thread.
	Stop()
}

// Hooks are what a transport and the Handler tell each other of a thread's queue. They are called
// on the thread while it serves a request, if they say nothing else. Each may be nil.
type Hooks struct {
	// Alone reports whether nothing else waits for this thread at the moment: it may then
	// rather wait a short time itself than return a Pending. nil is never.
	Alone func() bool
	// MayLinger reports whether the request that is served may wait for another client,
	// which may take for ever. What waits like that must not be all that the client can
	// have under way. nil is always.
	MayLinger func() bool
	// Stuck says that the request which the thread serves has not come back for a while, so
	// that others wait behind it. It is called at most once for a thread, on another goroutine,
	// while Handle, Run or Try is under way; that call does not return before Stuck has. The
	// transport goes on with another thread. What the call returns then, whenever it does, is
	// for its request alone, and the thread gets no other. No other hook is called after it.
	// nil is a transport that waits.
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
	// CloseBacking takes a number back. Files that are open with it go on.
	CloseBacking(id int32) error
}

// Message is one request as a transport received it, and the room for its reply. It is the
// transport's, and used again for the next request.
//
// What a transport knows of a request, and those who answer it need, belongs here: it goes
// through every Handler as it is.
type Message struct {
	// Header is a copy of the request's, which the client can't change any more. All of it is
	// zero if In is shorter. Nothing of it was checked, Len included.
	Header fp.InHeader
	// Cell is where the request is noted for a successor of this process; nil is nowhere.
	Cell *Cell
	In   Buffers // the request, header included
	Out  Buffers // room for the reply, header included; empty if none is wanted
}

// Set makes m the request in the buffers.
func (m *Message) Set(in, out Buffers) {
	m.In, m.Out = in, out
	if in.CopyTo(fp.Bytes(&m.Header), 0) < headerSize {
		m.Header = fp.InHeader{}
	}
}

// Reply is what has become of a request.
type Reply struct {
	Len   uint32     // bytes written to Message.Out, header included; 0 is no reply
	Errno unix.Errno // that the request was answered with; 0 is success
	// Stopped says that the request has ended because of Pending.Stop, and had no effect. A
	// transport that can serve it again later need not give this answer.
	Stopped bool
}

// Pending is a request that waits. It keeps what it needs of the Message, which may be used
// again; the client's memory behind the buffers must remain until it is done.
//
// Either Start or Thread.Run is called, once, or Try until it is ok. Free follows.
type Pending interface {
	// Start finishes the request elsewhere and returns at once. done is called once, on
	// any goroutine, even before Start has returned. Nothing says that a thread waits meanwhile:
	// whoever relays requests to another process keeps only the Pending.
	Start(done func(Reply))
	// Stop makes a request that may wait for ever end soon: the transport wants it back. It
	// may be called at any time, also when it is done. (The client's own wish to end one
	// is a request, INTERRUPT, which the Handler serves.)
	Stop()
	// Brief reports whether what the request waits for is under way and will not take long: a
	// thread that has nothing else to do may Run it.
	Brief() bool
	// Lingers reports whether the request waits for another client, which may take for ever.
	Lingers() bool
	// ReplyTo has the reply written to other buffers than Message.Out. It is called before
	// Start, Run and Try.
	ReplyTo(out Buffers)
	// Out are the buffers for the reply, for a transport that has to know what was written.
	// They are the Pending's, and not to be changed.
	Out() Buffers
	// Free lets go of what the request keeps. The transport calls it once, when the request
	// has been answered and nothing of it is needed any more, Out included.
	Free()
}
