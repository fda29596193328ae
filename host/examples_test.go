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

// TestExamples: each package that others can import has a documentation with an example of its use.
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
		example := slices.ContainsFunc(files, func(name string) bool {
			b, err := os.ReadFile(name)
			return err == nil && strings.HasSuffix(name, "_test.go") && bytes.Contains(b, []byte("\nfunc Example"))
		})
		if !example {
			t.Errorf("%s has no example", path)
		}
		return nil
	})
	if err != nil || packages < 30 {
		t.Errorf("%d packages, %v", packages, err)
	}
}
