package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

func completionFor(t *testing.T, shell string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run([]string{"--completion", shell}, &out, &errs); status != exitOK {
		t.Fatalf("exit status %d: %s", status, errs.String())
	}
	return out.String()
}

// offered is what a shell would offer after these words.
func offered(t *testing.T, words ...string) []string {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(append([]string{"__completeNoDesc"}, words...), &out, &errs); status != exitOK {
		t.Fatalf("%q: exit status %d: %s", words, status, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	return lines[:len(lines)-1] // the last one is a directive
}

// TestCompletionHasEveryOption: shells are offered the options of --help.
func TestCompletionHasEveryOption(t *testing.T) {
	got := offered(t, "--")
	for _, g := range share.Groups() {
		for _, o := range g.Options {
			if !slices.Contains(got, "--"+o.Shown()) {
				t.Errorf("no --%s", o.Shown())
			}
		}
	}
	for _, shell := range share.Shells {
		if script := completionFor(t, shell); !strings.Contains(script, "__complete") || !strings.Contains(script, "govirtiofsd") {
			t.Errorf("%s: no script: %.100s", shell, script)
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
	// compopt works in a real completion only. The other function is bash-completion's.
	const ask = `
compopt() { :; }
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
. "$0"
COMP_TYPE=37 COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=1000
__start_govirtiofsd
echo "${COMPREPLY[*]}"`
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"--cach"}, "--cache --cache-symlinks"},
		{[]string{"--cache", "a"}, "auto always"},
		{[]string{"--cache", ""}, "never metadata auto always"},
		{[]string{"--cache=a"}, "auto always"}, // the "=" ends a word of bash's
		{[]string{"--cache="}, "never metadata auto always"},
		{[]string{"--sandbox", "c"}, "chroot"},
		{[]string{"--posix-acl=al"}, "always"},
		{[]string{"--tag", ""}, ""},
		{[]string{"--socket-group", "roo"}, "root"},
		{[]string{"--xattrmap-preset", "ov"}, "overlayfs"},
		{[]string{"--posix-acl", "--readon"}, "--readonly"},
		{[]string{"--readonly", "--no-"}, "--no-announce-submounts --no-readdirplus"},
	} {
		cmd := exec.Command(bash, append([]string{"--norc", "-c", ask, script, program}, test.words...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != test.want {
			t.Errorf("%q: offers %q, want %q (%v)", test.words, out, test.want, err)
		}
	}
}
