package nodes

import "sync"

// The table of nodes by key is a hash table of lists whose links are slots: 4 bytes a list
// and 4 a node, none of which the garbage collector scans. A map of Go's takes about 60
// bytes a node.

// shardCount is a power of two; growing a shard with its lock held stays short.
const shardCount = 256

// shard is a part of the table.
type shard struct {
	mu    sync.Mutex
	heads []uint32 // slots of the first nodes; their number is a power of two
	count int
}

const minHeads = 8

// shardOf is the shard of a key with this hash.
func (t *Table[K, N]) shardOf(hash uint64) *shard { return &t.shards[hash>>56%shardCount] }

// head is where the list of a key with this hash begins. s.mu is held, also for the
// functions that follow.
func (s *shard) head(hash uint64) *uint32 { return &s.heads[hash&uint64(len(s.heads)-1)] }

// find returns the node with a key, or nil.
func (t *Table[K, N]) find(s *shard, hash uint64, key K) *N {
	if s.count == 0 {
		return nil
	}
	for slot := *s.head(hash); slot != 0; {
		n := t.slots.at(slot)
		b := base[K](n)
		if b.key == key {
			return n
		}
		slot = b.next
	}
	return nil
}

// link adds a node, which has its number already.
func (t *Table[K, N]) link(s *shard, hash uint64, n *Node[K, N]) {
	if s.count == len(s.heads) {
		t.grow(s)
	}
	s.count++
	head := s.head(hash)
	n.linked, n.next, *head = true, *head, uint32(n.id)
}

// unlink removes a node, which still has its slot.
func (t *Table[K, N]) unlink(s *shard, hash uint64, n *Node[K, N]) {
	n.linked = false
	s.count--
	at := s.head(hash)
	for *at != uint32(n.id) {
		at = &base[K](t.slots.at(*at)).next
	}
	*at = n.next
}

// grow makes room for twice as many nodes.
func (t *Table[K, N]) grow(s *shard) {
	old := s.heads
	s.heads = make([]uint32, max(minHeads, 2*len(old)))
	for _, slot := range old {
		for slot != 0 {
			n := base[K](t.slots.at(slot))
			after := n.next
			head := s.head(t.hash(n.key))
			n.next, *head = *head, slot
			slot = after
		}
	}
}
