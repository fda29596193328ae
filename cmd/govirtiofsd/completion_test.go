package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func completionFor(t *testing.T, shell string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run([]string{"--completion", shell}, &out, &errs); status != exitOK {
		t.Fatalf("exit status %d: %s", status, errs.String())
	}
	return out.String()
}

// TestCompletionHasEveryOption finds the options of --help in each script.
func TestCompletionHasEveryOption(t *testing.T) {
	for _, shell := range shells {
		script := completionFor(t, shell)
		for _, g := range new(options).groups() {
			g.flags().VisitAll(func(f *pflag.Flag) {
				want := "--" + f.Name
				if shell == "fish" {
					want = "-l " + f.Name
				}
				if !f.Hidden && !strings.Contains(script, want) {
					t.Errorf("%s: no %s", shell, f.Name)
				}
			})
		}
	}
}

// TestCompletionInBash asks bash what it would offer.
func TestCompletionInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	script := filepath.Join(t.TempDir(), "c")
	if err := os.WriteFile(script, []byte(completionFor(t, "bash")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ words, want string }{
		{"--cach", "--cache --cache-symlinks"},
		{"--cache = a", "auto always"},
		{"--cache =", "never metadata auto always"},
		{"--sandbox c", "chroot"},
		{"--posix-acl = al", "always"},
		{"--tag x", ""},
		{"--socket-group roo", "root"},
		{"--posix-acl --readon", "--readonly"},
	} {
		// compopt works in a real completion only.
		cmd := exec.Command(bash, "--norc", "-c", `. "$0"; compopt() { :; }; COMP_WORDS=(govirtiofsd "$@"); COMP_CWORD=$#; _govirtiofsd; echo "${COMPREPLY[*]}"`)
		cmd.Args = append(append(cmd.Args, script), strings.Fields(test.words)...)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != test.want {
			t.Errorf("%s: offers %q, want %q (%v)", test.words, out, test.want, err)
		}
	}
}
