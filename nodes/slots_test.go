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

// TestSlotsSettleOften: the slots of a table that was large once are used again, however often
// another process takes over, and take no memory before that.
func TestSlotsSettleOften(t *testing.T) {
	const large = 1 << 20
	end, generations := uint32(large), uint32(0)
	used := map[uint64]bool{}
	for range 300 {
		s := &slots[uint64]{}
		s.settle(end, generations)
		for range 1000 {
			number := s.add(new(uint64), func(uint64) bool { return true })
			if number == 0 || used[number] || uint32(number) >= large {
				t.Fatalf("number %#x, used %v", number, used[number])
			}
			used[number] = true
		}
		pages := 0
		for i := range uint32(large / paged.PageSize) {
			if s.slots.Page(i) != nil {
				pages++
			}
		}
		if pages > 5 {
			t.Fatalf("%d pages", pages)
		}
		end, generations = s.end(), s.generations()
	}
	if end != large {
		t.Errorf("the table ends at %d", end)
	}
}

// TestSlotsRetired: a slot whose number had ended when another process took over is used again
// in a generation that was never there.
func TestSlotsRetired(t *testing.T) {
	for _, when := range []string{"before others", "after others"} {
		s := &slots[uint64]{}
		v := new(uint64)
		if !s.restore(v, 2<<32|5, true) {
			t.Fatal("not restored")
		}
		s.settle(10, 7)
		add := func() uint64 { return s.add(new(uint64), func(uint64) bool { return true }) }
		numbers := map[uint64]bool{}
		if when == "after others" {
			numbers[add()] = true
		}
		s.release(5, v, func() {})
		for range 30 - len(numbers) {
			number := add()
			if slot := uint32(number); numbers[number] || slot < 10 && number>>32 != 8 || slot >= 10 && number>>32 != 0 {
				t.Errorf("%s: number %#x", when, number)
			}
			numbers[number] = true
		}
		slots := map[uint32]bool{}
		for number := range numbers {
			slots[uint32(number)] = true
		}
		if len(slots) != 30 || !slots[5] {
			t.Errorf("%s: %d slots, slot 5 %v", when, len(slots), slots[5])
		}
	}
}
