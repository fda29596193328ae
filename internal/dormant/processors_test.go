package dormant

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestIntegrationProcessors: the program starts with one processor if nothing else is
// asked for, and arguments and environment are what they would be without. Huge pages are
// off until AllowHugePages.
func TestIntegrationProcessors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "started")
	cmd := exec.Command("go", "build", "-ldflags", "-E govirtiofs_entry", "-o", path, "./testdata/started")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := runtime.NumCPU()
	for _, test := range []struct {
		args, env   []string
		start, then int
	}{
		{[]string{}, nil, 1, all},
		{[]string{"a", ""}, nil, 1, all},
		{[]string{}, []string{"A=1", "B="}, 1, all},
		{[]string{"a", "b", "c"}, []string{"G=", "GOMAXPROCSX=3", "XGOMAXPROCS=3", "GOMAXPRO=3"}, 1, all},
		{[]string{"a"}, []string{"A=1", "GOMAXPROCS=3"}, 3, 3},
		{[]string{}, []string{"GOMAXPROCS=3", "A=1"}, 3, 3},
	} {
		cmd := exec.Command(path, test.args...)
		cmd.Env = append([]string{"PATH=/"}, test.env...) // of none, exec.Cmd makes this process's
		out, err := cmd.CombinedOutput()
		want := fmt.Sprintf("%d %d %d\n%q\n%q\n1 0 <nil> <nil> <nil>\n", test.start, test.then, test.then, test.args, cmd.Env)
		if err != nil || string(out) != want {
			t.Errorf("%v\n%swant\n%s", err, out, want)
		}
	}
}
