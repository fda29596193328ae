package ledger

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestOrderOfStores looks at the instructions of the functions whose stores no hook sees, because nobody watches them: the
// compiler has made all stores, in the order in which they are written.
func TestOrderOfStores(t *testing.T) {
	for name, profile := range map[string]string{"no profile": "off", "the profile of releases": "../cmd/govirtiofsd/govirtiofsd.pgo"} {
		t.Run(name, func(t *testing.T) { orderOfStores(t, profile) })
	}
}

// orderOfStores checks the package as the compiler makes it with a profile, by which it inlines more.
func orderOfStores(t *testing.T, profile string) {
	object := filepath.Join(t.TempDir(), "ledger.a")
	if out, err := exec.Command("go", "build", "-pgo", profile, "-o", object, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// A store to memory that is not the stack.
	store := regexp.MustCompile(`\t(MOV[BWLQ]|MOVUPS|ADDL) [^,\n]+, (?:0x[0-9a-f]+|0)?\((?:[A-QT-Z][A-Z]|R[0-9]+|S[IX])\)(?:\([A-Z0-9*]+\))?\s*(?:\n|$)`)
	for name, want := range map[string][]string{
		"addGrant": {"MOVQ", "MOVW", "MOVQ", "MOVL"}, // the grant, its number, the count, the number of grants
	} {
		out, err := exec.Command("go", "tool", "objdump", "-s", `ledger\.`+name+`\[go\.shape\.struct \{\}\]$`, object).CombinedOutput()
		if err != nil {
			t.Fatalf("go tool objdump: %v\n%s", err, out)
		}
		var got []string
		for _, m := range store.FindAllSubmatch(out, -1) {
			got = append(got, string(m[1]))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the stores are %v, want %v in\n%s", name, got, want, out)
		}
	}
}
