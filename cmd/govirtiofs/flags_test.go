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
		"mount --queues abc":                    `invalid argument "abc" for "--queues" flag: want a whole number`,
		"doctor --pid abc":                      `invalid argument "abc" for "--pid" flag: want a whole number`,
		"doctor --pid 1,x":                      `invalid argument "1,x" for "--pid" flag: want a whole number`,
		"doctor --pid 99999999999999999999":     "the number is too large",
		"doctor --probe=7":                      `invalid argument "7" for "--probe" flag: takes no value`,
		"doctor --soket-path /run/s":            "unknown flag: --soket-path; did you mean --socket-path?",
		"doctor --share-dir /srv":               "unknown flag: --share-dir; did you mean --shared-dir?",
		"doctor --jsno":                         "unknown flag: --jsno; did you mean --json?",
		"doctor --read-only":                    "unknown flag: --read-only; did you mean --readonly?",
		"doctor --nonsense":                     "unknown flag: --nonsense",
		"doctor -x":                             "unknown shorthand flag: 'x' in -x",
		"doctor --socket-path":                  "flag needs an argument: --socket-path",
		"bench --duration soon --socket-path x": `invalid argument "soon" for "--duration" flag: want a duration, such as 500ms, 10s or 2m`,
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

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"json", "jsno", 2}, {"tag", "tag", 0}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
