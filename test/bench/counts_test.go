package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/bench"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestCounts compares the number of system calls that the daemon makes for each
// operation, and of its calls to the driver, with a limit. 8 requests are under way.
// Unlike times, these numbers do not depend on the machine, as long as both threads get
// to run. A daemon that a successor can replace makes no more system calls than one that
// none can, and one with --events no more than one without. The test takes 12 s.
func TestCounts(t *testing.T) {
	guest.NeedRoot(t)
	p := build(t, t.TempDir())
	// What the operation needs by itself. Half a call is for each request's part in
	// what a batch of them takes: waiting for kicks, calling the driver.
	needs := []struct {
		workload string
		requests float64 // per unit
		syscalls float64
	}{
		{"getattr", 1, 1},
		{"lookup", 1, 1},
		{"lookup-missing", 1, 1},
		{"read-4k", 1, 1},
		{"write-4k", 1, 1},
		{"open", 2, 2},
		{"rename", 1, 1},
		{"create", 4, 7}, // CREATE, RELEASE, UNLINK and FORGET
		{"mkdir", 3, 6},  // MKDIR, RMDIR and FORGET
		{"readdirplus", 0.01, 1},
	}
	var names []string
	for _, n := range needs {
		names = append(names, n.workload)
	}
	for _, options := range []string{"--recovery=auto", "--recovery=never", "--recovery=never --events=auto"} {
		good, last := map[string]bool{}, map[string]string{}
		for range 30 { // another process may keep one of the threads from running: each needs one good try
			r := count(t, p, strings.Join(names, ","), options)
			for i, n := range needs {
				f := r.Rows[i].Targets[0]
				t.Logf("%s: %.2f system calls, %.2f calls of the driver", n.workload, f.Syscalls, f.Calls)
				if f.Syscalls <= n.syscalls+0.5*n.requests+0.05 && (n.requests < 1 || f.Calls <= 0.3) {
					good[n.workload] = true
				}
				last[n.workload] = fmt.Sprintf("%.2f system calls, %.0f would do; %.2f calls of the driver per request, 0.3 would do",
					f.Syscalls, n.syscalls, f.Calls)
			}
			if len(good) == len(needs) {
				break
			}
		}
		for name, figures := range last {
			if !good[name] {
				t.Errorf("%s, %s, the last of 30 tries: %s", name, options, figures)
			}
		}
	}
}

// count runs the workloads.
func count(t *testing.T, p *programs, workloads, options string) *bench.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.govirtiofs, "bench", "--dir", t.TempDir(), "--json", "--rounds=1", "--duration=50ms",
		"--files=1", "--cold-size=1", "--workload", workloads, "--depth=8", "--syscalls",
		"--daemon", p.daemon+" --sandbox=none "+options+" --shared-dir={dir} --socket-path={socket}").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && bytes.Contains(exit.Stderr, []byte("count system calls")) {
		t.Skipf("this machine cannot: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatalf("govirtiofs bench: %v", err)
	}
	r, err := bench.ReadReport(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
