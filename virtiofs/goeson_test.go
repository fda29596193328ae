package virtiofs

import (
	"math/rand/v2"
	"slices"
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// TestGoesOn: a ring is at its place if the requests in its cells are exactly those that were given up, in any order. The
// largest ring, full, is one of the cases.
func TestGoesOn(t *testing.T) {
	const size = MaxQueueSize
	all := make([]uint16, size)
	for i, head := range rand.New(rand.NewPCG(1, 2)).Perm(size) {
		all[i] = uint16(head)
	}
	for _, test := range []struct {
		name    string
		cells   []uint16
		done    int // of the cells, the first ones
		heads   []uint16
		another uint16 // added to the index
		want    bool
	}{
		{name: "none", want: true},
		{name: "all of the largest ring", cells: slices.Sorted(slices.Values(all)), heads: all, want: true},
		{name: "all but one", cells: all[1:], heads: all},
		{name: "one more", cells: all, heads: all[1:]},
		{name: "another order", cells: []uint16{3, 900, 7}, heads: []uint16{900, 7, 3}, want: true},
		{name: "another one", cells: []uint16{3, 900, 7}, heads: []uint16{900, 8, 3}},
		{name: "one twice", cells: []uint16{3, 900, 7}, heads: []uint16{900, 7, 7, 3}},
		{name: "one twice instead of another", cells: []uint16{3, 7, 900}, heads: []uint16{7, 7, 3}},
		{name: "one is done", cells: []uint16{3, 7}, done: 1, heads: []uint16{3, 7}},
		{name: "another index", cells: []uint16{3}, heads: []uint16{3}, another: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := ledger.Create()
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ring, err := l.Queue(0, size)
			if err != nil {
				t.Fatal(err)
			}
			for i, head := range test.cells {
				c := ring.Cell(head)
				c.Take(&fp.InHeader{Opcode: uint32(fp.OpGetattr)}, uint64(i+1), uint16(i), 0)
				if i < test.done {
					c.Done(0, 0)
				}
			}
			at := &virtqueue.Position{Avail: ring.Next() + test.another, Heads: test.heads}
			if got := goesOn(ring, at); got != test.want {
				t.Errorf("%t, want %t", got, test.want)
			}
		})
	}
}
