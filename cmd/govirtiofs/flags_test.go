package main

import (
	"bytes"
	"errors"
	"os"
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
		"doctor --probe=7":                      `invalid value "7" for option --probe: want no value, true or false`,
		"doctor --soket-path /run/s":            "unknown option --soket-path; did you mean --socket-path?",
		"doctor --share-dir /srv":               "unknown option --share-dir; did you mean --shared-dir?",
		"doctor --jsno":                         "unknown option --jsno; did you mean --json?",
		"doctor --read-only":                    "unknown option --read-only; did you mean --readonly?",
		"doctor --nonsense":                     "unknown option --nonsense",
		"doctor -x":                             "unknown option -x",
		"doctor -shared-dir /srv":               "unknown option -shared-dir; did you mean --shared-dir?",
		"bench -rounds 3":                       "unknown option -rounds; did you mean --rounds?",
		"doctro":                                `unknown command "doctro"; did you mean doctor?`,
		"monut /run/s /mnt":                     `unknown command "monut"; did you mean mount?`,
		"nonsense":                              `unknown command "nonsense"`,
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

// TestHelp: users read of options, and learn when they can't read it.
func TestHelp(t *testing.T) {
	for _, line := range []string{"--help", "mount --help", "bench --help", "doctor --help"} {
		root := newRoot()
		var b bytes.Buffer
		root.SetOut(&b)
		root.SetArgs(strings.Fields(line))
		if err := root.Execute(); err != nil || !strings.Contains(b.String(), "Options:") || strings.Contains(strings.ToLower(b.String()), "flag") {
			t.Errorf("%s: %v\n%s", line, err, b.String())
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	stdout := os.Stdout
	os.Stdout = full
	defer func() { os.Stdout = stdout }()
	for _, line := range []string{"--help", "--version", "doctor --help", "completion bash"} {
		if status := run(strings.Fields(line)); status != 1 {
			t.Errorf("%s: status %d", line, status)
		}
	}
}
