package host

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryPackageHasALayer: the linter knows of each package what it may import. It would say
// nothing about a package that it has no rule for.
func TestEveryPackageHasALayer(t *testing.T) {
	rules, err := os.ReadFile("../.golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	layers, _, _ := strings.Cut(string(rules), "\n        logging:\n") // what follows is about single imports
	packages := 0
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != ".." && (strings.HasPrefix(name, ".") || name == "testdata") {
			return fs.SkipDir
		}
		sources, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err != nil {
			return err
		}
		for _, source := range sources {
			if strings.HasSuffix(source, "_test.go") {
				continue
			}
			packages++
			dir := filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator)))
			pattern := `"**/` + dir + `/*.go"`
			if path == ".." {
				dir, pattern = "the root", `"**/govirtiofs.go"`
			}
			if !strings.Contains(layers, pattern) {
				t.Errorf(".golangci.yml does not say what %s may import (depguard)", dir)
			}
			break
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if packages < 30 {
		t.Errorf("%d packages found", packages)
	}
}
