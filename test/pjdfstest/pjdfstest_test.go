// Package pjdfstest runs pjdfstest, a test suite of POSIX system calls, on examples that can be written, mounted with
// /dev/fuse. It takes minutes and is fetched from GitHub, so only GOVIRTIOFS_LONG=1 runs it:
//
//	GOVIRTIOFS_LONG=1 go test -v -timeout 60m ./test/pjdfstest
package pjdfstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
)

// leastTests is how many tests the suite has to run: files that it skips as a whole would not fail.
const leastTests = "8700"

func TestPjdfstest(t *testing.T) {
	if os.Getenv("GOVIRTIOFS_LONG") != "1" {
		t.Skip("takes minutes: set GOVIRTIOFS_LONG=1")
	}
	guest.NeedFUSE(t)
	setup := exec.Command("./setup.sh")
	setup.Stdout, setup.Stderr = os.Stderr, os.Stderr // what it downloads is said before
	if err := setup.Run(); err != nil {
		t.Fatal("setup.sh: ", err)
	}
	tests, err := filepath.Glob("../../.cache/pjdfstest/*/tests")
	if err != nil || len(tests) != 1 {
		t.Fatalf("the suite is in %q, %v: remove .cache/pjdfstest", tests, err)
	}
	suite, err := filepath.Abs(tests[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := guest.Build("-o", bin+"/", "./examples/memfs", "./examples/nullfs", "./examples/unionfs"); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"memfs":   nil,
		"nullfs":  {t.TempDir()},
		"unionfs": {t.TempDir(), t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) { run(t, suite, mounttest.Program(t, filepath.Join(bin, name), args...)) })
	}
}

// summary is what prove says at the end.
var summary = regexp.MustCompile(`(?m)^Files=\d+, Tests=(\d{4,}), .*\nResult: PASS$`)

// run runs the suite in a directory of the file system.
func run(t *testing.T, suite, dir string) {
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prove", "-r", "-j", "8", suite) // most of them sleep most of the time
	cmd.Dir = work
	out, err := cmd.CombinedOutput()
	n := summary.FindSubmatch(out)
	if err != nil || n == nil || len(n[1]) != 4 || string(n[1]) < leastTests {
		t.Errorf("%s: %v, want %s tests and more to pass", out, err, leastTests)
		return
	}
	t.Logf("%s", n[0])
}
