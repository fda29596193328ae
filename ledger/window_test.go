package ledger

import (
	"slices"
	"testing"
)

// TestWindow: a successor finds the mappings of a window of the same size, and of no other.
func TestWindow(t *testing.T) {
	l := create(t)
	const size, unit = 64 << 30, 2 << 20
	w, err := l.Window(size, unit)
	if err != nil {
		t.Fatal(err)
	}
	want := []MappingRecord{{1, 0, unit, 5, 1 << 30}, {3, 7 * unit, 2 * unit, 6, 0}, {1, size - unit, unit, 7, 0}}
	for i, m := range want {
		if err := w.Put(MappingRecord{State: 9, Offset: m.Offset, Length: m.Length}); err != nil {
			t.Fatal(i, err)
		}
		if err := w.Put(m); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := w.Put(MappingRecord{State: 1, Offset: 100 * unit}); err != nil {
		t.Fatal(err)
	}
	w.Remove(100 * unit)
	w.Remove(1000 * unit)
	w.SetWord(77)
	all := func(w *Window) (list []MappingRecord) {
		for m := range w.Mappings {
			list = append(list, m)
		}
		return list
	}
	again, err := l.Window(size, unit)
	if err != nil {
		t.Fatal(err)
	}
	if got := all(again); !slices.Equal(got, want) || again.Word() != 77 {
		t.Errorf("%v, word %d, want %v", got, again.Word(), want)
	}
	again.record(3).state = 1 // forged: offset 0 in the record of 3
	if got := all(again); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, bad := range [][2]uint64{{size, 0}, {size + unit, unit}, {^uint64(0), 4096}} {
		if _, err := l.Window(bad[0], bad[1]); err == nil {
			t.Errorf("a window of %d, in units of %d", bad[0], bad[1])
		}
	}
	other, err := l.Window(size/2, unit)
	if err != nil {
		t.Fatal(err)
	}
	if got := all(other); got != nil || other.Word() != 0 {
		t.Errorf("a window of another size has %v, word %d", got, other.Word())
	}
}
