package passthrough

import "sync"

// The table of nodes by identity. It is a hash table of lists whose links are slots
// (see slots): 4 bytes a list and 4 a node, none of which the garbage collector looks
// at. A map of Go's takes about 60 bytes a node.

// shardCount is a power of two; growing a shard with its lock held stays short.
const shardCount = 256

// shard is a part of the table.
type shard struct {
	mu    sync.Mutex
	heads []uint32 // slots of the first nodes; their number is a power of two
	count int
}

const minHeads = 8

// hash spreads keys, whose numbers mostly follow one another.
func (k *key) hash() uint64 {
	h := (k.ino ^ k.dev<<7 ^ k.mount<<13) * 0x9e3779b97f4a7c15
	return h ^ h>>32
}

func (fs *FS) shard(k key) *shard { return &fs.shards[k.hash()>>16%shardCount] }

// head is where the list of k begins.
func (s *shard) head(k *key) *uint32 { return &s.heads[k.hash()&uint64(len(s.heads)-1)] }

// find returns the node with an identity, or nil. s.mu is held, as for all that follows.
func (fs *FS) find(s *shard, k key) *inode {
	if s.count == 0 {
		return nil
	}
	for slot := *s.head(&k); slot != 0; {
		n := fs.nodes.at(slot)
		if n.key == k {
			return n
		}
		slot = n.next
	}
	return nil
}

// link puts a node in, which has its number already.
func (fs *FS) link(s *shard, n *inode) {
	if s.count == len(s.heads) {
		fs.grow(s)
	}
	s.count++
	head := s.head(&n.key)
	n.next, *head = *head, uint32(n.id)
}

// unlink takes a node out, which still has its number.
func (fs *FS) unlink(s *shard, n *inode) {
	n.stale = true
	s.count--
	at := s.head(&n.key)
	for *at != uint32(n.id) {
		at = &fs.nodes.at(*at).next
	}
	*at = n.next
}

// grow makes room for twice as many nodes.
func (fs *FS) grow(s *shard) {
	old := s.heads
	s.heads = make([]uint32, max(minHeads, 2*len(old)))
	for _, slot := range old {
		for slot != 0 {
			n := fs.nodes.at(slot)
			after := n.next
			head := s.head(&n.key)
			n.next, *head = *head, slot
			slot = after
		}
	}
}
