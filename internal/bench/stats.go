package bench

import (
	"slices"
	"time"
)

// Figures are the summary of a Measurement: the medians over its rounds, or the best of
// them, and latencies over all rounds.
type Figures struct {
	Target    string   `json:"target"`
	Self      bool     `json:"self,omitempty"`     // it is the first target once more
	PerSecond float64  `json:"per_second"`         // units
	CPU       float64  `json:"cpu_us"`             // of the back-end, microseconds per unit
	Driver    float64  `json:"driver_us"`          // of the load generator
	Kicks     float64  `json:"kicks_per_request"`  // notifications of the back-end
	Calls     float64  `json:"calls_per_request"`  // notifications by the back-end
	Syscalls  float64  `json:"syscalls,omitempty"` // of the back-end, per unit
	Spread    float64  `json:"spread"`             // (fastest - slowest round) / median
	P50       float64  `json:"p50_us"`             // latency of a request
	P90       float64  `json:"p90_us"`             //
	P99       float64  `json:"p99_us"`             //
	P999      float64  `json:"p99_9_us"`           //
	Max       float64  `json:"max_us"`             //
	Requests  uint64   `json:"requests"`           // in all rounds
	Ratio     Ratio    `json:"ratio,omitzero"`     // the first target's speed to this one's
	CPURatio  Ratio    `json:"cpu_ratio,omitzero"` // the first target's CPU to this one's
	MBPerSec  float64  `json:"mb_per_second,omitempty"`
	Rounds    []Sample `json:"rounds"`
}

// median of a list, which it sorts; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// summary reduces the values of all rounds to one figure.
type summary func(v []float64, lower bool) float64

// byMedian is the median, whether lower or higher is better.
func byMedian(v []float64, _ bool) float64 { return median(v) }

// byBest is the lowest figure if lower is better, and else the highest. On a machine
// that also does other things, it is the figure of the round that was disturbed least.
func byBest(v []float64, lower bool) float64 {
	switch {
	case len(v) == 0:
		return 0
	case lower:
		return slices.Min(v)
	}
	return slices.Max(v)
}

// each is f of every round.
func each(rounds []Sample, f func(Sample) float64) (v []float64) {
	for _, s := range rounds {
		v = append(v, f(s))
	}
	return v
}

func perSecond(s Sample) float64 { return ratio(float64(s.Units), s.Wall.Seconds()) }

// perUnit is a time in microseconds per unit.
func perUnit(d time.Duration, s Sample) float64 {
	return ratio(float64(d.Nanoseconds())/1e3, float64(s.Units))
}

func cpuPerUnit(s Sample) float64 { return perUnit(s.CPU, s) }

// ratio is 0 instead of infinite.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Figures sums up a result, with ratios of the first target to the others. A ratio is
// the median over the ratios of each round, or with best that of the best rounds.
func (r *Result) Figures(best bool) []Figures {
	var list []Figures
	for i := range r.Targets {
		list = append(list, r.Targets[i].figures())
	}
	summarize(list, r.Workload.Bytes, best)
	return list
}

// figures are those that are the same for medians and for best rounds.
func (m *Measurement) figures() Figures {
	return Figures{
		Target:   m.Target,
		Self:     m.Self,
		Rounds:   m.Rounds,
		Syscalls: m.Syscalls,
		Requests: m.Latency.Count(),
		P50:      us(m.Latency.Quantile(0.5)),
		P90:      us(m.Latency.Quantile(0.9)),
		P99:      us(m.Latency.Quantile(0.99)),
		P999:     us(m.Latency.Quantile(0.999)),
		Max:      us(m.Latency.Max()),
	}
}

// summarize computes the figures that depend on the rounds. A unit has so many
// bytes.
func summarize(list []Figures, bytes int, best bool) {
	sum := byMedian
	if best {
		sum = byBest
	}
	for i := range list {
		f := &list[i]
		f.summarize(sum)
		f.MBPerSec = f.PerSecond * float64(bytes) / 1e6
		if i == 0 {
			continue
		}
		f.Ratio, f.CPURatio = compare(list[0].Rounds, f.Rounds, perSecond), compare(list[0].Rounds, f.Rounds, cpuPerUnit)
		if best {
			f.Ratio.Value, f.CPURatio.Value = ratio(list[0].PerSecond, f.PerSecond), ratio(list[0].CPU, f.CPU)
		}
	}
	for k := range list {
		self := &list[k]
		if !self.Self {
			continue
		}
		self.Ratio.Noise, self.CPURatio.Noise = true, true // that is what it is for
		for i := range list[1:] {
			if f := &list[1+i]; !f.Self {
				f.Ratio.against(self.Ratio)
				f.CPURatio.against(self.CPURatio)
			}
		}
	}
}

func (f *Figures) summarize(sum summary) {
	rates := each(f.Rounds, perSecond)
	f.PerSecond = sum(rates, false)
	f.CPU = sum(each(f.Rounds, cpuPerUnit), true)
	f.Driver = sum(each(f.Rounds, func(s Sample) float64 { return perUnit(s.Driver, s) }), true)
	f.Kicks = median(each(f.Rounds, func(s Sample) float64 { return ratio(float64(s.Kicks), float64(s.Requests)) }))
	f.Calls = median(each(f.Rounds, func(s Sample) float64 { return ratio(float64(s.Calls), float64(s.Requests)) }))
	f.Spread = 0
	if len(rates) > 0 {
		f.Spread = ratio(slices.Max(rates)-slices.Min(rates), f.PerSecond)
	}
}

func us(ns int64) float64 { return float64(ns) / 1e3 }
