package ledger

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestMemoryGivenBack: a client that has looked at many files and forgotten them costs no more
// memory than before, but for a chunk of each kind.
func TestMemoryGivenBack(t *testing.T) {
	l := create(t)
	s := begin(t, l)
	const count = 50_000
	name := strings.Repeat("x", 100)
	for range 2 {
		for i := range uint64(count) {
			s.nodes.Release(s.lookup(nil, 1+i, 0, name, true))
		}
		if used := blocksOf(t, l.FD()) * 512; used < count*(nodeSize+128) {
			t.Errorf("%d nodes take %d bytes", count, used)
		}
		s.check(t, "known")
		for n := range s.nodes.All {
			s.nodes.Forget(nil, n, 1)
		}
		if used := blocksOf(t, l.FD()) * 512; used > 3<<20 {
			t.Errorf("%d bytes are left", used)
		}
		s.check(t, "forgotten")
	}
}

// TestLargeListing: a request is granted as many nodes as a listing of 1 MiB has, and not
// without end; a successor takes all of them back.
func TestLargeListing(t *testing.T) {
	l := create(t)
	q, err := l.Queue(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, l)
	c := q.Cell(2)
	c.Take(&fp.InHeader{Opcode: uint32(fp.OpReaddirplus)}, 1, 1, 0)
	largest := 1 << 20 / (fp.Size[fp.EntryOut]() + fp.Size[fp.Dirent]() + 8)
	granted := 0
	for i := range uint64(2 * maxGrants) {
		n := s.nodes.Intern(c, idOf(1+i/2), nil, func() *file { return new(file) })
		if n == nil {
			break
		}
		granted++
		s.nodes.Release(n)
	}
	if granted < largest || granted > maxGrants {
		t.Errorf("%d lookups were granted; a listing can have %d", granted, largest)
	}
	if n := s.nodes.Find(c, idOf(1), 1, nil); n != nil {
		t.Error("one more was granted")
	}
	s.check(t, "full")
	if next := begin(t, successor(t, l)); len(withoutRoot(next.lines())) != 0 {
		t.Errorf("%d nodes are left", len(next.lines())-1)
	}
}

// TestManyLists: as many requests as there are lists can have more grants than a cell has room for. A list is free
// again when its request is done, or was forgotten with its ring.
func TestManyLists(t *testing.T) {
	l := create(t)
	q, err := l.Queue(0, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, l)
	get := func(head uint16) bool {
		c := q.Cell(head)
		c.Take(&fp.InHeader{Opcode: uint32(fp.OpReaddirplus)}, uint64(head), head, 0)
		for i := range uint64(fuse.EarlyGrants + 1) {
			n := s.nodes.Intern(c, idOf(1+i), nil, func() *file { return new(file) })
			if n == nil {
				return false
			}
			s.nodes.Release(n)
		}
		return true
	}
	for head := range uint16(numLists - 1) {
		if !get(head) {
			t.Fatalf("request %d has no list", head)
		}
	}
	if get(1500) {
		t.Error("there are more lists than there is room for")
	}
	q.Cell(7).Done(100, 1)
	q.Cell(8).Free()
	for head, want := range map[uint16]bool{1501: true, 1502: true} {
		if get(head) != want {
			t.Errorf("request %d: a list was free", head)
		}
	}
	if get(1503) {
		t.Error("a list was given to two requests")
	}
	// A successor knows whose the lists are, also before it has taken anything back.
	store, err := successor(t, l).Store()
	if err != nil {
		t.Fatal(err)
	}
	if list := store.freeList(new(fuse.Cell)); list != 0 {
		t.Errorf("list %d is free", list)
	}
}

// TestLimitsOfProcess: where a limit of the process forbids a ledger, the error names it, and
// nobody gets a signal.
func TestLimitsOfProcess(t *testing.T) {
	const which = "LEDGER_TEST_LIMIT"
	limits := map[string]int{"-f": unix.RLIMIT_FSIZE, "-v": unix.RLIMIT_AS}
	if resource, ok := limits[os.Getenv(which)]; ok {
		most := uint64(1 << 30)
		if resource == unix.RLIMIT_AS {
			var pages uint64
			b, err := os.ReadFile("/proc/self/statm")
			if err == nil {
				_, err = fmt.Sscan(string(b), &pages)
			}
			if err != nil {
				t.Fatal(err)
			}
			most = pages*uint64(os.Getpagesize()) + 8<<30
		}
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			t.Fatal(err)
		}
		_, err := Create()
		fmt.Println("error:", err)
		return
	}
	for option := range limits {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestLimitsOfProcess$")
		cmd.Env = append(os.Environ(), which+"="+option)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "error: ledger: ") || !strings.Contains(string(out), "ulimit "+option) {
			t.Errorf("%s: %v\n%s", option, err, out)
		}
	}
}

// starve has a part of the file get no memory any more: MADV_POPULATE_WRITE fails there, because an
// empty file is mapped in its place. A hole in the mapping would do, too, but then anything of this
// process could be mapped into it, the race detector's memory, say, and would be gone with the
// ledger.
func starve(t *testing.T, l *Ledger, at, size int64) {
	t.Helper()
	empty, err := unix.MemfdCreate("empty", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(empty)
	if _, err := unix.MmapPtr(empty, 0, l.at(at), uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_NORESERVE); err != nil {
		t.Fatal(err)
	}
}

// TestNoMemory: a node and an open file that there is no memory for are refused, and what was
// there stays. A place that there is no memory for is unknown to a successor.
func TestNoMemory(t *testing.T) {
	l := create(t)
	s := begin(t, l)
	s.nodes.Release(s.lookup(nil, 1, 0, "one", true))
	const perChunk = 64 << nodeBits
	starve(t, l, nodesAt+perChunk*nodeSize, 16*perChunk*nodeSize)
	starve(t, l, opensAt+64*pageSize, 64*pageSize)
	starve(t, l, namesAt+64*pageSize, namesSize-64*pageSize)
	add := func(ino uint64, name string) bool {
		n := s.nodes.Intern(nil, idOf(ino), nil, func() *file { return new(file) })
		if n == nil {
			return false
		}
		s.nodes.Place(n, s.root, fp.Name(name+"\x00"))
		s.nodes.Release(n)
		return true
	}
	added := uint64(1)
	for add(added+1, "short") {
		added++
	}
	if added+2 != perChunk { // the root, and no slot 0
		t.Errorf("%d nodes were recorded", added)
	}
	opens := 0
	for {
		s.root.Hold()
		if s.opens.Add(nil, &opened{node: s.root}) == 0 {
			s.nodes.Unhold(s.root)
			break
		}
		opens++
	}
	if opens != 64<<openBits-1 {
		t.Errorf("%d open files were recorded", opens)
	}
	s.check(t, "full")
	n := s.has(1)
	s.nodes.Forget(nil, n, 1)
	s.nodes.Release(n)
	if !add(added+1, "again") || add(added+2, "too many") {
		t.Error("a slot that is free again is not used, or there is one more")
	}
	long := strings.Repeat("long", 50)
	n = s.has(2)
	s.nodes.Place(n, s.root, fp.Name(long+"\x00"))
	s.nodes.Release(n)
	for o := range s.store.Nodes {
		if o.Ino == 2 && o.Name != nil {
			t.Errorf("it is called %q in the ledger", o.Name)
		}
	}
	if l.header.unplaced != 1 {
		t.Errorf("%d places are not recorded", l.header.unplaced)
	}
}

// TestForgedList: a request's cell names a list that there is not. It is granted nothing more, and nothing is written
// behind the lists.
func TestForgedList(t *testing.T) {
	l := create(t)
	q, err := l.Queue(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, l)
	owner, ok := s.store.AddLockOwner(&LockOwner{Node: fp.RootID, Number: 5})
	if !ok {
		t.Fatal("no room for an owner of locks")
	}
	for _, list := range []uint32{numLists, numLists + 1, 4095, fuse.MaxKeptGrants >> keptBits} {
		c := q.Cell(1)
		c.Take(&fp.InHeader{Opcode: uint32(fp.OpReaddirplus)}, 1, 1, 0)
		for _, n := range []uint32{fuse.EarlyGrants, 3, entriesPerPage, maxGrants, 1<<keptBits - 1} {
			c.Keep(list<<keptBits | n)
			if s.store.Granted(c, fp.RootID, 2) {
				t.Errorf("grant %d was put in list %d of %d", n, list, numLists)
			}
			s.store.GiveBack(c)
		}
		c.Free()
	}
	for i, o := range s.store.LockOwners {
		if i != owner || o.Number != 5 || o.Node != fp.RootID {
			t.Errorf("owner %d of locks is %+v", i, *o)
		}
	}
}
