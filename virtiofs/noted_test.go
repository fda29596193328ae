package virtiofs

import (
	"bytes"
	"slices"
	"testing"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// TestNotedAtPoints: what is noted with fault points is what is noted without them.
func TestNotedAtPoints(t *testing.T) {
	var left [2][]fuse.Cell // after a request was taken, and after it was done
	var points []faultPoint
	for i := range left {
		ring, err := newLedger(t).Queue(1, ringSize)
		if err != nil {
			t.Fatal(err)
		}
		var c cells
		var by clock // shows 0
		c.ring, c.clock = ring, &by
		if i == 1 {
			c.interrupt = func(_ int, at faultPoint) { points = append(points, at) }
		}
		m := fuse.Message{Header: fp.InHeader{Opcode: uint32(fp.OpWrite), NodeID: 3, Unique: 12}}
		cell := c.take(&m, 5, 8)
		if cell != ring.Cell(5) || c.take(&m, 5, 9) != nil {
			t.Fatal("a request has no cell, or two have the same")
		}
		left[i] = append(left[i], *cell)
		c.done(cell, 24, 7)
		left[i] = append(left[i], *cell)
		if ring.Next() != 9 {
			t.Errorf("the next index is noted as %d", ring.Next())
		}
		c.published()
		if cell.Phase() != fuse.PhaseFree {
			t.Error("a cell is not freed")
		}
	}
	if !slices.Equal(left[0], left[1]) {
		t.Errorf("noted without fault points %+v, with them %+v", left[0], left[1])
	}
	want := []faultPoint{faultPopped, faultTaken, faultNoted, faultPopped, faultTaken, faultNoted, faultHandled, faultDone, faultPublished, faultFreed}
	if !slices.Equal(points, want) {
		t.Errorf("fault points %v, want %v", points, want)
	}
}

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
