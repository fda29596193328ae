package passthrough

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// Two requests can be under way that make the same name. The host lets one of them make it. If the process dies
// before the other one has noted that it was refused, a successor finds a file that looks as if that one had made it,
// too. So a file has one maker:
//
//   - the request that was granted the file's node after it had made the file, see ledger.Store.Made; or
//   - the request that has noted that it has made this name, and is still to be answered; or else
//   - the one that is served again first. Nobody can say that it was the other one.

// claims are what the requests that a process left when it died have made.
type claims struct {
	mu    sync.Mutex             // a leaf
	names map[claimedName]uint64 // unique number of the request that has noted it
	files map[claimedFile]uint64 // of the request that was served first
}

// claimedName tells the names apart that are made in a directory at the same time. If two of them have the same hash and one
// of them is refused for that, a guest that has chosen them has only itself to blame.
type claimedName struct{ parent, hash uint64 }

type claimedFile struct {
	key   key
	birth birth
}

// left takes down what a request has noted that is to be served again.
func (c *claims) left(cell *fuse.Cell) {
	_, e, ok := cell.Intent()
	if !ok || cell.Step() == 0 {
		return
	}
	switch cell.Opcode() {
	case fp.OpMknod, fp.OpMkdir, fp.OpSymlink, fp.OpCreate:
		if c.names == nil {
			c.names = map[claimedName]uint64{}
		}
		c.names[claimedName{cell.Node(), e[newName]}] = cell.Unique()
	}
}

// other reports whether another request than unique has noted that it has made a name.
func (c *claims) other(name claimedName, unique uint64) bool {
	maker, ok := c.names[name] // not changed any more
	return ok && maker != unique
}

// claim reports whether a file is unique's: nobody else has claimed it before.
func (c *claims) claim(file claimedFile, unique uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if maker, ok := c.files[file]; ok {
		return maker == unique
	}
	if c.files == nil {
		c.files = map[claimedFile]uint64{}
	}
	c.files[file] = unique
	return true
}

// madeByOther reports whether the file of st, which looks as if r had made it, was made by another request. r has not
// noted that it has made it.
func (d *decider) madeByOther(r *server.Request, ts *threadState, st *unix.Statx_t, name fp.Name) bool {
	unique := r.Header.Unique
	return d.madeNode(ts, st) || d.claims.other(claimedName{r.Header.NodeID, nodes.HashName(r.Header.NodeID, name.Bytes())}, unique) ||
		!d.claims.claim(claimedFile{keyOf(st), birthOf(st)}, unique)
}

// madeNode reports whether the client has the file of st from the request that made it.
func (d *decider) madeNode(ts *threadState, st *unix.Statx_t) bool {
	store := d.recovery.store
	if store == nil {
		return false
	}
	n := d.nodes.seen(ts, st, 0)
	if n == nil {
		return false
	}
	defer d.nodes.release(n)
	return store.Made(n.ID())
}
