package nodes

import "github.com/govirtiofs/govirtiofs/fuse"

// Recorder is told of every change of a [Table], before the client can know of it. The
// arguments are not copied: the recorder asks the node. It may call the methods Key,
// Parent, Name and FileHandle as far as the following says.
//
// Calls about one node come one after the other, except that Placed may come at the same
// time as Granted, Counted or Forgotten. Calls about several nodes come at the same time. They
// are made with locks held, and must not call the table. A parent is recorded before its
// children, and is gone after them, unless it has no id (see Table.Prepare).
//
// The slot of a node, which is the lower half of its id, belongs to no other node from
// Added to Gone, so a recorder can store its record there. No two calls of Added and
// Gone, for any nodes, run at the same time.
//
// by is the request for which something is done, or nil. The recorder notes its change there,
// so that a successor can take it back. Otherwise a client whose request is served again would
// have lookups that it does not know of. A request adds lookups one by one.
//
// The result false means that there is no room for the record: the change is not made, and
// its request fails.
//
// Gone may come early when Adopt needs a slot. This happens for a forgotten node that only
// a request uses which has outlived its session. The slot can then be another node's.
type Recorder[N any] interface {
	// Added says that n is new, with its id, key and lookup count. It has a place if PlaceNew has
	// given it one, or if it was adopted with one.
	Added(by *fuse.Cell, n *N, lookups uint64) bool
	// Granted says that the client's lookup count of the node with an id grows to lookups. It is called
	// most often: for each known name that the client looks up.
	Granted(by *fuse.Cell, id, lookups uint64) bool
	// Counted says that the client's lookup count of n has become less: lookups, which is not 0.
	Counted(by *fuse.Cell, n *N, lookups uint64)
	// Placed says that n has another parent, name or file handle. n is locked.
	Placed(n *N)
	// Unkeyed says that n is no longer found by its key, because another node
	// has the key.
	Unkeyed(n *N)
	// Forgotten says that the lookup count is 0, and that the client has no number for n
	// any more. Children and open files may still need it.
	Forgotten(by *fuse.Cell, n *N)
	// Gone says that nothing refers to n any more.
	Gone(n *N)
}

// OpenRecorder is told of every change of [OpenFiles], before the client can know of it.
// The rules are those of Recorder.
type OpenRecorder[F any] interface {
	// Opened says that f is new, with its id and all that the file system gave it.
	Opened(by *fuse.Cell, f *F) bool
	// Closed says that the client has no number for f any more. Requests may still use it.
	// Its slot, the lower half of its id, belongs to no other open file before the last of
	// them has ended.
	Closed(f *F)
}
