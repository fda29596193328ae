package differential

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is an intended difference: in which field of which answer, and the
// two values. "*" is any value. "-" is a missing field or answer.
type difference struct {
	test         string // replies, malformed, init, arguments
	under        string // variants, all if empty
	at           string // CASE/REQUEST#FIELD, several with | between them
	theirs, ours string
	why          string
}

// seenDifferences remembers which rows of the list have been met.
type seenDifferences map[int]bool

// matches compares with "*" for anything.
func matches(pattern, s string) bool {
	re := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	return regexp.MustCompile("^(?s:" + re + ")$").MatchString(s)
}

// intended reports whether a difference is in the list.
func (seen seenDifferences) intended(test, variant, at, theirs, ours string) bool {
	for i, d := range differences {
		if d.test != test || d.under != "" && !matches(d.under, variant) || !matches(d.theirs, theirs) || !matches(d.ours, ours) {
			continue
		}
		for pattern := range strings.SplitSeq(d.at, "|") {
			if matches(pattern, at) {
				seen[i] = true
				return true
			}
		}
	}
	return false
}

// compare compares all answers of two daemons.
func (seen seenDifferences) compare(t *testing.T, test, variant string, theirs, ours []line) {
	t.Helper()
	a, b := byLabel(theirs), byLabel(ours)
	labels := map[string]bool{}
	for _, l := range slices.Concat(theirs, ours) {
		if labels[l.label] {
			continue
		}
		labels[l.label] = true
		for _, d := range diff(a[l.label], b[l.label]) {
			if at := l.label + "#" + d.field; !seen.intended(test, variant, at, d.theirs, d.ours) {
				t.Errorf("%s: virtiofsd %s, govirtiofsd %s", at, d.theirs, d.ours)
			}
		}
	}
	if len(labels) == 0 {
		t.Error("nothing was asked")
	}
}

// byLabel joins the answers to requests of one label.
func byLabel(lines []line) map[string]answer {
	m := map[string]answer{}
	for _, l := range lines {
		if m[l.label] == nil {
			m[l.label] = answer{}
		}
		for k, v := range l.answer {
			if old, ok := m[l.label][k]; ok {
				v = old + " " + v
			}
			m[l.label][k] = v
		}
	}
	return m
}

// fieldDifference is a field that differs.
type fieldDifference struct{ field, theirs, ours string }

// diff compares field by field. When one of them is an error, it ignores the
// other fields.
func diff(theirs, ours answer) (out []fieldDifference) {
	fields := answer{}
	maps.Copy(fields, theirs)
	maps.Copy(fields, ours)
	names := slices.Sorted(maps.Keys(fields))
	if theirs["errno"] != ours["errno"] {
		names = []string{"errno"}
	}
	for _, k := range names {
		if a, b := field(theirs, k), field(ours, k); a != b {
			out = append(out, fieldDifference{k, a, b})
		}
	}
	return out
}

func field(a answer, k string) string {
	if v, ok := a[k]; ok {
		return v
	}
	return "-"
}

// checkUnused fails for rows of the list that have not been met.
func (seen seenDifferences) checkUnused(t *testing.T, test string) {
	t.Helper()
	for i, d := range differences {
		if d.test == test && !seen[i] {
			t.Errorf("not a difference any more: %s: %s and %s", d.at, d.theirs, d.ours)
		}
	}
}
