package ledger

import (
	"sync/atomic"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// openRecord is an open file, by its slot, which is the lower half of its id.
type openRecord struct {
	id    uint64 // 0 is none; written last, and cleared first
	node  uint32 // slot
	flags uint32
	bits  uint32
	_     [3]uint32
}

const (
	openSize = int64(unsafe.Sizeof(openRecord{}))
	openBits = 7
)

var _ = [1]struct{}{}[(openSize<<openBits)-pageSize]

// OpenFile is what a ledger says of an open file.
type OpenFile struct {
	ID    uint64 // its slot is the lower half; not 0
	Node  uint32 // slot of a node that is in the ledger, too
	Flags uint32 // as the client asked for
	Bits  uint32 // what the file system likes, see SetOpenBits
}

func (s *Store) open(slot uint32) *openRecord {
	return (*openRecord)(unsafe.Add(s.openBase, uintptr(slot)*uintptr(openSize)))
}

// AddOpen records a new open file of the node in a slot, with the flags that the client has asked
// for, for the request by, which may be nil. It returns false if there is no room. Calls never
// overlap.
func (s *Store) AddOpen(by *fuse.Cell, id uint64, node, flags uint32) bool {
	slot := uint32(id)
	if slot == 0 || slot >= s.openReady && !s.needOpen(slot) {
		return false
	}
	var entry *uint64
	if by != nil {
		if entry = s.room(by); entry == nil {
			return false
		}
	}
	if h := s.ledger.header; slot >= h.opensEnd || uint32(id>>32) > h.opensGeneration {
		s.noteEnds(&h.opensEnd, &h.opensGeneration, id)
	}
	if r := s.open(slot); storing.Watched() {
		addOpen[storing.Noted](by, entry, r, id, node, flags)
	} else {
		addOpen[storing.Quiet](by, entry, r, id, node, flags)
	}
	return true
}

// addOpen fills the record of an open file. A grant of it was made if there is an open file with this number.
func addOpen[K storing.Kind](by *fuse.Cell, entry *uint64, r *openRecord, id uint64, node, flags uint32) {
	if by != nil {
		grants, _ := by.GrantWords()
		storing.At[K]()
		*entry = grantOf(id|grantOpen, 0)
		storing.At[K]()
		*grants += 1 << fuse.GrantShift
	}
	storing.At[K]()
	r.node, r.flags, r.bits = node, flags, 0
	storing.At[K]()
	r.id = id
	storing.At[K]()
}

// needOpen makes sure that there is memory for the open file in a slot.
func (s *Store) needOpen(slot uint32) bool {
	if slot >= MaxOpens {
		return false
	}
	if _, err := s.opens.need(slot); err != nil {
		return false
	}
	for s.openReady < MaxOpens && s.opens.has(s.openReady) {
		s.openReady += 1 << openBits
	}
	return true
}

// SetOpenBits changes what the file system has noted of an open file. Calls about one come one
// after the other.
func (s *Store) SetOpenBits(id uint64, bits uint32) {
	if s != nil {
		atomic.StoreUint32(&s.open(uint32(id)).bits, bits)
	}
}

// RemoveOpen records that an open file was closed.
func (s *Store) RemoveOpen(id uint64) { put(&s.open(uint32(id)).id, 0) }
