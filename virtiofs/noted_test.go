package virtiofs

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// cacheLine is the size of a cache line of most processors, in bytes.
const cacheLine = 64

// TestNotedStores: what a successor needs to know of a request that changes nothing takes three
// stores of its cell's state (taken, done, free), and one cache line of the cell. A store counts twice: the hook is
// called before and after it.
func TestNotedStores(t *testing.T) {
	x := newBench(t, true)
	for _, l := range workloads() {
		if l.name == "lookup" || l.name == "open+release" { // these change what the guest has
			continue
		}
		untouched := bytes.Repeat([]byte{0xa5}, fuse.CellSize-cacheLine)
		second := func(slot int) []byte { // cache line of the cell of a slot
			cell := (*[fuse.CellSize]byte)(unsafe.Pointer(x.w.cells.ring.Cell(uint16(2 * slot))))
			return cell[cacheLine:]
		}
		for slot := range slots {
			copy(second(slot), untouched)
		}
		calls := 0
		storing.SetHook(func() { calls++ })
		x.round(&l, 0)
		storing.SetHook(nil)
		if want := 2 * 3 * slots; calls != want {
			t.Errorf("%s: the hook was called %d times for %d requests, want %d", l.name, calls, slots, want)
		}
		for slot := range slots {
			if !bytes.Equal(second(slot), untouched) {
				t.Errorf("%s: the second cache line of a cell has changed", l.name)
				break
			}
		}
		if next, want := x.w.cells.ring.Next(), x.w.queue.Base(); next != want {
			t.Errorf("%s: the ring's next index is noted as %d, want %d", l.name, next, want)
		}
		for head := range x.w.cells.ring.Unfinished {
			t.Errorf("%s: the request at %d is not over", l.name, head)
		}
	}
}
