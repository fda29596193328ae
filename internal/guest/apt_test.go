package guest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestAptInstall runs the shell functions that install packages with an apt-get that
// finds its lock held at first. It logs the calls.
func TestAptInstall(t *testing.T) {
	const locked = `echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt)" >&2; exit 100`
	const uris = `echo "'http://deb.example.org/debian/pool/a.deb' a_1_amd64.deb 3000000 SHA256:00"
		echo "'http://deb.example.org/debian/pool/b.deb' b_1_amd64.deb 1000000 SHA256:00"`
	for name, test := range map[string]struct {
		apt   string // of apt-get; $n is the number of the call
		calls int
		fails bool
		says  []string
	}{
		"free": {uris, 3, false, []string{"will be installed: a b", "2 packages, 4.0 MB from deb.example.org"}},
		"lock held": {`[ $n -gt 4 ] || { ` + locked + `; }; ` + uris, 7, false,
			[]string{"waiting for another package manager: E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt)", "4.0 MB"}},
		"never released": {locked, 301, true, []string{"not released in ten minutes"}},
		"other error":    {`echo "E: Unable to locate package a" >&2; exit 100`, 1, true, []string{"Unable to locate package a"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := guest.Root()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write := func(name, body string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write("apt-get", `n=$(($(cat "`+dir+`/calls") + 1)); echo $n >"`+dir+`/calls"; `+test.apt)
			write("sleep", "")
			if err := os.WriteFile(filepath.Join(dir, "calls"), []byte("0\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-euc", `. "$1"; apt_need sh unwanted; apt_need no-such-command-a a; apt_need /no/such/file b; apt_install`,
				"sh", filepath.Join(root, "test/guest/apt.sh"))
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if (err != nil) != test.fails {
				t.Errorf("%v\n%s", err, out)
			}
			for _, want := range test.says {
				if strings.Count(string(out), want) != 1 {
					t.Errorf("want %q once in\n%s", want, out)
				}
			}
			if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || strings.TrimSpace(string(calls)) != strconv.Itoa(test.calls) {
				t.Errorf("apt-get was called %s times, want %d, %v\n%s", calls, test.calls, err, out)
			}
		})
	}
}
