package ledger

import (
	"slices"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Store is the nodes, open files and locks of a ledger, and what requests under way have been granted.
//
// It takes no lock of its own for a node or an open file: the tables of package nodes call it with
// theirs held.
type Store struct {
	ledger *Ledger
	nodes  section
	opens  section
	lists  section
	names  names
	owners listOwners
	locks  lockStore

	nodeBase, openBase, listBase unsafe.Pointer // where these sections are in memory
	openReady                    uint32         // slots of open files below it have memory

	// What load has found, so that nobody looks for it among all nodes.
	found    int    // nodes
	mount    uint64 // of the first of them
	mixed    bool   // not all are on that mount
	replaced bool   // there may be nodes that others stand in for
}

// Store returns the nodes and open files, all of which it looks at: what makes no sense, because a
// process that was taken over has written it, is removed. A process calls it once, when no request
// runs. An error is want of memory.
func (l *Ledger) Store() (*Store, error) {
	if l == nil {
		return nil, nil
	}
	s := newStore(l)
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

func newStore(l *Ledger) *Store {
	s := &Store{ledger: l}
	s.nodes = section{ledger: l, at: nodesAt, size: nodeSize, bits: nodeBits, count: MaxNodes}
	s.opens = section{ledger: l, at: opensAt, size: openSize, bits: openBits, count: MaxOpens}
	s.lists = section{ledger: l, at: listsAt, size: pageSize, count: numLists * listPages}
	s.nodeBase, s.openBase, s.listBase = l.at(nodesAt), l.at(opensAt), l.at(listsAt)
	s.locks.owners = newPool(l, ownersAt, lockOwnerSize, MaxLockOwners)
	s.locks.locks = newPool(l, locksAt, lockSize, MaxLocks)
	s.names.init(l)
	return s
}

// load looks at everything.
func (s *Store) load() error {
	for i := range s.names.classes {
		if err := s.names.classes[i].scan(func(uint32) {}); err != nil {
			return err
		}
	}
	err := s.nodes.scan(func(first uint32) {
		for slot := first; slot < first+1<<nodeBits; slot++ {
			if r := s.node(slot); r.id != 0 {
				s.loadNode(slot, r)
			}
		}
	})
	if err != nil {
		return err
	}
	for i := range s.names.classes {
		s.names.classes[i].settle()
	}
	err = s.opens.scan(func(first uint32) {
		for slot := first; slot < first+1<<openBits; slot++ {
			if r := s.open(slot); r.id != 0 && !s.goodOpen(slot, r) {
				store(&r.id, 0)
			}
		}
	})
	if err != nil {
		return err
	}
	if err = s.loadLocks(); err != nil {
		return err
	}
	if err = s.lists.scan(func(uint32) {}); err != nil {
		return err
	}
	return s.claimLists()
}

// loadNode checks a record, counts it, and claims its name.
func (s *Store) loadNode(slot uint32, r *nodeRecord) {
	if !goodNode(slot, r) {
		store(&r.id, 0)
		return
	}
	index, _ := s.nodes.blockOf(slot)
	s.nodes.chunks.At(index).used++
	if s.found++; s.found == 1 {
		s.mount = r.mount
	}
	s.mixed = s.mixed || r.mount != s.mount
	s.replaced = s.replaced || r.standIn != 0
	s.noteEnds(&s.ledger.header.nodesEnd, &s.ledger.header.nodesGeneration, r.id)
	if ref := nameRef(r.place); r.id == fp.RootID || ref != nameInside && !s.names.claim(ref) {
		store(&r.place, 0)
	}
}

// noteEnds sees to it that the header knows of a number that was given out.
func (s *Store) noteEnds(end, generation *uint32, id uint64) {
	*end = max(*end, uint32(id)+1)
	*generation = max(*generation, uint32(id>>32))
}

func goodNode(slot uint32, r *nodeRecord) bool {
	return uint32(r.id) == slot && (r.id == fp.RootID) == (slot == fp.RootID) &&
		r.lookups <= maxLookups && r.birthNsec < 1e9
}

func (s *Store) goodOpen(slot uint32, r *openRecord) bool {
	if uint32(r.id) != slot || s.nodeAt(r.node) == nil {
		return false
	}
	s.noteEnds(&s.ledger.header.opensEnd, &s.ledger.header.opensGeneration, r.id)
	return true
}

// nodeAt is the record in a slot, or nil if there is none.
func (s *Store) nodeAt(slot uint32) *nodeRecord {
	if slot == 0 || !s.nodes.has(slot) {
		return nil
	}
	if r := s.node(slot); goodNode(slot, r) {
		return r
	}
	return nil
}

// Nodes yields the nodes of the ledger by their slots. What is yielded, name and file handle
// too, is valid until yield returns. A node may come before its parent, and places may go round
// in a circle.
func (s *Store) Nodes(yield func(n *Node) bool) {
	var b [maxNameRecord]byte
	var n Node
	s.nodes.records(func(slot uint32) bool {
		r := s.nodeAt(slot)
		if r == nil {
			return true
		}
		s.read(&n, r, &b)
		if s.nodeAt(n.Parent) == nil {
			n.Parent, n.Name = 0, nil
		}
		return yield(&n)
	})
}

// Names are the names on the way from the root to the node in a slot. It returns false if the node has no place, or if
// there are more names than most: places may go round in a circle.
func (s *Store) Names(slot uint32, most int) (names []fp.Name, ok bool) {
	var b [maxNameRecord]byte
	var n Node
	for slot != fp.RootID {
		r := s.nodeAt(slot)
		if r == nil {
			return nil, false
		}
		s.read(&n, r, &b)
		if n.Parent == 0 || s.nodeAt(n.Parent) == nil || len(names) == most+1 {
			return nil, false
		}
		names = append(names, slices.Clone(n.Name))
		slot = n.Parent
	}
	if len(names) > most {
		return nil, false
	}
	slices.Reverse(names)
	return names, true
}

// NodeKey is how a node is found.
type NodeKey struct {
	ID       uint64
	Identity Identity
	Found    bool   // by its identity: it has lookups, and no other node has its key
	Parent   uint64 // id; 0 is none
	Name     []byte // without its NUL
}

// Keys yields all nodes. What is yielded is valid until yield returns. Less is looked at than for Nodes: a name may be none.
func (s *Store) Keys(yield func(k *NodeKey)) {
	var k NodeKey
	s.nodes.records(func(slot uint32) bool {
		r := s.nodeAt(slot)
		if r == nil {
			return true
		}
		k = NodeKey{ID: r.id, Identity: r.identity(), Found: r.lookups != 0 && r.unkeyed == 0 && r.standIn != standsFor}
		var record []byte
		switch ref := nameRef(r.place); {
		case ref == nameInside:
			record = r.name[:]
		case s.names.valid(ref):
			record = s.names.record(ref)
		}
		if r.standIn == standsFor {
			record = nil // another file has the name
		}
		if parent := s.nodeAt(uint32(r.place >> 32)); len(record) > 0 && record[0] > 0 && parent != nil {
			k.Parent, k.Name = parent.id, record[nameHeader:min(nameHeader+int(record[0]), len(record))]
		}
		yield(&k)
		return true
	})
}

// Key is the identity of a node that Keys has yielded and that was not removed since.
func (s *Store) Key(slot uint32) Identity { return s.node(slot).identity() }

// Reader returns a function that reads a node which Keys has yielded and which was not removed since. Unlike Nodes it
// does not look whether the ledger has the parent. What it returns is valid until its next call; nil is a node that makes no
// sense. Other threads may use the Store meanwhile.
func (s *Store) Reader() func(slot uint32) *Node {
	var b [maxNameRecord]byte
	var n Node
	return func(slot uint32) *Node {
		r := *s.node(slot) // once: a process that was taken over may be writing
		if !goodNode(slot, &r) {
			return nil
		}
		s.read(&n, &r, &b)
		return &n
	}
}

// read reads a node. A name that can't be one is left out, with the parent.
func (s *Store) read(n *Node, r *nodeRecord, b *[maxNameRecord]byte) {
	*n = Node{ID: r.id, Lookups: r.lookups, Unkeyed: r.unkeyed != 0, Identity: r.identity()}
	if r.standIn == standsFor {
		n.StandIn, n.Unkeyed = r.ino, true
	}
	place := r.place
	var name fp.Name
	switch ref := nameRef(place); {
	case ref == nameInside:
		name, n.FileHandle = readName(r.name[:], b[:])
	case s.names.valid(ref):
		name, n.FileHandle = readName(s.names.record(ref), b[:])
	}
	if name == nil {
		return
	}
	if parsed, rest, errno := fp.ParseName(name); errno == 0 && len(rest) == 0 {
		n.Parent, n.Name = uint32(place>>32), parsed
	}
}

// MountOf is the number of the mount of the node in a slot; 0 if there is none.
func (s *Store) MountOf(slot uint32) uint64 {
	if r := s.nodeAt(slot); r != nil {
		return r.mount
	}
	return 0
}

// Opens yields the open files of the ledger by their slots. What is yielded is valid until
// yield returns.
func (s *Store) Opens(yield func(o *OpenFile) bool) {
	var o OpenFile
	s.opens.records(func(slot uint32) bool {
		r := s.open(slot)
		o = OpenFile{ID: r.id, Node: r.node, Flags: r.flags, Bits: r.bits}
		if uint32(o.ID) != slot || slot == 0 || s.nodeAt(o.Node) == nil {
			return true
		}
		return yield(&o)
	})
}

// OneMount reports whether all nodes that there were when the store was made are on the mount with this
// number.
func (s *Store) OneMount(number uint64) bool { return s.found == 0 || !s.mixed && s.mount == number }

// NumNodes is how many nodes there were when the store was made.
func (s *Store) NumNodes() int { return s.found }

// NodeEnd and NodeGenerations are what nodes.Table.Settle wants to know of the numbers of nodes
// that were ever given out, OpenEnd and OpenGenerations the same of open files.
func (s *Store) NodeEnd() uint32         { return min(s.ledger.header.nodesEnd, MaxNodes) }
func (s *Store) NodeGenerations() uint32 { return s.ledger.header.nodesGeneration }
func (s *Store) OpenEnd() uint32         { return min(s.ledger.header.opensEnd, MaxOpens) }
func (s *Store) OpenGenerations() uint32 { return s.ledger.header.opensGeneration }
