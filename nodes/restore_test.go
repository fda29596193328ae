package nodes

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// testLeft is what a process has left in a ledger. It notes which nodes are made.
type testLeft struct {
	ledger *ledger
	made   map[uint32]int
	file   func(slot uint32) bool // which are no directories; nil is none
	making func()                 // called by Make; nil is nothing
}

func (l *testLeft) Keys(yield func(*LeftKey[uint64])) {
	for slot, e := range l.ledger.nodes {
		if slot == uint32(fp.RootID) {
			continue
		}
		k := LeftKey[uint64]{ID: e.id, Key: e.key, Found: e.lookups > 0 && !e.unkeyed, Name: []byte(e.name)}
		if p := l.ledger.nodes[e.parent]; p != nil {
			k.Parent = p.id
		}
		yield(&k)
	}
}

func (l *testLeft) Key(slot uint32) uint64 {
	l.ledger.mu.Lock()
	defer l.ledger.mu.Unlock()
	return l.ledger.nodes[slot].key
}

func (l *testLeft) Make(slot uint32) (*file, LeftNode) {
	if l.making != nil {
		l.making()
	}
	l.ledger.mu.Lock()
	defer l.ledger.mu.Unlock()
	if l.made == nil {
		l.made = map[uint32]int{}
	}
	l.made[slot]++
	e := l.ledger.nodes[slot]
	rec := LeftNode{ID: e.id, Lookups: e.lookups, Unkeyed: e.unkeyed, Parent: e.parent, FileHandle: []byte(e.handle)}
	if e.name != "" {
		rec.Name = fp.Name(e.name + "\x00")
	}
	return &file{born: e.born}, rec
}

func (l *testLeft) IsDir(n *file) bool { return l.file == nil || !l.file(uint32(n.ID())) }

// die has another process, with another table, take over. Requests and open files end with the process.
func (m *model) die() *testLeft {
	end, generations := m.table.End(), m.table.Generations()
	m.gone, m.old = map[*file]int{}, map[*modelNode]bool{}
	for _, c := range m.all {
		c.claims, c.holds = 0, 0
	}
	alive := m.alive()
	for n, c := range m.all {
		if !alive[c] {
			delete(m.all, n)
		} else if c != m.root {
			m.old[c] = true
		}
	}
	m.table = New[uint64, file](Config[uint64, file]{Recorder: m.ledger, Gone: func(n *file) { m.gone[n]++ }})
	children := m.ledger.nodes[uint32(fp.RootID)].children
	delete(m.ledger.nodes, uint32(fp.RootID)) // each process begins with it
	delete(m.all, m.root.n)
	m.root.n = m.table.Intern(nil, modelKeys, nil, func() *file { return new(file) })
	m.ledger.nodes[uint32(fp.RootID)].children = children
	m.root.lookups, m.root.claims, m.root.handle, m.all[m.root.n] = 1, 1, "", m.root
	left := &testLeft{ledger: m.ledger}
	m.table.Restore(left, len(m.ledger.nodes), end, generations)
	return left
}

// renew has c be the node of this process, by one of the ways to it.
func (m *model) renew(c *modelNode) *modelNode { return m.renewBy(c, m.random.IntN(3)) }

// renewBy is renew by the id (0), by the key (1), or by the slot.
func (m *model) renewBy(c *modelNode, how int) *modelNode {
	if c == nil || !m.old[c] {
		return c
	}
	delete(m.old, c)
	if c.lookups == 0 && !m.alive()[c] {
		delete(m.all, c.n)
		return c // what needed it has gone meanwhile
	}
	delete(m.all, c.n)
	var n *file
	if how == 0 && c.lookups > 0 {
		if n = m.table.Acquire(c.n.ID()); n != nil {
			m.table.Release(n)
		}
	} else if how == 1 && m.byKey[c.key] == c {
		if n = m.table.Find(nil, c.key, 0, nil); n != nil {
			m.table.Release(n)
		}
	} else {
		n = m.table.Restored(uint32(c.n.ID()))
	}
	if n == nil || n.ID() != c.n.ID() || n.Key() != c.key || n.born != c.born {
		m.t.Fatalf("node %#x of key %d is %+v", c.n.ID(), c.key, n)
	}
	c.n, m.all[n] = n, c
	return c
}

// TestRestore compares a table that takes over again and again, also before all nodes are made, with maps.
func TestRestore(t *testing.T) {
	for seed := range uint64(4) {
		m := newModel(t, seed)
		for range 20 {
			for range m.random.IntN(300) {
				m.step()
			}
			left := m.die()
			if len(left.made) != 0 {
				t.Fatalf("%d nodes are made at once", len(left.made))
			}
			for range m.random.IntN(100) {
				m.step()
			}
			if m.random.IntN(2) == 0 {
				continue // with a death
			}
			m.table.RestoreAll()
			for _, c := range slices.Collect(maps.Values(m.all)) {
				m.renew(c)
			}
			m.check()
			if len(m.ledger.nodes) != len(m.all) {
				t.Fatalf("%d nodes are in the ledger, want %d", len(m.ledger.nodes), len(m.all))
			}
			for slot, n := range left.made {
				if n != 1 {
					t.Fatalf("the node in slot %d was made %d times", slot, n)
				}
			}
		}
	}
}

// restored is a table with these nodes of another process. Slots from 100 on are files.
func restored(t *testing.T, entries ...entry) (*Table[uint64, file], *testLeft) {
	t.Helper()
	l := newLedger()
	table := New[uint64, file](Config[uint64, file]{Recorder: l})
	table.Intern(nil, 0, nil, func() *file { return new(file) })
	for _, e := range entries {
		l.nodes[uint32(e.id)] = &e
		if p := l.nodes[e.parent]; p != nil {
			p.children++
		}
	}
	left := &testLeft{ledger: l, file: func(slot uint32) bool { return slot >= 100 }}
	table.Restore(left, len(l.nodes), 200, 0)
	return table, left
}

// TestRestoreLittle: a request has those nodes made that it needs, and no others.
func TestRestoreLittle(t *testing.T) {
	for what, use := range map[string]struct {
		f    func(*Table[uint64, file]) *file
		want []uint32
	}{
		"by its id":  {func(table *Table[uint64, file]) *file { return table.Acquire(101) }, []uint32{2, 3, 101}},
		"by its key": {func(table *Table[uint64, file]) *file { return table.Find(nil, 1101, 1, nil) }, []uint32{2, 3, 101}},
		"by its name": {func(table *Table[uint64, file]) *file {
			return table.Placed(table.Get(3), fp.Name("f\x00"))
		}, []uint32{2, 3, 101}},
		"anew": {func(table *Table[uint64, file]) *file { return intern(table, 1101) }, []uint32{2, 3, 101}},
		"a new one": {func(table *Table[uint64, file]) *file {
			n := intern(table, 5000)
			if slot := uint32(n.ID()); slot == 2 || slot == 3 || slot == 4 || slot >= 101 && slot <= 102 {
				t.Errorf("a new node has slot %d of another", slot)
			}
			return n
		}, nil},
		"none": {func(table *Table[uint64, file]) *file {
			if table.Get(50) != nil || table.Get(101+1<<32) != nil || table.Find(nil, 5000, 0, nil) != nil {
				t.Error("there is a node that nobody has left")
			}
			return nil
		}, []uint32{2, 3, 101}},
	} {
		table, left := restored(t, entry{id: 2, key: 1002, lookups: 1, parent: 1, name: "a"}, entry{id: 3, key: 1003, lookups: 1, parent: 2, name: "b"},
			entry{id: 4, key: 1004, lookups: 1, parent: 1, name: "c"}, entry{id: 101, key: 1101, lookups: 1, parent: 3, name: "f"},
			entry{id: 102, key: 1102, lookups: 1, parent: 3, name: "g"})
		if n := use.f(table); n != nil {
			table.Release(n)
		}
		made := slices.Sorted(maps.Keys(left.made))
		if !slices.Equal(made, use.want) {
			t.Errorf("%s: %v are made, want %v", what, made, use.want)
		}
		table.RestoreAll()
		left.ledger.check(t, table)
	}
}

// TestRestoreForgotten: a directory that the client forgets before the nodes below it are made stays until then.
func TestRestoreForgotten(t *testing.T) {
	table, left := restored(t, entry{id: 2, key: 1002, lookups: 1, parent: 1, name: "a"}, entry{id: 3, key: 1003, parent: 2, name: "b"},
		entry{id: 4, key: 1004, parent: 1, name: "nobody needs it"}, entry{id: 101, key: 1101, lookups: 1, parent: 3, name: "f"})
	dir := table.Acquire(2)
	table.Forget(nil, dir, 1)
	table.Release(dir)
	if table.Get(2) != nil || table.Get(3) != nil || table.Get(4) != nil {
		t.Error("the client has a node that it has forgotten")
	}
	f := table.Acquire(101)
	if f.Parent().ID() != 3 || f.Parent().Parent() != dir {
		t.Errorf("the file is in %+v", f.Parent())
	}
	table.RestoreAll()
	left.ledger.check(t, table)
	if got := slices.Sorted(maps.Keys(left.ledger.nodes)); !slices.Equal(got, []uint32{1, 2, 3, 101}) {
		t.Errorf("the ledger has %v", got)
	}
	table.Forget(nil, f, 1)
	table.Release(f)
	if len(left.ledger.nodes) != 1 {
		t.Errorf("the ledger has %d nodes in the end", len(left.ledger.nodes))
	}
}

// TestRestoreEmpty: a directory in which nothing is left is gone as soon as the client has forgotten it, and with it its descriptor: if
// it was removed, that keeps its inode on the host.
func TestRestoreEmpty(t *testing.T) {
	table, left := restored(t, entry{id: 2, key: 1002, lookups: 1, parent: 1, name: "a"}, entry{id: 101, key: 1101, lookups: 1, parent: 1, name: "f"})
	dir := table.Acquire(2)
	table.Forget(nil, dir, 1)
	table.Release(dir)
	if got := slices.Sorted(maps.Keys(left.ledger.nodes)); !slices.Equal(got, []uint32{1, 101}) {
		t.Errorf("the ledger has %v", got)
	}
	table.RestoreAll()
	left.ledger.check(t, table)
}

// TestRestoreExclusive: nodes in a directory are made while another thread has the directory exclusively, and that thread finds
// out meanwhile whether the client has forgotten it: neither waits for the other.
func TestRestoreExclusive(t *testing.T) {
	table, left := restored(t, entry{id: 2, key: 1002, lookups: 1, parent: 1, name: "a"}, entry{id: 101, key: 1101, lookups: 1, parent: 2, name: "f"},
		entry{id: 3, key: 1003, lookups: 1, parent: 1, name: "b"})
	dir, other := table.Get(2), table.Get(3)
	forget := table.Acquire(2)
	table.Forget(nil, forget, 1)
	table.Release(forget)
	if !dir.TryExclusive() {
		t.Fatal("a request uses the directory")
	}
	making, looked, made := make(chan struct{}), make(chan struct{}), make(chan struct{})
	left.making = func() {
		close(making)
		<-looked
	}
	go func() {
		defer close(made)
		if f := table.Get(101); f == nil || f.Parent() != dir {
			t.Errorf("the file is %+v", f)
		}
	}()
	wait := func(c chan struct{}, what string) {
		select {
		case <-c:
		case <-time.After(30 * time.Second):
			t.Fatal(what)
		}
	}
	wait(making, "the file is not made")
	go func() {
		if table.HasNumber(dir) || !table.HasNumber(other) {
			t.Error("it is not known which directory the client has forgotten")
		}
		close(looked)
	}()
	wait(looked, "the thread that has the directory waits for the one that makes the file")
	wait(made, "the thread that makes the file waits for the one that has the directory")
	table.EndExclusive(dir)
	table.RestoreAll()
	left.ledger.check(t, table)
}

// TestRestoreForged: what a forged ledger says harms nobody.
func TestRestoreForged(t *testing.T) {
	entries := []entry{
		{id: 10, key: 1, lookups: 1, parent: 11, name: "circle"}, {id: 11, key: 2, lookups: 1, parent: 12, name: "circle"},
		{id: 12, key: 3, lookups: 1, parent: 10, name: "circle"},
		{id: 13, key: 4, lookups: 1, parent: 13, name: "itself"},
		{id: 14, key: 5, lookups: 1, parent: 77, name: "nowhere"},
		{id: 15, key: 6, lookups: 1, parent: 100, name: "in a file"}, {id: 100, key: 7, lookups: 1, parent: 1, name: "file"},
		{id: 16, key: 8, lookups: 1, parent: 1, name: "twice"}, {id: 17, key: 8, lookups: 2, parent: 1, name: "twice"},
		{id: 18, key: 9, lookups: 1, parent: 1 << 31, name: "far"},
		{id: 5000, key: 10, lookups: 1, parent: 1, name: "behind the end"},
	}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 5))
		table, left := restored(t, entries...)
		left.ledger.forged = true
		for _, i := range random.Perm(len(entries)) {
			e := entries[i]
			if n := table.Get(e.id); (n == nil) != (e.id == 5000) || n != nil && (n.ID() != e.id || n.Key() != e.key) {
				t.Errorf("node %d is %+v", e.id, n)
			}
			if n := table.Find(nil, e.key, 0, nil); n == nil && e.id != 5000 {
				t.Errorf("node %d is not found", e.id)
			} else if n != nil {
				table.Release(n)
			}
		}
		table.RestoreAll()
		found := table.Find(nil, 8, 0, nil)
		for n := range table.All {
			depth := 0
			for p := n; p != nil; p = p.Parent() {
				if depth++; depth > len(entries) {
					t.Fatal("places go round in a circle")
				}
			}
			if n.Key() == 8 && n != found && !left.ledger.nodes[uint32(n.ID())].unkeyed {
				t.Errorf("two nodes are found by one key")
			}
			if p := n.Parent(); p != nil && p.ID() >= 100 {
				t.Errorf("%#x is in a file", n.ID())
			}
			table.Forget(nil, n, ^uint64(0))
		}
		table.Release(found)
		for n := range table.All {
			if n.ID() != fp.RootID {
				t.Errorf("%#x is left", n.ID())
			}
		}
	}
}

// TestRestoreThreads lets threads use and forget nodes while others have them made: each is made once and gone
// once, and in the end nothing is left.
func TestRestoreThreads(t *testing.T) {
	const count, threads = 2000, 4
	l := newLedger()
	var mu sync.Mutex
	gone := map[*file]int{}
	table := New[uint64, file](Config[uint64, file]{Recorder: l, Gone: func(n *file) {
		mu.Lock()
		defer mu.Unlock()
		gone[n]++
	}})
	table.Intern(nil, 0, nil, func() *file { return new(file) })
	for i := range uint64(count) { // directories and files in each other
		parent := uint32(1)
		if i > 10 {
			parent = uint32(2 + i*7%(i/2))
		}
		l.nodes[uint32(i+2)] = &entry{id: i + 2, key: i + 10, lookups: threads, parent: parent, name: fmt.Sprint(i)}
	}
	for _, e := range l.nodes {
		if e.parent != 0 {
			l.nodes[e.parent].children++
		}
	}
	left := &testLeft{ledger: l}
	table.Restore(left, count, count+2, 0)
	var wg sync.WaitGroup
	wg.Go(table.RestoreAll)
	wg.Go(table.RestoreAll)
	for thread := range uint64(threads) {
		random := rand.New(rand.NewPCG(thread, 3))
		wg.Go(func() {
			for _, i := range random.Perm(count) {
				id, key := uint64(i+2), uint64(i+10)
				n := table.Find(nil, key, 1, nil)
				if n == nil || n.ID() != id {
					t.Errorf("key %d is %+v", key, n)
					continue
				}
				again := table.Acquire(id)
				if again != n {
					t.Errorf("node %#x is %+v", id, again)
				}
				table.Forget(nil, n, 2)
				table.Release(n)
				table.Release(again)
				if other := intern(table, 1_000_000+random.Uint64N(100)); other != nil {
					table.Forget(nil, other, 1)
					table.Release(other)
				}
			}
		})
	}
	wg.Wait()
	for slot, n := range left.made {
		if n != 1 {
			t.Errorf("the node in slot %d was made %d times", slot, n)
		}
	}
	if len(left.made) != count {
		t.Errorf("%d nodes were made, want %d", len(left.made), count)
	}
	for n, times := range gone {
		if times != 1 {
			t.Errorf("%#x is gone %d times", n.ID(), times)
		}
	}
	l.check(t, table)
	if len(l.nodes) != 1 {
		t.Errorf("%d nodes are left in the ledger", len(l.nodes))
	}
}

// TestRestoreCollisions: a forged ledger in which most nodes have one key, or keys of one hash, costs Restore no more than so many probes for
// each of them. With one key each node is there by its number, and one of them by the key.
func TestRestoreCollisions(t *testing.T) {
	const count = 20_000
	for what, key := range map[string]func(i uint64) uint64{
		"one key":  func(uint64) uint64 { return 1 << 32 },
		"one hash": func(i uint64) uint64 { return i << 32 },
	} {
		l := newLedger()
		table := New[uint64, file](Config[uint64, file]{Recorder: l, Hash: func(k uint64) uint64 { return uint64(uint32(k)) }})
		table.Intern(nil, 0, nil, func() *file { return new(file) })
		for i := uint64(2); i < count; i++ {
			l.nodes[uint32(i)] = &entry{id: i, key: key(i), lookups: 1, parent: 1, name: fmt.Sprint(i)}
			l.nodes[1].children++
		}
		table.Restore(&testLeft{ledger: l}, count, count, 0)
		if probes := table.restoring.Load().probes; probes > (mostProbes+1)*(count+1) {
			t.Errorf("%s: %d places were looked at for %d nodes", what, probes, count)
		}
		if what != "one key" {
			continue
		}
		for i := uint64(2); i < count; i++ {
			n := table.Acquire(i)
			if n == nil || n.ID() != i || n.Key() != key(i) {
				t.Fatalf("node %d is %+v", i, n)
			}
			table.Release(n)
		}
		n := table.Find(nil, key(2), 0, nil)
		if n == nil {
			t.Fatal("no node has the key")
		}
		table.Release(n)
		table.RestoreAll()
	}
}
