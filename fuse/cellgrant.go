package fuse

// GrantPhase is how far a change of a lookup count is.
type GrantPhase uint8

// Phases of a change of a lookup count.
const (
	GrantNone GrantPhase = iota
	// Granting: the count is changed now. If it has the new value, it was changed. Nobody else
	// changes it meanwhile, because the node's lock is held.
	Granting
	// Granted: the count was changed.
	Granted
)

// Grant is a change of the client's lookup count of a node that a request has made. A request
// whose reply the client has not seen gives it back before it is served again.
type Grant struct {
	Node  uint64
	After uint64 // the count with the change
	Phase GrantPhase
}

// Granting notes that the count of a node is about to become after. Then comes the change, then
// Granted, with the node's lock held all the time. nil does nothing.
func (c *Cell) Granting(node, after uint64) {
	if c == nil {
		return
	}
	c.setGrant(GrantNone)
	c.grantNode, c.grantAfter = node, after
	c.setGrant(Granting)
}

// Granted notes that the count was changed. nil does nothing.
func (c *Cell) Granted() {
	if c != nil {
		c.setGrant(Granted)
	}
}

//go:noinline
func (c *Cell) setGrant(p GrantPhase) { c.grantPhase = uint8(p) }

// Grant is the last change of a lookup count.
func (c *Cell) Grant() Grant {
	return Grant{Node: c.grantNode, After: c.grantAfter, Phase: GrantPhase(c.grantPhase)}
}

// GrantList is the number of the list with the grants before the last one; 0 is none. It means
// something to package ledger, as SetGrantList.
func (c *Cell) GrantList() uint32 { return c.grantList }

// SetGrantList see GrantList.
//
//go:noinline
func (c *Cell) SetGrantList(n uint32) { c.grantList = n }
