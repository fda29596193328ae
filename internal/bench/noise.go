package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Ratio compares the first target with another one, round by round.
type Ratio struct {
	// Value is the median over the rounds' ratios, or the ratio of the best rounds. 0
	// means that there is nothing to compare.
	Value float64 `json:"value"`
	// The median lies between Low and High with 95 % confidence. This follows from the order
	// of the rounds' ratios, without assumptions about them. With less than 6 rounds, Low and
	// High are the lowest and the highest round.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Noise is set if Value means nothing: if 1 is between Low and High, if they differ by a
	// factor of noisy or more, if the first target against itself gave as much, or if there
	// are less than leastRounds rounds.
	Noise bool `json:"noise,omitempty"`
}

const (
	noisy       = 2.0
	leastRounds = 3
)

// UnmarshalJSON also takes a bare number, which earlier versions have written.
func (r *Ratio) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &r.Value) == nil {
		return nil
	}
	type plain Ratio
	return json.Unmarshal(b, (*plain)(r))
}

// compare compares a's figure to b's in each round.
func compare(a, b []Sample, f func(Sample) float64) (r Ratio) {
	var v []float64
	for i := range min(len(a), len(b)) {
		if x := ratio(f(a[i]), f(b[i])); x > 0 {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return Ratio{}
	}
	r.Value = median(v) // sorts
	k := rank(len(v))
	r.Low, r.High = v[k], v[len(v)-1-k]
	r.Noise = len(v) < leastRounds || r.Low <= 1 && 1 <= r.High || r.High >= noisy*r.Low
	return r
}

// against flags a ratio that the first target against itself reaches as well.
func (r *Ratio) against(self Ratio) {
	if self.Value != 0 && self.Low <= r.Value && r.Value <= self.High {
		r.Noise = true
	}
}

// rank is the index of the lower end of the confidence interval of a median in a sorted list
// of n: the largest k for which the probability that k or fewer of n lie below the median is
// 2.5 % at most; 0 if there is none.
func rank(n int) int {
	p, sum := math.Pow(0.5, float64(n)), 0.0 // binomial: none below
	for k := range n {
		if sum += p; sum > 0.025 {
			return max(0, k-1)
		}
		p *= float64(n-k) / float64(k+1)
	}
	return 0
}

// String is "1.25x", "noise", or "-" for nothing.
func (r Ratio) String() string {
	if r.Noise {
		return "noise"
	}
	return times(r.Value)
}

// span is "1.20-1.31", or "-".
func (r Ratio) span() string {
	if r.Value == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f-%.2f", r.Low, r.High)
}

// cell is String for a document, which has no column for the span.
func (r Ratio) cell() string {
	if r.Noise {
		return fmt.Sprintf("noise (%s)", r.span())
	}
	return times(r.Value)
}

// attempt is one round of all subjects.
type attempt struct {
	samples   []Sample
	latencies []*Hist
}

// foreign is the largest share of others' processor time in a round.
func (a *attempt) foreign() (most float64) {
	for _, s := range a.samples {
		most = max(most, s.Foreign)
	}
	return most
}

// keep drops the rounds in which other programs had more than limit of the processors' time. If
// less than half of the requested rounds remain, it keeps this number of the quietest rounds and
// sets disturbed. It does not change the order.
func keep(list []attempt, rounds int, limit float64) (kept []attempt, disturbed bool) {
	quiet := func(a attempt) bool { return a.foreign() <= limit }
	least := (rounds + 1) / 2
	var shares []float64
	for _, a := range list {
		shares = append(shares, a.foreign())
		if quiet(a) {
			kept = append(kept, a)
		}
	}
	if len(kept) >= min(least, len(list)) {
		return kept, false
	}
	slices.Sort(shares)
	limit = shares[min(least, len(shares))-1]
	kept = nil
	for _, a := range list {
		if a.foreign() <= limit && len(kept) < least {
			kept = append(kept, a)
		}
	}
	return kept, true
}
