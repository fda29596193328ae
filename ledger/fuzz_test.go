package ledger

import (
	"encoding/binary"
	"io"
	"testing"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// forgery says where a fuzzer writes: into which records of the file, by their number.
var forgery = []struct {
	at, size int64
	count    uint32
}{
	{headerAt, int64(unsafe.Sizeof(header{})), 1},
	{nodesAt, nodeSize, 256},
	{nodesAt + 1<<27*nodeSize, nodeSize, 256},
	{opensAt, openSize, 256},
	{namesAt, 32, 128},
	{namesAt + 32<<28, 64, 64},
	{namesAt + 32<<28 + 64<<28 + 128<<26 + 256<<25, 512, 8},
	{listsAt + listSize, pageSize, 16},
	{cellsAt + crashQueue*MaxQueueSize*fuse.CellSize, fuse.CellSize, 32},
	{queuesAt + crashQueue*queueSize, queueSize, 1},
	{ownersAt, lockOwnerSize, 256},
	{locksAt, lockSize, 256},
	{areasAt, int64(unsafe.Sizeof(areaHeader{})), 1},
	{areasAt + areaStride, int64(unsafe.Sizeof(areaHeader{})), 1},
}

// forge writes what a fuzzer says: the kind of a record, its number, an offset, and bytes with
// their number in front.
func forge(t *testing.T, l *Ledger, b []byte) {
	for len(b) >= 5 {
		where := forgery[int(b[0])%len(forgery)]
		record := int64(uint32(b[1]) % where.count)
		offset := int64(binary.LittleEndian.Uint16(b[2:])) % where.size
		n := min(int64(b[4]), int64(len(b)-5), where.size-offset)
		at := where.at + record*where.size + offset
		if err := l.need(at, max(n, 1)); err != nil {
			t.Fatal(err)
		}
		copy(l.memory[at:], b[5:5+n])
		b = b[5+n:]
	}
}

// patch is a part of what forge reads.
func patch(kind, record byte, offset uint16, b []byte) []byte {
	return append([]byte{kind, record, byte(offset), byte(offset >> 8), byte(len(b))}, b...)
}

func words(list ...uint64) (b []byte) {
	for _, w := range list {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// honest is a ledger with some of everything.
func honest(t *testing.T) *Ledger {
	l := create(t)
	q, err := l.Queue(crashQueue, 32)
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, l)
	q.Begin(1, 0)
	for i, r := range []fp.Opcode{fp.OpCreate, fp.OpReaddirplus, fp.OpForget, fp.OpBatchForget, fp.OpMkdir} {
		c := q.Cell(uint16(i))
		c.Take(&fp.InHeader{Opcode: uint32(r), Unique: uint64(i)}, q.Order(), uint16(i), 1)
		q.SetNext(uint16(i + 1))
		if forgets(c) {
			n := s.lookup(nil, uint64(20+i), 0, "forgotten", true)
			s.nodes.Forget(c, n, 1)
			s.nodes.Release(n)
			continue
		}
		for ino := range uint64(3 * i) {
			s.nodes.Release(s.lookup(c, 1+ino, ino, "name"+string(make([]byte, 0)), true))
		}
		n := s.lookup(c, 30, 0, "a name that is too long for the record of its node itself", true)
		n.Hold()
		s.opens.Add(c, &opened{node: n, flags: 7})
		s.nodes.Release(n)
	}
	return l
}

// FuzzLedger reads a ledger that a process has forged which was taken over, takes back what
// requests were granted, fills tables from it and uses them. All of it ends, and the ledger then
// says what the tables know.
func FuzzLedger(f *testing.F) {
	node := func(id, lookups, place uint64) []byte { return words(id, lookups, place, 1, 2, 3, 4, 8) }
	f.Add([]byte{})
	f.Add(patch(1, 4, 0, node(4, 1, 4<<32|0xf0000000)))                                                          // its own parent
	f.Add(append(patch(1, 4, 0, node(4, 1, 5<<32|0xf0000000)), patch(1, 5, 0, node(5, 0, 4<<32|0xf0000000))...)) // a circle
	f.Add(append(patch(1, 4, 0, node(4, 1, 1<<32|1<<28)), patch(1, 5, 0, node(5, 2, 1<<32|1<<28))...))           // one name twice
	f.Add(patch(1, 4, 0, node(4, 1<<63, 1<<32|6<<28|77)))                                                        // no such class
	f.Add(patch(1, 4, 0, node(1<<32|5, 1, 0)))                                                                   // another slot
	f.Add(patch(1, 1, 0, node(1, 1<<62, 1<<32|0xf0000000)))                                                      // the root in itself
	f.Add(patch(1, 0, 0, node(0, 1, 0)))
	f.Add(patch(2, 0, 0, node(1<<27, 1, 9<<32|0xf0000000)))
	f.Add(append(patch(1, 4, 0, node(4, 1, 1<<32|0xf0000000)), patch(1, 4, 64, []byte("\xff\xff../..\x00"))...))
	f.Add(patch(3, 1, 0, words(1, 1<<40, 0)))
	f.Add(patch(3, 9, 0, words(9, 200, 0)))
	f.Add(patch(0, 0, 40, words(1<<40, 1, ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0))))
	for phase := range byte(16) {
		const grants = 48 // in a cell: the word of fuse.Cell.KeptGrants, and the early grants behind it
		f.Add(patch(8, 1, grants, words(uint64(phase)|(1<<keptBits|9000)<<4, grantOf(2, 1), grantOf(2, 2), 1)))
		f.Add(patch(8, 0, grants, words(uint64(phase)|1<<4|2<<32, grantOf(2, 1), grantOf(3, 1))))
		f.Add(patch(8, 3, grants, words(uint64(phase)|7<<4, 2, 0, 0)))
		f.Add(append(patch(8, 1, grants, words(uint64(phase)|(1<<keptBits|400)<<4, grantOf(3, 1), grantOf(2, 3), 1)),
			patch(7, 0, 16, words(grantOf(2, 1), grantOf(2, 2), grantOf(1<<31|1, 0), grantOf(77, 1), grantOf(2, 2)))...))
	}
	f.Add(patch(12, 0, 0, words(1<<40+1, ^uint64(0))))
	f.Add(append(patch(10, 1, 0, words(1, 5, 77, 4711)), patch(11, 1, 0, words(1<<32|1, 10, 5))...)) // backwards
	f.Add(append(patch(10, 1, 0, words(9, 5, 77, 4711)), patch(11, 1, 0, words(1, 10, 50))...))      // of no node
	f.Add(append(patch(10, 1, 0, words(1, 5, 0, 0)), patch(11, 0, 0, words(1, 10, 50, 0, 1<<33|1, 1, 2, 0, 1<<20, 3, 4))...))
	f.Fuzz(func(t *testing.T, forged []byte) {
		if len(forged) > 4096 {
			t.Skip()
		}
		l := honest(t)
		forge(t, l, forged)
		if v, err := OpenView(l.FD()); err == nil {
			if err := v.Print(io.Discard); err != nil {
				t.Error(err)
			}
			_ = v.Close()
		}
		if err := l.header.check(); err != nil {
			return // a successor refuses it
		}
		s := begin(t, l)
		s.check(t, "restored")
		s.checkNames(t, "restored")
		for k := range numAreas {
			if a, err := l.Area(k); err != nil || len(a.Load()) > MaxArea || a.Store([]byte("new")) != nil || string(a.Load()) != "new" {
				t.Errorf("area %v can't be used", k)
			}
		}
		s.use(t)
	})
}

// use does what a client does with all that there is.
func (s *share) use(t *testing.T) {
	cell := new(fuse.Cell)
	cell.Take(&fp.InHeader{Opcode: uint32(fp.OpReaddirplus)}, 1, 1, 1)
	for n := range s.nodes.All {
		for p, depth := n, 0; p != nil && depth < 1000; p, depth = p.Parent(), depth+1 {
			if name := p.Name(); name != nil {
				if _, _, errno := fp.ParseName(name); errno != 0 {
					t.Fatalf("node %#x is called %q", p.ID(), name)
				}
			}
		}
		_, _ = s.store.Names(uint32(n.ID()), 1000) // it ends
		if m := s.nodes.Find(cell, n.Key(), 1, nil); m != nil {
			s.nodes.Release(m)
		}
		s.nodes.Place(n, s.root, fp.Name("used\x00"))
	}
	s.check(t, "used")
	for i, o := range s.store.LockOwners {
		if s.store.knownNode(o.Node) == nil {
			t.Fatalf("owner %d of locks on no node", i)
		}
	}
	for i, l := range s.store.Locks {
		if l.Start < 0 || l.End < l.Start || s.store.lockOwner(l.Owner).node == 0 {
			t.Fatalf("lock %d is %+v", i, l)
		}
		s.store.RemoveLock(i)
	}
	for i := range s.store.LockOwners {
		s.store.RemoveLockOwner(i)
	}
	seen := map[uint32]bool{}
	for range 300 {
		i, ok := s.store.NewLock()
		if !ok || i == 0 || seen[i] {
			t.Fatalf("room %d for a lock is not free", i)
		}
		seen[i] = true
	}
	for f := range s.opens.All {
		s.opens.Close(f)
	}
	for n := range s.nodes.All {
		s.nodes.Forget(nil, n, ^uint64(0))
	}
	for range 300 {
		s.nodes.Release(s.lookup(nil, 1000, 0, "new", false))
	}
	s.check(t, "forgotten")
}
