package nodes

import fp "github.com/govirtiofs/govirtiofs/fuseproto"

// Prepare makes n, which is new, a node of the file with this key. It is not in the table
// yet, so no request finds it. The caller has the only hold on it. id is the number that
// Adopt will give it. If id is 0, the client has no number for the node, only for its
// children or open files. The recorder is not told of such a node.
func (t *Table[K, N]) Prepare(n *N, key K, id uint64) {
	b := base[K](n)
	b.id, b.key = id, key
	b.refs.Store(refHold)
}

// Adopted is the outcome of Adopt.
type Adopted int

const (
	AdoptedNot    Adopted = iota // the id is taken, or can't be one, or can't be recorded
	AdoptedAlone                 // it is the node of its file
	AdoptedDouble                // its file has another node: only the id leads to this one
)

// Adopt puts a node that Prepare has made in the table, before Settle, with a lookup count
// that is not 0 and its id. Ids whose slot is limit or more are refused: the sender of the
// ids decides where they are in the table, and each page of the table costs memory.
func (t *Table[K, N]) Adopt(n *N, limit uint32, lookups uint64) Adopted {
	b := base[K](n)
	if b.id == fp.RootID || lookups == 0 {
		return AdoptedNot
	}
	t.RestoreAll() // slots whose nodes are not made look free
	hash := t.hash(b.key)
	s := t.shardOf(hash)
	s.mu.Lock()
	ok := t.slots.put(b.id, limit, n, func() bool {
		if t.recorder != nil && !t.recorder.Added(nil, n, lookups) {
			return false
		}
		b.Hold() // the table's
		b.listed, b.lookups = true, lookups
		return true
	}, t.lost)
	what := AdoptedNot
	if ok {
		if t.find(s, hash, b.key) == nil {
			t.link(s, hash, b)
			what = AdoptedAlone
		} else {
			what = AdoptedDouble
			t.unkeyed(n)
		}
	}
	s.mu.Unlock()
	if ok {
		t.growHints(uint32(b.id))
	}
	return what
}

// Settle ends a series of Adopt. end and generations are those of the other table. Ids that
// are given out from then on are different from all that the other table has ever given
// out.
func (t *Table[K, N]) Settle(end, generations uint32) { t.slots.settle(end, generations) }

// End is one more than the largest slot, the lower half of an id, that was ever in use.
func (t *Table[K, N]) End() uint32 { return t.slots.end() }

// Generations is the largest generation, the upper half of an id, that was ever in use.
func (t *Table[K, N]) Generations() uint32 { return t.slots.generations() }
