package server

import (
	"github.com/govirtiofs/govirtiofs/fuse"
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
	// Canceled is closed when the answer is not needed any more (INTERRUPT, a
	// stopped queue). It is nil unless MayWait is set.
	Canceled <-chan struct{}

	// Thread is the thread that serves this request.
	Thread *Thread

	// Cell is where the request is noted for a successor of this process; nil is nowhere.
	Cell *fuse.Cell
	// Again is what a predecessor of this process has noted of the request, which died before
	// the client could see a reply. The method then finds out what has happened already. It is
	// nil for a request that is served for the first time.
	Again *Again

	pending *pending // the request, when it has been waiting
	parked  Parked   // see Park
	of      *thread  // that serves it; nil in tests
	backed  backed   // see Back
}

// NewRequest returns a request with a Thread of its own, for tests that call the methods of a
// FileSystem without a server. As the first call of a server's, it may not wait. Local of the
// Thread is nil; FileSystem.StartThread sets it, on a goroutine that is locked to its
// operating system thread.
func NewRequest(h fp.InHeader) *Request { return &Request{Header: h, Thread: new(Thread)} }

func (r *Request) dropParked() {
	if r.parked != nil {
		r.parked.Drop()
		r.parked = nil
	}
}

// SecurityContext is one label: the name of an extended attribute and its value.
type SecurityContext struct {
	Name  fp.Name
	Value []byte
}

// Again is what is known of a request that was under way when its process died.
type Again struct {
	// Intended says that the process was about to change something, or has changed it; Stamp and
	// Evidence are what it noted before (fuse.Cell.Intend). Otherwise it had changed nothing
	// but lookup counts and open files, which were returned.
	Intended bool
	Stamp    int64 // CLOCK_REALTIME_COARSE in ns
	Evidence fuse.Evidence
	// Step is how many of its changes were made for certain (fuse.Cell.SetStep).
	Step int
}

// again is what the cell of a request that was just received says of its past; nil is none.
func again(c *fuse.Cell) *Again {
	if c == nil || c.Tries() == 0 {
		return nil
	}
	a := &Again{Step: c.Step()}
	a.Stamp, a.Evidence, a.Intended = c.Intent()
	return a
}
