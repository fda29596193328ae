package host

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// TestHostProcessors: the program is told of changes only, and never of less than there were
// for what is not a queue.
func TestHostProcessors(t *testing.T) {
	var told []int
	h, err := New(Options{Processors: func(n int) { told = append(told, n) }, MaxProcessors: 4})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func()
		want []int
	}{
		{"two queues", func() { h.AddQueues(2) }, []int{3}},
		{"want one", func() { h.Want(1) }, nil},
		{"a waiting thread", func() { h.AddWaiting(1) }, []int{4}},
		{"it ends", func() { h.AddWaiting(-1) }, nil},
		{"and comes back", func() { h.AddWaiting(1) }, nil},
		{"another", func() { h.AddWaiting(1) }, []int{5}},
		{"want more than there are", func() { h.Want(1000) }, []int{6}},
		{"no queues", func() { h.AddQueues(-2) }, []int{4}},
	} {
		told = nil
		if step.do(); !slices.Equal(told, step.want) {
			t.Errorf("%s: told %d, want %d", step.name, told, step.want)
		}
	}
}

// TestNilHost: a share that has nothing in common with others is not limited.
func TestNilHost(t *testing.T) {
	var h *Host
	h.Want(2)
	h.AddQueues(1)
	h.AddWaiting(1)
	p, err := h.Descriptors()
	if err != nil || !p.Take(1<<40) || !p.Keep(1) || !h.Threads().Take(1) || !h.Memory().Take(1) || h.MaxDescriptors() != 0 {
		t.Errorf("something is refused: %v", err)
	}
	p.Put(1)
	p.Unkeep(1)
	p.Close()
}

// takeAll takes one at a time, and returns how many that were.
func takeAll(p *Part, keep bool) (n int) {
	for {
		if keep && !p.Keep(1) {
			return n
		}
		if !p.Take(1) {
			return n
		}
		n++
	}
}

// TestGuaranteed: a share that takes all it can get leaves the others what is theirs.
func TestGuaranteed(t *testing.T) {
	b := newBudget("descriptors", 1000)
	parts := make([]*Part, 5)
	for i := range parts {
		var err error
		if parts[i], err = b.NewPart(100); err != nil {
			t.Fatal(err)
		}
	}
	if n := takeAll(parts[0], false); n != 600 {
		t.Errorf("the first gets %d, want its 100 and the 500 that are nobody's", n)
	}
	for i, p := range parts[1:] {
		if n := takeAll(p, false); n != 100 {
			t.Errorf("part %d gets %d, want 100", i+1, n)
		}
	}
	if _, err := b.NewPart(1); !errors.Is(err, ErrBudget) {
		t.Errorf("one more part: %v", err)
	}
	parts[0].Close()
	p, err := b.NewPart(600)
	if err != nil {
		t.Fatal(err)
	}
	if n := takeAll(p, false); n != 600 {
		t.Errorf("a new part gets %d, want what the first has left", n)
	}
}

// TestKept: of what is its own, a part has a sixteenth for what does not stay, whatever the
// others have by now.
func TestKept(t *testing.T) {
	b := newBudget("descriptors", 320)
	first, err1 := b.NewPart(160)
	second, err2 := b.NewPart(100)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	// The 60 that are nobody's count for what is kept.
	if n := takeAll(first, true); n != 160+60-10 {
		t.Errorf("the first keeps %d, want 210", n)
	}
	if n := takeAll(second, true); n != 100-6 {
		t.Errorf("the second keeps %d, want 94", n)
	}
	if n := takeAll(first, false); n != 10 {
		t.Errorf("the first has %d left, want 10", n)
	}
	if n := takeAll(second, false); n != 6 {
		t.Errorf("the second has %d left, want 6", n)
	}
	for range 210 {
		first.Unkeep(1)
		first.Put(1)
	}
	first.Put(10)
	if n := b.free.Load(); n != 60 {
		t.Errorf("%d are free at the end, want 60", n)
	}
}

// TestBudgetTogether: however many take and give back at the same time, they never have more
// than the budget, and what is left at the end is what there was.
func TestBudgetTogether(t *testing.T) {
	const size, parts, own = 1000, 8, 50
	b := newBudget("descriptors", size)
	var all sync.WaitGroup
	shares := make([]*Part, parts)
	for i := range shares {
		shares[i], _ = b.NewPart(own)
	}
	for i := range 4 * parts {
		all.Go(func() {
			p, r := shares[i%parts], rand.New(rand.NewPCG(uint64(i), 1))
			var taken, kept int64
			for range 2000 {
				n := r.Int64N(20)
				switch r.IntN(4) {
				case 0:
					if p.Take(n) {
						taken += n
					}
				case 1:
					if p.Keep(n) {
						kept += n
					}
				case 2:
					p.Put(min(n, taken))
					taken -= min(n, taken)
				case 3:
					p.Unkeep(min(n, kept))
					kept -= min(n, kept)
				}
				if b.free.Load() < 0 {
					t.Error("more is taken than there is")
					return
				}
			}
			p.Put(taken)
			p.Unkeep(kept)
		})
	}
	all.Wait()
	if n := b.free.Load(); n != size-parts*own {
		t.Errorf("%d are free at the end, want %d", n, size-parts*own)
	}
	for _, p := range shares {
		p.Close()
	}
	if n := b.free.Load(); n != size {
		t.Errorf("%d are free without parts, want %d", n, size)
	}
}
