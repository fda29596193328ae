package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// samples are rounds with these speeds.
func samples(speeds ...float64) (list []Sample) {
	for _, v := range speeds {
		list = append(list, Sample{Units: uint64(v * 1000), Wall: time.Second, CPU: time.Second})
	}
	return list
}

// TestCompare: a ratio is noise if its rounds say nothing.
func TestCompare(t *testing.T) {
	const n = true
	for _, c := range []struct {
		what            string
		a               []float64 // speeds; the other target's are all 1
		value, low, top float64
		noise           bool
	}{
		{"clearly faster", []float64{1.3, 1.2, 1.4}, 1.3, 1.2, 1.4, false},
		{"clearly slower", []float64{0.7, 0.8, 0.9}, 0.8, 0.7, 0.9, false},
		{"now slower, now faster", []float64{0.9, 1.5, 1.6}, 1.5, 0.9, 1.6, n},
		{"as fast", []float64{1, 1, 1}, 1, 1, 1, n},
		{"165 times, or three", []float64{3, 165, 300}, 165, 3, 300, n},
		{"one round", []float64{3}, 3, 3, 3, n},
		{"two rounds", []float64{3, 3}, 3, 3, 3, n},
		{"nine rounds, one of them disturbed each way", []float64{0.1, 1.2, 1.2, 1.2, 1.2, 1.3, 1.3, 1.3, 90}, 1.2, 1.2, 1.3, false},
		{"no round", nil, 0, 0, 0, false},
	} {
		ones := slices.Repeat([]float64{1}, len(c.a))
		got := compare(samples(c.a...), samples(ones...), perSecond)
		if want := (Ratio{c.value, c.low, c.top, c.noise}); got != want {
			t.Errorf("%s: %+v, want %+v", c.what, got, want)
		}
	}
}

// TestRank: the interval between the two ranks contains the median with 95 %. The test
// computes the probability in another way. A narrower interval has less than 95 %.
func TestRank(t *testing.T) {
	below := func(n, k int) (p float64) { // at most k of n fall below the median
		for i := range k + 1 {
			lg := func(x int) float64 { v, _ := math.Lgamma(float64(x + 1)); return v }
			p += math.Exp(lg(n) - lg(i) - lg(n-i) - float64(n)*math.Ln2)
		}
		return p
	}
	for n := 1; n < 200; n++ {
		k := rank(n)
		if k < 0 || 2*k >= n {
			t.Fatalf("rank(%d) = %d", n, k)
		}
		if n >= 6 && below(n, k) > 0.025+1e-9 || below(n, k+1) <= 0.025 {
			t.Errorf("rank(%d) = %d: %v of the intervals miss the median on one side, %v of the next", n, k, below(n, k), below(n, k+1))
		}
	}
}

// TestSelf: a ratio that the first target against itself also reaches is noise.
func TestSelf(t *testing.T) {
	list := []Figures{
		{Target: "ours", Rounds: samples(1, 1, 1)},
		{Target: "a little slower", Rounds: samples(0.9, 0.9, 0.9)},
		{Target: "much slower", Rounds: samples(0.4, 0.5, 0.5)},
		{Target: "itself", Self: true, Rounds: samples(0.85, 0.95, 0.9)}, // noise, even so
	}
	summarize(list, 0, false)
	if !list[1].Ratio.Noise || list[2].Ratio.Noise || !list[3].Ratio.Noise {
		t.Errorf("got %+v", list)
	}
}

// TestKeep: rounds that other programs disturbed do not count, unless there are
// no other rounds.
func TestKeep(t *testing.T) {
	for _, c := range []struct {
		what      string
		foreign   []float64 // of each round
		rounds    int
		want      []int
		disturbed bool
	}{
		{"a quiet machine", []float64{0, 0.1, 0.02}, 3, []int{0, 1, 2}, false},
		{"two bad rounds", []float64{0, 0.3, 0, 0.11, 0}, 3, []int{0, 2, 4}, false},
		{"one is missing", []float64{0.3, 0, 0.2, 0, 0.4, 0.5}, 3, []int{1, 3}, false},
		{"a busy machine", []float64{0.4, 0.3, 0, 0.5, 0.2, 0.6, 0.7, 0.9, 0.8, 0.95}, 5, []int{1, 2, 4}, true},
		{"all are as bad", []float64{0.5, 0.5, 0.5, 0.5, 0.5, 0.5}, 3, []int{0, 1}, true},
		{"one round, and a bad one", []float64{0.5, 0.4}, 1, []int{1}, true},
	} {
		var list []attempt
		for i, f := range c.foreign {
			list = append(list, attempt{samples: []Sample{{Units: uint64(i)}, {Foreign: f}}})
		}
		kept, disturbed := keep(list, c.rounds, 0.1)
		var got []int
		for _, a := range kept {
			got = append(got, int(a.samples[0].Units))
		}
		if !slices.Equal(got, c.want) || disturbed != c.disturbed {
			t.Errorf("%s: kept %v, disturbed %v; want %v, %v", c.what, got, disturbed, c.want, c.disturbed)
		}
	}
}

// TestNoiseShown: noise and dropped rounds are in each format, and a ratio that is noise is
// nowhere shown as a result.
func TestNoiseShown(t *testing.T) {
	r := sampleReport()
	row := &r.Rows[0]
	for i := range row.Targets[1].Rounds {
		row.Targets[1].Rounds[i].Units = []uint64{1000, 9000, 9000}[i] // 3, 0.67, 1
	}
	self := row.Targets[0]
	self.Target, self.Self = "itself", true
	row.Targets = append(row.Targets[:2:2], self, row.Targets[2])
	row.Dropped, row.Disturbed = 4, true
	r.MaxForeign = 0.1
	r.Summarize(false)
	for name, format := range map[string]struct {
		write func(*strings.Builder) error
		want  []string
	}{
		"table": {func(b *strings.Builder) error { return r.WriteTable(b) },
			[]string{"noise  0.67-3.00", "1.00-1.00", "4!", "4 more round(s) dropped", "over 10 %", "not enough others were left of read-4k at depth 8"}},
		"markdown": {func(b *strings.Builder) error { return r.WriteMarkdown(b) },
			[]string{"noise (0.67-3.00)", "| itself |", "| 1.00-1.00 |", "4 more round(s) dropped"}},
		"JSON": {func(b *strings.Builder) error { return r.WriteJSON(b) },
			[]string{`"noise": true`, `"dropped_rounds": 4`, `"disturbed": true`, `"self": true`, `"max_foreign": 0.1`}},
		"picture": {func(b *strings.Builder) error { return r.WriteSVG(b) },
			[]string{">noise<", "dashed: noise", "4 disturbed round(s) dropped", "against itself"}},
	} {
		var b strings.Builder
		if err := format.write(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range format.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("the %s lacks %q:\n%s", name, want, b.String())
			}
		}
		if name != "JSON" && strings.Contains(b.String(), "1.00x") {
			t.Errorf("the %s shows noise as a result:\n%s", name, b.String())
		}
	}
}

// TestClippedBars: a bar that is longer than the scale has a mark.
func TestClippedBars(t *testing.T) {
	for speed, marked := range map[float64]bool{1.5: false, 7.9: false, 8.1: true, 165: true, 0.2: false, 0.1: true} {
		r := sampleReport()
		row := &r.Rows[0]
		row.Targets = row.Targets[:2]
		for i := range row.Targets[1].Rounds {
			row.Targets[0].Rounds[i].Units = uint64(speed * 10_000)
			row.Targets[1].Rounds[i].Units = 10_000
			row.Targets[0].Rounds[i].CPU = row.Targets[1].Rounds[i].CPU
		}
		r.Summarize(false)
		for i := range row.Targets {
			row.Targets[i].CPURatio = Ratio{}
		}
		var b strings.Builder
		if err := r.WriteSVG(&b); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "<path"); got != marked || got != strings.Contains(b.String(), "arrow: longer than the scale") {
			t.Errorf("%v: marked is %v:\n%s", speed, got, b.String())
		}
		if !strings.Contains(b.String(), fmt.Sprintf("%.2f", speed)) {
			t.Errorf("%v: the number is missing:\n%s", speed, b.String())
		}
	}
}

// TestOldReport: ratios of an earlier version were bare numbers.
func TestOldReport(t *testing.T) {
	var f Figures
	if err := json.Unmarshal([]byte(`{"target": "x", "ratio": 3.5, "cpu_ratio": {"value": 2, "low": 1.5, "high": 3}}`), &f); err != nil ||
		f.Ratio.Value != 3.5 || f.CPURatio.Low != 1.5 {
		t.Errorf("%+v, %v", f, err)
	}
	if json.Unmarshal([]byte(`{"ratio": "x"}`), &f) == nil {
		t.Error("text is a ratio")
	}
}

// TestJudge: a certain loss fails, and an uncertain one is reported.
func TestJudge(t *testing.T) {
	r := sampleReport()
	row := &r.Rows[0]
	row.Targets = []Figures{{Target: "new"},
		{Target: "a", Ratio: Ratio{Value: 0.9, Low: 0.88, High: 0.95}, CPURatio: Ratio{Value: 1.1, Low: 1.02, High: 1.2}},
		{Target: "b", Ratio: Ratio{Value: 0.96, Low: 0.9, High: 0.99, Noise: true}, CPURatio: Ratio{Value: 1.2, Low: 1.1, High: 1.3}},
		{Target: "c", Ratio: Ratio{Value: 0.98, Low: 0.97, High: 0.99}, CPURatio: Ratio{Value: 1.03, Low: 1, High: 1.1}},
		{Target: "d", Ratio: Ratio{Value: 0.9, Low: 0.88, High: 0.95, Noise: true}}, // as itself
		{Target: "itself", Self: true, Ratio: Ratio{Value: 0.5, Low: 0.5, High: 0.5}},
		{Target: floorName, Ratio: Ratio{Value: 0.5, Low: 0.5, High: 0.5}, CPURatio: Ratio{Value: 9, Low: 9, High: 9}}}
	failed, unclear := r.Judge(Require{Ratio: 0.97, CPURatio: 1.03})
	if got := strings.Join(failed, "\n"); len(failed) != 2 || !strings.Contains(got, "against a: 0.90 of the operations") ||
		!strings.Contains(got, "against b: 1.20 of the processor time") {
		t.Errorf("failed: %q", failed)
	}
	if got := strings.Join(unclear, "\n"); len(unclear) != 3 || !strings.Contains(got, "against a: 1.10 of the processor time") ||
		!strings.Contains(got, "against b: 0.96 of the operations") {
		t.Errorf("unclear: %q", unclear)
	}
	if failed, unclear := r.Judge(Require{}); failed != nil || unclear != nil {
		t.Errorf("nothing is required: %q, %q", failed, unclear)
	}
}
