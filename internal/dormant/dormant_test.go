package dormant

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// buildSleeper builds testdata/sleeper.
func buildSleeper(t *testing.T, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sleeper")
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, "./testdata/sleeper")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// sleeper starts the program and returns what it says after "ready" when signals have come,
// each after its wait for the process, and its child may end.
func sleeper(t *testing.T, program string, after []func(pid int), signals ...unix.Signal) (said string, err error) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	for i, s := range signals {
		after[i](cmd.Process.Pid)
		_ = cmd.Process.Signal(s)
	}
	_ = in.Close()
	b, _ := io.ReadAll(r)
	return string(b), cmd.Wait()
}

// spin waits for a time, as a sleep is not that exact.
func spin(d time.Duration) func(int) {
	return func(int) {
		for end := time.Now().Add(d); time.Now().Before(end); {
		}
	}
}

// asleep waits until the process has given itself the name that only the sleep gives, and
// reports how long that takes. A process that does not get there is left to its signals.
func asleep(pid int) time.Duration {
	start := time.Now()
	for time.Since(start) < 10*time.Second {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(b) == "govirtiofsd\n" {
			break
		}
	}
	return time.Since(start)
}

// TestSignals sends signals at any moment before, while and after a runtime is replaced by
// the sleep, and a second one soon after. None is lost, and none ends the process but as it
// wants to. Every other one is known to sleep when the first comes. It takes 3 s.
func TestSignals(t *testing.T) {
	program := buildSleeper(t, "-ldflags", "-E govirtiofs_entry")
	all := []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}
	var took, sum time.Duration
	wait := func(pid int) { took = asleep(pid) }
	for i := range 200 {
		first, second := all[i%4], all[i/4%4]
		before, awake := wait, ""
		if i%2 == 0 {
			awake = "awake state\na signal\n"
		} else {
			// From the beginning to somewhat after the one before was asleep.
			before = spin(took * time.Duration(i) / 180)
		}
		// And once more, while the child is told.
		while := time.Duration(i/2%20) * 50 * time.Microsecond
		said, err := sleeper(t, program, []func(int){before, spin(while)}, first, second)
		_, last, _ := strings.Cut(strings.TrimSpace(said), "\n")
		if err != nil || !strings.HasPrefix(said, awake) || last != "a signal" && last != first.String() && last != second.String() {
			t.Errorf("%v after %v, and %v after %v more: it says %q and ends with %v", first, took, second, while, said, err)
		}
		sum += took
	}
	t.Logf("falling asleep takes %v", sum/200)
}

// TestNoEntry: a program that was linked without the entry point goes on.
func TestNoEntry(t *testing.T) {
	said, err := sleeper(t, buildSleeper(t), []func(int){spin(0)}, unix.SIGTERM)
	if want := "unsupported operation\nterminated\n"; said != want || err != nil {
		t.Errorf("it says %q and ends with %v, want %q", said, err, want)
	}
}
