package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestDocumentedRanges compares the ranges of the summary in doc/performance.md with the
// table in doc/performance-notes.md, and README.md's copy of the summary.
func TestDocumentedRanges(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	notes, page, readme := read("doc/performance-notes.md"), read("doc/performance.md"), read("README.md")
	_, table, _ := strings.Cut(notes, "<!-- defaults -->")
	table, _, _ = strings.Cut(table, "<!-- end of defaults -->")
	type row struct{ speed, cpu float64 }
	rows := map[string]row{}
	for line := range strings.Lines(table) {
		c := strings.Split(line, "|")
		if len(c) < 12 {
			continue
		}
		speed, err1 := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(c[6]), "x"), 64)
		cpu, err2 := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(c[10]), "x"), 64)
		if err1 == nil && err2 == nil {
			rows[strings.TrimSpace(c[1])+strings.TrimSpace(c[2])] = row{speed, cpu}
		}
	}
	small := []string{"getattr", "lookup", "open", "read-4k", "readdirplus"}
	changes := []string{"create", "mkdir", "rename", "mixed", "lookup-new"}
	for _, test := range []struct {
		title     string
		workloads []string
		depths    []string
	}{
		{"GETATTR, LOOKUP, OPEN, READ of 4 KiB, READDIRPLUS, one at a time", small, []string{"1"}},
		{"the same, 8 at a time", small, []string{"8"}},
		{"the same, 32 at a time", small, []string{"32"}},
		{"create, mkdir, rename, mixed, LOOKUP of new names, one at a time", changes, []string{"1"}},
		{"the same, 8 or 32 at a time", changes, []string{"8", "32"}},
		{"1 MiB reads and writes", []string{"read-1m", "write-1m"}, []string{"1", "8", "32"}},
	} {
		lo, hi := row{1e9, 1e9}, row{}
		for _, w := range test.workloads {
			for _, d := range test.depths {
				r, ok := rows[w+d]
				if !ok {
					t.Fatalf("no row %s at depth %s in doc/performance-notes.md", w, d)
				}
				lo = row{min(lo.speed, r.speed), min(lo.cpu, r.cpu)}
				hi = row{max(hi.speed, r.speed), max(hi.cpu, r.cpu)}
			}
		}
		want := fmt.Sprintf("| %s | %.1fx to %.1fx | %.1fx to %.1fx |", test.title, lo.speed, hi.speed, lo.cpu, hi.cpu)
		for name, text := range map[string]string{"doc/performance.md": page, "README.md": readme} {
			// Losses are bold.
			if !strings.Contains(strings.ReplaceAll(text, "**", ""), want) {
				t.Errorf("%s has no row\n%s", name, want)
			}
		}
	}
	// All rows of ratios in README are those of the page.
	_, summary, _ := strings.Cut(readme, "Speed and costs")
	for line := range strings.Lines(summary) {
		if strings.HasPrefix(line, "|") && !strings.Contains(page, line) {
			t.Errorf("README.md has a row that is not in doc/performance.md:\n%s", line)
		}
	}
}
