package nodes

import fp "github.com/govirtiofs/govirtiofs/fuseproto"

// A process that takes over from one that has died has the recorder's records. It makes the
// tables from them before it serves a request:
//
//	the root, as always; BeginRestore; then Restore for each other node; RestorePlace for each,
//	when there is its parent; then OpenFiles.Restore with holds on their nodes, then EndRestore
//
// The recorder is not told again of what it has recorded. No other thread uses the tables
// meanwhile, so no lock is taken for each node.

// BeginRestore makes room for about count nodes.
func (t *Table[K, N]) BeginRestore(count int) {
	heads := minHeads
	// Short lists: each node before in its list is a look at memory that is in no cache.
	for heads < 2*min(count, maxSlots)/shardCount {
		heads *= 2
	}
	for i := range t.shards {
		if s := &t.shards[i]; heads > minHeads && s.count == 0 {
			s.heads = make([]uint32, heads)
		}
	}
	t.makeHints(count)
}

// makeHints makes room for the hints of count nodes.
func (t *Table[K, N]) makeHints(count int) {
	for had := 0; had < len(*t.hints.Load()); {
		had = len(*t.hints.Load())
		t.growHints(uint32(max(min(count, maxSlots)-1, 0)))
	}
}

// Restore adds a new node under the id that it had, with the client's lookup count. A node that
// the client has forgotten has count 0: EndRestore removes it unless a child or an open file
// needs it. unkeyed says that the node must not be found by its key, as Recorder.Unkeyed does.
// Restore returns false if the id is taken or invalid; the caller then removes the record,
// except that of the root.
func (t *Table[K, N]) Restore(n *N, key K, id, lookups uint64, unkeyed bool) bool {
	b := base[K](n)
	b.id, b.key, b.lookups, b.listed = id, key, lookups, true
	b.refs.Store(refHold) // the table's, or until EndRestore
	if !t.slots.restore(n, id, lookups == 0) {
		return false
	}
	if lookups == 0 || unkeyed {
		return true
	}
	hash := t.hash(key)
	s := t.shardOf(hash)
	if t.find(s, hash, key) == nil {
		t.link(s, hash, b)
	} else {
		t.unkeyed(n)
	}
	return true
}

// Restored is the node that Restore has put in a slot, or the root; nil means
// none.
func (t *Table[K, N]) Restored(slot uint32) *N { return t.slots.at(slot) }

// RestorePlace sets where a node was last seen: name in parent, which may be nil. It also
// sets the file handle, which may be nil. Both are copied. The root has none.
func (t *Table[K, N]) RestorePlace(n, parent *N, name fp.Name, handle []byte) {
	b := base[K](n)
	if b.id == fp.RootID || b.parent != nil {
		return
	}
	if parent == nil {
		name = nil
	} else {
		base[K](parent).Hold()
	}
	b.parent = parent
	b.setName(name, handle[:min(len(handle), MaxFileHandle)])
	if parent != nil {
		t.SetHint(parent, name, n)
	}
}

// EndRestore ends a series of Restore. end and generations are those of the other process.
// Ids that are given out from then on are different from all that it has given out.
func (t *Table[K, N]) EndRestore(end, generations uint32) {
	for _, n := range t.slots.allRetired() {
		t.Unhold(n)
	}
	t.slots.settle(end, generations)
	t.makeHints(int(end))
}

// Restore adds an open file under the id that it had. It returns false if that is taken or
// invalid.
func (t *OpenFiles[F]) Restore(f *F, id uint64) bool {
	b := openFile(f)
	b.id = id
	b.refs.Store(1)
	return t.slots.restore(f, id, false)
}

// EndRestore is that of Table.
func (t *OpenFiles[F]) EndRestore(end, generations uint32) { t.slots.settle(end, generations) }

// restore adds v under a number of another process's table, before settle. retired says that
// the number has ended there.
func (s *slots[T]) restore(v *T, number uint64, retired bool) bool {
	slot, generation := uint32(number), uint32(number>>32)
	if slot == 0 || slot >= maxSlots {
		return false
	}
	e := s.slots.Make(slot)
	if e.value.Load() != nil {
		return false
	}
	if retired {
		generation++
	}
	e.generation.Store(generation)
	e.retired.Store(retired)
	e.value.Store(v)
	s.next = max(s.next, slot+1)
	return true
}

// allRetired returns the values whose numbers have ended.
func (s *slots[T]) allRetired() (list []*T) {
	for number, v := range s.all {
		if s.slots.At(uint32(number)).retired.Load() {
			list = append(list, v)
		}
	}
	return list
}
