package ledger

import (
	"sync"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// A grant is a word: the lower 56 bits of the number of a node, or of an open file with grantOpen
// added, and below them the lower bits of the node's lookup count with the grant. The first two
// grants of a request are in its cell. Those behind them, of which most requests have none, are in a list that the
// request takes when it needs one. The cell says which list, and how many grants there are, in one
// word with the phase of the last one: all change at once.
//
// To be granted a lookup is four stores: the grant, its number as the one that is being made, the
// count, the number of grants. If a process dies in between, the count itself says whether it was
// changed: nobody else changes it at this time, because the node's lock is held.
//
// A list is free again when no cell of a request that may be served again refers to it. It
// need not be given back.

const (
	numLists       = 1024 // requests at a time; list 0 is none
	listPages      = 32
	listSize       = listPages * pageSize
	entriesPerPage = pageSize / 8
	maxGrants      = 16 * entriesPerPage // more than the entries of a listing of 1 MiB

	keptBits  = 14      // number of grants; above them the number of the list
	grantOpen = 1 << 31 // of a slot, which is less

	countBits = 8 // of the lookup count in a grant
)

var _ = [1]struct{}{}[listSize/8-1<<keptBits] // so that KeptGrants tells where the next one is in all lists

// grantOf is the word of a grant.
func grantOf(id, lookups uint64) uint64 { return id<<countBits | lookups%(1<<countBits) }

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

// addGrant notes a grant of by at entry, with the change of *count to after that it stands for.
func addGrant[K storing.Kind](by *fuse.Cell, entry *uint64, grant uint64, count *uint64, after uint64) {
	grants, making := by.GrantWords()
	storing.At[K]()
	*entry = grant
	storing.At[K]()
	kept := *grants + 1<<fuse.GrantShift
	*making = uint16(kept>>fuse.GrantShift) & (1<<keptBits - 1)
	storing.At[K]()
	*count = after
	storing.At[K]()
	*grants = kept
	storing.At[K]()
}

func split(kept uint32) (list, n uint32) { return kept >> keptBits, kept & (1<<keptBits - 1) }

// hasList reports whether the list that a cell says it has is one, with its entries in memory.
func (s *Store) hasList(list, n uint32) bool {
	if n <= fuse.EarlyGrants {
		return true // there is no need for one
	}
	if list == 0 || list >= numLists || n > maxGrants {
		return false
	}
	for page := range (n + entriesPerPage - 1) / entriesPerPage {
		if !s.lists.has(list*listPages + page) {
			return false
		}
	}
	return true
}

// entry is where grant i of a request is, which hasList has checked.
func (s *Store) entry(by *fuse.Cell, list, i uint32) *uint64 {
	if i < fuse.EarlyGrants {
		return by.EarlyGrant(i)
	}
	return s.entryAt(list<<keptBits | i)
}

// entryAt is the place in a list by what fuse.Cell.KeptGrants says.
func (s *Store) entryAt(kept uint32) *uint64 {
	return (*uint64)(unsafe.Add(s.listBase, uintptr(kept)*8))
}

// room is where the next grant of a request goes, or nil if there is no room.
func (s *Store) room(by *fuse.Cell) *uint64 {
	if entry := s.quickRoom(by); entry != nil {
		return entry
	}
	return s.makeRoom(by)
}

// quickRoom is room, or nil where makeRoom has to look for it.
func (s *Store) quickRoom(by *fuse.Cell) *uint64 {
	kept := by.KeptGrants()
	if kept < fuse.EarlyGrants {
		return by.EarlyGrant(kept)
	}
	// In a page that it has, and not in its cell: all but the early ones may have been taken back.
	if kept-1<<keptBits < (numLists-1)<<keptBits && kept%entriesPerPage >= fuse.EarlyGrants {
		return s.entryAt(kept)
	}
	return nil
}

// makeRoom is room where the request has no list yet, or where the list gets another page.
func (s *Store) makeRoom(by *fuse.Cell) *uint64 {
	kept := by.KeptGrants()
	s.owners.mu.Lock()
	defer s.owners.mu.Unlock()
	list, n := split(kept)
	switch {
	case n < fuse.EarlyGrants: // others were taken back
		return by.EarlyGrant(n)
	case list >= numLists || n >= maxGrants:
		return nil
	case list == 0:
		if list = s.freeList(by); list == 0 {
			return nil
		}
		kept = list<<keptBits | n
		by.Keep(kept) // before another request takes the list
	}
	if _, err := s.lists.need(list*listPages + n/entriesPerPage); err != nil {
		return nil
	}
	return s.entryAt(kept)
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
		if list, _ := split(c.KeptGrants()); !forgets(c) && list > 0 && list < numLists {
			for int(list) >= len(s.owners.cells) {
				s.owners.cells = append(s.owners.cells, nil)
			}
			s.owners.cells[list] = c
		}
	})
}

// takeBack lowers the count of a node by what the request was granted last.
func (s *Store) takeBack(by *fuse.Cell, r *nodeRecord, lookups uint64) {
	list, n := split(by.KeptGrants())
	for ; n > 0; n-- {
		g := *s.entry(by, list, n-1)
		if s.grantedOpen(g) != nil {
			break
		}
		if s.grantedNode(g) == r {
			by.Returning(lookups)
			store(&r.lookups, lookups)
			by.Keep(list<<keptBits | (n - 1))
			return
		}
		if !isOpenGrant(g) {
			break
		}
		by.NotMaking()
		by.Keep(list<<keptBits | (n - 1)) // it was closed again
	}
	store(&r.lookups, lookups) // it was granted by another request
}

func isOpenGrant(g uint64) bool { return g>>countBits&grantOpen != 0 }

// grantedNode is the record of the node that was granted, or nil. The grant may be forged.
func (s *Store) grantedNode(g uint64) *nodeRecord {
	slot := uint32(g >> countBits)
	if isOpenGrant(g) || slot == 0 || !s.nodes.has(slot) {
		return nil
	}
	if r := s.node(slot); r.id != 0 && r.id<<countBits>>countBits == g>>countBits {
		return r
	}
	return nil
}

// grantedOpen is grantedNode for open files.
func (s *Store) grantedOpen(g uint64) *openRecord {
	id := g >> countBits &^ grantOpen
	slot := uint32(id)
	if !isOpenGrant(g) || slot == 0 || !s.opens.has(slot) {
		return nil
	}
	if r := s.open(slot); r.id != 0 && r.id<<countBits>>countBits == id {
		return r
	}
	return nil
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
	s.settleGrant(c)
	c.NotMaking()
	list, n := split(c.KeptGrants())
	if !s.hasList(list, n) {
		n = 0
	}
	for ; n > 0; n-- {
		s.giveBack(c, *s.entry(c, list, n-1))
		c.Keep(list<<keptBits | (n - 1))
	}
	c.Keep(0)
}

// settleGrant finds out whether the grant that was being made was made.
func (s *Store) settleGrant(c *fuse.Cell) {
	kept := c.KeptGrants()
	list, n := split(kept)
	if c.GrantPhase() != fuse.GrantNone || uint32(c.Making()) != n+1 || !s.hasList(list, n+1) {
		return
	}
	g := *s.entry(c, list, n)
	if r := s.grantedNode(g); r != nil && (r.lookups^g)%(1<<countBits) == 0 {
		kept++
	}
	c.Keep(kept)
}

// giveBack takes the last grant of a request back.
func (s *Store) giveBack(c *fuse.Cell, g uint64) {
	if r := s.grantedOpen(g); r != nil {
		store(&r.id, 0)
		return
	}
	r := s.grantedNode(g)
	if r == nil || r.lookups == 0 {
		return
	}
	if c.GrantPhase() == fuse.Returning {
		if _, after := c.Change(); r.lookups == after+1 {
			store(&r.lookups, after)
		}
		return
	}
	if !s.hasStandIn(c.Node(), r.id) {
		c.Returning(r.lookups - 1)
		store(&r.lookups, r.lookups-1)
	}
}

// settleForget finds out whether the item that a FORGET was at was done.
func (s *Store) settleForget(c *fuse.Cell) {
	switch c.GrantPhase() {
	case fuse.GrantNone, fuse.Lowered:
	case fuse.Lowering:
		id, after := c.Change()
		if r := s.knownNode(id); r == nil || r.lookups == after {
			c.Lowered()
			return
		}
		fallthrough
	default:
		c.Keep(c.KeptGrants())
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

// Unfinished calls f with the cells of all requests that a process has left when it died. It is called before one of
// them is served again.
func (s *Store) Unfinished(f func(c *fuse.Cell)) error { return s.ledger.unfinished(f) }

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
