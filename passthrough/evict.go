package passthrough

import (
	"sync"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// The evictor closes descriptors of nodes to make room for others. It goes through them in the
// order of their numbers, again and again, as the hand of a clock.
//
// A node may be impossible to find again without its descriptor: the client has removed the name,
// and does not have the file open. Such a node keeps its descriptor until the client forgets it. A
// hostile client does not send FORGET. So these descriptors are closed, too, when no others are
// left; the client gets ESTALE if it uses such a node again.
const (
	evictAtOnce = 32  // how many are closed when there are too many
	evictLook   = 256 // how many are checked for it, at most twice
)

// evictor is where the evictor is.
type evictor struct {
	mu     sync.Mutex // one at a time; guards the following
	hand   uint32     // descriptor at which it continues
	handle rawHandle  // scratch
}

// evicted is what became of a node's descriptor.
type evicted int

const (
	evictedNone   evicted = iota // there is none, or it is the root's
	evictedInUse                 // it was used since the last time
	evictedKept                  // it is kept: the node could not be found again
	evictedClosed                // it is closed now
)

// evict closes up to want descriptors of nodes that are not in use and that can be
// found again. It returns the number. Nodes that were used since the hand last passed
// are spared, unless no others are left.
func (d *descriptors) evict(want int) (n int) {
	if !d.evictor.mu.TryLock() {
		return 0
	}
	defer d.evictor.mu.Unlock()
	return d.evictTwice(evictLook, want)
}

// evictTwice is evict that checks so many descriptors. evictor.mu is held.
func (d *descriptors) evictTwice(look uint32, want int) (n int) {
	from := d.evictor.hand
	n = d.evictFrom(from, look, want, false)
	if n == 0 { // all were used, so all were spared; their marks are cleared now
		n = d.evictFrom(from, look, want, false)
	}
	return n
}

// makeRoom closes descriptors until that is enough, wherever they are, and in the end pins
// too. It fails if all others are in use at this moment.
func (d *descriptors) makeRoom(enough func() bool) bool {
	// The caller may hold a node's mu, so code that holds evictor.mu waits for
	// no node.
	d.evictor.mu.Lock()
	defer d.evictor.mu.Unlock()
	for !enough() {
		look := d.owners.end()
		if d.evictTwice(look, evictAtOnce) == 0 && d.evictFrom(d.evictor.hand, look, evictAtOnce, true) == 0 {
			return enough()
		}
	}
	return true
}

// evictFrom checks so many descriptors and leaves the hand behind the last.
func (d *descriptors) evictFrom(hand, look uint32, want int, all bool) (n int) {
	for range look {
		if hand++; hand >= d.owners.end() {
			hand = 0
		}
		if in := d.owners.at(hand); in != nil && in.fd.Load() == int32(hand) && d.find.evictOne(in, all) == evictedClosed {
			if n++; n == want {
				break
			}
		}
	}
	d.evictor.hand = hand
	return n
}

// evictOne closes the node's descriptor if it may; with all also one that was used, or
// that is needed to find the node again. evictor.mu is held.
func (l *locator) evictOne(n *inode, all bool) (what evicted) {
	if n.ID() == fp.RootID || n.fd.Load() < 0 {
		return evictedNone
	}
	if n.touched.Swap(false) && !all {
		return evictedInUse
	}
	if n.Gone() {
		return evictedNone
	}
	if !n.TryExclusive() {
		return evictedInUse
	}
	defer l.nodes.EndExclusive(n)
	// The caller may hold the lock of this node, or of one whose holder also makes
	// room.
	if !n.TryLock() {
		return evictedInUse
	}
	canFind := l.findable(n, int(n.fd.Load()))
	last := n.Parent() == nil && n.anyLazy()
	n.Unlock()
	if last || !canFind && !all {
		return evictedKept
	}
	if !l.nodes.dropFD(n) {
		return evictedNone
	}
	return evictedClosed
}
