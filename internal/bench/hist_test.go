package bench

import (
	"math"
	"slices"
	"testing"
)

// TestBuckets: buckets touch, and are as narrow as promised.
func TestBuckets(t *testing.T) {
	var h Hist
	for i := range h.counts {
		low := lowest(i)
		if got := bucket(low); got != i {
			t.Fatalf("bucket %d begins at %d, which is in bucket %d", i, low, got)
		}
		if i == 0 {
			continue
		}
		if got := bucket(low - 1); got != i-1 {
			t.Fatalf("%d is in bucket %d, want %d", low-1, got, i-1)
		}
		if i < len(h.counts)-1 {
			if width := lowest(i+1) - low; low >= 1<<subBits && float64(width)/float64(low) > 1.0/(1<<subBits) {
				t.Fatalf("bucket %d is %d wide at %d", i, width, low)
			}
		}
	}
	if got := bucket(math.MaxInt64); got >= len(h.counts) {
		t.Errorf("the largest duration is in bucket %d of %d", got, len(h.counts))
	}
}

func TestQuantile(t *testing.T) {
	var h Hist
	if h.Quantile(0.5) != 0 || h.Max() != 0 {
		t.Error("an empty histogram has values")
	}
	r := noise{7}
	var all []int64
	for range 100_000 {
		v := int64(r.next() >> (20 + r.below(40)))
		all = append(all, v)
		h.Record(v)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		got := h.Quantile(q)
		if math.Abs(float64(got-want)) > float64(want)/(1<<subBits)+1 {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if h.Max() != all[len(all)-1] || h.Count() != uint64(len(all)) {
		t.Errorf("max %d of %d, want %d of %d", h.Max(), h.Count(), all[len(all)-1], len(all))
	}
	var sum Hist
	sum.Add(&h)
	sum.Add(&h)
	if sum.Count() != 2*h.Count() || sum.Quantile(0.9) != h.Quantile(0.9) {
		t.Error("twice the same durations have another quantile")
	}
	h.Record(-5) // a clock that went back
	if h.Quantile(0) != 0 {
		t.Errorf("a negative duration is %d", h.Quantile(0))
	}
}

func TestRecordAllocs(t *testing.T) {
	h := new(Hist)
	if n := testing.AllocsPerRun(100, func() { h.Record(12345) }); n != 0 {
		t.Errorf("%v allocations for each duration", n)
	}
}
