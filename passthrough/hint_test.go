package passthrough

import (
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestHintsGrow: hints are found again when the table has grown.
func TestHintsGrow(t *testing.T) {
	fs := &FS{nodes: newSlots[inode]()}
	table := make(hintTable, minHints)
	fs.hints.Store(&table)
	parent, n := &inode{id: fp.RootID}, &inode{}
	fs.nodes.add(n, func(id uint64) { n.id = id })
	name := fp.Name("name\x00")
	fs.hint(parent, name).Store(n.id)
	lengths := []int{}
	for slot := uint32(1); slot < 2*maxHints; slot++ {
		fs.growHints(slot)
		if l := len(*fs.hints.Load()); len(lengths) == 0 || l != lengths[len(lengths)-1] {
			lengths = append(lengths, l)
			if slot > 1 && int(slot) != l/8+1 {
				t.Errorf("%d places at node %d", l, slot)
			}
		}
		if fs.hinted(parent, name) != n {
			t.Fatalf("the hint is lost with %d places", len(*fs.hints.Load()))
		}
	}
	if last := lengths[len(lengths)-1]; len(lengths) != 5 || last != maxHints {
		t.Errorf("lengths are %v, want 5 and %d at last", lengths, maxHints)
	}
}
