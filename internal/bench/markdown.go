package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// tableTargets are the targets of a table for a document.
type tableTargets struct {
	compared []string // the first one and all that it is compared with
	self     bool     // there is the first one once more
	floor    bool
}

func (r *Report) tableTargets() (t tableTargets) {
	for _, row := range r.Rows { // not every row has the floor
		for _, f := range row.Targets {
			switch {
			case f.Target == floorName:
				t.floor = true
			case f.Self:
				t.self = true
			case !slices.Contains(t.compared, f.Target):
				t.compared = append(t.compared, f.Target)
			}
		}
	}
	return t
}

// WriteMarkdown writes one table for a document, with a line for each workload and
// depth. It has the speeds, and how the first target compares with the fastest other
// one; the same for CPU; and how its CPU compares with the floor's. If the first target
// was measured against itself, too, the range of that is in parentheses after each
// ratio.
func (r *Report) WriteMarkdown(w io.Writer) error {
	t := r.tableTargets()
	head := []string{"workload", "depth"}
	for _, what := range []string{"per s", "CPU us"} {
		for _, n := range t.compared {
			head = append(head, n+" "+what)
		}
		if len(t.compared) > 1 {
			head = append(head, "ratio")
		}
		if t.self {
			head = append(head, "itself")
		}
	}
	if t.floor {
		head = append(head, floorName+" CPU us", "ratio")
	}
	fmt.Fprintf(w, "%s; %s. Ratios are %s's to the better of the others.\n\n", r.Machine, r.conditions(), t.compared[0])
	writeCells(w, head)
	writeCells(w, append([]string{"---"}, slices.Repeat([]string{"--:"}, len(head)-1)...))
	for i := range r.Rows {
		writeCells(w, r.Rows[i].cells(&t))
	}
	return nil
}

// cells is a line of the table for a document.
func (r *Row) cells(t *tableTargets) []string {
	cells := []string{r.Workload, strconv.Itoa(r.Depth)}
	var speeds, cpus []string
	var speed, cpu []Ratio
	var self [2]string
	limit := []string{"-", "-"}
	for i, f := range r.Targets {
		switch {
		case f.Target == floorName:
			limit = []string{fmt.Sprintf("%.2f", f.CPU), times(f.CPURatio.Value)}
			continue
		case f.Self:
			self = [2]string{f.Ratio.span(), f.CPURatio.span()}
			continue
		}
		speeds, cpus = append(speeds, fmt.Sprintf("%.0f", f.PerSecond)), append(cpus, fmt.Sprintf("%.2f", f.CPU))
		if i > 0 {
			speed, cpu = append(speed, f.Ratio), append(cpu, f.CPURatio)
		}
	}
	compare := func(a, b Ratio) int { return cmp.Compare(a.Value, b.Value) }
	cells = append(cells, speeds...)
	if len(t.compared) > 1 {
		cells = append(cells, slices.MinFunc(speed, compare).cell())
	}
	if t.self {
		cells = append(cells, self[0])
	}
	cells = append(cells, cpus...)
	if len(t.compared) > 1 {
		cells = append(cells, slices.MaxFunc(cpu, compare).cell())
	}
	if t.self {
		cells = append(cells, self[1])
	}
	if t.floor {
		cells = append(cells, limit...)
	}
	return cells
}

func writeCells(w io.Writer, cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
