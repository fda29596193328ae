package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Report is a finished run with what is needed to judge it.
type Report struct {
	Options *Options
	Results []Result
	Machine Machine
}

// WriteTable writes a table for people, a block for each workload.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", r.Machine)
	o := r.Options
	fmt.Fprintf(w, "%d request queue(s) of %d, %d round(s) of %s, medians; CPU is the back-end's per unit\n", o.Queues, o.QueueSize, o.Rounds, o.length())
	for _, line := range []string{
		"vs: how many times faster (units) and what share of the CPU the first target is and needs",
		"kick, call: notifications per request; sys: system calls per unit; p50 to max: latency of a request in us",
	} {
		fmt.Fprintln(w, line)
	}
	title := ""
	for _, res := range r.Results {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		if res.Workload.Name != title {
			title = res.Workload.Name
			fmt.Fprintf(w, "\n%s: %s\n", title, res.Workload.Title)
		}
		rate := res.Workload.Unit + "s/s"
		if res.Workload.Unit == "entry" {
			rate = "entries/s"
		}
		fmt.Fprintf(t, "depth\ttarget\t%s\tvs\tCPU us\tvs\tkick\tcall\tsys\tp50\tp90\tp99\tp99.9\tmax\tspread\tdriver us\t\n", rate)
		for _, f := range res.Figures() {
			fmt.Fprintf(t, "%d\t%s\t%.0f\t%s\t%.2f\t%s\t%.2f\t%.2f\t%s\t%s\t%.0f%%\t%.2f\t\n", res.Depth, f.Target, f.PerSecond, times(f.Ratio),
				f.CPU, times(f.CPURatio), f.Kicks, f.Calls, optional(f.Syscalls), f.latencies(), f.Spread*100, f.Driver)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
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

// jsonResult is a Result as JSON.
type jsonResult struct {
	Workload string    `json:"workload"`
	Title    string    `json:"title"`
	Unit     string    `json:"unit"`
	Depth    int       `json:"depth"`
	Targets  []Figures `json:"targets"`
}

// WriteJSON writes one object with everything.
func (r *Report) WriteJSON(w io.Writer) error {
	out := struct {
		Machine   Machine      `json:"machine"`
		Queues    int          `json:"queues"`
		QueueSize int          `json:"queue_size"`
		Rounds    int          `json:"rounds"`
		Round     string       `json:"round"`
		Results   []jsonResult `json:"results"`
	}{r.Machine, r.Options.Queues, r.Options.QueueSize, r.Options.Rounds, r.Options.length(), []jsonResult{}}
	for _, res := range r.Results {
		out.Results = append(out.Results, jsonResult{res.Workload.Name, res.Workload.Title, res.Workload.Unit, res.Depth, res.Figures()})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// WriteBenchstat writes each round as a line of Go's benchmark format, with the target
// as a key: "benchstat -col /target FILE" compares them.
func (r *Report) WriteBenchstat(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "goos: linux\ngoarch: %s\ncpu: %s\n", m.Arch, m.CPU)
	for _, res := range r.Results {
		for _, t := range res.Targets {
			for _, s := range t.Rounds {
				fmt.Fprintf(w, "Benchmark%s/depth=%d/queues=%d/target=%s %d %.1f ns/%s %.1f cpu-ns/%s %.3f kicks/req %.3f calls/req\n",
					strings.ReplaceAll(title(res.Workload.Name), "-", ""), res.Depth, r.Options.Queues, strings.ReplaceAll(t.Target, " ", "_"),
					s.Units, ratio(float64(s.Wall.Nanoseconds()), float64(s.Units)), res.Workload.Unit,
					cpuPerUnit(s)*1e3, res.Workload.Unit, ratio(float64(s.Kicks), float64(s.Requests)), ratio(float64(s.Calls), float64(s.Requests)))
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
