package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Report is a finished run with what is needed to judge it.
type Report struct {
	Machine   Machine `json:"machine"`
	Queues    int     `json:"queues"`           // request queues
	Guests    int     `json:"guests,omitempty"` // daemons of each target at the same time; 0 is 1
	QueueSize int     `json:"queue_size"`
	Rounds    int     `json:"rounds"`
	Round     string  `json:"round"` // what a round is limited by
	Best      bool    `json:"best"`  // figures are those of the best rounds, not medians
	Rows      []Row   `json:"results"`
}

// Row is one workload at one depth, with the figures of all targets.
type Row struct {
	Workload string    `json:"workload"`
	Title    string    `json:"title"`
	Unit     string    `json:"unit"`
	Bytes    int       `json:"bytes,omitempty"` // of a unit
	Depth    int       `json:"depth"`
	Targets  []Figures `json:"targets"`
}

// NewReport sums up what a run with these options has measured.
func NewReport(o *Options, results []Result) *Report {
	r := &Report{ThisMachine(o.Dir), o.Queues, o.Guests, o.QueueSize, o.Rounds, o.length(), o.Best, []Row{}}
	for i := range results {
		w := &results[i].Workload
		r.Rows = append(r.Rows, Row{w.Name, w.Title, w.Unit, w.Bytes, results[i].Depth, results[i].Figures(o.Best)})
	}
	return r
}

// Summarize makes the figures those of the best rounds, or medians.
func (r *Report) Summarize(best bool) {
	r.Best = best
	for _, row := range r.Rows {
		summarize(row.Targets, row.Bytes, best)
	}
}

// ReadReport reads what WriteJSON has written.
func ReadReport(from io.Reader) (*Report, error) {
	r := &Report{}
	if err := json.NewDecoder(from).Decode(r); err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	if len(r.Rows) == 0 {
		return nil, errors.New("read a report: there are no results in it")
	}
	return r, nil
}

// WriteTable writes a table for people, a block for each workload.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s\n%s\n", r.Machine, r.conditions())
	compared, counted := r.has(func(f *Figures) bool { return f.Ratio != 0 || f.CPURatio != 0 }),
		r.has(func(f *Figures) bool { return f.Syscalls != 0 })
	for _, line := range legend(compared, counted) {
		fmt.Fprintln(w, line)
	}
	for from := 0; from < len(r.Rows); {
		to := from + 1
		for to < len(r.Rows) && r.Rows[to].Workload == r.Rows[from].Workload {
			to++
		}
		if err := writeBlock(w, r.Rows[from:to], compared, counted); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// has says whether some figures are as asked; a column of none is left out.
func (r *Report) has(ok func(*Figures) bool) bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool {
		return slices.ContainsFunc(row.Targets, func(f Figures) bool { return ok(&f) })
	})
}

// legend explains the columns.
func legend(compared, counted bool) []string {
	list := []string{"a unit is what the column that ends in /s counts; p50 to max: latency of a request in us"}
	if compared {
		list = append(list, "ratio: how many times as many units the first target does; CPU ratio: what share of the CPU it needs for one")
	}
	calls := ""
	if counted {
		calls = "; sys: system calls per unit"
	}
	return append(list, "kick, call: notifications of and by the back-end, per request"+calls,
		"spread: between the slowest and the fastest round; driver us: processor time of the load generator per unit")
}

// writeBlock writes one workload, at all its depths.
func writeBlock(w io.Writer, rows []Row, compared, counted bool) error {
	if _, err := fmt.Fprintf(w, "\n%s: %s\n", rows[0].Workload, rows[0].Title); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(depth, target, speed, ratio, cpu, cpuRatio, kick, call, sys string, rest ...string) {
		cells := []string{depth, target, speed}
		if compared {
			cells = append(cells, ratio)
		}
		cells = append(cells, cpu)
		if compared {
			cells = append(cells, cpuRatio)
		}
		cells = append(cells, kick, call)
		if counted {
			cells = append(cells, sys)
		}
		fmt.Fprintln(t, strings.Join(append(cells, rest...), "\t")+"\t")
	}
	line("depth", "target", rows[0].units()+"/s", "ratio", "CPU us", "CPU ratio", "kick", "call", "sys",
		"p50", "p90", "p99", "p99.9", "max", "spread", "driver us")
	for _, row := range rows {
		for _, f := range row.Targets {
			line(strconv.Itoa(row.Depth), f.Target, fmt.Sprintf("%.0f", f.PerSecond), times(f.Ratio), fmt.Sprintf("%.2f", f.CPU), times(f.CPURatio),
				fmt.Sprintf("%.2f", f.Kicks), fmt.Sprintf("%.2f", f.Calls), optional(f.Syscalls),
				f.latencies(), fmt.Sprintf("%.0f%%", f.Spread*100), fmt.Sprintf("%.2f", f.Driver))
		}
	}
	return t.Flush()
}

func (r *Report) conditions() string {
	what := "medians"
	if r.Best {
		what = "the best round of each"
	}
	guests := ""
	if r.Guests > 1 {
		guests = fmt.Sprintf("%d guests at the same time, each with a daemon and ", r.Guests)
	}
	return guests + fmt.Sprintf("%d request queue(s) of %d, %d round(s) of %s, %s; CPU is the back-end's per unit", r.Queues, r.QueueSize, r.Rounds, r.Round, what)
}

// units is the plural of the unit.
func (r *Row) units() string {
	if r.Unit == "entry" {
		return "entries"
	}
	return r.Unit + "s"
}

// WriteMarkdown writes one table for a document, a line for each workload and depth:
// the speeds and how the first target compares with the fastest other; the same for CPU;
// and how its CPU compares with the floor's.
func (r *Report) WriteMarkdown(w io.Writer) error {
	names := r.targets()
	others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == floorName })
	floor := len(others) < len(names)
	head := []string{"workload", "depth"}
	for _, what := range []string{"per s", "CPU us"} {
		for _, n := range others {
			head = append(head, n+" "+what)
		}
		if len(others) > 1 {
			head = append(head, "ratio")
		}
	}
	if floor {
		head = append(head, floorName+" CPU us", "ratio")
	}
	fmt.Fprintf(w, "%s; %s. Ratios are %s's to the better of the others.\n\n", r.Machine, r.conditions(), others[0])
	writeCells(w, head)
	writeCells(w, append([]string{"---"}, slices.Repeat([]string{"--:"}, len(head)-1)...))
	for i := range r.Rows {
		writeCells(w, r.Rows[i].cells(others, floor))
	}
	return nil
}

// targets are the names of all targets; not every row has the floor.
func (r *Report) targets() (names []string) {
	for _, row := range r.Rows {
		for _, f := range row.Targets {
			if !slices.Contains(names, f.Target) {
				names = append(names, f.Target)
			}
		}
	}
	return names
}

// cells is a line of the table for a document.
func (r *Row) cells(others []string, floor bool) []string {
	cells := []string{r.Workload, strconv.Itoa(r.Depth)}
	var speeds, cpus []string
	var speed, cpu []float64 // ratios
	limit := []string{"-", "-"}
	for i, f := range r.Targets {
		if f.Target == floorName {
			limit = []string{fmt.Sprintf("%.2f", f.CPU), times(f.CPURatio)}
			continue
		}
		speeds, cpus = append(speeds, fmt.Sprintf("%.0f", f.PerSecond)), append(cpus, fmt.Sprintf("%.2f", f.CPU))
		if i > 0 {
			speed, cpu = append(speed, f.Ratio), append(cpu, f.CPURatio)
		}
	}
	cells = append(cells, speeds...)
	if len(others) > 1 {
		cells = append(cells, times(slices.Min(speed)))
	}
	cells = append(cells, cpus...)
	if len(others) > 1 {
		cells = append(cells, times(slices.Max(cpu)))
	}
	if floor {
		cells = append(cells, limit...)
	}
	return cells
}

func writeCells(w io.Writer, cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }

func optional(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x)
}

func times(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2fx", x)
}

// latencies are the columns of the table; the floor has none.
func (f *Figures) latencies() string {
	if f.Requests == 0 {
		return strings.Repeat("-\t", 4) + "-"
	}
	var b strings.Builder
	for i, v := range []float64{f.P50, f.P90, f.P99, f.P999, f.Max} {
		if i > 0 {
			b.WriteByte('\t')
		}
		if v < 100 {
			fmt.Fprintf(&b, "%.1f", v)
		} else {
			fmt.Fprintf(&b, "%.0f", v)
		}
	}
	return b.String()
}

// WriteJSON writes one object with everything, which ReadReport reads.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteBenchstat writes each round as a line of Go's benchmark format, with the target
// as a key: "benchstat -col /target FILE" compares them.
func (r *Report) WriteBenchstat(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "goos: linux\ngoarch: %s\ncpu: %s\n", m.Arch, m.CPU)
	for _, row := range r.Rows {
		name := strings.ReplaceAll(title(row.Workload), "-", "")
		for _, t := range row.Targets {
			target := strings.Join(strings.Fields(t.Target), "_")
			for _, s := range t.Rounds {
				fmt.Fprintf(w, "Benchmark%s/depth=%d/queues=%d/target=%s %d %.1f ns/%s %.1f cpu-ns/%s %.3f kicks/req %.3f calls/req\n",
					name, row.Depth, r.Queues, target, s.Units, ratio(float64(s.Wall.Nanoseconds()), float64(s.Units)), row.Unit,
					cpuPerUnit(s)*1e3, row.Unit, ratio(float64(s.Kicks), float64(s.Requests)), ratio(float64(s.Calls), float64(s.Requests)))
			}
		}
	}
	return nil
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// length is what a round is limited by.
func (o *Options) length() string {
	if o.Count > 0 {
		return fmt.Sprintf("%d units", o.Count)
	}
	return o.Duration.String()
}
