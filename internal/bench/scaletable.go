package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteScale writes two tables, of directories and of known nodes, for people or for a
// document.
func WriteScale(w io.Writer, list []Scale, markdown bool) error {
	if err := scaleListings(list).write(w, markdown); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return scaleNodes(list).write(w, markdown)
}

// scaleListings is the table of directories.
func scaleListings(list []Scale) *grid {
	g := &grid{head: []string{"files", "target", "READDIR/s", "CPU us", "new/s", "CPU us", "longest us",
		"known/s", "CPU us", "longest us", "first us", "middle us", "memory KiB"}}
	for i := range list {
		m := &list[i]
		row := []string{fmt.Sprint(m.Files), m.Target, count(m.Names.PerSecond), micros(m.Names.CPU),
			count(m.New.PerSecond), micros(m.New.CPU), count(m.New.Max),
			count(m.Known.PerSecond), micros(m.Known.CPU), count(m.Known.Max),
			count(m.First), count(m.Middle), count(m.Reading / 1024)}
		g.add(row, m.Failed)
	}
	return g
}

// scaleNodes is the table of known nodes.
func scaleNodes(list []Scale) *grid {
	g := &grid{head: []string{"files", "target", "memory/node", "descriptors", "forget CPU us", "depth",
		"LOOKUP/s", "CPU us", "p50 us", "p99.9 us", "longest us"}}
	for i := range list {
		m := &list[i]
		row := []string{fmt.Sprint(m.Files), m.Target, count(m.Node), count(m.Descriptors), micros(m.Forget)}
		for _, l := range m.Lookups {
			g.add(append(row[:5:5], fmt.Sprint(l.Depth), count(l.PerSecond), micros(l.CPU), micros(l.P50), micros(l.P999), count(l.Max)), m.Failed)
		}
		if len(m.Lookups) == 0 {
			g.add(row, m.Failed)
		}
	}
	return g
}

// count and micros format figures for a table; 0 means that a figure was not
// measured.
func count(v float64) string  { return figure("%.0f", v) }
func micros(v float64) string { return figure("%.2f", v) }

func figure(format string, v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// grid is a table.
type grid struct {
	head  []string
	rows  [][]string
	notes []string
}

// add appends a row, with dashes for missing figures, and a note about it.
func (g *grid) add(row []string, note string) {
	for len(row) < len(g.head) {
		row = append(row, "-")
	}
	if note = strings.TrimSpace(note); note != "" {
		g.notes = append(g.notes, fmt.Sprintf("%s, %s files: %s", row[1], row[0], note))
	}
	g.rows = append(g.rows, row)
}

func (g *grid) write(w io.Writer, markdown bool) error {
	if markdown {
		writeCells(w, g.head)
		rule := make([]string, len(g.head))
		for i := range rule {
			rule[i] = "--:"
		}
		rule[1] = "---"
		writeCells(w, rule)
		for _, row := range g.rows {
			writeCells(w, row)
		}
	} else {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, row := range append([][]string{g.head}, g.rows...) {
			fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, note := range g.notes {
		if _, err := fmt.Fprintf(w, "\n%s\n", note); err != nil {
			return err
		}
	}
	return nil
}
