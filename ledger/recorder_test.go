package ledger

import (
	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// NodeOf is what a recorder asks a node N, most of which nodes.Node has.
type NodeOf[N any] interface {
	*N
	ID() uint64
	Parent() *N
	Name() fp.Name
	FileHandle() []byte
	Identity() Identity
}

// NodeRecorder is a nodes.Recorder that keeps the nodes of a table in a ledger.
type NodeRecorder[N any, P NodeOf[N]] struct{ Store *Store }

// Added implements nodes.Recorder.
func (r NodeRecorder[N, P]) Added(by *fuse.Cell, n *N, lookups uint64) bool {
	identity, place := P(n).Identity(), placeOf[N, P](n)
	return r.Store.AddNode(by, P(n).ID(), lookups, &identity, &place)
}

func placeOf[N any, P NodeOf[N]](n *N) Place {
	if p := P(n).Parent(); p != nil {
		return Place{Parent: P(p).ID(), Name: P(n).Name(), FileHandle: P(n).FileHandle()}
	}
	return Place{FileHandle: P(n).FileHandle()}
}

// Granted implements nodes.Recorder.
func (r NodeRecorder[N, P]) Granted(by *fuse.Cell, id, lookups uint64) bool {
	return r.Store.Granted(by, id, lookups)
}

// Counted implements nodes.Recorder.
func (r NodeRecorder[N, P]) Counted(by *fuse.Cell, n *N, lookups uint64) {
	r.Store.CountNode(by, P(n).ID(), lookups)
}

// Placed implements nodes.Recorder.
func (r NodeRecorder[N, P]) Placed(n *N) {
	place := placeOf[N, P](n)
	r.Store.PlaceNode(P(n).ID(), &place)
}

// Unkeyed implements nodes.Recorder.
func (r NodeRecorder[N, P]) Unkeyed(n *N) { r.Store.UnkeyNode(P(n).ID()) }

// Forgotten implements nodes.Recorder.
func (r NodeRecorder[N, P]) Forgotten(by *fuse.Cell, n *N) { r.Store.ForgetNode(by, P(n).ID()) }

// Gone implements nodes.Recorder.
func (r NodeRecorder[N, P]) Gone(n *N) { r.Store.RemoveNode(P(n).ID()) }

// OpenOf is what a recorder asks an open file F.
type OpenOf[F any] interface {
	*F
	ID() uint64
	// Recorded is what the ledger keeps of the open file: the slot of its node, and its flags.
	Recorded() (node, flags uint32)
}

// OpenRecorder is a nodes.OpenRecorder that keeps open files in a ledger.
type OpenRecorder[F any, P OpenOf[F]] struct{ Store *Store }

// Opened implements nodes.OpenRecorder.
func (r OpenRecorder[F, P]) Opened(by *fuse.Cell, f *F) bool {
	node, flags := P(f).Recorded()
	return r.Store.AddOpen(by, P(f).ID(), node, flags)
}

// Closed implements nodes.OpenRecorder.
func (r OpenRecorder[F, P]) Closed(f *F) { r.Store.RemoveOpen(P(f).ID()) }
