package dax

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
)

// kept is a Recorder in memory.
type kept struct {
	records map[uint64]Record
	traits  Traits
	known   bool
}

func (k *kept) Put(r Record) error {
	k.records[r.Offset] = r
	return nil
}
func (k *kept) Remove(offset uint64)           { delete(k.records, offset) }
func (k *kept) SetTraits(t Traits, known bool) { k.traits, k.known = t, known }
func (k *kept) Traits() (Traits, bool)         { return k.traits, k.known }
func (k *kept) Records(yield func(r Record) bool) {
	var list []Record
	for _, r := range k.records {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Record) int { return int(a.Offset) - int(b.Offset) })
	for _, r := range list {
		if !yield(r) {
			return
		}
	}
}

// noted is a window that only counts, and refuses to unmap what it does not have.
type noted struct{ maps, unmaps atomic.Int32 }

func (w *noted) Size() uint64           { return 1 << 20 }
func (w *noted) Map(int, Mapping) error { w.maps.Add(1); return nil }
func (w *noted) Unmap(Range) error {
	w.unmaps.Add(1)
	return errors.New("not mapped")
}

// TestRecover: what a successor does with each record.
func TestRecover(t *testing.T) {
	const unit = 4096
	at := func(i, units, file uint64) Mapping {
		return Mapping{Offset: i * unit, Length: units * unit, File: file}
	}
	k := &kept{records: map[uint64]Record{}, traits: Traits{PastEnd: true}, known: true}
	for _, r := range []Record{
		{at(0, 2, 7), true},
		{at(2, 1, 8), false}, // under way
		{at(4, 2, 9), true},  // another one begins within it
		{at(5, 2, 9), true},  // forged
		{Mapping{Offset: 7 * unit, Length: 100, File: 1}, true},             // forged
		{Mapping{Offset: 1 << 19, Length: 1 << 63, File: 1}, true},          // forged
		{Mapping{Offset: 255 * unit, Length: unit, File: ^uint64(0)}, true}, // a probe's
	} {
		_ = k.Put(r)
	}
	table := NewTable(1<<20, unit)
	table.Recover(k)
	w := &noted{}
	table.Reattach(w)
	table.Wait()
	var files []uint64
	for _, m := range table.Mappings() {
		files = append(files, m.File)
	}
	if !slices.Equal(files, []uint64{7, 9}) || w.unmaps.Load() != 2 || w.maps.Load() != 0 {
		t.Errorf("files %v are mapped, %d mapped and %d unmapped again", files, w.maps.Load(), w.unmaps.Load())
	}
	if !table.Traits().PastEnd || table.Traits().ReadOnly {
		t.Errorf("%+v", table.Traits())
	}
	// That the window did not have what was under way is no error of a request for it.
	if err := table.Unmap([]Range{{2 * unit, unit}}, nil); err != nil {
		t.Error(err)
	}
	if !table.Has(at(0, 2, 7)) {
		t.Error("a mapping is lost")
	}
	// One that the guest has asked for again is its own; another one gives way.
	if err := table.Map(0, at(0, 1, 1), nil); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
	if err := table.Map(0, at(4, 1, 1), nil); err != nil {
		t.Error(err)
	}
	if r, ok := k.records[4*unit]; !ok || !r.Sure || r.File != 1 {
		t.Errorf("recorded %+v", r)
	}
	table.Attach(nil)
	if len(k.records) != 0 {
		t.Errorf("recorded after the end: %+v", k.records)
	}
}

// TestRecoverReset: a session that has ended leaves nothing.
func TestRecoverReset(t *testing.T) {
	k := &kept{records: map[uint64]Record{}}
	_ = k.Put(Record{Mapping{Offset: 0, Length: 4096, File: 3}, true})
	table := NewTable(1<<20, 4096)
	table.Recover(k)
	table.Reset()
	w := &noted{}
	table.Reattach(w)
	table.Wait()
	if len(table.Mappings()) != 0 || w.unmaps.Load() != 1 || len(k.records) != 0 {
		t.Errorf("%d mappings, %d unmapped, %d recorded", len(table.Mappings()), w.unmaps.Load(), len(k.records))
	}
}
