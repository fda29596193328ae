package ledger

import (
	"math"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// nodeRecord is a node, by its slot, which is the lower half of its id. Its name and its file
// handle are in it or elsewhere: one word says where, and in which parent the name is.
type nodeRecord struct {
	id      uint64 // 0 is none; written last, and cleared first
	lookups uint64 // 0 is a node that the client has no number for
	place   uint64 // slot of the parent<<32 | its name, see nameRef; 0 is none
	identityRecord
	name [insideSize]byte // see nameInside
}

// identityRecord is an Identity and flags, in 40 bytes.
type identityRecord struct {
	mount, dev, ino uint64
	birthSec        int64
	birthNsec       uint32
	kind            uint8
	unkeyed         uint8 // the node is not found by its key
	standIn         uint8 // see standin.go
	_               uint8
}

const (
	nodeSize = int64(unsafe.Sizeof(nodeRecord{}))
	nodeBits = 7 // a block has 3 pages
)

var (
	_ = [1]struct{}{}[nodeSize-96]
	_ = [1]struct{}{}[(nodeSize<<nodeBits)%pageSize]
)

// Identity says which file a node is. What the numbers mean is the file system's business.
type Identity struct {
	Mount, Dev, Ino uint64
	BirthSec        int64
	BirthNsec       uint32 // less than a second
	Kind            uint8
}

// Node is what a ledger says of a node.
type Node struct {
	ID         uint64  // its slot is the lower half; not 0
	Lookups    uint64  // the client's; 0 is a node that only its children and open files need
	Parent     uint32  // slot of a node that is in the ledger, too; 0 is none
	Name       fp.Name // in the parent, with its NUL; nil if there is no parent
	FileHandle []byte  // nil is none
	Unkeyed    bool    // another node has its key
	StandIn    uint64  // id of the node that is in this one's place, see Store.StandIn; 0 is none
	Identity
}

func (r *identityRecord) identity() Identity {
	return Identity{Mount: r.mount, Dev: r.dev, Ino: r.ino, BirthSec: r.birthSec, BirthNsec: r.birthNsec, Kind: r.kind}
}

// maxLookups bounds counts, so that they can be added to.
const maxLookups = math.MaxUint64 / 2

func (s *Store) node(slot uint32) *nodeRecord {
	return (*nodeRecord)(unsafe.Add(s.nodeBase, uintptr(slot)*uintptr(nodeSize)))
}

// knownNode is the record of a node, or nil. The id may be forged.
func (s *Store) knownNode(id uint64) *nodeRecord {
	slot := uint32(id)
	if id == 0 || !s.nodes.has(slot) {
		return nil
	}
	if r := s.node(slot); r.id == id {
		return r
	}
	return nil
}

// Place is where a node was last seen, and its file handle.
type Place struct {
	Parent     uint64  // id of a node; 0 is none
	Name       fp.Name // in the parent, with its NUL
	FileHandle []byte  // nil is none
}

// AddNode records a new node for the request by, which may be nil. It returns false if there is no room. Calls of
// AddNode and RemoveNode never overlap. It keeps nothing of i and p.
func (s *Store) AddNode(by *fuse.Cell, id, lookups uint64, i *Identity, p *Place) bool {
	slot := uint32(id)
	if slot == 0 || slot >= MaxNodes {
		return false
	}
	var entry *uint64
	if by != nil {
		if entry = s.room(by); entry == nil {
			return false
		}
	}
	c, err := s.nodes.need(slot)
	if err != nil {
		return false
	}
	h := s.ledger.header
	if slot >= h.nodesEnd {
		h.nodesEnd = slot + 1
	}
	if g := uint32(id >> 32); g > h.nodesGeneration {
		h.nodesGeneration = g
	}
	r := s.node(slot)
	if r.id == 0 {
		s.nodes.use(c)
	} else if r.id != id { // the same is the root, which each process begins with
		store(&r.id, 0)
		s.names.drop(nameRef(r.place))
	}
	r.identityRecord = identityRecord{mount: i.Mount, dev: i.Dev, ino: i.Ino, birthSec: i.BirthSec, birthNsec: i.BirthNsec, kind: i.Kind}
	if r.id == 0 {
		put(&r.place, s.writePlace(r, 0, p))
	} else if len(p.Name)+len(p.FileHandle) > 0 {
		s.PlaceNode(id, p)
	}
	put(&r.lookups, lookups)
	switch {
	case by == nil:
		put(&r.id, id)
	case storing.Watched():
		addGrant[storing.Noted](by, entry, grantOf(id, lookups), &r.id, id)
	default:
		addGrant[storing.Quiet](by, entry, grantOf(id, lookups), &r.id, id)
	}
	return true
}

// Granted implements nodes.Recorder: the lookup count of a node has grown to lookups, by one if by is not
// nil. It returns false if there is no room for one more grant of this request.
func (s *Store) Granted(by *fuse.Cell, id, lookups uint64) bool {
	if by != nil && !storing.Watched() {
		if entry := s.quickRoom(by); entry != nil {
			addGrant[storing.Quiet](by, entry, grantOf(id, lookups), &s.node(uint32(id)).lookups, lookups)
			return true
		}
	}
	return s.grant(by, id, lookups)
}

// grant is Granted for what is rare.
func (s *Store) grant(by *fuse.Cell, id, lookups uint64) bool {
	count := &s.node(uint32(id)).lookups
	if by == nil {
		store(count, lookups)
		return true
	}
	entry := s.room(by)
	if entry == nil {
		return false
	}
	if storing.Watched() {
		addGrant[storing.Noted](by, entry, grantOf(id, lookups), count, lookups)
	} else {
		addGrant[storing.Quiet](by, entry, grantOf(id, lookups), count, lookups)
	}
	return true
}

// CountNode records that the lookup count of a node has become less: by a FORGET, or because the
// request by takes back what it was granted last.
func (s *Store) CountNode(by *fuse.Cell, id, lookups uint64) {
	r := s.node(uint32(id))
	switch {
	case by == nil:
		store(&r.lookups, lookups)
	case forgets(by):
		by.Lowering(id, lookups)
		put(&r.lookups, lookups)
		by.Lowered()
	default:
		s.takeBack(by, r, lookups)
	}
}

// ForgetNode records that the client has no number for the node any more.
func (s *Store) ForgetNode(by *fuse.Cell, id uint64) { s.CountNode(by, id, 0) }

// UnkeyNode records that the node is no longer found by its key.
func (s *Store) UnkeyNode(id uint64) { s.node(uint32(id)).unkeyed = 1 }

// PlaceNode records where a node was last seen, and its file handle. Calls about one node come one after the other.
func (s *Store) PlaceNode(id uint64, p *Place) {
	r := s.node(uint32(id))
	old := nameRef(r.place)
	put(&r.place, s.writePlace(r, old, p))
	s.names.drop(old)
}

// writePlace writes the name and the file handle of a node, and returns what nodeRecord.place is to be. Until that is
// stored, the name at old counts.
func (s *Store) writePlace(r *nodeRecord, old nameRef, p *Place) uint64 {
	var bytes []byte
	if p.Parent != 0 {
		bytes = p.Name.Bytes()
	}
	ref := nameRef(0)
	switch size := nameHeader + len(bytes) + len(p.FileHandle); {
	case size == nameHeader:
		return 0
	case size <= insideSize && old != nameInside:
		ref = nameInside
		writeName(r.name[:], bytes, p.FileHandle)
	default:
		ref = s.names.add(bytes, p.FileHandle)
	}
	if ref == 0 {
		// A successor that does not find the node says ESTALE, and the client looks it up again.
		s.ledger.header.unplaced++
		return 0
	}
	return uint64(uint32(p.Parent))<<32 | uint64(ref)
}

// RemoveNode records that a node is gone.
func (s *Store) RemoveNode(id uint64) {
	slot := uint32(id)
	r := s.node(slot)
	put(&r.id, 0)
	s.names.drop(nameRef(r.place))
	s.nodes.unuse(slot)
}
