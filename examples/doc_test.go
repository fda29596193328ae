package examples_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestDoc: the programs in doc/library.md can be built, in a module of their own.
func TestDoc(t *testing.T) {
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "doc/library.md"))
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindAllSubmatch(page, -1)
	if len(programs) != 2 {
		t.Errorf("%d programs", len(programs))
	}
	for i, p := range programs {
		dir := t.TempDir()
		mod := fmt.Sprintf("module example.com/serve\n\ngo 1.26.0\n\nrequire github.com/govirtiofs/govirtiofs v0.0.0\n\nreplace github.com/govirtiofs/govirtiofs => %s\n", root)
		for name, data := range map[string][]byte{"main.go": p[1], "go.mod": []byte(mod), "go.sum": sums} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("go", "build", "-mod=mod", "-o", filepath.Join(dir, "serve"), ".")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("program %d: %v\n%s", i+1, err, out)
		}
	}
}
