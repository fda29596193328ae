package server

import (
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Request is the request that a Thread is serving. It belongs to the server, and is another
// request's after the method has returned.
type Request struct {
	Header fp.InHeader

	// Groups are the supplementary groups that FUSE_EXT_GROUPS brought.
	Groups []uint32
	// Security are the security contexts that a new file shall get, from the
	// FUSE_SECURITY_CTX extension.
	Security []SecurityContext

	// MayWait says that the method may block; see WouldBlock.
	MayWait bool
	// Canceled is closed when nobody wants the answer any more (INTERRUPT, a
	// stopped queue). It is nil unless MayWait is set.
	Canceled <-chan struct{}

	// Thread is the thread that serves this request.
	Thread *Thread

	pending *pending // the request, when it has been waiting
}

// NewRequest returns a request with a Thread of its own, for tests that call the methods of a
// FileSystem without a server. As the first call of a server's, it may not wait. Local of the
// Thread is nil; FileSystem.StartThread sets it, on a goroutine that is locked to its
// operating system thread.
func NewRequest(h fp.InHeader) *Request { return &Request{Header: h, Thread: new(Thread)} }

// SecurityContext is one label: the name of an extended attribute and its value.
type SecurityContext struct {
	Name  fp.Name
	Value []byte
}
