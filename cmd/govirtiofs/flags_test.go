package main

import (
	"errors"
	"strings"
	"testing"
)

// TestFlagErrors has mistakes in options; none may be told in the words of package
// strconv.
func TestFlagErrors(t *testing.T) {
	for line, want := range map[string]string{
		"mount --queues abc":                    `invalid value "abc" for option --queues: want a whole number`,
		"doctor --pid abc":                      `invalid value "abc" for option --pid: want a whole number`,
		"doctor --pid 1,x":                      `invalid value "1,x" for option --pid: want a whole number`,
		"doctor --pid 99999999999999999999":     "the number is too large",
		"doctor --probe=7":                      `invalid value "7" for option --probe: takes no value`,
		"doctor --soket-path /run/s":            "unknown option --soket-path; did you mean --socket-path?",
		"doctor --share-dir /srv":               "unknown option --share-dir; did you mean --shared-dir?",
		"doctor --jsno":                         "unknown option --jsno; did you mean --json?",
		"doctor --read-only":                    "unknown option --read-only; did you mean --readonly?",
		"doctor --nonsense":                     "unknown option --nonsense",
		"doctor -x":                             "unknown option -x",
		"doctor --socket-path":                  "option --socket-path needs a value",
		"bench --duration soon --socket-path x": `invalid value "soon" for option --duration: want a duration, such as 500ms, 10s or 2m`,
	} {
		root := newRoot()
		root.SetArgs(strings.Fields(line))
		err := root.Execute()
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%s: %v, want a mistake on the command line", line, err)
			continue
		}
		if got := err.Error(); !strings.HasSuffix(got, want) || strings.Contains(got, "strconv") {
			t.Errorf("%s:\n got %s\nwant %s", line, got, want)
		}
	}
}
