package bench

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// sampleResults is a run of two targets and the floor, with three rounds each.
func sampleResults() []Result {
	rounds := func(target string, units, cpuUs uint64) Measurement {
		m := Measurement{Target: target, Latency: new(Hist)}
		for i := range uint64(3) {
			n := units * (i + 1) // the machine gets faster all the time
			m.Rounds = append(m.Rounds, Sample{Units: n, Requests: n, Wall: time.Second, Kicks: n / 2, Calls: n / 4,
				CPU: time.Duration(n*cpuUs) * time.Microsecond})
		}
		for i := range int64(1000) {
			m.Latency.Record((i + 1) * 1000)
		}
		return m
	}
	floor := rounds(floorName, 8000, 1)
	floor.Latency = new(Hist)
	return []Result{{Workload: Workload{Name: "read-4k", Title: "a & b", Unit: "op", Bytes: 4096}, Depth: 8,
		Targets: []Measurement{rounds("ours & best", 3000, 2), rounds("theirs", 1000, 5), floor}}}
}

func sampleReport() *Report {
	r := NewReport(&Options{Queues: 1, QueueSize: 128, Rounds: 3, Duration: time.Second}, sampleResults())
	r.Machine = Machine{CPU: "a <CPU>", CPUs: 2, Arch: "amd64", Kernel: "6.1", FS: "ext4"}
	return r
}

func TestFigures(t *testing.T) {
	list := sampleResults()[0].Figures(false)
	ours, theirs := list[0], list[1]
	want := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > want/50 {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	want("speed", ours.PerSecond, 6000)
	want("CPU", ours.CPU, 2)
	want("kicks", ours.Kicks, 0.5)
	want("calls", ours.Calls, 0.25)
	want("spread", ours.Spread, 1)
	want("median latency", ours.P50, 500)
	want("p99.9", ours.P999, 1000)
	want("longest latency", ours.Max, 1000)
	want("MB/s", ours.MBPerSec, 6000*4096/1e6)
	want("ratio of speeds", theirs.Ratio.Value, 3)
	want("ratio of CPU", theirs.CPURatio.Value, 0.4)
	if ours.Ratio.Value != 0 {
		t.Errorf("the first target is compared with itself: %v", ours.Ratio)
	}
	if ours.Rounds[0].Units != 3000 || ours.Rounds[2].Units != 9000 {
		t.Errorf("rounds %v are not in their order", ours.Rounds)
	}
}

// TestBest: the best of rounds of 3,000, 6,000 and 9,000, and of 1,000, 2,000, 3,000.
func TestBest(t *testing.T) {
	list := sampleResults()[0].Figures(true)
	if list[0].PerSecond != 9000 || list[1].PerSecond != 3000 || list[1].Ratio.Value != 3 || list[0].CPU != 2 || list[1].CPURatio.Value != 0.4 {
		t.Errorf("got %+v", list)
	}
	r := sampleReport()
	before := fmt.Sprintf("%+v", r)
	r.Summarize(true)
	if !reflect.DeepEqual(r.Rows[0].Targets, list) || !r.Best {
		t.Errorf("a report that is summed up again has %+v, want %+v", r.Rows[0].Targets, list)
	}
	if r.Summarize(false); fmt.Sprintf("%+v", r) != before {
		t.Errorf("medians have become %+v", r)
	}
	none := []Figures{{}}
	if summarize(none, 0, true); none[0].PerSecond != 0 || none[0].CPU != 0 {
		t.Errorf("without rounds: %+v", none)
	}
}

// TestNothingMeasured: a target that did nothing has figures of 0, not of NaN, which
// JSON cannot hold.
func TestNothingMeasured(t *testing.T) {
	results := sampleResults()
	results[0].Targets[1].Rounds = []Sample{{}}
	r := NewReport(&Options{}, results)
	if err := r.WriteJSON(io.Discard); err != nil {
		t.Error(err)
	}
	if err := r.WriteSVG(io.Discard); err != nil {
		t.Error(err)
	}
}

func TestWriteTable(t *testing.T) {
	var b strings.Builder
	if err := sampleReport().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a <CPU>", "read-4k: a & b", `8\s+ours & best\s+6000\s+-\s+-\s+2\.00\s+-\s+-\s+0\.50\s+0\.25`,
		`8\s+theirs\s+2000\s+3\.00x\s+3\.00-3\.00\s+5\.00\s+0\.40x\s+0\.40-0\.40`, `8\s+syscalls\s+16000`} {
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

// TestTableColumns: each workload has one head, and a column without figures is left
// out.
func TestTableColumns(t *testing.T) {
	r := sampleReport()
	r.Rows = append(r.Rows, r.Rows[0])
	r.Rows[1].Depth = 32
	table := func() string {
		var b strings.Builder
		if err := r.WriteTable(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	both := table()
	if strings.Count(both, "p99.9") != 1 || strings.Count(both, "CPU ratio") != 2 || strings.Contains(both, "sys:") {
		t.Errorf("the head or its legend is wrong:\n%s", both)
	}
	for i := range r.Rows {
		r.Rows[i].Targets = append([]Figures(nil), r.Rows[i].Targets[:1]...)
		r.Rows[i].Targets[0].Syscalls = 3.5
	}
	one := table()
	if strings.Contains(one, "ratio") || !strings.Contains(one, "sys: ") || !strings.Contains(one, "3.50") {
		t.Errorf("the table of one target is\n%s", one)
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	r := sampleReport()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	got, err := ReadReport(strings.NewReader(b.String()))
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("a report comes back as %+v, %v", got, err)
	}
	for _, bad := range []string{"", "{}", "[]", `{"results":3}`} {
		if _, err := ReadReport(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

func TestWriteMarkdown(t *testing.T) {
	var b strings.Builder
	r := sampleReport()
	r.Rows = append([]Row{r.Rows[0]}, r.Rows...)
	r.Rows[0].Targets = r.Rows[0].Targets[:2] // no floor
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")[2:]
	const first = "| read-4k | 8 | 6000 | 2000 | 3.00x | 2.00 | 5.00 | 0.40x |"
	if len(lines) != 4 || lines[2] != first+" - | - |" || lines[3] != first+" 1.00 | 2.00x |" {
		t.Errorf("the table is\n%s", strings.Join(lines, "\n"))
	}
	for _, l := range lines[1:] {
		if strings.Count(l, "|") != strings.Count(lines[0], "|") {
			t.Errorf("a line has other columns than the head:\n%s\n%s", lines[0], l)
		}
	}
}

// TestWriteBenchstat: every line is a benchmark as golang.org/x/perf/benchfmt reads it:
// a name without blanks, a count, and pairs of value and unit.
func TestWriteBenchstat(t *testing.T) {
	var b strings.Builder
	if err := sampleReport().WriteBenchstat(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	line := regexp.MustCompile(`^Benchmark[A-Z]\S*/depth=8/queues=1/target=\S+ \d+( [0-9.]+ \S+)+$`)
	n := 0
	for _, l := range lines {
		if key, _, ok := strings.Cut(l, ": "); ok && !strings.Contains(key, " ") {
			continue
		}
		if !line.MatchString(l) {
			t.Errorf("no line of a benchmark: %q", l)
		}
		n++
	}
	if n != 9 {
		t.Errorf("%d benchmarks, want one for each of 9 rounds", n)
	}
}

// TestWriteSVG: the picture is well-formed, with a bar in each panel for each target
// that is compared, and names are escaped.
func TestWriteSVG(t *testing.T) {
	var b strings.Builder
	r := sampleReport()
	if err := r.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	rects := 0
	var text []string
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, b.String())
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if tok.Name.Local == "rect" {
				rects++
			}
		case xml.CharData:
			text = append(text, string(tok))
		}
	}
	if rects != 1+1+2 { // background, legend, two bars
		t.Errorf("%d rectangles, want 4:\n%s", rects, b.String())
	}
	all := strings.Join(text, "\n")
	for _, want := range []string{"ours & best compared", "against theirs", "read-4k, depth 8", "3.00", "0.40"} {
		if !strings.Contains(all, want) {
			t.Errorf("the picture does not say %q", want)
		}
	}
	r.Rows[0].Targets = r.Rows[0].Targets[:1]
	if r.WriteSVG(io.Discard) == nil {
		t.Error("a picture of one target shows what ratios?")
	}
}

func TestPosition(t *testing.T) {
	if position(1) != svgPanel/2 || position(100) != position(svgMost) || math.Abs(position(2)+position(0.5)-2*position(1)) > 1e-9 {
		t.Error("the scale is not logarithmic and clipped")
	}
}

func TestOptionsCheck(t *testing.T) {
	ok := func() *Options {
		return &Options{Dir: "/d", Targets: []Target{{Name: "a"}}, Workloads: Workloads(), Depths: []int{1, 8}}
	}
	if err := ok().Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"no target":        func(o *Options) { o.Targets = nil },
		"no directory":     func(o *Options) { o.Dir = "" },
		"depth 0":          func(o *Options) { o.Depths = []int{0} },
		"too deep":         func(o *Options) { o.Depths = []int{129} },
		"too deep, direct": func(o *Options) { o.Depths, o.NoIndirect = []int{64}, true },
		"queues":           func(o *Options) { o.Queues = 65 },
		"queue size":       func(o *Options) { o.QueueSize = 100 },
		"chunk":            func(o *Options) { o.Chunk = 1000 },
		"two of a name":    func(o *Options) { o.Targets = []Target{{Name: "a"}, {Name: "a"}} },
		"negative":         func(o *Options) { o.Rounds = -1 },
	} {
		o := ok()
		change(o)
		if o.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFindWorkloads(t *testing.T) {
	all, err := FindWorkloads(nil)
	if err != nil || len(all) < 10 {
		t.Errorf("%d workloads, %v", len(all), err)
	}
	two, err := FindWorkloads([]string{"rename", "getattr"})
	if err != nil || len(two) != 2 || two[0].Name != "rename" {
		t.Errorf("%v, %v", two, err)
	}
	if _, err := FindWorkloads([]string{"nothing"}); err == nil {
		t.Error("a workload called nothing was found")
	}
}
