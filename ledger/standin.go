package ledger

import "github.com/govirtiofs/govirtiofs/internal/storing"

// A node may have another one in its place: requests with its number are served by that one, which
// one of its lookups keeps. The record of the first node has the other's id where the number of its
// own file was: there is no such file any more.

// What nodeRecord.standIn says.
const (
	standsFor   = 1 // ino is the id of the node that is in this one's place
	standsEnded = 2 // and that one is about to have the lookup count in birthSec
)

// StandIn records that the node by is in the place of the node id from now on. One lookup of by, which
// the running request was granted, belongs to that: GiveBack does not take it back.
func (s *Store) StandIn(id, by uint64) {
	r := s.node(uint32(id))
	store(&r.ino, by)
	r.setStandIn(standsFor)
}

// EndStandIn records that the client has forgotten the node id, so that by, which was in its place, has
// a lookup less: lookups. The caller has locked by's count.
func (s *Store) EndStandIn(id, by, lookups uint64) {
	r := s.node(uint32(id))
	if r.standIn == 0 {
		s.CountNode(nil, by, lookups)
		return
	}
	r.birthSec = int64(lookups)
	r.setStandIn(standsEnded)
	s.CountNode(nil, by, lookups)
	r.setStandIn(0)
}

//go:noinline
func (r *nodeRecord) setStandIn(v uint8) {
	storing.Note()
	r.standIn = v
	storing.Note()
}

// hasStandIn reports whether by is in the place of the node id.
func (s *Store) hasStandIn(id, by uint64) bool {
	r := s.knownNode(id)
	return r != nil && r.standIn == standsFor && r.ino == by
}

// StandIns yields the slots of nodes that others stand in for, with the ids of those.
func (s *Store) StandIns(yield func(slot uint32, by uint64) bool) {
	if !s.replaced {
		return
	}
	s.nodes.records(func(slot uint32) bool {
		r := s.nodeAt(slot)
		return r == nil || r.standIn != standsFor || yield(slot, r.ino)
	})
}

// settleStandIns ends what the predecessor has begun to end, exactly once.
func (s *Store) settleStandIns() {
	if !s.replaced {
		return
	}
	s.nodes.records(func(slot uint32) bool {
		r := s.nodeAt(slot)
		if r == nil || r.standIn == 0 || r.standIn == standsFor && r.lookups > 0 {
			return true
		}
		by := s.knownNode(r.ino)
		switch {
		case by == nil || by.lookups == 0:
		case r.standIn == standsFor:
			s.EndStandIn(r.id, by.id, by.lookups-1)
		case by.lookups == uint64(r.birthSec)+1:
			store(&by.lookups, by.lookups-1)
		}
		r.setStandIn(0)
		return true
	})
}
