package host

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cantRun are packages whose example is only compiled, and why.
var cantRun = map[string]string{
	"../dax/stretch":        "needs CAP_SYS_ADMIN and Linux 6.9",
	"../passthrough/fstest": "its function takes a *testing.T and runs tests of its own",
}

// TestExamples: each package that others can import has a documentation with an example of its use that runs.
func TestExamples(t *testing.T) {
	packages := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name != ".." && strings.HasPrefix(name, ".") ||
			slices.Contains([]string{"internal", "cmd", "examples", "test", "testdata", "bin", "dist", "doc", "packaging"}, name) {
			return fs.SkipDir
		}
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err != nil || len(files) == 0 {
			return err
		}
		packages++
		example, runs := false, false
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if strings.HasSuffix(name, "_test.go") && bytes.Contains(b, []byte("\nfunc Example")) {
				example = true
				runs = runs || bytes.Contains(b, []byte("\t// Output:"))
			}
		}
		if !example {
			t.Errorf("%s has no example", path)
		} else if _, ok := cantRun[path]; runs == ok {
			t.Errorf("%s: its example runs: %v; in the list of those that can't: %v", path, runs, ok)
		}
		return nil
	})
	if err != nil || packages < 30 {
		t.Errorf("%d packages, %v", packages, err)
	}
}
