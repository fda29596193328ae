package nodes

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// file is a node of tests. Its key is a number, and born another file's that has it later.
type file struct {
	Node[uint64, file]
	born uint64
}

// ledger is a Recorder that keeps what it was told, by slot, and complains about what makes
// no sense.
type ledger struct {
	mu      sync.Mutex
	nodes   map[uint32]*entry
	strange []string
	full    bool // refuses what is added
	forged  bool // parents may be missing
}

type entry struct {
	id, key, born, lookups uint64
	parent                 uint32
	name, handle           string
	children               int
	unkeyed                bool
}

func newLedger() *ledger { return &ledger{nodes: map[uint32]*entry{}} }

// at is the entry of a node, which must be there.
func (l *ledger) at(n *file, what string) *entry { return l.byID(n.ID(), what) }

func (l *ledger) byID(id uint64, what string) *entry {
	e := l.nodes[uint32(id)]
	if e == nil || e.id != id {
		l.strange = append(l.strange, fmt.Sprintf("%s of %#x, which is not there: %+v", what, id, e))
		return &entry{}
	}
	return e
}

func (l *ledger) Added(_ *fuse.Cell, n *file, lookups uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		return false
	}
	slot := uint32(n.ID())
	if e := l.nodes[slot]; e != nil || lookups == 0 {
		l.strange = append(l.strange, fmt.Sprintf("%#x added with %d lookups to the slot of %+v", n.ID(), lookups, e))
	}
	l.nodes[slot] = &entry{id: n.ID(), key: n.Key(), born: n.born, lookups: lookups}
	l.place(n, l.nodes[slot])
	return true
}

func (l *ledger) Unkeyed(n *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.at(n, "key")
	if e.unkeyed {
		l.strange = append(l.strange, fmt.Sprintf("%#x has lost its key twice", n.ID()))
	}
	e.unkeyed = true
}

func (l *ledger) Granted(_ *fuse.Cell, id, lookups uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID(id, "count")
	if l.full {
		return false
	}
	if e.lookups == 0 || lookups <= e.lookups {
		l.strange = append(l.strange, fmt.Sprintf("%#x: count %d granted after %d", id, lookups, e.lookups))
	}
	e.lookups = lookups
	return true
}

func (l *ledger) Counted(_ *fuse.Cell, n *file, lookups uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.at(n, "count")
	if lookups == 0 || lookups >= e.lookups {
		l.strange = append(l.strange, fmt.Sprintf("%#x: count %d after %d", n.ID(), lookups, e.lookups))
	}
	e.lookups = lookups
}

func (l *ledger) Placed(n *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.place(n, l.at(n, "place"))
}

func (l *ledger) place(n *file, e *entry) {
	if e.parent != 0 {
		l.nodes[e.parent].children--
	}
	e.parent, e.name, e.handle = 0, "", string(n.FileHandle())
	if p := n.Parent(); p != nil {
		e.parent, e.name = uint32(p.ID()), n.Name().String()
		l.at(p, "parent").children++
	}
}

func (l *ledger) Forgotten(_ *fuse.Cell, n *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.at(n, "forget")
	if e.lookups == 0 {
		l.strange = append(l.strange, fmt.Sprintf("%#x forgotten twice", n.ID()))
	}
	e.lookups = 0
}

func (l *ledger) Gone(n *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.at(n, "end")
	if l.forged {
		delete(l.nodes, uint32(n.ID()))
		return
	}
	if e.lookups != 0 || e.children != 0 {
		l.strange = append(l.strange, fmt.Sprintf("%#x is gone, but has %+v", n.ID(), e))
	}
	if e.parent != 0 {
		l.nodes[e.parent].children--
	}
	delete(l.nodes, uint32(n.ID()))
}

// check compares the ledger with the table.
func (l *ledger) check(t *testing.T, table *Table[uint64, file]) {
	t.Helper()
	for _, s := range l.strange {
		t.Error(s)
	}
	known := 0
	for n := range table.All {
		known++
		e := l.nodes[uint32(n.ID())]
		if e == nil {
			t.Fatalf("%#x is not in the ledger", n.ID())
		}
		want := entry{id: n.ID(), key: n.Key(), born: n.born, lookups: table.Lookups(n), children: e.children, handle: string(n.FileHandle())}
		found := table.Find(nil, n.Key(), 0, nil)
		want.unkeyed = found != n
		if found != nil {
			table.Release(found)
		}
		if p := n.Parent(); p != nil {
			want.parent, want.name = uint32(p.ID()), n.Name().String()
		}
		if *e != want {
			t.Fatalf("the ledger has %+v, want %+v", *e, want)
		}
	}
	recorded := 0
	for _, e := range l.nodes {
		if e.lookups > 0 {
			recorded++
		}
	}
	if recorded != known {
		t.Fatalf("the ledger has %d nodes, want %d", recorded, known)
	}
}

// modelNode is what a node should be.
type modelNode struct {
	n             *file
	key, born     uint64
	lookups       uint64
	parent        *modelNode
	name, handle  string
	holds, claims int // of open files, and of requests
}

// model does what the table should do with maps.
type model struct {
	t      *testing.T
	random *rand.Rand
	table  *Table[uint64, file]
	ledger *ledger
	root   *modelNode
	byID   map[uint64]*modelNode // those that the client has
	byKey  map[uint64]*modelNode
	used   map[uint64]bool // ids that were ever given out
	all    map[*file]*modelNode
	gone   map[*file]int
	old    map[*modelNode]bool // those whose n is a node of a process that has died
}

const modelKeys = 200

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, random: rand.New(rand.NewPCG(seed, 7)), ledger: newLedger(), byID: map[uint64]*modelNode{},
		byKey: map[uint64]*modelNode{}, used: map[uint64]bool{}, all: map[*file]*modelNode{}, gone: map[*file]int{}}
	m.table = New[uint64, file](Config[uint64, file]{Recorder: m.ledger, Gone: func(n *file) { m.gone[n]++ }})
	m.root = m.intern(modelKeys, 0)
	if m.root.n.ID() != fp.RootID {
		t.Fatalf("the root's id is %d", m.root.n.ID())
	}
	return m
}

// intern looks a file up, as a request does; the reference is kept. It is nil if the recorder
// is full.
func (m *model) intern(key, born uint64) *modelNode {
	fresh := false
	m.ledger.full = len(m.byID) > 0 && m.random.IntN(20) == 0
	defer func() { m.ledger.full = false }()
	n := m.table.Intern(nil, key, func(n *file) bool { return n.born == born }, func() *file {
		fresh = true
		return &file{born: born}
	})
	known := m.renewBy(m.byKey[key], 2) // it may have lost the key
	if m.ledger.full {
		if n != nil {
			m.t.Fatalf("key %d is node %#x, which is not recorded", key, n.ID())
		}
		if known != nil && known.born != born {
			delete(m.byKey, key) // it is another file's now, whose node there was no room for
		}
		return nil
	}
	switch {
	case known != nil && known.born == born:
		if n != known.n || fresh {
			m.t.Fatalf("key %d is not node %#x", key, known.n.ID())
		}
		known.lookups++
		known.claims++
		return known
	case !fresh || m.used[n.ID()] || n.Key() != key:
		m.t.Fatalf("key %d is node %#x with key %d, new %v, used %v", key, n.ID(), n.Key(), fresh, m.used[n.ID()])
	}
	c := &modelNode{n: n, key: key, born: born, lookups: 1, claims: 1}
	m.used[n.ID()], m.byID[n.ID()], m.byKey[key], m.all[n] = true, c, c, c
	return c
}

func (m *model) pick() *modelNode {
	i := m.random.IntN(len(m.byID))
	for _, c := range m.byID {
		if i == 0 {
			return m.renew(c)
		}
		i--
	}
	return nil
}

func (m *model) release(c *modelNode) {
	c.claims--
	m.table.Release(c.n)
}

func (m *model) step() {
	switch op := m.random.IntN(12); op {
	case 0, 1, 2, 3:
		c := m.intern(m.random.Uint64N(modelKeys), m.random.Uint64N(3)/2)
		if c == nil {
			return
		}
		m.place(c)
		if m.random.IntN(4) > 0 {
			m.release(c)
		}
	case 4:
		key, more := m.random.Uint64N(modelKeys), m.random.Uint64N(3)
		n, c := m.table.Find(nil, key, more, nil), m.renew(m.byKey[key])
		if (n == nil) != (c == nil) || c != nil && c.n != n {
			m.t.Fatalf("key %d: found %v, want %v", key, n, c)
		}
		if c != nil {
			c.claims++
			c.lookups += more
			m.release(c)
		}
	case 5, 6, 7:
		m.forget(m.pick(), m.random.Uint64N(4))
	case 8:
		m.place(m.pick())
	case 9:
		c := m.pick()
		m.table.Displace(c.n)
		c.parent, c.name = nil, ""
	case 10:
		c := m.pick()
		c.handle = fmt.Sprint("handle", m.random.IntN(100))[:m.random.IntN(8)]
		c.n.Lock()
		m.table.SetFileHandle(c.n, []byte(c.handle))
		c.n.Unlock()
	case 11:
		for _, c := range m.all { // some request ends, some file is closed or opened
			m.renew(c)
			switch {
			case c.claims > 0 && c != m.root:
				m.release(c)
			case c.holds > 0:
				c.holds--
				m.table.Unhold(c.n)
			case m.byID[c.n.ID()] == c:
				c.holds++
				c.n.Hold()
			default:
				continue
			}
			break
		}
	}
}

func (m *model) place(c *modelNode) {
	parent := m.pick()
	for p := parent; p != nil; p = p.parent {
		if p == c {
			return // a circle would hold itself
		}
	}
	name := fmt.Sprint("n", m.random.IntN(9))
	first := m.table.Place(c.n, parent.n, fp.Name(name+"\x00"))
	if c == m.root {
		return
	}
	if first != (c.parent == nil) {
		m.t.Fatalf("node %#x had no place: %v", c.n.ID(), first)
	}
	c.parent, c.name = parent, name
	m.table.SetHint(parent.n, fp.Name(name+"\x00"), c.n)
	if n := m.table.Placed(parent.n, fp.Name(name+"\x00")); n != c.n {
		m.t.Fatalf("%q is not found", name)
	}
	m.table.Release(c.n)
}

func (m *model) forget(c *modelNode, lookups uint64) {
	n := m.table.Acquire(c.n.ID())
	if n != c.n {
		m.t.Fatalf("node %#x is not found", c.n.ID())
	}
	want := lookups > 0 && lookups >= c.lookups && c != m.root
	if got := m.table.Forget(nil, n, lookups); got != want {
		m.t.Fatalf("%d of %d lookups forgotten: %v", lookups, c.lookups, got)
	}
	if c != m.root {
		c.lookups -= min(lookups, c.lookups)
	}
	if want {
		delete(m.byID, n.ID())
		if m.byKey[c.key] == c {
			delete(m.byKey, c.key)
		}
		if m.table.Forget(nil, n, 1) {
			m.t.Fatal("forgotten twice")
		}
	}
	m.table.Release(n)
}

// alive is what something refers to.
func (m *model) alive() map[*modelNode]bool {
	alive := map[*modelNode]bool{}
	for _, c := range m.all {
		if c.lookups > 0 || c.claims > 0 || c.holds > 0 {
			for p := c; p != nil && !alive[p]; p = p.parent {
				alive[p] = true
			}
		}
	}
	return alive
}

// check compares everything. What nothing refers to must be gone, and nothing else.
func (m *model) check() {
	m.t.Helper()
	alive := m.alive()
	for n, c := range m.all {
		if gone := m.gone[n]; gone > 1 || alive[c] != (gone == 0) || n.Gone() != (gone == 1) {
			m.t.Fatalf("node %#x is gone %d times, alive %v: %+v", n.ID(), gone, alive[c], c)
		}
		if got := m.table.Get(n.ID()); (got == n) != (c.lookups > 0) || got != nil && got != n {
			m.t.Fatalf("node %#x with %d lookups: %p, want %p", n.ID(), c.lookups, got, n)
		}
		if m.table.Get(n.ID()+1<<32) == n {
			m.t.Fatalf("node %#x has another number", n.ID())
		}
		if !alive[c] {
			delete(m.all, n)
			continue
		}
		if got := m.table.Lookups(n); got != c.lookups {
			m.t.Fatalf("node %#x has %d lookups, want %d", n.ID(), got, c.lookups)
		}
		var parent *file
		if c.parent != nil {
			parent = c.parent.n
		}
		if name := n.Name(); n.Parent() != parent || name != nil && name.String() != c.name || string(n.FileHandle()) != c.handle {
			m.t.Fatalf("node %#x is %q with handle %q, want %+v", n.ID(), name, n.FileHandle(), c)
		}
	}
	m.ledger.check(m.t, m.table)
}

// TestModel compares the table, and what a recorder hears, with maps.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		m := newModel(t, seed)
		for i := range 6000 {
			m.step()
			if i%200 == 0 {
				m.check()
			}
		}
		m.check()
		for n, c := range m.all {
			for range c.claims {
				if c != m.root {
					m.release(c)
				}
			}
			for ; c.holds > 0; c.holds-- {
				m.table.Unhold(n)
			}
		}
		for _, c := range m.byID {
			m.forget(c, ^uint64(0))
		}
		m.check()
		if len(m.all) != 1 || len(m.ledger.nodes) != 1 || m.table.End() > 4*modelKeys {
			t.Errorf("seed %d: %d nodes are left, %d in the ledger, %d slots", seed, len(m.all), len(m.ledger.nodes), m.table.End())
		}
	}
}
