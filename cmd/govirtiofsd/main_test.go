package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	versions "github.com/govirtiofs/govirtiofs/internal/version"
)

func ptr[T any](v T) *T { return &v }

// usual is the least that is needed, which each test adds to.
var usual = []string{"--shared-dir", "/s", "--socket-path", "/x"}

// What only prints needs no share.
func TestRunPrints(t *testing.T) {
	for _, test := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"", exitUsage, "", "Usage: govirtiofsd"},
		{"--help", exitOK, "--readonly", ""},
		{"-h", exitOK, "--shared-dir DIR", ""},
		{"--version", exitOK, "govirtiofsd " + versions.String("") + "\n", ""},
		{"-V", exitOK, "govirtiofsd ", ""},
		{"--print-capabilities", exitOK, `"type": "fs"`, ""},
		{"--print-capabilities --shared-dir /s", exitOK, `"separate-options"`, ""},
		{"--nosuch", exitUsage, "", "--help"},
		{"--socket-path /x", exitUsage, "", "nothing to share"},
		{"--vsock 1024", exitUsage, "", "--vsock PORT | --vsock-uds PATH)"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(strings.Fields(test.args), &stdout, &stderr)
		if status != test.status || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) ||
			(test.stdout == "") != (stdout.Len() == 0) || (test.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: got status %d, stdout %q, stderr %q", test.args, status, stdout.String(), stderr.String())
		}
	}
}

// TestRunFull: what can't be printed is a failure.
func TestRunFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, arg := range []string{"--help", "--version", "--completion=bash", "--print-capabilities"} {
		var stderr bytes.Buffer
		if status := run([]string{arg}, full, &stderr); status != exitStart || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%s: status %d, %q", arg, status, stderr.String())
		}
	}
}

func TestVersionLine(t *testing.T) {
	own := "govirtiofsd " + versions.String("")
	for name, want := range map[string]string{
		"govirtiofsd": own, "/usr/bin/govirtiofsd": own, "": own, "/usr/libexec/virtiofsd-go": own,
		"virtiofsd": "virtiofsd 1.14.0 (" + own + ")", "/usr/libexec/virtiofsd": "virtiofsd 1.14.0 (" + own + ")",
	} {
		if got := versionLine(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

func TestHelp(t *testing.T) {
	var b bytes.Buffer
	printHelp(&b)
	for line := range strings.Lines(b.String()) {
		if len(line) > 84 {
			t.Errorf("long line: %s", line)
		}
		if strings.Contains(line, "`") {
			t.Errorf("quote left over: %s", line)
		}
	}
}

func TestPrintCapabilities(t *testing.T) {
	var b bytes.Buffer
	if err := printCapabilities(&b); err != nil {
		t.Fatal(err)
	}
	var got capabilities
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Type != "fs" || !slices.Contains(got.Features, "separate-options") || !slices.IsSorted(got.Features) {
		t.Errorf("got %+v", got)
	}
}
