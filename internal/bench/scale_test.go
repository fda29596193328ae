package bench

import (
	"bytes"
	"strings"
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

func TestFileNumber(t *testing.T) {
	for name, want := range map[string]int{
		fileName(0): 0, fileName(7): 7, fileName(999999): 999999, fileName(1 << 24): 1 << 24,
		".": -1, "..": -1, "": -1, "file-": -1, "file-12x": -1, "filf-12": -1, "file-99999999999999999999": -1,
	} {
		if got := fileNumber([]byte(name)); got != want {
			t.Errorf("fileNumber(%q) = %d, want %d", name, got, want)
		}
	}
}

// entries is a reply of READDIRPLUS, or of READDIR, with files and their positions from
// off on.
func entries(plus bool, off uint64, names ...string) (b []byte) {
	for i, name := range names {
		if plus {
			b = append(b, fp.Bytes(&fp.EntryOut{NodeID: 100 + off + uint64(i)})...)
		}
		b = append(b, fp.Bytes(&fp.Dirent{Off: off + uint64(i) + 1, NameLen: uint32(len(name))})...)
		b = append(b, name...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

// TestWalkParse: parse reads entries and the next position of both kinds of replies, and
// returns an error for a reply that is cut off anywhere.
func TestWalkParse(t *testing.T) {
	list := []string{".", fileName(1), fileName(0)}
	for _, plus := range []bool{false, true} {
		table := nodeTable{nodes: make([]uint64, 2), counts: make([]uint64, 2)}
		w := &walk{plus: plus, table: &table}
		b := entries(plus, 5, list...)
		if n, off, err := w.parse(b); n != 3 || off != 8 || err != nil {
			t.Errorf("plus %t: %d entries, position %d, %v", plus, n, off, err)
		}
		if plus && (table.known() != 2 || table.nodes[0] != 107 || table.nodes[1] != 106 || table.counts[1] != 1) {
			t.Errorf("nodes are %+v", table)
		}
		whole := 0
		for n := range b {
			if _, _, err := w.parse(b[:n]); err == nil {
				whole++
			}
		}
		if whole != len(list) { // nothing, one entry, two entries
			t.Errorf("plus %t: %d cut replies are taken for whole, want %d", plus, whole, len(list))
		}
	}
}

// TestNodeTable: a file whose node changes is noticed.
func TestNodeTable(t *testing.T) {
	table := nodeTable{nodes: make([]uint64, 2), counts: make([]uint64, 2)}
	for _, tt := range []struct {
		node uint64
		ok   bool
	}{{0, true}, {7, true}, {7, true}, {8, false}} {
		if err := table.found([]byte(fileName(1)), tt.node); (err == nil) != tt.ok {
			t.Errorf("node %d: %v", tt.node, err)
		}
	}
	if table.known() != 1 || table.counts[1] != 2 {
		t.Errorf("nodes are %+v", table)
	}
	if err := table.again(1, 7); err != nil || table.counts[1] != 3 {
		t.Errorf("%v, nodes are %+v", err, table)
	}
	if table.again(1, 8) == nil {
		t.Error("another node was not noticed")
	}
}

// TestMedianScale: each figure has its own median, also those of lookups. If one round
// fails, the target has failed.
func TestMedianScale(t *testing.T) {
	var rounds []Scale
	for _, v := range []float64{3, 1, 2} {
		m := Scale{Target: "x", Files: 10, Lookups: make([]ScaleLookup, 2)}
		for i, f := range m.figures() {
			*f = v * float64(i+1)
		}
		rounds = append(rounds, m)
	}
	sum := medianScale(rounds)
	for i, f := range sum.figures() {
		if want := 2 * float64(i+1); *f != want {
			t.Errorf("figure %d is %v, want %v", i, *f, want)
		}
	}
	rounds[2].Failed = "no memory"
	if sum := medianScale(rounds); sum.Failed == "" {
		t.Error("a failure is lost")
	}
}

// TestWriteScale: a target that failed has dashes, and the reason below.
func TestWriteScale(t *testing.T) {
	list := []Scale{
		{Target: "a", Files: 10, New: Listing{PerSecond: 12345, CPU: 1.5}, Lookups: []ScaleLookup{{Depth: 1, PerSecond: 777}, {Depth: 8}}},
		{Target: "b", Files: 10, Failed: "too many open files"},
	}
	for _, markdown := range []bool{false, true} {
		var b bytes.Buffer
		if err := WriteScale(&b, list, markdown); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"12345", "1.50", "777", "b, 10 files: too many open files"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("no %q in:\n%s", want, b.String())
			}
		}
		if pipes := strings.Count(b.String(), "\n|"); markdown && pipes != 4+5-1 {
			t.Errorf("%d lines of tables in:\n%s", pipes+1, b.String())
		}
	}
}
