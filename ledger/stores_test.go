package ledger

import (
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// TestStores: how many places a process can die at, which is one more than it makes stores in a row, for what
// clients ask for most often. It is what these requests cost more than without a ledger.
func TestStores(t *testing.T) {
	l := create(t)
	q, err := l.Queue(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, l)
	for i := range uint64(1000) {
		s.nodes.Release(s.nodes.Intern(nil, idOf(5+i), nil, func() *file { return new(file) }))
	}
	find := func(c *fuse.Cell, ino uint64) { s.nodes.Release(s.nodes.Find(c, idOf(ino), 1, nil)) }
	open := func(c *fuse.Cell) *opened {
		n := s.has(5)
		n.Hold()
		f := &opened{node: n}
		s.opens.Add(c, f)
		s.nodes.Release(n)
		return f
	}
	var closing *opened
	for _, test := range []struct {
		name   string
		opcode fp.Opcode
		most   int
		do     func(c *fuse.Cell)
	}{
		{"LOOKUP", fp.OpLookup, 5, func(c *fuse.Cell) { find(c, 5) }},
		// Two in the cell, and two more for the list.
		{"READDIRPLUS of 1,000 entries", fp.OpReaddirplus, 1000*5 + 2, func(c *fuse.Cell) {
			for i := range uint64(1000) {
				find(c, 5+i)
			}
		}},
		{"OPEN", fp.OpOpen, 5, func(c *fuse.Cell) { closing = open(c) }},
		{"RELEASE", fp.OpRelease, 2, func(*fuse.Cell) { s.opens.Close(closing) }},
		{"FORGET", fp.OpForget, 6, func(c *fuse.Cell) { s.nodes.Forget(c, s.nodes.Get(s.id(5)), 1) }},
	} {
		c := q.Cell(1)
		c.Take(&fp.InHeader{Opcode: uint32(test.opcode)}, 1, 1, 0)
		stores := 0
		storing.SetHook(func() { stores++ })
		test.do(c)
		storing.SetHook(nil)
		if stores > test.most || stores == 0 {
			t.Errorf("%s: %d points, want at most %d", test.name, stores, test.most)
		}
		c.Free()
	}
}

// id is the number of a node that the client has.
func (s *share) id(ino uint64) uint64 {
	n := s.has(ino)
	defer s.nodes.Release(n)
	return n.ID()
}
