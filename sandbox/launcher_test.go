package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationLauncher: what a Launcher starts has all capabilities and a small bounding set. In the end it has exactly the
// capabilities of a process that was started otherwise. The process with the Launcher keeps its own.
func TestIntegrationLauncher(t *testing.T) {
	guest.NeedRoot(t)
	out := mustHelper(t, "launched", "-mknod", 0)
	want := mustHelper(t, "capabilities", "-mknod", 0)
	before, rest, ok := strings.Cut(out, "after\n")
	after, own, ok2 := strings.Cut(rest, "own\n")
	if !ok || !ok2 {
		t.Fatalf("the helper says %q", out)
	}
	if got, want := kinds(after), kinds(want); !slices.Equal(got, want) { // the number of threads is luck
		t.Errorf("in the end %q, want %q", got, want)
	}
	all := capLine(t, own, "CapPrm")
	values, err := ModifyCapabilities(DefaultCapabilities(), "-mknod")
	if err != nil {
		t.Fatal(err)
	}
	keep := fmt.Sprintf("%016x", mask(values))
	for name, want := range map[string]string{"CapPrm": all, "CapEff": all, "CapInh": all, "CapBnd": keep, "CapAmb": "0000000000000000"} {
		if got := capLine(t, before, name); got != want {
			t.Errorf("at the start %s is %s, want %s", name, got, want)
		}
	}
	if got := capLine(t, own, "CapBnd"); got == keep {
		t.Errorf("the process with the Launcher has the bounding set %s itself", got)
	}
}

// kinds are the lines of a text without those that are there twice.
func kinds(text string) []string {
	list := slices.Sorted(strings.Lines(text))
	return slices.Compact(list)
}

// capLine is what a line of /proc/PID/status says.
func capLine(t *testing.T, status, name string) string {
	t.Helper()
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name+":" {
			return f[1]
		}
	}
	t.Fatalf("no %s in %q", name, status)
	return ""
}

func helpLaunched(changes string) (err error) {
	keep, err := ModifyCapabilities(DefaultCapabilities(), changes)
	if err != nil {
		return err
	}
	var last string
	l := NewLauncher(keep)
	for range 2 { // the second time the thread is there; only that one is looked at
		l.Do(func() {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), helperEnv+"=inherited:"+changes)
			cmd.Stderr = os.Stderr
			var out []byte
			if out, err = cmd.Output(); err == nil {
				last = string(out)
			}
		})
		if err != nil {
			return err
		}
	}
	fmt.Print(last, "own\n")
	return printCapabilities()
}

func helpInherited(changes string) error {
	if err := printCapabilities(); err != nil {
		return err
	}
	fmt.Println("after")
	return helpCapabilities(changes)
}

// printCapabilities prints those of the first thread.
func printCapabilities() error {
	b, err := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Cap") {
			fmt.Print(line)
		}
	}
	return err
}
