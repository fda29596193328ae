package nodes

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func newTable(t testing.TB) (*Table[uint64, file], *file) {
	t.Helper()
	table := New[uint64, file](Config[uint64, file]{})
	return table, table.Intern(nil, 0, nil, func() *file { return new(file) })
}

func intern(table *Table[uint64, file], key uint64) *file {
	return table.Intern(nil, key, nil, func() *file { return new(file) })
}

// TestNew: a type that does not begin with what the table casts it to is refused.
func TestNew(t *testing.T) {
	type late struct {
		_ uint64
		Node[uint64, file]
	}
	for what, f := range map[string]func(){
		"no struct":                    func() { New[uint64, int](Config[uint64, int]{}) },
		"empty":                        func() { New[uint64, struct{}](Config[uint64, struct{}]{}) },
		"the node is not its first":    func() { New[uint64, late](Config[uint64, late]{}) },
		"node with another key":        func() { New[string, file](Config[string, file]{}) },
		"open file that is not one":    func() { NewOpenFiles[file](OpenConfig[file]{}) },
		"open file that is no struct":  func() { NewOpenFiles[uint64](OpenConfig[uint64]{}) },
		"open file behind a reference": func() { NewOpenFiles[struct{ *OpenFile }](OpenConfig[struct{ *OpenFile }]{}) },
	} {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "must be an embedded nodes.") {
					t.Errorf("%s: %v", what, r)
				}
			}()
			f()
		}()
	}
}

// TestAllocations: what happens for each request costs no memory.
func TestAllocations(t *testing.T) {
	table, root := newTable(t)
	n := intern(table, 7)
	table.Find(nil, 7, 1000, nil) // more than is forgotten below
	name := fp.Name("name\x00")
	table.Place(n, root, name)
	table.SetHint(root, name, n)
	born := uint64(0)
	files := NewOpenFiles[open](OpenConfig[open]{})
	f := new(open)
	fh := files.Add(nil, f)
	for what, f := range map[string]func(){
		"a request": func() { table.Release(table.Acquire(n.ID())) },
		"a lookup": func() {
			m := table.Find(nil, 7, 1, func(n *file) bool { return n.born == born })
			table.Place(m, root, name)
			table.SetHint(root, name, m)
			table.Release(m)
		},
		"a lookup that may be new": func() {
			table.Release(table.Intern(nil, 7, func(n *file) bool { return n.born == born }, func() *file { return &file{born: born} }))
		},
		"a forget":         func() { table.Forget(nil, n, 1) },
		"a hint":           func() { table.Release(table.Placed(root, name)); table.Hinted(root, name) },
		"use of open file": func() { files.Release(files.Acquire(fh)) },
	} {
		if a := testing.AllocsPerRun(100, f); a != 0 {
			t.Errorf("%s: %v allocations", what, a)
		}
	}
}

// TestIdleSize: a hundred tables that nobody uses are small.
func TestIdleSize(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const tables = 100
	var keep [tables]*Table[uint64, file]
	before := heap()
	for i := range keep {
		keep[i], _ = newTable(t)
	}
	if got := (heap() - before) / tables; got > 24<<10 {
		t.Errorf("%d bytes a table with a root", got)
	}
	runtime.KeepAlive(&keep)
	if got, want := unsafe.Sizeof(Node[[3]uint64, file]{}), uintptr(80); got != want {
		t.Errorf("a node with a key of 24 bytes has %d bytes, want %d", got, want)
	}
}

// TestNames: names and file handles of all lengths, alone and together.
func TestNames(t *testing.T) {
	table, root := newTable(t)
	n := intern(table, 1)
	check := func(name string, handle []byte) {
		t.Helper()
		n.Lock()
		defer n.Unlock()
		if got := n.Name(); (got == nil) != (name == "") || got != nil && (got.String() != name || got[len(got)-1] != 0) {
			t.Fatalf("name is %q, want %q", got, name)
		}
		if !bytes.Equal(n.FileHandle(), handle) || n.HasFileHandle() != (len(handle) > 0) {
			t.Fatalf("handle of %d bytes is %q", len(handle), n.FileHandle())
		}
	}
	check("", nil)
	for i := range MaxFileHandle + 2 {
		name := strings.Repeat("x", i%fp.NameMax+1)
		handle := bytes.Repeat([]byte{byte(i)}, i) // of zeros, too
		table.Place(n, root, fp.Name(name+"\x00"))
		old := n.Name()
		n.Lock()
		table.SetFileHandle(n, handle)
		n.Unlock()
		handle = handle[:min(i, MaxFileHandle)]
		check(name, handle)
		other := (name[1:] + "yz")[:min(len(name)+1, fp.NameMax)]
		if table.Place(n, root, fp.Name(other+"\x00")) {
			t.Fatal("a node with a place had none")
		}
		check(other, handle)
		table.Displace(n)
		table.Displace(n)
		check("", handle)
		if !table.Place(n, root, fp.Name(name+"\x00")) {
			t.Fatal("a node without a place had one")
		}
		check(name, handle)
		if old.String() != name {
			t.Fatalf("a name has changed in place to %q", old)
		}
		n.Lock()
		table.SetFileHandle(n, nil)
		n.Unlock()
		check(name, nil)
	}
	for _, name := range []string{"a", "ab", "abc", "b"} {
		table.Place(n, root, fp.Name("ab\x00"))
		table.SetHint(root, fp.Name(name+"\x00"), n)
		m := table.Placed(root, fp.Name(name+"\x00"))
		if (m == n) != (name == "ab") {
			t.Errorf("%q is found as %q: %v", "ab", name, m)
		}
		if m != nil {
			table.Release(m)
		}
	}
	table.Place(root, n, fp.Name("root\x00"))
	if p, _ := table.Location(root); p != nil {
		t.Error("the root has a place")
	}
}

// TestHintsGrow: hints are found again when their table has grown.
func TestHintsGrow(t *testing.T) {
	table, root := newTable(t)
	n := intern(table, 1)
	name := fp.Name("name\x00")
	table.SetHint(root, name, n)
	lengths := []int{}
	for slot := uint32(1); slot < 2*maxHints; slot++ {
		table.growHints(slot)
		if l := len(*table.hints.Load()); len(lengths) == 0 || l != lengths[len(lengths)-1] {
			lengths = append(lengths, l)
			if slot > 1 && int(slot) != l/8+1 {
				t.Errorf("%d places at node %d", l, slot)
			}
		}
		if table.Hinted(root, name) != n {
			t.Fatalf("the hint is lost with %d places", len(*table.hints.Load()))
		}
	}
	if last := lengths[len(lengths)-1]; len(lengths) != 5 || last != maxHints {
		t.Errorf("lengths are %v, want 5 and %d at last", lengths, maxHints)
	}
	table.SetHint(root, name, nil)
	if table.Hinted(root, name) != nil {
		t.Error("a hint that was taken back leads to a node")
	}
}

// TestUnkey: a node whose file is gone is not taken for a new file with the same key.
func TestUnkey(t *testing.T) {
	table, _ := newTable(t)
	a := intern(table, 1)
	table.Unkey(a)
	table.Unkey(a)
	b := intern(table, 1)
	if a == b || table.Get(a.ID()) != a || table.Find(nil, 1, 0, nil) != b {
		t.Error("the key is the old node's, or the old node is gone")
	}
	if !table.Forget(nil, a, 1) || table.Find(nil, 1, 0, nil) != b {
		t.Error("the old node takes the new one's key along")
	}
}

// TestUnplaced: where a hint may have been lost, the table says that it is not certain.
func TestUnplaced(t *testing.T) {
	table, root := newTable(t)
	a, b := intern(table, 1), intern(table, 2)
	name := fp.Name("name\x00")
	var other fp.Name // has the same place in the table of hints
	for i := 0; other == nil; i++ {
		if s := fp.Name(fmt.Sprintf("other%d\x00", i)); table.hint(table.hashName(root, s)) == table.hint(table.hashName(root, name)) {
			other = s
		}
	}
	want := func(what string, name fp.Name, want bool) {
		t.Helper()
		if got := table.Unplaced(root, name); got != want {
			t.Errorf("%s: certain that no node has the name: %v, want %v", what, got, want)
		}
	}
	want("an empty table", name, true)
	table.Place(a, root, name)
	want("the name of a node", name, false)
	table.Place(b, root, other)
	if n := table.Placed(root, name); n != nil {
		t.Fatal("both hints are kept: the test is pointless")
	}
	want("a hint that was lost", name, false)
	table.DisplaceAt(b, root, name)
	if p, _ := table.Location(b); p != root {
		t.Error("a node has lost its place with another name")
	}
	table.Release(root)
	table.DisplaceAt(b, root, other)
	if p, _ := table.Location(b); p != nil {
		t.Error("a node keeps the place that is gone")
	}
	table.SetHint(root, other, nil)
	want("a hint that was lost to a name that is gone", name, false)
	want("a name that is gone", other, true)
}

// TestHintsRestored: the hints of all nodes of a predecessor are there, however many.
func TestHintsRestored(t *testing.T) {
	const count = 3000
	table, root := newTable(t)
	l := newLedger()
	for i := range uint64(count) {
		l.nodes[uint32(i+2)] = &entry{id: i + 2, key: i + 10, lookups: 1, parent: uint32(root.ID()), name: fmt.Sprintf("name%d", i)}
	}
	l.nodes[uint32(root.ID())] = &entry{id: root.ID()}
	table.Restore(&testLeft{ledger: l}, count, count+2, 0)
	lost := 0
	for i := range uint64(count) {
		name := fp.Name(fmt.Sprintf("name%d\x00", i))
		if n := table.Placed(root, name); n == nil {
			lost++
		} else {
			table.Release(n)
		}
		if table.Unplaced(root, name) {
			t.Fatal("the name of a node is said to be none's")
		}
	}
	if lost > count/2 {
		t.Errorf("%d of %d hints are lost", lost, count)
	}
}

// TestDeepTree: a chain of a million parents goes at once, and takes no stack.
func TestDeepTree(t *testing.T) {
	gone := 0
	table := New[uint64, file](Config[uint64, file]{Gone: func(*file) { gone++ }})
	at := intern(table, 0)
	const depth = 1_000_000
	for i := range uint64(depth) {
		n := intern(table, i+1)
		table.Place(n, at, fp.Name("d\x00"))
		if i > 0 {
			table.Forget(nil, at, 1)
			table.Release(at)
		}
		at = n
	}
	if gone != 0 {
		t.Fatalf("%d parents are gone before their child", gone)
	}
	table.Forget(nil, at, 1)
	table.Release(at)
	if gone != depth {
		t.Errorf("%d nodes are gone, want %d", gone, depth)
	}
}

// TestExclusive: who excludes requests is excluded by them.
func TestExclusive(t *testing.T) {
	gone := 0
	table := New[uint64, file](Config[uint64, file]{Gone: func(*file) { gone++ }})
	intern(table, 0)
	n := intern(table, 1)
	if n.TryExclusive() {
		t.Fatal("a node that a request uses is taken from it")
	}
	table.Release(n)
	if !n.TryExclusive() || n.TryExclusive() {
		t.Fatal("a node that nobody uses must be taken once")
	}
	got := make(chan bool)
	go func() { got <- n.Acquire() }()
	table.EndExclusive(n)
	if !<-got {
		t.Fatal("a request did not get the node afterwards")
	}
	table.Forget(nil, n, 1)
	n.Hold()
	table.Release(n)
	if !n.TryExclusive() {
		t.Fatal("a node with a hold only is in use")
	}
	table.Unhold(n)
	if gone != 0 {
		t.Error("the node is gone while somebody has it")
	}
	table.EndExclusive(n)
	if gone != 1 || n.TryExclusive() || n.Acquire() || !n.Gone() {
		t.Error("the node is not gone")
	}
}

// TestAdopt: nodes with the ids of another table, doubles, and those without an id.
func TestAdopt(t *testing.T) {
	l := newLedger()
	gone := 0
	table := New[uint64, file](Config[uint64, file]{Recorder: l, Gone: func(*file) { gone++ }})
	root := intern(table, 0)
	adopt := func(id, key uint64, parent *file) (*file, Adopted) {
		n := new(file)
		table.Prepare(n, key, id)
		table.Place(n, parent, fp.Name("x\x00"))
		return n, table.Adopt(n, 1000, 3)
	}
	none := new(file) // of no id
	table.Prepare(none, 50, 0)
	table.Place(none, root, fp.Name("none\x00"))
	dir, got := adopt(5<<32|20, 7, none)
	if got != AdoptedAlone || table.Get(5<<32|20) != dir || table.Lookups(dir) != 3 {
		t.Errorf("adopted: %v, %d lookups", got, table.Lookups(dir))
	}
	double, got := adopt(21, 7, dir)
	if got != AdoptedDouble || table.Get(21) != double {
		t.Errorf("adopted twice: %v", got)
	}
	for _, id := range []uint64{fp.RootID, 0, 20, 5<<32 | 20, 1000, 1 << 31, 1<<64 - 1} {
		if n, got := adopt(id, 9, root); got != AdoptedNot {
			t.Errorf("id %#x is adopted: %v", id, got)
		} else {
			table.Unhold(n)
		}
	}
	if gone != 7 {
		t.Errorf("%d nodes are gone that were not adopted", gone)
	}
	table.Settle(30, 9)
	for _, n := range []*file{dir, double, none} {
		table.Unhold(n) // the loader's
	}
	if e := l.nodes[21]; e == nil || e.parent != 20 || e.name != "x" || e.lookups != 3 {
		t.Errorf("the ledger has %+v", e)
	}
	for range 20 {
		if n := intern(table, uint64(100+table.End())); n.ID()>>32 != 10 && uint32(n.ID()) < 30 {
			t.Errorf("id %#x may have been used there", n.ID())
		}
	}
	if n := table.Find(nil, 7, 0, nil); n != dir {
		t.Error("the key leads to the double")
	}
	for _, n := range []*file{double, dir} {
		n.Acquire()
		table.Forget(nil, n, 9)
		table.Release(n)
	}
	if gone != 8 || !double.Gone() { // the reference that Find has taken keeps dir, and so none
		t.Errorf("%d nodes are gone", gone)
	}
	// A slot whose node is forgotten, but still used by a request, can be another's.
	if n, got := adopt(5<<32|20, 77, root); got != AdoptedAlone {
		t.Errorf("adopted in the slot of a forgotten node: %v", got)
	} else if table.Release(dir); table.Get(5<<32|20) != n || l.nodes[20] == nil {
		t.Error("the slot was lost with the forgotten node")
	} else {
		table.Forget(nil, n, 3)
		table.Unhold(n)
	}
	gone--
	if gone != 10 || !none.Gone() || l.nodes[20] != nil {
		t.Errorf("%d nodes are gone", gone)
	}
}

// TestPlaceNew: a node is added with its place, and holds its parent. If the recorder is full, it does not.
func TestPlaceNew(t *testing.T) {
	l := newLedger()
	table := New(Config[uint64, file]{Recorder: l})
	root := table.Intern(nil, 1, nil, func() *file { return &file{} })
	dir := intern(table, 2)
	table.Place(dir, root, fp.Name("dir\x00"))
	add := func(key uint64) *file {
		return table.Intern(nil, key, nil, func() *file {
			n := &file{}
			table.PlaceNew(n, dir, fp.Name("new\x00"))
			return n
		})
	}
	n := add(3)
	if e := l.nodes[uint32(n.ID())]; e.parent != uint32(dir.ID()) || e.name != "new" {
		t.Errorf("recorded as %+v, want it with its place", e)
	}
	if parent, name := table.Location(n); parent != dir || name.String() != "new" {
		t.Errorf("it is %q in %v", name, parent)
	} else {
		table.Release(parent)
	}
	l.full = true
	if add(4) != nil {
		t.Error("a node was added that the recorder refuses")
	}
	table.Forget(nil, n, 1)
	table.Release(n)
	table.Forget(nil, dir, 1)
	table.Release(dir)
	if !dir.Gone() {
		t.Error("the directory is held for ever")
	}
	if len(l.strange) > 0 {
		t.Error(l.strange)
	}
}

// TestHashName: the hashes of names that are alike are spread over a small table as well as random ones.
func TestHashName(t *testing.T) {
	const places = 256
	var names []string
	for i := 1; i <= 20; i++ {
		names = append(names, fmt.Sprint("f", i))
	}
	names = append(names, "gone", "moved", "born", "tmp", "g17")
	for _, place := range []func(h uint64) uint64{func(h uint64) uint64 { return h % places }, func(h uint64) uint64 { return h >> 56 }} {
		shared, dirs := 0, 0
		for generation := uint64(1); generation < 1<<30; generation += 1<<20 + 7 {
			taken := map[uint64]bool{}
			for _, name := range names {
				p := place(HashName(generation<<32|7, []byte(name)))
				if taken[p] {
					shared++
				}
				taken[p] = true
			}
			dirs++
		}
		if mean := float64(shared) / float64(dirs); mean > 1.3 { // 1.14 if they were random
			t.Errorf("%.2f of %d names have another one's place", mean, len(names))
		}
	}
}
