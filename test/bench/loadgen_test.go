// Package bench compares the load generator of "govirtiofs bench" with another one,
// which is written in C and shares no code with it.
package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/bench"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// programs are the paths of the programs that the test builds.
type programs struct{ daemon, govirtiofs, loadgen string }

func build(t *testing.T, dir string) *programs {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler")
	}
	p := &programs{filepath.Join(dir, "govirtiofsd"), filepath.Join(dir, "govirtiofs"), filepath.Join(dir, "loadgen")}
	cmd := exec.Command(cc, "-O2", "-pthread", "-Wall", "-Wextra", "-Wno-address-of-packed-member", "-o", p.loadgen,
		"loadgen/loadgen.c", "loadgen/workloads.c", "loadgen/device.c")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	if err := guest.Build("-o", dir+"/", "./cmd/govirtiofsd", "./cmd/govirtiofs"); err != nil {
		t.Fatal(err)
	}
	return p
}

// share makes the directory that both generators put their files in, in memory if
// possible.
func share(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "loadgen")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// generator is the C program, connected to a daemon of its own.
type generator struct {
	server, cmd *exec.Cmd
	in          io.WriteCloser
	out         *bufio.Reader
	errors      bytes.Buffer
}

// result is a line of what it prints.
type result struct {
	n                                    uint64
	perSecond, cpu, driver, kicks, calls float64
}

// command is exec.Command on one processor or on all.
func command(ctx context.Context, oneCPU bool, name string, args ...string) *exec.Cmd {
	if oneCPU {
		name, args = "taskset", append([]string{"-c", "0", name}, args...)
	}
	return exec.CommandContext(ctx, name, args...)
}

// start starts a daemon and the generator, with options of each.
func start(t *testing.T, p *programs, dir string, oneCPU bool, daemon []string, options ...string) *generator {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	daemon = append(daemon, "--sandbox=none", "--shared-dir", dir, "--socket-path", socket)
	g := &generator{server: command(context.Background(), oneCPU, p.daemon, daemon...)}
	if err := g.server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = g.server.Process.Kill()
			_ = g.server.Wait()
		}
	})
	for i := 0; ; i++ {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if i > 6000 {
			t.Fatal("the daemon does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	g.cmd = command(ctx, oneCPU, p.loadgen, append(options, socket, dir, "-")...)
	g.cmd.Stderr = &g.errors
	in, err := g.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.in, g.out = in, bufio.NewReader(out)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := g.cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("loadgen: %v\n%s", err, &g.errors)
		}
		cancel()
		if err := g.server.Wait(); err != nil { // it ends with its connection
			t.Errorf("govirtiofsd: %v", err)
		}
		ended = true
	})
	return g
}

// measure drives the daemon once, in a style of loadgen.c.
func (g *generator) measure(t *testing.T, workload string, depth int, d time.Duration, style string) (r result) {
	t.Helper()
	fmt.Fprintln(g.in, workload, depth, d.Seconds(), style)
	line, err := g.out.ReadString('\n')
	if err == nil {
		_, values, _ := strings.Cut(line, " n=")
		_, err = fmt.Sscanf(values, "%d per_s=%g cpu_us=%g driver_us=%g kicks=%g calls=%g", &r.n, &r.perSecond, &r.cpu, &r.driver, &r.kicks, &r.calls)
	}
	if err != nil {
		_ = g.in.Close()
		_ = g.cmd.Wait()
		t.Fatalf("loadgen, %s in style %s: %v: %s%s", workload, style, err, line, &g.errors)
	}
	return r
}

// TestGenerator runs all workloads of the C program in all styles of driving, each for a
// number of operations. It shows that a driver that is not ours gets its replies in every
// style. It takes 2 s.
func TestGenerator(t *testing.T) {
	p := build(t, t.TempDir())
	dir := share(t)
	const count = 120
	one := func(t *testing.T, g *generator, workload string, depth int, style string) {
		r := g.measure(t, workload, depth, time.Minute, style)
		if r.n != count && (workload != "readdirplus" || r.n < count) {
			t.Errorf("%s in style %s: %d operations, want %d", workload, style, r.n, count)
		}
		if r.kicks > 1 || r.perSecond <= 0 || r.driver <= 0 {
			t.Errorf("%s in style %s: %+v", workload, style, r)
		}
	}
	workloads := []string{"getattr", "lookup", "lookup-new", "lookup-forget", "open", "read-4k", "read-1m", "randread", "write-4k", "write-1m",
		"fsync", "readdirplus", "create"}
	for _, tt := range []struct {
		what    string
		options []string
		depth   int
		styles  []string
	}{
		{"direct", nil, 8, []string{"poll,each", "read,each", "epoll,each", "spin,each", "poll,batch", "poll,one", "poll,kick", "read,one,kick"}},
		{"indirect, pages, 2 queues", []string{"-i", "-g", "-q2"}, 40, []string{"poll,each", "read,batch"}},
		{"no EVENT_IDX", []string{"-e"}, 8, []string{"poll,each", "spin,each", "epoll,one,kick"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			g := start(t, p, dir, false, nil, append(tt.options, "-n", fmt.Sprint(count))...)
			for _, workload := range workloads {
				one(t, g, workload, tt.depth, tt.styles[0])
			}
			for _, style := range tt.styles[1:] {
				one(t, g, "getattr", 1, style)
				one(t, g, "create", tt.depth, style)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "loadgen/tmp")); err != nil || len(left) > 0 {
				t.Errorf("create has left %v (%v)", left, err)
			}
		})
	}
}

// inGo measures with the program, not in this process: the race detector would slow the
// driver down.
func inGo(t *testing.T, p *programs, dir, workload string, depth int, d time.Duration) result {
	t.Helper()
	files := 100
	if workload == "lookup-new" {
		files = 10000 // as the C program has
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := command(ctx, depth == 1, p.govirtiofs, "bench", "--dir", dir, "--json", "--rounds=1", "--duration", d.String(), "--warm-up", d.String(),
		"--cold-size=1", "--files", fmt.Sprint(files), "--workload", workload, "--depth", fmt.Sprint(depth),
		"--daemon", p.daemon+" --sandbox=none "+noLook+" --shared-dir={dir} --socket-path={socket}").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("govirtiofs bench: %v\n%s", err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := bench.ReadReport(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	f := r.Rows[0].Targets[0]
	return result{perSecond: f.PerSecond, cpu: f.CPU}
}

// spread is the least, the median and the most of some measurements.
type spread struct{ least, median, most float64 }

func spreadOf(all []result, of func(result) float64) spread {
	var v []float64
	for _, r := range all {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return spread{v[0], v[len(v)/2], v[len(v)-1]}
}

// agree reports whether the medians are within 30 % of each other, or each median is in
// the range of the other generator's results. Mostly they are within 10 %. But on one
// processor the Go driver leaves less of the caches to the back-end, and a request costs
// the back-end 0.5 to 1 us more.
func (s spread) agree(o spread) bool {
	within := s.median <= 1.3*o.median && o.median <= 1.3*s.median
	return within || s.least <= o.median && o.median <= s.most && o.least <= s.median && s.median <= o.most
}

// noLook turns busy polling off. With it the daemon decides by the cost of a wake-up at
// the moment. At depth 1 this can double the processor time for one of the generators.
// other.
const noLook = "--busy-poll=0"

// TestAgrees measures with both generators in turn. It compares operations per second and
// the back-end's processor time per operation. For 1 MiB it only logs these: a copy takes
// 110 or 200 us, depending on where the pages of the file lie. At depth 1 all threads run
// on one processor: on two, the speed doubles from one round to the next when the
// scheduler puts both threads on one. The generators can only be expected to agree on a
// machine that does nothing else. GOVIRTIOFS_QUIET=1 says that this is one; the test then
// takes 60 s. Otherwise each row only has to run once.
func TestAgrees(t *testing.T) {
	quiet := os.Getenv("GOVIRTIOFS_QUIET") == "1"
	if testing.Short() {
		t.Skip("takes 7 s")
	}
	rounds, duration := 1, 10*time.Millisecond
	if quiet {
		rounds, duration = 5, 100*time.Millisecond
	}
	p := build(t, t.TempDir())
	dir := share(t)
	generators := map[int]*generator{
		1: start(t, p, dir, true, []string{noLook}),
		8: start(t, p, dir, false, []string{noLook}),
	}
	for _, workload := range []string{"getattr", "lookup", "lookup-new", "open", "read-4k", "read-1m", "write-4k", "write-1m", "readdirplus", "create"} {
		for _, depth := range []int{1, 8} {
			t.Run(fmt.Sprintf("%s,depth=%d", workload, depth), func(t *testing.T) {
				var c, g2 []result
				for range rounds {
					c = append(c, generators[depth].measure(t, workload, depth, duration, "poll,each"))
					g2 = append(g2, inGo(t, p, dir, workload, depth, duration))
				}
				for _, v := range []struct {
					what string
					of   func(result) float64
				}{
					{"operations per second", func(r result) float64 { return r.perSecond }},
					{"us of CPU per operation", func(r result) float64 { return r.cpu }},
				} {
					inC, inGo := spreadOf(c, v.of), spreadOf(g2, v.of)
					t.Logf("%-24s in C %.2f, in Go %.2f", v.what, inC, inGo)
					if quiet && !strings.HasSuffix(workload, "-1m") && (inC.least <= 0 || !inC.agree(inGo)) {
						t.Errorf("%s: the generator in C measures %.2f, the one in Go %.2f", v.what, inC, inGo)
					}
				}
			})
		}
	}
}
