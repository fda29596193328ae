package fuse

import "github.com/govirtiofs/govirtiofs/internal/storing"

// GrantPhase is how far a change of what the client has is: of a lookup count, or of its open
// files.
type GrantPhase uint8

// The phases.
const (
	GrantNone GrantPhase = iota
	// Granting: the count of a node is changed now. If it has the new value, it was changed.
	// Nobody else changes it meanwhile, because the node's lock is held.
	Granting
	// Granted: the count was changed.
	Granted
	// Returning: what was granted is taken back now. If the count has the new value, it was.
	Returning
	// GrantedOpen: an open file was made, if there is one with this number.
	GrantedOpen
)

// Grant is a change of what the client has that a request has made: one lookup more of a node,
// an open file, or, for FORGET, lookups less. A request whose reply the client has not seen
// gives it back before it is served again; a FORGET is not served again.
type Grant struct {
	ID    uint64 // of the node or the open file
	After uint64 // the count with the change
	Phase GrantPhase
}

// The word of a grant is phase | kept<<grantKeptShift, so that both change at once.
const (
	grantKeptShift = 4

	// MaxKeptGrants limits what KeepGrant and Forgetting note.
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

// Granting notes that the count of a node is about to become after. Then comes the change, then
// Granted, with the node's lock held all the time. The grant before this one was kept (KeepGrant).
// nil does nothing, as for all that follows.
func (c *Cell) Granting(node, after uint64) {
	if c == nil {
		return
	}
	if c.Grant().Phase != GrantNone {
		c.setGrant(GrantNone, c.KeptGrants())
	}
	c.grantID, c.grantAfter = node, after
	c.setGrant(Granting, c.KeptGrants())
}

// Granted notes that the count was changed.
func (c *Cell) Granted() {
	if c != nil {
		c.setGrant(Granted, c.KeptGrants())
	}
}

// GrantOpen notes the number of an open file that is about to be recorded. The grant before
// this one was kept.
func (c *Cell) GrantOpen(id uint64) {
	if c == nil {
		return
	}
	if c.Grant().Phase != GrantNone {
		c.setGrant(GrantNone, c.KeptGrants())
	}
	c.grantID, c.grantAfter = id, 0
	c.setGrant(GrantedOpen, c.KeptGrants())
}

// Returning notes that the count of the last grant's node, which is Granted, is about to become
// after, as Granting does. Returned comes when it is.
func (c *Cell) Returning(after uint64) {
	c.grantAfter = after
	c.setGrant(Returning, c.KeptGrants())
}

// Returned notes that the last grant was taken back. Another one may have been kept.
func (c *Cell) Returned() { c.setGrant(GrantNone, c.KeptGrants()) }

// KeepGrant notes at once that the last grant is elsewhere, and what KeptGrants says from now
// on. What the number means is the business of who keeps them (package ledger).
func (c *Cell) KeepGrant(kept uint32) { c.setGrant(GrantNone, kept) }

// FetchGrant is the opposite of KeepGrant: the last grant that was kept is this one.
func (c *Cell) FetchGrant(g Grant, kept uint32) {
	c.grantID, c.grantAfter = g.ID, g.After
	c.setGrant(g.Phase, kept)
}

// Grant is the last change of what the client has.
func (c *Cell) Grant() Grant {
	return Grant{ID: c.grantID, After: c.grantAfter, Phase: GrantPhase(c.grant % (1 << grantKeptShift))}
}

// KeptGrants says where the grants before the last one are; 0 is none.
func (c *Cell) KeptGrants() uint32 { return c.grant >> grantKeptShift }

// Forgetting notes which item of a BATCH_FORGET comes now, from 0 on. A FORGET is item 0.
func (c *Cell) Forgetting(item uint32) {
	if c != nil {
		c.setGrant(GrantNone, item)
	}
}

// Forgotten is how many items of a FORGET or BATCH_FORGET were done by a process that died,
// and must not be done again. The ledger has looked at the cell before (NodeStore.GiveBack).
func (c *Cell) Forgotten() uint32 {
	if c == nil {
		return 0
	}
	if c.Grant().Phase == Granted {
		return c.KeptGrants() + 1
	}
	return c.KeptGrants()
}
