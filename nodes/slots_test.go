package nodes

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/paged"
)

// TestSlotsSpread: whatever another daemon's numbers are, the table has no more pages than
// the limit allows.
func TestSlotsSpread(t *testing.T) {
	const limit = 64 * paged.PageSize
	s := &slots[int]{}
	v := new(int)
	for slot := uint64(1); slot < 1<<32; slot += max(paged.PageSize/2, slot/512) {
		if put := s.put(7<<32|slot, limit, v, func() bool { return true }, func(*int) {}); put != (slot < limit) {
			t.Fatalf("slot %d: taken %v", slot, put)
		}
	}
	for _, bad := range []uint64{0, 1 << 32, 1, limit, limit | 1<<40, 1<<32 - 1, 1<<64 - 1} {
		if s.put(bad, limit, v, func() bool { return true }, func(*int) {}) {
			t.Errorf("number %#x is taken", bad)
		}
	}
	pages := 0
	for i := range uint32(1 << 32 / paged.PageSize) {
		if s.slots.Page(i) != nil {
			pages++
		}
	}
	if pages > limit/paged.PageSize {
		t.Errorf("%d pages", pages)
	}
	s.settle(limit, 7)
	if end := s.end(); end != limit {
		t.Errorf("the table ends at %d", end)
	}
}

// TestSlotsFromOutside compares a table that was filled from outside with a map, while it
// is used.
func TestSlotsFromOutside(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := &slots[uint64]{}
	want := map[uint64]*uint64{}
	const pages = 40
	for range 3000 {
		number := random.Uint64N(3)<<32 | (random.Uint64N(pages*paged.PageSize-1) + 1)
		v := new(uint64)
		*v = number
		taken := s.at(uint32(number)) != nil
		if s.put(number, pages*paged.PageSize, v, func() bool { return true }, func(*uint64) {}) == taken {
			t.Fatalf("put of %#x: taken is %v", number, taken)
		}
		if !taken {
			want[number] = v
		}
	}
	if got := s.generations(); got != 2 {
		t.Errorf("generations: %d", got)
	}
	s.settle(0, 3)
	if got := s.generations(); got != 4 {
		t.Errorf("generations of slots that are free now: %d", got)
	}
	check := func() {
		t.Helper()
		for number, v := range want {
			if s.get(number) != v || s.get(number+5<<32) != nil {
				t.Fatalf("number %#x is lost", number)
			}
		}
		var all, numbers []uint64
		for number, v := range s.all {
			if number != *v {
				t.Fatalf("number %#x is said to be %#x", *v, number)
			}
			all = append(all, *v)
		}
		for number := range want {
			numbers = append(numbers, number)
		}
		slices.Sort(all)
		slices.Sort(numbers)
		if !slices.Equal(all, numbers) {
			t.Fatalf("%d values are there, want %d", len(all), len(numbers))
		}
	}
	check()
	for i := range 20000 {
		if i%3 == 0 {
			for number := range want {
				if !s.retire(number) || s.retire(number) || s.get(number) != nil {
					t.Fatalf("number %#x can't be retired once", number)
				}
				if s.at(uint32(number)) != want[number] {
					t.Fatalf("slot %d is not the value's any more", uint32(number))
				}
				s.release(uint32(number), want[number], func() {})
				delete(want, number)
				break
			}
			continue
		}
		v := new(uint64)
		*v = s.add(v, func(number uint64) bool { *v = number; return true })
		if *v == 0 || want[*v] != nil {
			t.Fatalf("number %#x is used twice", *v)
		}
		want[*v] = v
	}
	check()
	for number, v := range s.all { // removing what is being looked at
		s.retire(number)
		s.release(uint32(number), want[number], func() {})
		delete(want, *v)
	}
	check()
}
