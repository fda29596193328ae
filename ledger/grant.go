package ledger

import (
	"sync"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A cell has the last grant of its request. Those before it, of which most requests have none,
// are in a list that the request takes when it needs one: numbers of nodes, and of open files with
// grantOpen added. They were all made for certain. The cell says which list, and how many of its
// entries count, in one word with the phase of the last grant: both change at once.
//
// A list is free again when no cell of a request that may be served again refers to it. It
// need not be given back.

const (
	numLists    = 1024 // requests at a time; list 0 is none
	listPages   = 16
	listSize    = listPages * pageSize
	listEntries = listSize / 8 // more than the entries of a listing of 1 MiB

	keptBits  = 16      // entries; above them the number of the list
	grantOpen = 1 << 31 // of a slot, which is less
)

// listOwners says which cells have lists.
type listOwners struct {
	mu    sync.Mutex   // a leaf
	cells []*fuse.Cell // by list
}

// forgets reports whether a request takes lookups off, rather than being granted some.
func forgets(c *fuse.Cell) bool {
	o := c.Opcode()
	return o == fp.OpForget || o == fp.OpBatchForget
}

// entry is entry i of a list.
func (s *Store) entry(list, i uint32) *uint64 {
	return (*uint64)(unsafe.Add(s.lists.record(list*listPages), uintptr(i)*8))
}

func split(kept uint32) (list, n uint32) { return kept >> keptBits, kept & (1<<keptBits - 1) }

// hasList reports whether the list that a cell says it has is one, with its entries in memory.
func (s *Store) hasList(list, n uint32) bool {
	if list == 0 || list >= numLists || n > listEntries {
		return false
	}
	for page := range (n*8 + pageSize - 1) / pageSize {
		if !s.lists.has(list*listPages + page) {
			return false
		}
	}
	return true
}

// keepGrant makes room for one more grant of a request, by putting the last one in a list. It
// returns false if there is no room.
func (s *Store) keepGrant(by *fuse.Cell) bool {
	if by == nil || forgets(by) {
		return true
	}
	g := by.Grant()
	entry := g.ID
	switch g.Phase {
	case fuse.GrantNone:
		return true
	case fuse.GrantedOpen:
		entry |= grantOpen
	}
	list, n := split(by.KeptGrants())
	return s.push(by, list, n, entry)
}

// push appends an entry to the list of a request, which gets one if it has none.
func (s *Store) push(by *fuse.Cell, list, n uint32, entry uint64) bool {
	s.owners.mu.Lock()
	defer s.owners.mu.Unlock()
	if list == 0 {
		list, n = s.freeList(by), 0
	}
	if list == 0 || list >= numLists || n >= listEntries { // it may be forged
		return false
	}
	if _, err := s.lists.need(list*listPages + n*8/pageSize); err != nil {
		return false
	}
	store(s.entry(list, n), entry)
	by.KeepGrant(list<<keptBits | (n + 1))
	return true
}

// freeList finds a list for a request; 0 is none. owners.mu is held.
func (s *Store) freeList(by *fuse.Cell) uint32 {
	for list := uint32(1); list < numLists; list++ {
		if int(list) >= len(s.owners.cells) {
			s.owners.cells = append(s.owners.cells, make([]*fuse.Cell, list+1-uint32(len(s.owners.cells)))...)
		}
		if c := s.owners.cells[list]; c == nil || !ownsList(c, list) {
			s.owners.cells[list] = by
			return list
		}
	}
	return 0
}

// ownsList reports whether a cell has a list that is still needed.
func ownsList(c *fuse.Cell, list uint32) bool {
	has, _ := split(c.KeptGrants())
	return has == list && (c.Phase() == fuse.PhaseTaken || c.Phase() == fuse.PhaseIntent) && !forgets(c)
}

// claimLists finds the lists of requests that were under way.
func (s *Store) claimLists() error {
	return s.ledger.unfinished(func(c *fuse.Cell) {
		if list, n := split(c.KeptGrants()); !forgets(c) && s.hasList(list, n) {
			for int(list) >= len(s.owners.cells) {
				s.owners.cells = append(s.owners.cells, nil)
			}
			s.owners.cells[list] = c
		}
	})
}

// takeBack lowers the count of a node by what the request was granted last.
func (s *Store) takeBack(by *fuse.Cell, id, lookups uint64) {
	r := s.node(uint32(id))
	if g := by.Grant(); g.Phase == fuse.GrantedOpen && s.knownOpen(g.ID) == nil {
		by.Returned() // it was closed again
	}
	if by.Grant().Phase == fuse.GrantNone {
		s.fetch(by)
	}
	if g := by.Grant(); g.Phase != fuse.Granted || g.ID != id {
		store(&r.lookups, lookups) // it was granted by another request
		return
	}
	by.Returning(lookups)
	store(&r.lookups, lookups)
	by.Returned()
}

// fetch makes the last entry of the request's list its last grant; false if there is none.
func (s *Store) fetch(c *fuse.Cell) bool {
	list, n := split(c.KeptGrants())
	if n == 0 || !s.hasList(list, n) {
		return false
	}
	g := fuse.Grant{ID: *s.entry(list, n-1), Phase: fuse.Granted}
	if g.ID&grantOpen != 0 {
		g.ID, g.Phase = g.ID&^grantOpen, fuse.GrantedOpen
	}
	c.FetchGrant(g, list<<keptBits|(n-1))
	return true
}

// GiveBack takes back what a request was granted whose reply the client will not see, because
// the process died that served it. It is exact, also if this process dies in it and another one
// calls it again. Of a FORGET it finds out how much was done (fuse.Cell.Forgotten). It is called
// before the nodes are read.
func (s *Store) GiveBack(c *fuse.Cell) {
	if c == nil || s == nil {
		return
	}
	if forgets(c) {
		s.settleForget(c)
		return
	}
	for {
		g := c.Grant()
		switch g.Phase {
		case fuse.GrantNone:
			if !s.fetch(c) {
				c.KeepGrant(0)
				return
			}
		case fuse.Granting:
			if r := s.knownNode(g.ID); r != nil && r.lookups == g.After {
				c.Granted()
			} else {
				c.Returned()
			}
		case fuse.Granted:
			if r := s.knownNode(g.ID); r != nil && r.lookups > 0 && !s.hasStandIn(c.Node(), g.ID) {
				c.Returning(r.lookups - 1)
			} else {
				c.Returned()
			}
		case fuse.Returning:
			if r := s.knownNode(g.ID); r != nil && r.lookups == g.After+1 {
				store(&r.lookups, g.After)
			}
			c.Returned()
		case fuse.GrantedOpen:
			if r := s.knownOpen(g.ID); r != nil {
				store(&r.id, 0)
			}
			c.Returned()
		default:
			c.Returned()
		}
	}
}

// settleForget finds out whether the item that a FORGET was at was done.
func (s *Store) settleForget(c *fuse.Cell) {
	switch g := c.Grant(); g.Phase {
	case fuse.GrantNone, fuse.Granted:
	case fuse.Granting:
		if r := s.knownNode(g.ID); r == nil || r.lookups == g.After {
			c.Granted()
			return
		}
		fallthrough
	default:
		c.KeepGrant(c.KeptGrants())
	}
}

// GiveBackAll calls GiveBack for all requests under way, and settles what else was half done. It
// returns how many requests there are.
func (s *Store) GiveBackAll() (n int, err error) {
	if s == nil {
		return 0, nil
	}
	err = s.ledger.unfinished(func(c *fuse.Cell) {
		n++
		s.GiveBack(c)
	})
	if err == nil {
		s.settleStandIns()
	}
	return n, err
}

const cellsPerBlock = pageSize / fuse.CellSize

// cells is all cells, of all rings.
func (l *Ledger) cells() *section {
	return &section{ledger: l, at: cellsAt, size: fuse.CellSize, bits: 5, count: MaxQueues * MaxQueueSize}
}

var _ = [1]struct{}{}[cellsPerBlock-1<<5]

// unfinished calls f with all cells of requests that may have to be served again.
func (l *Ledger) unfinished(f func(c *fuse.Cell)) error {
	cells := l.cells()
	return cells.scan(func(first uint32) {
		for i := first; i < first+cellsPerBlock; i++ {
			c := (*fuse.Cell)(cells.record(i))
			if p := c.Phase(); p == fuse.PhaseTaken || p == fuse.PhaseIntent {
				f(c)
			}
		}
	})
}
