package fuse

import "github.com/govirtiofs/govirtiofs/internal/storing"

// GrantPhase is the progress of the last change to what the client has: to a lookup count, or to its
// open files.
type GrantPhase uint8

// The phases.
const (
	// GrantNone: no change is under way.
	GrantNone GrantPhase = iota
	// Granting: a count is being raised by the last grant. If it has the new value, the change
	// has happened. No other thread changes it meanwhile, because the node's lock is held.
	Granting
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
// one of a request is in its Cell, others are elsewhere. A FORGET grants nothing: it lowers counts,
// and is not served again.

// The word of a grant is phase | kept<<grantKeptShift, so that both change at once.
const (
	grantKeptShift = 4

	// MaxKeptGrants limits what KeptGrants says.
	MaxKeptGrants = 1<<(32-grantKeptShift) - 1
)

// setGrant stores the word. It keeps stores before it and after it apart, like set.
//
//go:noinline
func (c *Cell) setGrant(p GrantPhase, kept uint32) {
	storing.Note()
	c.grant = uint32(p) | kept<<grantKeptShift
	storing.Note()
}

// GrantPhase is the progress of the last change.
func (c *Cell) GrantPhase() GrantPhase { return GrantPhase(c.grant % (1 << grantKeptShift)) }

// KeptGrants says how many grants there are, and where: their number in its lower bits, which
// AddGrant counts up. It is 0 when a request begins.
func (c *Cell) KeptGrants() uint32 { return c.grant >> grantKeptShift }

// FirstGrant is where the request's first grant is.
func (c *Cell) FirstGrant() *uint64 { return &c.grantID }

// AddGrant notes a grant at entry, and that *count is about to become after, makes this change, and notes that
// it was made. The node's lock is held. The phase is GrantNone before and after it.
//
// Each of these stores is an end that the process may have. They stay in this order: the compiler does not
// change the order of stores, and the processor's does not matter, see Cell.
//
//go:noinline
func (c *Cell) AddGrant(entry *uint64, grant uint64, count *uint64, after uint64) {
	storing.Note()
	*entry = grant
	storing.Note()
	kept := c.grant + 1<<grantKeptShift
	c.grant = kept | uint32(Granting)
	storing.Note()
	*count = after
	storing.Note()
	c.grant = kept
	storing.Note()
}

// AddSureGrant notes a grant at entry. The caller then makes a change by whose result everybody sees whether it
// was made.
//
//go:noinline
func (c *Cell) AddSureGrant(entry *uint64, grant uint64) {
	storing.Note()
	*entry = grant
	storing.Note()
	c.grant += 1 << grantKeptShift
	storing.Note()
}

// Keep sets what KeptGrants says, and ends the change that was under way. Both happen at once.
func (c *Cell) Keep(kept uint32) { c.setGrant(GrantNone, kept) }

// Returning notes that the last grant is being taken back: the node's count is about to become
// after. Keep follows when it is.
func (c *Cell) Returning(after uint64) {
	c.grantAfter = after
	c.setGrant(Returning, c.KeptGrants())
}

// Lowering notes that a FORGET is about to lower the count of a node to after. The caller then
// makes the change and calls Lowered, with the node's lock held all the time.
func (c *Cell) Lowering(node, after uint64) {
	if c.GrantPhase() != GrantNone {
		c.setGrant(GrantNone, c.KeptGrants())
	}
	c.grantID, c.grantAfter = node, after
	c.setGrant(Lowering, c.KeptGrants())
}

// Lowered notes that the count was changed.
func (c *Cell) Lowered() { c.setGrant(Lowered, c.KeptGrants()) }

// Change is what Returning and Lowering have noted: the count with the change, and, of a FORGET, the
// node.
func (c *Cell) Change() (node, after uint64) { return c.grantID, c.grantAfter }

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
