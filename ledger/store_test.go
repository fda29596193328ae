package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
)

// file is a node of tests, and what is recorded of it.
type file struct {
	nodes.Node[Identity, file]
}

func (f *file) Identity() Identity { return f.Key() }

// opened is an open file of tests.
type opened struct {
	nodes.OpenFile
	node  *file
	flags uint32
}

func (o *opened) Recorded() (node, flags uint32) { return uint32(o.node.ID()), o.flags }

// share is a process with its tables.
type share struct {
	ledger *Ledger
	store  *Store
	nodes  *nodes.Table[Identity, file]
	opens  *nodes.OpenFiles[opened]
	root   *file
}

func idOf(ino uint64) Identity { return Identity{Ino: ino, Dev: 7, Mount: 3, BirthSec: -1, Kind: 8} }

// begin makes the tables of a process, and fills them from the ledger as a successor does.
func begin(t testing.TB, l *Ledger) *share {
	t.Helper()
	store, err := l.Store()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.GiveBackAll(); err != nil {
		t.Fatal(err)
	}
	s := &share{ledger: l, store: store}
	s.opens = nodes.NewOpenFiles(nodes.OpenConfig[opened]{Recorder: OpenRecorder[opened, *opened]{store},
		Gone: func(o *opened) { s.nodes.Unhold(o.node) }})
	s.nodes = nodes.New(nodes.Config[Identity, file]{Recorder: NodeRecorder[file, *file]{store},
		Hash: func(i Identity) uint64 { return i.Ino * 0x9e3779b97f4a7c15 }})
	s.root = s.nodes.Intern(nil, idOf(0), nil, func() *file { return new(file) })
	s.restore(t)
	return s
}

// left implements nodes.Left.
type left struct {
	*Store
	read func(slot uint32) *Node
}

func (l left) Keys(yield func(*nodes.LeftKey[Identity])) {
	l.Store.Keys(func(k *NodeKey) {
		yield(&nodes.LeftKey[Identity]{ID: k.ID, Key: k.Identity, Found: k.Found, Parent: k.Parent, Name: k.Name})
	})
}

func (l left) IsDir(*file) bool { return true }

func (l left) Make(slot uint32) (*file, nodes.LeftNode) {
	n := l.read(slot)
	if n == nil {
		return nil, nodes.LeftNode{}
	}
	return new(file), nodes.LeftNode{ID: n.ID, Lookups: n.Lookups, Unkeyed: n.Unkeyed, Parent: n.Parent, Name: n.Name, FileHandle: n.FileHandle}
}

func (s *share) restore(t testing.TB) {
	s.nodes.Restore(left{s.store, s.store.Reader()}, s.store.NumNodes(), s.store.NodeEnd(), s.store.NodeGenerations())
	for o := range s.store.Opens {
		f := &opened{node: s.nodes.Restored(o.Node), flags: o.Flags}
		f.node.Hold()
		if !s.opens.Restore(f, o.ID) {
			t.Fatalf("open file %#x is not restored", o.ID)
		}
	}
	s.nodes.RestoreAll()
	s.opens.EndRestore(s.store.OpenEnd(), s.store.OpenGenerations())
}

// lines is all that a process knows, or all that a ledger says.
func (s *share) lines() (list []string) {
	for n := range s.nodes.All {
		parent, name := uint64(0), ""
		if p := n.Parent(); p != nil {
			parent, name = p.ID(), n.Name().String()
		}
		list = append(list, fmt.Sprintf("node %#x %d %v %d %q %x", n.ID(), s.nodes.Lookups(n), n.Identity(), uint32(parent), name, n.FileHandle()))
	}
	for f := range s.opens.All {
		list = append(list, fmt.Sprintf("open %#x %#x %d", f.ID(), f.node.ID(), f.flags))
	}
	slices.Sort(list)
	return list
}

func ledgerLines(s *Store) (list []string) {
	nodes := map[uint32]uint64{}
	for n := range s.Nodes {
		nodes[uint32(n.ID)] = n.ID
		if n.Lookups > 0 {
			list = append(list, fmt.Sprintf("node %#x %d %v %d %q %x", n.ID, n.Lookups, n.Identity, n.Parent, strings.TrimSuffix(string(n.Name), "\x00"), n.FileHandle))
		}
	}
	for o := range s.Opens {
		list = append(list, fmt.Sprintf("open %#x %#x %d", o.ID, nodes[o.Node], o.Flags))
	}
	slices.Sort(list)
	return list
}

func (s *share) check(t *testing.T, what string) {
	t.Helper()
	compare(t, what, ledgerLines(s.store), s.lines())
	for n := range s.nodes.All {
		s.checkWay(t, what, n)
	}
}

// checkWay compares the names that lead to a node.
func (s *share) checkWay(t *testing.T, what string, n *file) {
	t.Helper()
	const most = 1000
	var want []string
	top := n
	for p := n.Parent(); p != nil && len(want) <= most; top, p = p, p.Parent() {
		want = append(want, top.Name().String())
	}
	slices.Reverse(want)
	names, ok := s.store.Names(uint32(n.ID()), most)
	if known := top == s.root && len(want) <= most; ok != known {
		t.Fatalf("%s: names of node %#x: %v, want %v", what, n.ID(), ok, known)
	}
	for i, name := range names {
		if i >= len(want) || name.String() != want[i] {
			t.Fatalf("%s: names of node %#x: %q, want %q", what, n.ID(), names, want)
		}
	}
	if ok && len(names) != len(want) {
		t.Fatalf("%s: names of node %#x: %q, want %q", what, n.ID(), names, want)
	}
	if len(names) > 0 {
		if _, ok := s.store.Names(uint32(n.ID()), len(names)-1); ok {
			t.Fatalf("%s: more names of node %#x than asked for", what, n.ID())
		}
	}
}

// withoutRoot leaves out the root, which each process makes anew.
func withoutRoot(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "node 0x1 ") })
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing %s", what, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: there is %s", what, line)
		}
	}
	t.FailNow()
}

// step does something with a few files, for the request by.
func (s *share) step(random *rand.Rand, by *fuse.Cell) {
	pick := func() *file {
		for {
			if n := s.nodes.Find(nil, idOf(random.Uint64N(60)), 0, nil); n != nil {
				return n
			}
		}
	}
	n := pick()
	defer s.nodes.Release(n)
	switch random.IntN(8) {
	case 0, 1, 2:
		m := s.nodes.Intern(by, idOf(random.Uint64N(60)), func(*file) bool { return random.IntN(20) > 0 }, func() *file { return new(file) })
		defer s.nodes.Release(m)
		for p := n; p != nil; p = p.Parent() {
			if p == m {
				return
			}
		}
		name := strings.Repeat("n", 1+random.IntN(255>>random.IntN(6)))
		s.nodes.Place(m, n, fp.Name(name+"\x00"))
	case 3:
		s.nodes.Forget(nil, n, 1+random.Uint64N(3))
	case 4:
		if n != s.root {
			s.nodes.Displace(n)
		}
	case 5:
		n.Lock()
		s.nodes.SetFileHandle(n, make([]byte, random.IntN(nodes.MaxFileHandle>>random.IntN(6))))
		n.Unlock()
	case 6:
		n.Hold()
		s.opens.Add(by, &opened{node: n, flags: random.Uint32()})
	case 7:
		for f := range s.opens.All {
			if random.IntN(3) == 0 {
				s.opens.Close(f)
				break
			}
		}
	}
}

// TestStore: the ledger of a process says what the process knows, and a successor that fills its
// tables from it knows the same, generation after generation. Numbers are not used twice.
func TestStore(t *testing.T) {
	l := create(t)
	random := rand.New(rand.NewPCG(1, 1))
	s := begin(t, l)
	for generation := range 20 {
		for i := range 500 {
			s.step(random, nil)
			if i%100 == 0 {
				s.check(t, fmt.Sprint("step ", i))
			}
		}
		s.check(t, "at the end")
		next := begin(t, successor(t, l))
		compare(t, fmt.Sprint("generation ", generation), withoutRoot(next.lines()), withoutRoot(s.lines()))
		next.check(t, "a successor's")
		s, l = next, next.ledger
	}
}
