package dax

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestModel compares a Table with a map of units, step by step.
func TestModel(t *testing.T) {
	const units = 16
	table, w := newTable(t, units)
	var model [units]*Mapping // by unit; all units of a mapping have the same pointer
	r := rand.New(rand.NewPCG(1, 2))
	steps := 40_000
	if testing.Short() {
		steps = 4_000
	}
	for step := range steps {
		i, n := r.Uint64N(units+1), r.Uint64N(4)
		if r.IntN(3) > 0 {
			m := at(i, n, r.Uint64N(2))
			m.Writable = r.IntN(2) == 0
			err := table.Map(0, m, nil)
			if want := modelMap(model[:], i, n, &m); !errors.Is(err, want) || want == nil && err != nil {
				t.Fatalf("step %d: Map(%v): %v, want %v", step, m, err, want)
			}
		} else {
			err := table.Unmap(span(i, n), nil)
			if want := modelUnmap(model[:], i, n); !errors.Is(err, want) || want == nil && err != nil {
				t.Fatalf("step %d: Unmap(%d, %d): %v, want %v", step, i, n, err, want)
			}
		}
		var want []Mapping
		for u := range model {
			if m := model[u]; m != nil && m.Offset == uint64(u)*unit {
				want = append(want, *m)
			}
		}
		if got := table.Mappings(); len(got) != len(want) {
			t.Fatalf("step %d: %v, want %v", step, got, want)
		} else {
			for k := range got {
				if got[k] != want[k] {
					t.Fatalf("step %d: %v, want %v", step, got, want)
				}
			}
		}
	}
	agree(t, table, w)
}

func modelMap(model []*Mapping, i, n uint64, m *Mapping) error {
	if n == 0 || i+n > uint64(len(model)) {
		return ErrRange
	}
	free := true
	for u := i; u < i+n; u++ {
		free = free && model[u] == nil
	}
	if free {
		for u := i; u < i+n; u++ {
			model[u] = m
		}
		return nil
	}
	have := model[i]
	if have == nil || have.Offset != m.Offset || have.Length != m.Length || have.File != m.File {
		return ErrTaken
	}
	if m.Writable && !have.Writable {
		return errOverlap // the window's refusal
	}
	return nil
}

func modelUnmap(model []*Mapping, i, n uint64) error {
	if n == 0 || i+n > uint64(len(model)) {
		return ErrRange
	}
	for u := i; u < i+n; u++ {
		if m := model[u]; m != nil && (m.Offset < i*unit || m.Offset+m.Length > (i+n)*unit) {
			return ErrRange
		}
	}
	clear(model[i : i+n])
	return nil
}

// TestConcurrent has many requests at once, some of which stop waiting, and resets. The
// window notices requests that should have waited for each other.
func TestConcurrent(t *testing.T) {
	const units = 12
	table, w := newTable(t, units)
	steps := 5_000
	if testing.Short() {
		steps = 500
	}
	var all sync.WaitGroup
	for g := range uint64(6) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(3, g))
			for range steps {
				cancel := make(chan struct{})
				switch r.IntN(8) {
				case 0:
					close(cancel)
				case 1, 2:
					go close(cancel)
				}
				i, n := r.Uint64N(units), 1+r.Uint64N(2)
				switch k := r.IntN(100); {
				case k == 0:
					table.Reset()
				case k < 60:
					m := at(i, n, r.Uint64N(2))
					m.Writable = r.IntN(2) == 0
					_ = table.Map(0, m, cancel)
				default:
					_ = table.Unmap(span(i, n), cancel)
				}
			}
		})
	}
	all.Wait()
	table.Wait()
	agree(t, table, w)
	table.Reset()
	table.Wait()
	if len(w.mappings()) != 0 {
		t.Error("after Reset:", w.mappings())
	}
}
