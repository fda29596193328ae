package dormant

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
// each after a while.
func sleeper(t *testing.T, program string, after []time.Duration, signals ...unix.Signal) (said string, err error) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
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
		for end := time.Now().Add(after[i]); time.Now().Before(end); { // a sleep is not that exact
		}
		_ = cmd.Process.Signal(s)
	}
	b, _ := io.ReadAll(r)
	return string(b), cmd.Wait()
}

// TestSignals sends signals at any moment before, while and after a runtime is replaced by
// the sleep, and while the sleep is replaced by a runtime. None is lost, and none ends the
// process but as it wants to. It takes 5 s.
func TestSignals(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("processes sleep on amd64 only")
	}
	program := buildSleeper(t, "-ldflags", "-E govirtiofs_entry")
	all := []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}
	awake := 0
	for i := range 200 {
		// Up to 2 ms, in which it falls asleep; then once more while it wakes up.
		after := []time.Duration{time.Duration(i) * 10 * time.Microsecond, time.Duration(i%20) * 50 * time.Microsecond}
		first, second := all[i%3], all[i/3%3]
		said, err := sleeper(t, program, after, first, second)
		if strings.HasPrefix(said, "awake state\n") {
			awake++
		}
		if err != nil || !strings.HasSuffix(said, "signal\n") && !strings.HasSuffix(said, first.String()+"\n") && !strings.HasSuffix(said, second.String()+"\n") {
			t.Errorf("%v after %v and %v after %v: it says %q and ends with %v", first, after[0], second, after[1], said, err)
		}
	}
	t.Logf("%d of 200 have slept", awake)
	if awake == 0 {
		t.Error("nobody has slept")
	}
}

// TestNoEntry: a program that was linked without the entry point goes on.
func TestNoEntry(t *testing.T) {
	said, err := sleeper(t, buildSleeper(t), []time.Duration{0}, unix.SIGTERM)
	if want := "unsupported operation\nterminated\n"; said != want || err != nil {
		t.Errorf("it says %q and ends with %v, want %q", said, err, want)
	}
}
