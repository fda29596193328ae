package fuse

import "github.com/govirtiofs/govirtiofs/internal/storing"

// GrantPhase is the progress of a change to what the client has: to a lookup count, or to its
// open files.
type GrantPhase uint8

// The phases.
const (
	GrantNone GrantPhase = iota
	// Granting: the count of a node is being changed. If it has the new value, the change
	// has happened. No other thread changes it meanwhile, because the node's lock is held.
	Granting
	// Granted: the count was changed.
	Granted
	// Returning: the grant is being taken back. If the count has the new value, this has
	// happened.
	Returning
	// GrantedOpen: an open file was made, if one with this number exists.
	GrantedOpen
)

// Grant is a change that a request has made to what the client has: one more lookup of a node,
// an open file, or, for FORGET, fewer lookups. If the client has not seen the reply, the grant
// is taken back before the request is served again. A FORGET is not served again.
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

// Granting notes that the count of a node is about to become after. The caller then makes the
// change and calls Granted, with the node's lock held all the time. KeepGrant has been called
// for the grant before. nil does nothing, as for all methods that follow.
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

// GrantOpen notes the number of an open file that is about to be recorded. KeepGrant has
// been called for the grant before.
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

// Returning notes that the last grant, which is in phase Granted, is being taken back: the
// node's count is about to become after. Returned follows when it is.
func (c *Cell) Returning(after uint64) {
	c.grantAfter = after
	c.setGrant(Returning, c.KeptGrants())
}

// Returned notes that the last grant was taken back. Other grants may have been
// kept.
func (c *Cell) Returned() { c.setGrant(GrantNone, c.KeptGrants()) }

// KeepGrant notes that the last grant is stored elsewhere, and sets the result of KeptGrants.
// Both change at once. The party that stores the grants (package ledger) defines the meaning
// of the number.
func (c *Cell) KeepGrant(kept uint32) { c.setGrant(GrantNone, kept) }

// FetchGrant is the opposite of KeepGrant: it makes the last kept grant this one.
func (c *Cell) FetchGrant(g Grant, kept uint32) {
	c.grantID, c.grantAfter = g.ID, g.After
	c.setGrant(g.Phase, kept)
}

// Grant is the last change to what the client has.
func (c *Cell) Grant() Grant {
	return Grant{ID: c.grantID, After: c.grantAfter, Phase: GrantPhase(c.grant % (1 << grantKeptShift))}
}

// KeptGrants says where the grants before the last one are stored; 0 means that
// there are none.
func (c *Cell) KeptGrants() uint32 { return c.grant >> grantKeptShift }

// Forgetting notes the number of the BATCH_FORGET item that comes now, from 0 on. A
// FORGET is item 0.
func (c *Cell) Forgetting(item uint32) {
	if c != nil {
		c.setGrant(GrantNone, item)
	}
}

// Forgotten is the number of items of a FORGET or BATCH_FORGET that a process that died has
// done. They must not be done again. The ledger has checked the cell before
// (NodeStore.GiveBack).
func (c *Cell) Forgotten() uint32 {
	if c == nil {
		return 0
	}
	if c.Grant().Phase == Granted {
		return c.KeptGrants() + 1
	}
	return c.KeptGrants()
}
