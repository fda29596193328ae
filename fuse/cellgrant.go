package fuse

import "github.com/govirtiofs/govirtiofs/internal/storing"

// GrantPhase is the progress of the last change to what the client has: to a lookup count, or to its
// open files.
type GrantPhase uint8

// The phases.
const (
	// GrantNone: nothing is being taken back. The last grant may be being made, see GrantWords.
	GrantNone GrantPhase = iota
	// Returning: the last grant is being taken back. If the count has the new value, this has
	// happened.
	Returning
	// Lowering: a FORGET is lowering a count. If it has the new value, the change has happened.
	Lowering
	// Lowered: a FORGET has lowered the count.
	Lowered
)

// A request grants the client lookups, one at a time, and open files. If the client has not seen
// the reply, the grants are taken back before the request is served again. A grant is one word
// here, of which the party that stores the grants (package ledger) defines the meaning. The first
// two of a request are in its Cell, others are elsewhere. A FORGET grants nothing: it lowers counts,
// and is not served again.

// The word of the grants is phase | kept<<GrantShift, so that both change at once.
const (
	GrantShift = 4

	// EarlyGrants is how many grants are in a Cell: CREATE has a node and an open file.
	EarlyGrants = 2

	// MaxKeptGrants limits what KeptGrants says.
	MaxKeptGrants = 1<<(32-GrantShift) - 1
)

// setGrant stores the word. It keeps stores before it and after it apart, like set.
//
//go:noinline
func (c *Cell) setGrant(p GrantPhase, kept uint32) {
	storing.Note()
	c.grant = uint32(p) | kept<<GrantShift
	storing.Note()
}

// GrantPhase is the progress of the last change.
func (c *Cell) GrantPhase() GrantPhase { return GrantPhase(c.grant % (1 << GrantShift)) }

// KeptGrants says how many grants there are, and where. It is 0 when a request begins.
func (c *Cell) KeptGrants() uint32 { return c.grant >> GrantShift }

// EarlyGrant is where grant i is, which is less than EarlyGrants.
func (c *Cell) EarlyGrant(i uint32) *uint64 { return &c.grants[i] }

// GrantWords are what package ledger changes when it adds a grant: the word of the grants, and the number of the
// grant that is being made. If there are fewer, it may have been made or not.
func (c *Cell) GrantWords() (grants *uint32, making *uint16) { return &c.grant, &c.making }

// Making is the number of the grant that was made last, or is being made; 0 is none.
func (c *Cell) Making() uint16 { return c.making }

// Keep sets what KeptGrants says, and ends the change that was under way. Both happen at once. No grant is
// being made. If kept is less than before, NotMaking or Returning was called.
func (c *Cell) Keep(kept uint32) {
	c.setGrant(GrantNone, kept)
	c.making = 0 // behind it: it may say that grant kept is there, and that is not yet so
}

// NotMaking says that no grant is being made, so that one that was taken back does not look like that: its node's
// count may be what it was with the grant, by grants of other requests.
func (c *Cell) NotMaking() { c.making = 0 }

// Returning notes that the last grant is being taken back: the node's count is about to become
// after. Keep follows when it is.
func (c *Cell) Returning(after uint64) {
	c.grantAfter = after
	c.setGrant(Returning, c.KeptGrants())
	c.NotMaking()
}

// Lowering notes that a FORGET is about to lower the count of a node to after. The caller then
// makes the change and calls Lowered, with the node's lock held all the time.
func (c *Cell) Lowering(node, after uint64) {
	if c.GrantPhase() != GrantNone {
		c.setGrant(GrantNone, c.KeptGrants())
	}
	c.grants[0], c.grantAfter = node, after
	c.setGrant(Lowering, c.KeptGrants())
}

// Lowered notes that the count was changed.
func (c *Cell) Lowered() { c.setGrant(Lowered, c.KeptGrants()) }

// Change is what Returning and Lowering have noted: the count with the change, and, of a FORGET, the
// node.
func (c *Cell) Change() (node, after uint64) { return c.grants[0], c.grantAfter }

// Forgetting notes the number of the BATCH_FORGET item that comes now, from 0 on. A
// FORGET is item 0. nil does nothing.
func (c *Cell) Forgetting(item uint32) {
	if c != nil {
		c.setGrant(GrantNone, item)
	}
}

// Forgotten is the number of items of a FORGET or BATCH_FORGET that a process that died has
// done. They must not be done again. The ledger has checked the cell before
// (Store.GiveBack). nil has done none.
func (c *Cell) Forgotten() uint32 {
	if c == nil {
		return 0
	}
	if c.GrantPhase() == Lowered {
		return c.KeptGrants() + 1
	}
	return c.KeptGrants()
}
