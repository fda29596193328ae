package nodes

import (
	"fmt"
	"hash/maphash"
	"reflect"
	"sync/atomic"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Table is the nodes of one file system, by id and by key. Its methods may be called from
// all threads. An idle table takes some 16 KiB.
type Table[K comparable, N any] struct {
	slots  slots[N]
	hash   func(K) uint64
	shards [shardCount]shard
	hints  atomic.Pointer[hintTable]

	restoring atomic.Pointer[restoring[K, N]] // nil if all nodes are made

	recorder Recorder[N]
	gone     func(*N)
}

// Config is what a table needs to know, all of which may be left out.
type Config[K comparable, N any] struct {
	// Hash spreads keys over all 64 bits. nil takes hash/maphash, which takes longer for
	// small keys, and has a seed: nobody can choose keys that all get into one list.
	Hash func(K) uint64
	// Gone is called when nothing refers to a node any more, with none of the table's locks
	// held. The node has its parent until it returns.
	Gone func(*N)
	// Recorder is told of every change.
	Recorder Recorder[N]
}

// New returns a table without nodes. N is a struct whose first field is an embedded
// Node[K, N]; New panics if it is not.
func New[K comparable, N any](c Config[K, N]) *Table[K, N] {
	mustBeginWith[N, Node[K, N]]()
	t := &Table[K, N]{hash: c.Hash, recorder: c.Recorder, gone: c.Gone}
	if t.hash == nil {
		seed := maphash.MakeSeed()
		t.hash = func(key K) uint64 { return maphash.Comparable(seed, key) }
	}
	hints := make(hintTable, minHints)
	t.hints.Store(&hints)
	return t
}

// StartAt has the ids of nodes that are added from now on begin in this generation, the upper half of an id. A
// client of another table then finds none of its nodes here, if that table has other generations. It has to be well
// below the largest one.
func (t *Table[K, N]) StartAt(generation uint32) { t.slots.startAt(generation) }

// mustBeginWith panics if the first field of T is not a B.
func mustBeginWith[T, B any]() {
	typ, part := reflect.TypeFor[T](), reflect.TypeFor[B]()
	if typ.Kind() != reflect.Struct || typ.NumField() == 0 || typ.Field(0).Type != part {
		panic(fmt.Sprintf("nodes: the first field of %v must be an embedded %v", typ, part))
	}
}

// Get is the node with an id, or nil. The caller has no reference on it: the node may be
// gone at any moment.
func (t *Table[K, N]) Get(id uint64) *N {
	if n := t.slots.get(id); n != nil && base[K](n).id == id {
		return n
	}
	return t.restoreID(id)
}

// HasNumber reports whether the client has a number for n, which it had, and has not forgotten it. It waits for
// nothing.
func (t *Table[K, N]) HasNumber(n *N) bool { return t.slots.get(base[K](n).id) == n }

// Acquire is Get that takes a reference for a request, which Release drops; nil when the
// client does not have the node, or no more.
func (t *Table[K, N]) Acquire(id uint64) *N {
	n := t.slots.get(id)
	if n == nil {
		if n = t.restoreID(id); n == nil {
			return nil
		}
	}
	if b := base[K](n); b.id != id || !b.Acquire() {
		return nil
	}
	return n
}

// Release drops a reference.
func (t *Table[K, N]) Release(n *N) {
	if base[K](n).refs.Add(-1) == 0 {
		t.drop(n)
	}
}

// Unhold ends what Hold began.
func (t *Table[K, N]) Unhold(n *N) {
	if base[K](n).refs.Add(-refHold) == 0 {
		t.drop(n)
	}
}

// EndExclusive ends what TryExclusive began.
func (t *Table[K, N]) EndExclusive(n *N) {
	if base[K](n).refs.Add(-refExclusive) == 0 { // the last hold went meanwhile
		t.drop(n)
	}
}

// drop frees what a node has that is gone. Chains of parents are freed in a loop: they
// may be as long as a hostile tree is deep.
func (t *Table[K, N]) drop(n *N) {
	for n != nil {
		if t.gone != nil {
			t.gone(n)
		}
		b := base[K](n)
		parent := b.parent
		b.parent = nil
		if b.listed {
			t.slots.release(uint32(b.id), n, func() { t.lost(n) })
		}
		if parent == nil || base[K](parent).refs.Add(-refHold) != 0 {
			return
		}
		n = parent
	}
}

// lost records that a node has no slot any more.
func (t *Table[K, N]) lost(n *N) {
	if t.recorder != nil {
		t.recorder.Gone(n)
	}
}

// Find finds a node by its key, adds lookups to its count and takes a reference; nil when
// there is none. same, which may be nil, is called with the node's shard locked, and says
// whether the node is still the file that is looked for: a key may be another file's in
// the course of time. by is the request that is told of the node, or nil; lookups is 0 or 1
// then.
func (t *Table[K, N]) Find(by *fuse.Cell, key K, lookups uint64, same func(*N) bool) *N {
	hash := t.hash(key)
	if t.restoring.Load() != nil {
		t.restoreKey(hash, key)
	}
	s := t.shardOf(hash)
	s.mu.Lock()
	n := t.find(s, hash, key)
	if n != nil && (same == nil || same(n)) && base[K](n).Acquire() {
		n = t.count(by, n, lookups)
	} else {
		n = nil
	}
	s.mu.Unlock()
	return n
}

// count adds to the lookup count of a node, on which the caller has a reference. It returns
// the node, or nil without the reference. The shard is locked.
func (t *Table[K, N]) count(by *fuse.Cell, n *N, lookups uint64) *N {
	if lookups == 0 {
		return n
	}
	b := base[K](n)
	if t.recorder != nil && !t.recorder.Granted(by, b.id, b.lookups+lookups) {
		b.refs.Add(-1) // the table holds it
		return nil
	}
	b.lookups += lookups
	return n
}

// Intern is Find that makes the node when there is none, with the lookup count 1: then it
// calls create, with the shard locked, for a node that is new. A node with this key that
// is not the same file has lost its key; its id goes on to be its own. nil is a table, or a
// recorder, that is full. A node that is found gets one lookup more. by is the request that is
// told of the node, or nil.
func (t *Table[K, N]) Intern(by *fuse.Cell, key K, same func(*N) bool, create func() *N) *N {
	hash := t.hash(key)
	if t.restoring.Load() != nil {
		t.restoreKey(hash, key)
	}
	s := t.shardOf(hash)
	s.mu.Lock()
	old := t.find(s, hash, key)
	if old != nil && (same == nil || same(old)) && base[K](old).Acquire() {
		old = t.count(by, old, 1)
		s.mu.Unlock()
		return old
	}
	if old != nil {
		t.unlink(s, hash, base[K](old))
		t.unkeyed(old)
	}
	n := create()
	b := base[K](n)
	b.key, b.lookups = key, 1
	b.refs.Store(refHold + 1)
	if !t.add(by, n) {
		s.mu.Unlock()
		if parent := b.parent; parent != nil { // see PlaceNew
			t.Unhold(parent)
		}
		return nil
	}
	t.link(s, hash, b)
	s.mu.Unlock()
	t.growHints(uint32(b.id))
	return n
}

// add gives a node an id; false when there is none left.
func (t *Table[K, N]) add(by *fuse.Cell, n *N) bool {
	return t.slots.add(n, func(id uint64) bool {
		b := base[K](n)
		b.id, b.listed = id, true
		return t.recorder == nil || t.recorder.Added(by, n, b.lookups)
	}) != 0
}

// unkeyed records that a node is in no list any more. The shard is locked.
func (t *Table[K, N]) unkeyed(n *N) {
	if t.recorder != nil {
		t.recorder.Unkeyed(n)
	}
}

// Unkey ends that a node is found by its key: its file is gone, and another one may have the key. Its id
// goes on to be its own.
func (t *Table[K, N]) Unkey(n *N) {
	b := base[K](n)
	hash := t.hash(b.key)
	s := t.shardOf(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.linked {
		t.unlink(s, hash, b)
		t.unkeyed(n)
	}
}

// Forget takes lookups off the count; at 0 the client has forgotten the node, and Forget
// returns true. Counts that were never given out do no harm. The root is never forgotten.
// The caller has a reference. by is the request that forgets them, or that takes back what it
// was given last; it may be nil.
func (t *Table[K, N]) Forget(by *fuse.Cell, n *N, lookups uint64) (forgotten bool) {
	b := base[K](n)
	if b.id == fp.RootID || lookups == 0 {
		return false
	}
	hash := t.hash(b.key)
	s := t.shardOf(hash)
	s.mu.Lock()
	if b.lookups <= lookups {
		forgotten = b.lookups != 0
		if forgotten {
			t.forget(by, s, hash, n)
		}
		s.mu.Unlock()
		if forgotten {
			t.Unhold(n)
		}
		return forgotten
	}
	b.lookups -= lookups
	if t.recorder != nil {
		t.recorder.Counted(by, n, b.lookups)
	}
	s.mu.Unlock()
	return false
}

// forget ends a node's id. The shard is locked.
func (t *Table[K, N]) forget(by *fuse.Cell, s *shard, hash uint64, n *N) {
	b := base[K](n)
	b.lookups = 0
	if b.linked {
		t.unlink(s, hash, b)
	}
	t.slots.retire(b.id)
	if t.recorder != nil {
		t.recorder.Forgotten(by, n)
	}
}

// Lookups is the client's lookup count of a node; 0 when it has forgotten the node.
func (t *Table[K, N]) Lookups(n *N) uint64 {
	b := base[K](n)
	s := t.shardOf(t.hash(b.key))
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.lookups
}

// All yields the nodes that the client has, each with a reference that ends after yield.
// Nodes may come and go meanwhile.
func (t *Table[K, N]) All(yield func(*N) bool) {
	t.RestoreAll()
	for id := range t.slots.all {
		n := t.Acquire(id)
		if n == nil {
			continue
		}
		more := yield(n)
		t.Release(n)
		if !more {
			return
		}
	}
}

// Grant adds one to the lookup count of a node that the client has; false if it has forgotten it, or
// if the recorder is full. The caller has a reference. by is the request that the client is told by,
// or nil.
func (t *Table[K, N]) Grant(by *fuse.Cell, n *N) bool {
	b := base[K](n)
	s := t.shardOf(t.hash(b.key))
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.lookups == 0 && b.id != fp.RootID {
		return false
	}
	if t.recorder != nil && !t.recorder.Granted(by, b.id, b.lookups+1) {
		return false
	}
	b.lookups++
	return true
}
