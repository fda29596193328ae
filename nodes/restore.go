package nodes

import (
	"math/bits"
	"sync"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A process that takes over from one that has died has the recorder's records. Its client waits meanwhile, and may
// know a million nodes. So the table makes each node from its record when it is first used, and the others later:
//
//	the root, as always; Restore; OpenFiles.Restore with holds on nodes that Restored has made, then its EndRestore;
//	requests; RestoreAll beside them
//
// What has to be there before the first request is which slots have records, an index of these by key, as LOOKUP
// must find the node that the client has of a file, and the hints for their names. The recorder is not told again of what it has recorded, so
// a process that dies before all nodes are made leaves what it has found.

// Left is the nodes of a process that has died, as its recorder has recorded them. The table calls Make and Key for
// slots that Keys has yielded and whose nodes are not made yet, with locks held, from one thread at a time.
// They must not call the table.
type Left[K comparable, N any] interface {
	// Keys yields all records, each once. What is yielded is valid until yield returns.
	Keys(yield func(*LeftKey[K]))
	// Key is the key that Keys has yielded for a slot.
	Key(slot uint32) K
	// Make makes the node of a record and says the rest of the record. It returns nil if the record makes no sense:
	// then nobody has the node.
	Make(slot uint32) (*N, LeftNode)
	// IsDir reports whether a node may be the parent of others.
	IsDir(n *N) bool
}

// LeftKey is how a node is found.
type LeftKey[K comparable] struct {
	ID     uint64
	Key    K
	Found  bool   // by its key: it has lookups, and Recorder.Unkeyed was not called for it
	Parent uint64 // id; 0 is none
	Name   []byte // without its NUL
}

// LeftNode is what the recorder was told of a node. The table copies the name and the file handle.
type LeftNode struct {
	ID         uint64
	Lookups    uint64 // 0: the client has no number for it, but a child or an open file may need it
	Unkeyed    bool   // it must not be found by its key
	Parent     uint32 // slot; 0 is none, and so is a slot that has no directory
	Name       fp.Name
	FileHandle []byte
}

// restoring is what a table needs until all nodes of Left are made.
type restoring[K comparable, N any] struct {
	left Left[K, N]

	// index is the slots by the hashes of their keys: a hash table in which a slot is at the place of its hash, or at the
	// first one behind it that was free. 0 is free. It does not change.
	index  []uint32
	probes int // places that were taken when it was made

	parents bitmap // slots of directories that have others in them. It does not change

	mu    sync.Mutex    // guards the following, and has one thread make nodes; before the locks of shards and slots
	todo  bitmap        // slots whose nodes are not made
	dirs  bitmap        // slots of directories that are made; they are in held, too
	first uint32        // RestoreAll goes on here
	chain []madeNode[N] // scratch
	held  []*N          // see hold
	over  bool
}

// madeNode is a node that no other thread has seen, and the slot of its parent.
type madeNode[N any] struct {
	n      *N
	parent uint32
}

// Restore has the table begin with what another process has left, of which there are about count nodes. end and
// generations are those of its table, as for Settle. No other thread uses the table meanwhile, and no node but the root was
// added to it.
func (t *Table[K, N]) Restore(left Left[K, N], count int, end, generations uint32) {
	end = min(end, maxSlots)
	count = min(count, maxSlots)
	t.makeHeads(count)
	t.makeHints(count)
	size := 1 << bits.Len(uint(2*count+1)) // at most half of it is used
	r := &restoring[K, N]{left: left, index: make([]uint32, size), parents: newBitmap(end), todo: newBitmap(end), dirs: newBitmap(end)}
	there := newBitmap(end)
	indexed := 0
	// Nobody sees the hints yet, and the processor does not wait for a plain store.
	hints := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(*t.hints.Load()))), len(*t.hints.Load()))
	left.Keys(func(k *LeftKey[K]) {
		slot := uint32(k.ID)
		if slot == 0 || slot == uint32(fp.RootID) || slot >= end {
			return
		}
		r.todo.set(slot)
		there.set(slot)
		if k.Parent != 0 {
			if parent := uint32(k.Parent); parent < end {
				r.parents.set(parent)
			}
			hints[HashName(k.Parent, k.Name)%uint64(len(hints))] = k.ID
		}
		if k.Found && indexed < size-1 && r.add(t.hash(k.Key), slot, mostProbes*(count+1)) {
			indexed++
		}
	})
	t.slots.settle(end, generations)
	t.slots.left = there
	t.restoring.Store(r)
}

// mostProbes is how many places that are taken Restore looks at for each node, on the average. Without a forged ledger it is less
// than one.
const mostProbes = 64

// add adds a slot to the index. It returns false when the index has become too slow: there are more than most probes. This takes
// thousands of nodes with one key, or with one hash, so the ledger is forged. The slot's node is then found by its
// number, and by its key only when it is made.
func (r *restoring[K, N]) add(hash uint64, slot uint32, most int) bool {
	at := r.place(hash)
	for r.index[at] != 0 {
		if r.probes++; r.probes > most {
			return false
		}
		at = r.place(at + 1)
	}
	r.index[at] = slot
	return true
}

// place is where a slot with this hash is in the index.
func (r *restoring[K, N]) place(hash uint64) uint64 { return hash & uint64(len(r.index)-1) }

// makeHeads makes room in the lists of keys for about count nodes.
func (t *Table[K, N]) makeHeads(count int) {
	heads := minHeads
	// Short lists: each node before in its list is a look at memory that is in no cache.
	for heads < 2*count/shardCount {
		heads *= 2
	}
	for i := range t.shards {
		if s := &t.shards[i]; heads > minHeads && s.count == 0 {
			s.heads = make([]uint32, heads)
		}
	}
}

// makeHints makes room for the hints of count nodes.
func (t *Table[K, N]) makeHints(count int) {
	for had := 0; had < len(*t.hints.Load()); {
		had = len(*t.hints.Load())
		t.growHints(uint32(max(count-1, 0)))
	}
}

// Restored is the node in a slot, which is made if it was not; nil means none. The client may have forgotten it, and
// the caller has no reference.
func (t *Table[K, N]) Restored(slot uint32) *N {
	if r := t.restoring.Load(); r != nil {
		r.mu.Lock()
		t.restoreSlot(r, slot)
		r.mu.Unlock()
	}
	return t.slots.at(slot)
}

// restoreID makes the node with an id, if it is one that is not made. It returns the node, or nil.
func (t *Table[K, N]) restoreID(id uint64) *N {
	if t.restoring.Load() == nil {
		return nil
	}
	t.Restored(uint32(id))
	if n := t.slots.get(id); n != nil && base[K](n).id == id {
		return n
	}
	return nil
}

// restoreKey makes the node with a key, if it is not made. There may be several if the records are forged: the
// first one is found by the key. The caller has not locked the shard.
func (t *Table[K, N]) restoreKey(hash uint64, key K) {
	r := t.restoring.Load()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := r.place(hash); r.index[at] != 0; at = r.place(at + 1) {
		if slot := r.index[at]; r.todo.has(slot) && r.left.Key(slot) == key {
			t.restoreSlot(r, slot)
		}
	}
}

// restoreSlot makes the node in a slot, and first those above it, unless they are made. r.mu is held.
func (t *Table[K, N]) restoreSlot(r *restoring[K, N], slot uint32) {
	r.chain = r.chain[:0]
	for r.todo.has(slot) {
		r.todo.clear(slot) // places that go round in a circle end here, too
		key := r.left.Key(slot)
		n, rec := r.left.Make(slot)
		if n == nil || uint32(rec.ID) != slot {
			break
		}
		b := base[K](n)
		b.id, b.key, b.lookups, b.listed = rec.ID, key, rec.Lookups, true
		b.linked = rec.Lookups != 0 && !rec.Unkeyed // by restoreNode
		b.setName(rec.Name, rec.FileHandle[:min(len(rec.FileHandle), MaxFileHandle)])
		r.chain = append(r.chain, madeNode[N]{n, rec.Parent})
		slot = rec.Parent
	}
	for i := len(r.chain) - 1; i >= 0; i-- {
		t.restoreNode(r, r.chain[i].n, r.chain[i].parent)
	}
	clear(r.chain)
}

// restoreNode lets others see a node. Those above it are there. r.mu is held.
func (t *Table[K, N]) restoreNode(r *restoring[K, N], n *N, slot uint32) {
	b := base[K](n)
	if parent := t.restoredDir(r, slot); parent != nil {
		base[K](parent).Hold()
		b.parent = parent
	} else {
		b.setName(nil, b.FileHandle())
	}
	dir := r.left.IsDir(n) && r.parents.has(uint32(b.id)) // an empty one is gone when it is forgotten
	if r.hold(b, dir) {
		r.held = append(r.held, n)
	}
	wanted := b.linked
	b.linked = false
	hash := t.hash(b.key)
	s := t.shardOf(hash)
	s.mu.Lock()
	ok := t.slots.restore(n, b.id, b.lookups == 0)
	if ok && wanted {
		if t.find(s, hash, b.key) == nil {
			t.link(s, hash, b)
		} else {
			t.unkeyed(n)
		}
	}
	s.mu.Unlock()
	if ok && dir {
		r.dirs.set(uint32(b.id))
	}
}

// restoredDir is the directory in a slot, if it is one that others are restored in; nil otherwise. It is the root or in
// held, so it stays. A reference on it could not be had while another thread has it exclusively, which may wait for
// the host, and r.mu is not to be held so long.
func (t *Table[K, N]) restoredDir(r *restoring[K, N], slot uint32) *N {
	if slot != uint32(fp.RootID) && !r.dirs.has(slot) {
		return nil
	}
	return t.slots.at(slot)
}

// hold gives a new node its holds: the table's, and another one until all nodes are made if others may need it: as
// their parent, or because the client has no number for it. It reports whether there is that one.
func (r *restoring[K, N]) hold(b *Node[K, N], dir bool) bool {
	refs := int64(0)
	if b.lookups != 0 {
		refs = refHold
	}
	held := dir || b.lookups == 0
	if held {
		refs += refHold
	}
	b.refs.Store(refs)
	return held
}

// restoreStep is how many nodes RestoreAll makes while requests wait for theirs.
const restoreStep = 64

// RestoreAll makes all nodes that are not made. Other threads may use the table meanwhile. Nodes that the client
// has forgotten and that nothing needs are gone afterwards.
func (t *Table[K, N]) RestoreAll() {
	r := t.restoring.Load()
	if r == nil {
		return
	}
	for t.restoreSome(r) {
	}
	r.mu.Lock()
	held := r.held
	r.held = nil
	if !r.over {
		r.over = true
		t.slots.mu.Lock()
		t.slots.left = nil
		t.slots.mu.Unlock()
		t.restoring.Store(nil)
	}
	r.mu.Unlock()
	for _, n := range held {
		t.Unhold(n)
	}
}

// restoreSome makes some nodes; false if there are no more.
func (t *Table[K, N]) restoreSome(r *restoring[K, N]) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range restoreStep {
		slot, ok := r.todo.next(r.first)
		if !ok {
			return false
		}
		r.first = slot
		t.restoreSlot(r, slot)
	}
	return true
}

// bitmap is a set of numbers that are less than its size.
type bitmap []uint64

func newBitmap(size uint32) bitmap { return make(bitmap, (uint64(size)+63)/64) }

func (b bitmap) set(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) clear(i uint32)    { b[i/64] &^= 1 << (i % 64) }
func (b bitmap) has(i uint32) bool { return int(i/64) < len(b) && b[i/64]>>(i%64)&1 != 0 }

// next is the first number in the set from i on.
func (b bitmap) next(i uint32) (uint32, bool) {
	for word := int(i / 64); word < len(b); word++ {
		v := b[word]
		if word == int(i/64) {
			v &= ^uint64(0) << (i % 64)
		}
		if v != 0 {
			return uint32(word*64 + bits.TrailingZeros64(v)), true
		}
	}
	return 0, false
}

// Restore adds an open file under the id that it had. It returns false if that is taken or
// invalid.
func (t *OpenFiles[F]) Restore(f *F, id uint64) bool {
	b := openFile(f)
	b.id = id
	b.refs.Store(1)
	return t.slots.restore(f, id, false)
}

// EndRestore ends a series of Restore, as Settle does a series of Adopt.
func (t *OpenFiles[F]) EndRestore(end, generations uint32) { t.slots.settle(end, generations) }

// restore adds v under a number of another process's table. retired says that
// the number has ended there.
func (s *slots[T]) restore(v *T, number uint64, retired bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, generation := uint32(number), uint32(number>>32)
	if slot == 0 || slot >= maxSlots {
		return false
	}
	e := s.slots.Make(slot)
	if e.value.Load() != nil {
		return false
	}
	if s.left.has(slot) {
		s.left.clear(slot)
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
