package passthrough

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// heap is how much memory is in use.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestSlotsScattered: what another daemon's numbers are does not decide how much memory
// they take.
func TestSlotsScattered(t *testing.T) {
	const entries = 1 << 13
	for name, far := range map[string]uint32{"side by side": 1, "far apart": slotPage, "a few in a page": slotPage / 8} {
		s := newSlots[int]()
		v := new(int)
		before := heap()
		for i := range uint32(entries) {
			if !s.put(uint64(i)<<32|uint64(1+i*far), v) {
				t.Fatalf("%s: entry %d is refused", name, i)
			}
		}
		taken := heap() - before
		if limit := firstPages<<16 + 512*entries; taken > limit {
			t.Errorf("%s: %d entries take %d KiB, want %d at most", name, entries, taken>>10, limit>>10)
		}
		s.settle(0, entries)
		runtime.KeepAlive(s)
	}
}

// TestSlotsFew compares a table that was filled from outside with a map, while it is used.
func TestSlotsFew(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := newSlots[uint64]()
	want := map[uint64]*uint64{}
	put := func(number uint64) {
		v := new(uint64)
		*v = number
		taken := s.at(uint32(number)) != nil
		if s.put(number, v) == taken {
			t.Fatalf("put of %#x: taken is %v", number, taken)
		}
		if !taken {
			want[number] = v
		}
	}
	const pages = 3 * firstPages
	for page := range uint64(pages) {
		put(random.Uint64N(3)<<32 | page<<slotBits | 1 + random.Uint64N(slotPage-1))
	}
	for range 5 * fewSlots { // one page becomes full
		put(uint64(pages-1)<<slotBits | random.Uint64N(slotPage))
	}
	for range 1000 {
		put(random.Uint64N(pages*slotPage-1) + 1)
	}
	for _, bad := range []uint64{0, 1 << 32, maxPages << slotBits} {
		if s.put(bad, new(uint64)) {
			t.Errorf("put of %#x", bad)
		}
	}
	s.settle(0, 3)
	if got := s.generations(); got < 2 || got > 4 {
		t.Errorf("generations: %d", got)
	}
	check := func() {
		t.Helper()
		for number, v := range want {
			if s.get(number) != v || s.get(number+5<<32) != nil {
				t.Fatalf("number %#x is lost", number)
			}
		}
		var all, numbers []uint64
		for v := range s.all {
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
				if !s.remove(number) || s.remove(number) || s.get(number) != nil {
					t.Fatalf("number %#x can't be removed once", number)
				}
				delete(want, number)
				break
			}
			continue
		}
		v := new(uint64)
		*v = s.add(v, func(number uint64) { *v = number })
		if *v == 0 || want[*v] != nil {
			t.Fatalf("number %#x is used twice", *v)
		}
		want[*v] = v
	}
	check()
	for v := range s.all { // removing what is being looked at
		s.remove(*v)
		delete(want, *v)
	}
	check()
}
