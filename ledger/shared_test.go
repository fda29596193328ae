package ledger

import (
	"fmt"
	"slices"
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestDeathShared: several requests are granted lookups of one node, and the process dies while one of them takes its lookup
// back, or a successor while it takes all of them back. The client has what it had before, and each lookup is taken back
// once: by the count alone it can't be told whether it was.
func TestDeathShared(t *testing.T) {
	for others := range 3 {
		for _, opens := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d others, open files %v", others, opens), func(t *testing.T) {
				l := create(t)
				q, err := l.Queue(crashQueue, 8)
				if err != nil {
					t.Fatal(err)
				}
				s := begin(t, l)
				s.nodes.Release(s.lookup(nil, 5, 0, "known", true))
				grant := func(head uint16) *fuse.Cell {
					c := q.Cell(head)
					c.Take(&fp.InHeader{Unique: uint64(head), Opcode: uint32(fp.OpCreate)}, q.Order(), head, 0)
					n := s.lookup(c, 5, 0, "known", true)
					if opens {
						n.Hold()
						s.opens.Add(c, &opened{node: n})
					}
					s.nodes.Release(n)
					return c
				}
				first := grant(0)
				for i := range others {
					grant(uint16(1 + i))
				}
				died(t, imageOf(t, l), "all are granted", true)
				n := s.has(5)
				files := slices.Collect(s.opens.All)
				for i, m := range deaths(t, l, func(func()) {
					if opens {
						s.opens.Close(files[0])
					}
					s.nodes.Forget(first, n, 1)
				}) {
					died(t, m, fmt.Sprintf("death %d while a lookup is taken back", i), true)
				}
				s.nodes.Release(n)
			})
		}
	}
}

// died is what successors make of a ledger in which the client had one lookup before all requests under way. Each of
// them may die, and the next one, too.
func died(t *testing.T, m image, what string, again bool) {
	t.Helper()
	l := m.ledger(t)
	defer l.Close()
	for i, m := range deaths(t, l, func(func()) { begin(t, l) }) {
		if again {
			died(t, m, fmt.Sprintf("%s, death %d of the successor", what, i), false)
		}
	}
	lookups := uint64(0)
	for n := range begin(t, l).store.Nodes {
		if n.Ino == 5 {
			lookups = n.Lookups
		}
	}
	if lookups != 1 {
		t.Errorf("%s: the client has %d lookups of the node, want 1", what, lookups)
	}
}
