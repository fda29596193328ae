package server

import (
	"fmt"
	"slices"
	"testing"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestFilter: what is left is what would have been added alone, and names can be changed.
func TestFilter(t *testing.T) {
	for _, plus := range []bool{false, true} {
		add := func(w *DirWriter, i int, name string) {
			if plus {
				w.AddPlus(&fp.EntryOut{NodeID: uint64(i)}, uint64(i), uint64(i+1), 8, []byte(name))
			} else {
				w.Add(uint64(i), uint64(i+1), 8, []byte(name))
			}
		}
		names := func(i int) string { return fmt.Sprintf("%0*d", i, i) }
		for _, c := range []func(i int) bool{
			func(i int) bool { return true }, func(i int) bool { return false },
			func(i int) bool { return i%2 == 0 }, func(i int) bool { return i > 7 }, func(i int) bool { return i < 3 },
		} {
			got, want := NewDirWriter(alignedBytes(4096)), NewDirWriter(alignedBytes(4096))
			for i := 1; i < 12; i++ {
				add(got, i, names(i))
				if c(i) {
					add(want, i, "X"+names(i)[1:])
				}
			}
			i := 0
			last := got.Filter(plus, func(e *fp.EntryOut, name []byte) bool {
				i++
				if string(name) != names(i) || plus != (e != nil) || plus && e.NodeID != uint64(i) {
					t.Errorf("entry %d: %q, %+v", i, name, e)
				}
				name[0] = 'X'
				return c(i)
			})
			if last != 12 || i != 11 || !slices.Equal(got.Bytes(), want.Bytes()) {
				t.Errorf("plus %v: %d entries, the last at %d, %d bytes, want %d", plus, i, last, got.Len(), want.Len())
			}
		}
	}
	w := NewDirWriter(unsafe.Slice((*byte)(unsafe.Pointer(new(uint64))), 8))
	if last := w.Filter(false, nil); last != 0 || w.Len() != 0 {
		t.Errorf("an empty listing: %d, %d bytes", last, w.Len())
	}
}
