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
	// MaxForeign is the part of the processors' time that other programs may have had in a
	// round that counts, from 0 to 1.
	MaxForeign float64 `json:"max_foreign,omitempty"`
	Rows       []Row   `json:"results"`
}

// Row is one workload at one depth, with the figures of all targets.
type Row struct {
	Workload string `json:"workload"`
	Title    string `json:"title"`
	Unit     string `json:"unit"`
	Bytes    int    `json:"bytes,omitempty"` // of a unit
	Depth    int    `json:"depth"`
	// Dropped is how many rounds were left out because of others; see Result.
	Dropped   int       `json:"dropped_rounds,omitempty"`
	Disturbed bool      `json:"disturbed,omitempty"`
	Targets   []Figures `json:"targets"`
}

// NewReport sums up what a run with these options has measured.
func NewReport(o *Options, results []Result) *Report {
	r := &Report{ThisMachine(o.Dir), o.Queues, o.Guests, o.QueueSize, o.Rounds, o.length(), o.Best, o.MaxForeign, []Row{}}
	for i := range results {
		res, w := &results[i], &results[i].Workload
		r.Rows = append(r.Rows, Row{w.Name, w.Title, w.Unit, w.Bytes, res.Depth, res.Dropped, res.Disturbed, res.Figures(o.Best)})
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
	r.Summarize(r.Best) // an earlier version may have written it, without noise
	return r, nil
}

// columns are the optional columns of a table: each is there only if it has
// figures.
type columns struct{ compared, counted, dropped bool }

func (r *Report) columns() columns {
	return columns{
		compared: r.has(func(f *Figures) bool { return f.Ratio.Value != 0 || f.CPURatio.Value != 0 }),
		counted:  r.has(func(f *Figures) bool { return f.Syscalls != 0 }),
		dropped:  r.dropped() > 0,
	}
}

// WriteTable writes a table for people, a block for each workload.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s\n%s\n", r.Machine, r.conditions())
	c := r.columns()
	for _, line := range c.legend() {
		fmt.Fprintln(w, line)
	}
	for from := 0; from < len(r.Rows); {
		to := from + 1
		for to < len(r.Rows) && r.Rows[to].Workload == r.Rows[from].Workload {
			to++
		}
		if err := c.writeBlock(w, r.Rows[from:to]); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// has reports whether ok holds for some figures. A column without any is left
// out.
func (r *Report) has(ok func(*Figures) bool) bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool {
		return slices.ContainsFunc(row.Targets, func(f Figures) bool { return ok(&f) })
	})
}

// dropped is how many rounds of all rows were left out.
func (r *Report) dropped() (n int) {
	for _, row := range r.Rows {
		n += row.Dropped
	}
	return n
}

// legend explains the columns.
func (c columns) legend() []string {
	list := []string{"a unit is what the column that ends in /s counts; p50 to max: latency of a request in us"}
	if c.compared {
		list = append(list, "ratio: how many times as many units the first target does; CPU ratio: what share of the CPU it needs for one",
			"range: where the ratio is with 95 % confidence; noise: the range has 1 in it, or its ends differ by 2x or more, or the first target against itself gives as much")
	}
	calls := ""
	if c.counted {
		calls = "; sys: system calls per unit"
	}
	list = append(list, "kick, call: notifications of and by the back-end, per request"+calls,
		"spread: between the slowest and the fastest round; driver us: processor time of the load generator per unit")
	if c.dropped {
		list = append(list, "dropped: rounds left out because of others; with ! there were so many that some had to be kept")
	}
	return list
}

// A cell is a column's head, or a row's text in it; absent columns are left out.
type cell struct {
	text  string
	there bool
}

func (c columns) line(t io.Writer, cells []cell) {
	var list []string
	for _, x := range cells {
		if x.there {
			list = append(list, x.text)
		}
	}
	fmt.Fprintln(t, strings.Join(list, "\t")+"\t")
}

// writeBlock writes one workload, at all its depths.
func (c columns) writeBlock(w io.Writer, rows []Row) error {
	if _, err := fmt.Fprintf(w, "\n%s: %s\n", rows[0].Workload, rows[0].Title); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	c.line(t, []cell{{"depth", true}, {"target", true}, {rows[0].units() + "/s", true}, {"ratio", c.compared}, {"range", c.compared},
		{"CPU us", true}, {"CPU ratio", c.compared}, {"range", c.compared}, {"kick", true}, {"call", true}, {"sys", c.counted},
		{"p50\tp90\tp99\tp99.9\tmax\tspread\tdriver us", true}, {"dropped", c.dropped}})
	for _, row := range rows {
		for _, f := range row.Targets {
			c.line(t, []cell{{strconv.Itoa(row.Depth), true}, {f.Target, true}, {fmt.Sprintf("%.0f", f.PerSecond), true},
				{f.Ratio.String(), c.compared}, {f.Ratio.span(), c.compared}, {fmt.Sprintf("%.2f", f.CPU), true},
				{f.CPURatio.String(), c.compared}, {f.CPURatio.span(), c.compared},
				{fmt.Sprintf("%.2f", f.Kicks), true}, {fmt.Sprintf("%.2f", f.Calls), true}, {optional(f.Syscalls), c.counted},
				{f.latencies(), true}, {fmt.Sprintf("%.0f%%", f.Spread*100), true}, {fmt.Sprintf("%.2f", f.Driver), true},
				{row.drops(), c.dropped}})
		}
	}
	return t.Flush()
}

// drops is how many rounds were left out, with a mark if there were not enough others.
func (r *Row) drops() string {
	if r.Disturbed {
		return strconv.Itoa(r.Dropped) + "!"
	}
	return strconv.Itoa(r.Dropped)
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
	return guests + fmt.Sprintf("%d request queue(s) of %d, %d round(s) of %s, %s; CPU is the back-end's per unit", r.Queues, r.QueueSize, r.Rounds, r.Round, what) + r.droppedText()
}

// droppedText says how many rounds were left out and why, if there were any.
func (r *Report) droppedText() string {
	n := r.dropped()
	if n == 0 {
		return ""
	}
	text := fmt.Sprintf("; %d more round(s) dropped, in which others had over %.0f %% of the processors' time", n, 100*r.MaxForeign)
	var short []string
	for _, row := range r.Rows {
		if row.Disturbed {
			short = append(short, fmt.Sprintf("%s at depth %d", row.Workload, row.Depth))
		}
	}
	if len(short) > 0 {
		text += "; not enough others were left of " + strings.Join(short, ", ")
	}
	return text
}

// units is the plural of the unit.
func (r *Row) units() string {
	if r.Unit == "entry" {
		return "entries"
	}
	return r.Unit + "s"
}

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
