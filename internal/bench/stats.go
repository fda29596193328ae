package bench

import (
	"slices"
	"time"
)

// Figures are what a Measurement comes down to: medians over its rounds, and latencies
// over all of them.
type Figures struct {
	Target    string   `json:"target"`
	PerSecond float64  `json:"per_second"`          // units
	CPU       float64  `json:"cpu_us"`              // of the back-end, microseconds per unit
	Driver    float64  `json:"driver_us"`           // of the load generator
	Kicks     float64  `json:"kicks_per_request"`   // notifications of the back-end
	Calls     float64  `json:"calls_per_request"`   // notifications by the back-end
	Syscalls  float64  `json:"syscalls,omitempty"`  // of the back-end, per unit
	Spread    float64  `json:"spread"`              // (fastest - slowest round) / median
	P50       float64  `json:"p50_us"`              // latency of a request
	P90       float64  `json:"p90_us"`              //
	P99       float64  `json:"p99_us"`              //
	P999      float64  `json:"p99_9_us"`            //
	Max       float64  `json:"max_us"`              //
	Requests  uint64   `json:"requests"`            // in all rounds
	Ratio     float64  `json:"ratio,omitempty"`     // the first target's speed to this one's
	CPURatio  float64  `json:"cpu_ratio,omitempty"` // the first target's CPU to this one's
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

// each is f of every round.
func (m *Measurement) each(f func(Sample) float64) (v []float64) {
	for _, s := range m.Rounds {
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
// the median over the ratios of each round.
func (r *Result) Figures() (list []Figures) {
	for i := range r.Targets {
		m := &r.Targets[i]
		f := m.figures()
		f.MBPerSec = f.PerSecond * float64(r.Workload.Bytes) / 1e6
		if i > 0 {
			f.Ratio = ratioOf(&r.Targets[0], m, perSecond)
			f.CPURatio = ratioOf(&r.Targets[0], m, cpuPerUnit)
		}
		list = append(list, f)
	}
	return list
}

func (m *Measurement) figures() Figures {
	rates := m.each(perSecond)
	f := Figures{
		Target:    m.Target,
		Rounds:    m.Rounds,
		PerSecond: median(rates), // sorted from here on
		CPU:       median(m.each(cpuPerUnit)),
		Driver:    median(m.each(func(s Sample) float64 { return perUnit(s.Driver, s) })),
		Kicks:     median(m.each(func(s Sample) float64 { return ratio(float64(s.Kicks), float64(s.Requests)) })),
		Calls:     median(m.each(func(s Sample) float64 { return ratio(float64(s.Calls), float64(s.Requests)) })),
		Syscalls:  m.Syscalls,
		Requests:  m.Latency.Count(),
		P50:       us(m.Latency.Quantile(0.5)),
		P90:       us(m.Latency.Quantile(0.9)),
		P99:       us(m.Latency.Quantile(0.99)),
		P999:      us(m.Latency.Quantile(0.999)),
		Max:       us(m.Latency.Max()),
	}
	if n := len(rates); n > 0 {
		f.Spread = ratio(rates[n-1]-rates[0], f.PerSecond)
	}
	return f
}

func us(ns int64) float64 { return float64(ns) / 1e3 }

// ratioOf is the median of a's figure to b's, round by round.
func ratioOf(a, b *Measurement, f func(Sample) float64) float64 {
	var v []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		v = append(v, ratio(f(a.Rounds[i]), f(b.Rounds[i])))
	}
	return median(v)
}
