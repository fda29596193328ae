// Package bench checks the load generator of "govirtiofs bench" against another one,
// which was written in C and shares no code with it.
package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/bench"
)

// programs are what is built for the test.
type programs struct{ daemon, govirtiofs, loadgen string }

func build(t *testing.T, dir string) *programs {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler")
	}
	p := &programs{filepath.Join(dir, "govirtiofsd"), filepath.Join(dir, "govirtiofs"), filepath.Join(dir, "loadgen")}
	for _, cmd := range []*exec.Cmd{
		exec.Command(cc, "-O2", "-Wall", "-Wextra", "-Wno-address-of-packed-member", "-o", p.loadgen, "loadgen/loadgen.c"),
		exec.Command("go", "build", "-o", dir+"/", "../../cmd/govirtiofsd", "../../cmd/govirtiofs"),
	} {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	return p
}

// share makes the files that both generators look at, in memory if possible.
func share(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "loadgen")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%06d", i)), make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 64<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inC measures with the C program.
func inC(t *testing.T, p *programs, dir, op string, depth int) (perSecond, cpu float64) {
	t.Helper()
	socket := filepath.Join(filepath.Dir(p.loadgen), "socket")
	server := exec.Command(p.daemon, "--sandbox=none", "--shared-dir", dir, "--socket-path", socket)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill() // it may have ended with its connection
		_ = server.Wait()
		os.Remove(socket)
	}()
	for i := 0; ; i++ {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if i > 1000 {
			t.Fatal("the daemon does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	name := "file-%06d"
	if op == "read" {
		name = "big"
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.loadgen, socket, op, strconv.Itoa(depth), "0.2", name).CombinedOutput()
	m := regexp.MustCompile(`requests/s=(\S+) cpu_us=(\S+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("loadgen: %v\n%s", err, out)
	}
	perSecond, _ = strconv.ParseFloat(string(m[1]), 64)
	cpu, _ = strconv.ParseFloat(string(m[2]), 64)
	return perSecond, cpu
}

// inGo measures with the program, not in this process: the race detector would slow the
// driver down.
func inGo(t *testing.T, p *programs, dir, workload string, depth int) (perSecond, cpu float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.govirtiofs, "bench", "--dir", dir, "--json", "--rounds=1", "--duration=200ms", "--warm-up=20ms",
		"--files=1", "--cold-size=1", "--workload", workload, "--depth", strconv.Itoa(depth),
		"--daemon", p.daemon+" --sandbox=none --shared-dir={dir} --socket-path={socket}").Output()
	if err != nil {
		t.Fatalf("govirtiofs bench: %v\n%s", err, out)
	}
	r, err := bench.ReadReport(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	f := r.Rows[0].Targets[0]
	return f.PerSecond, f.CPU
}

// TestAgrees compares the back-end's processor time per request, the least of several
// tries each: on a machine that does other things, too, nothing else is steady. It
// takes 5 s on a quiet one. That they agree can only be asked of a machine that does
// nothing else: GOVIRTIOFS_QUIET=1 says that this is one. Otherwise they only have to run.
func TestAgrees(t *testing.T) {
	quiet := os.Getenv("GOVIRTIOFS_QUIET") == "1"
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	p := build(t, t.TempDir())
	dir := share(t)
	for _, tt := range []struct{ inC, inGo string }{{"getattr", "getattr"}, {"lookup", "lookup"}, {"read", "read-4k"}} {
		for _, depth := range []int{1, 8} {
			t.Run(fmt.Sprintf("%s,depth=%d", tt.inC, depth), func(t *testing.T) {
				c, g := 1e9, 1e9
				for try := 0; try < 8 && (try == 0 || quiet && (c > 1.3*g || g > 1.3*c)); try++ {
					rate, cpu := inC(t, p, dir, tt.inC, depth)
					t.Logf("in C:  %8.0f/s, %.2f us of CPU", rate, cpu)
					c = min(c, cpu)
					rate, cpu = inGo(t, p, dir, tt.inGo, depth)
					t.Logf("in Go: %8.0f/s, %.2f us of CPU", rate, cpu)
					g = min(g, cpu)
				}
				if c <= 0 || g <= 0 || quiet && (c > 1.3*g || g > 1.3*c) {
					t.Errorf("the generator in C measures %.2f us per request, the one in Go %.2f us", c, g)
				}
			})
		}
	}
}
