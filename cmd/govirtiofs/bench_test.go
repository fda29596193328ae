package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/bench"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// buildDaemon builds govirtiofsd as it is shipped.
func buildDaemon(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "govirtiofsd")
	if err := guest.Build("-o", path, "./cmd/govirtiofsd"); err != nil {
		t.Fatal(err)
	}
	return path
}

// benchmark runs "govirtiofs bench" with its temporary files in a directory of its
// own, and checks that it leaves nothing there.
func benchmark(t *testing.T, args ...string) (string, error) {
	t.Helper()
	// In memory if possible, for a busy disk takes a minute; and short for the sockets.
	temp, err := os.MkdirTemp("/dev/shm", "bench")
	if err != nil {
		temp, err = os.MkdirTemp("", "bench")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	t.Setenv("TMPDIR", temp)
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs(append([]string{"bench"}, args...))
	err = root.Execute()
	if left, _ := filepath.Glob(temp + "/*"); len(left) > 0 {
		t.Errorf("%v was left", left)
	}
	return out.String(), err
}

// small keeps a run of all workloads at a few ms each.
var small = []string{"--rounds=1", "--count=16", "--warm-up=0", "--files=50", "--cold-size=1"}

// daemonCommand starts our daemon. Its sandbox is not what is tested here.
func daemonCommand(path string) string {
	return path + " --sandbox=none --shared-dir={dir} --socket-path={socket}"
}

// check decodes a run's JSON, and checks that each target has done something in each
// workload.
func check(t *testing.T, out string, targets int) *bench.Report {
	t.Helper()
	o, err := bench.ReadReport(strings.NewReader(out))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
	for _, r := range o.Rows {
		if len(r.Targets) < targets {
			t.Errorf("%s: %d targets, want %d", r.Workload, len(r.Targets), targets)
		}
		for _, f := range r.Targets {
			// The processor time of so short a round may be 0, see checkScale.
			if f.PerSecond <= 0 || f.CPU < 0 {
				t.Errorf("%s of %s, depth %d: nothing was measured: %+v", r.Workload, f.Target, r.Depth, f)
			}
			if f.Target != "syscalls" && (f.P50 <= 0 || f.Max < f.P50 || f.Calls > 1.5) {
				t.Errorf("%s of %s, depth %d: impossible figures: %+v", r.Workload, f.Target, r.Depth, f)
			}
		}
	}
	return o
}

// TestBench runs each workload on our daemon for a moment, so that none rots.
func TestBench(t *testing.T) {
	daemon := buildDaemon(t)
	t.Run("workloads", func(t *testing.T) {
		svg := filepath.Join(t.TempDir(), "ratios.svg")
		out, err := benchmark(t, append([]string{"--daemon", daemonCommand(daemon), "--vs", "GOMAXPROCS=1 " + daemonCommand(daemon),
			"--depth=1,8", "--floor", "--json", "--svg", svg}, small...)...)
		if err != nil {
			t.Fatal(err)
		}
		o := check(t, out, 2)
		if want := 2 * len(bench.Workloads()); len(o.Rows) != want {
			t.Errorf("%d results, want %d", len(o.Rows), want)
		}
		if name := o.Rows[0].Targets[1].Target; name != "govirtiofsd-2" {
			t.Errorf("the second target is called %q", name)
		}
		saved := filepath.Join(t.TempDir(), "saved.json")
		if err := os.WriteFile(saved, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
		if again, err := benchmark(t, "--show", saved, "--json"); err != nil || again != out {
			t.Errorf("--show changes a report: %v\n%s", err, again)
		}
		b, err := os.ReadFile(svg)
		if err != nil || xml.Unmarshal(b, new(struct{})) != nil {
			t.Errorf("the picture is unreadable: %v", err)
		}
	})
	t.Run("itself", func(t *testing.T) {
		svg := filepath.Join(t.TempDir(), "ratios.svg")
		out, err := benchmark(t, append([]string{"--daemon", daemonCommand(daemon), "--self", "--vs", daemonCommand(daemon), "--rounds=3",
			"--max-foreign=1", "--require-ratio=0.0001", "--require-cpu-ratio=10000", "--workload=getattr,create", "--depth=1", "--json", "--svg", svg},
			small[1:]...)...)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range check(t, out, 3).Rows {
			if last := r.Targets[2]; !last.Self || last.Target != "itself" || r.Targets[1].Self || last.Ratio.Value <= 0 {
				t.Errorf("%s: %+v", r.Workload, r.Targets)
			}
			if n := len(r.Targets[0].Rounds); n < 2 || n > 3 || n+r.Dropped < 3 || n+r.Dropped > 6 {
				t.Errorf("%s: %d rounds kept and %d dropped of 3 to 6", r.Workload, n, r.Dropped)
			}
		}
	})
	t.Run("one directory", func(t *testing.T) {
		other := strings.ReplaceAll(daemonCommand(daemon), "{dir}", t.TempDir())
		_, err := benchmark(t, append([]string{"--daemon", daemonCommand(daemon), "--vs", other, "--workload=create", "--depth=1"}, small...)...)
		if err == nil || !strings.Contains(err.Error(), "does the back-end share") {
			t.Errorf("another directory: %v", err)
		}
	})
	t.Run("queues", func(t *testing.T) {
		out, err := benchmark(t, append([]string{"--daemon", daemonCommand(daemon), "--queues=3", "--queue-size=64", "--depth=4",
			"--chunk=4096", "--spin=10us", "--json"}, small...)...)
		if err != nil {
			t.Fatal(err)
		}
		check(t, out, 1)
	})
	t.Run("guests", func(t *testing.T) {
		out, err := benchmark(t, append([]string{"--daemon", daemonCommand(daemon), "--guests=3", "--depth=2", "--json", "--syscalls=" + fmt.Sprint(os.Geteuid() == 0),
			"--workload=getattr,lookup-new,fsync,create,mkdir,rename,mixed"}, small...)...)
		if err != nil {
			t.Fatal(err)
		}
		o := check(t, out, 1)
		if units := o.Rows[0].Targets[0].Rounds[0].Units; units < 3*16 {
			t.Errorf("%d operations of 3 guests, want 16 of each", units)
		}
	})
	t.Run("plain ring", func(t *testing.T) {
		out, err := benchmark(t, append([]string{"--daemon", daemonCommand(daemon), "--no-indirect", "--no-event-idx",
			"--workload=getattr,read-1m,write-4k,create", "--depth=8", "--benchstat"}, small...)...)
		if err != nil || strings.Count(out, "\nBenchmark") != 4 {
			t.Errorf("%v, output:\n%s", err, out)
		}
	})
}

// maxIdle is how much memory, in bytes, an idle daemon may have for itself. It has less than two thirds of
// it. The threads that Go happens to start, and the pages that it happens to use, make a tenth.
const maxIdle = 4 << 20

// TestBenchIdle holds the daemon's memory, that of all its processes.
func TestBenchIdle(t *testing.T) {
	daemon := buildDaemon(t)
	sandboxes := []string{"none"}
	if os.Geteuid() == 0 {
		sandboxes = append(sandboxes, "namespace")
	}
	for _, sandbox := range sandboxes {
		out, err := benchmark(t, "--idle=2", "--json", "--daemon", daemon+" --sandbox="+sandbox+" --shared-dir={dir} --socket-path={socket}")
		if err != nil {
			t.Fatal(err)
		}
		var list []bench.Idle
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
			t.Fatalf("%v in:\n%s", err, out)
		}
		i := list[0]
		t.Logf("sandbox=%s: PSS %.0f KiB, private %.0f KiB, %.1f processes, %.1f threads, %.1f wake-ups/s",
			sandbox, i.PSS/1024, i.Private/1024, i.Processes, i.Threads, i.Wakeups)
		if i.Daemons != 2 || i.Private < 64<<10 || i.PSS < i.Private || i.Threads < i.Processes {
			t.Errorf("impossible figures: %+v", i)
		}
		if i.Private > maxIdle {
			t.Errorf("sandbox=%s: an idle daemon has %.0f KiB of its own, want at most %.0f", sandbox, i.Private/1024, float64(maxIdle)/1024)
		}
	}
}

// checkScale decodes what --scale writes, and checks that there are figures of all steps.
// Processor times may be 0: the kernel adds what a thread uses when it sleeps, or at a tick.
func checkScale(t *testing.T, out string, targets, sizes int) []bench.Scale {
	t.Helper()
	var list []bench.Scale
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != targets*sizes {
		t.Fatalf("%d targets with %d sizes: %v in:\n%s", targets, sizes, err, out)
	}
	for _, m := range list {
		if m.Target == "syscalls" {
			continue
		}
		if m.Failed != "" || m.Names.PerSecond <= 0 || m.New.PerSecond <= 0 || m.Known.PerSecond <= 0 || m.First <= 0 || m.Middle <= 0 ||
			len(m.Lookups) != 2 || m.Lookups[1].PerSecond <= 0 {
			t.Errorf("impossible figures: %+v", m)
		}
	}
	return list
}

// TestBenchScale: the daemon keeps no descriptor for each node that it knows.
func TestBenchScale(t *testing.T) {
	out, err := benchmark(t, "--scale=10,3000", "--daemon", daemonCommand(buildDaemon(t)), "--depth=1,8", "--rounds=2", "--duration=5ms", "--floor", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range checkScale(t, out, 2, 2) {
		if os.Geteuid() == 0 && m.Descriptors > 200 { // others may make no file handles
			t.Errorf("%v descriptors with %d files", m.Descriptors, m.Files)
		}
	}
}

// TestBenchPeers runs each workload on the other back-ends, which differ in what they
// offer.
func TestBenchPeers(t *testing.T) {
	guest.NeedRoot(t)
	for name, options := range map[string]string{
		guest.RustPeer: "--shared-dir {dir} --socket-path {socket}",
		guest.CPeer:    "-f -o source={dir} --socket-path={socket}",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := benchmark(t, append([]string{"--daemon", guest.Peer(t, name) + " " + options, "--depth=4", "--json"}, small...)...)
			if err != nil {
				t.Fatal(err)
			}
			check(t, out, 1)
			out, err = benchmark(t, "--scale=500", "--daemon", guest.Peer(t, name)+" "+options, "--depth=1,4", "--rounds=1", "--duration=5ms", "--json")
			if err != nil {
				t.Fatal(err)
			}
			checkScale(t, out, 1, 1)
		})
	}
}

// TestBenchErrors: what is wrong is said, with the right exit status.
func TestBenchErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		args   []string
		usage  bool
		saying string
	}{
		{nil, true, "--socket"},
		{[]string{"--socket=/x"}, true, "--dir"},
		{[]string{"--daemon=x"}, true, "{socket}"},
		{[]string{"--daemon=x {socket}", "--socket=y"}, true, "socket"},
		{[]string{"--daemon=x {socket}", "--workload=nothing"}, true, "--list"},
		{[]string{"--daemon=x {socket}", "--depth=1000"}, true, "depths"},
		{[]string{"--daemon=x {socket}", "--svg=y"}, true, "--vs"},
		{[]string{"--daemon=x {socket}", "--json", "--benchstat"}, true, "exclude"},
		{[]string{"--daemon=x {socket}", "--idle=0"}, true, "1 to 1000"},
		{[]string{"--socket=x", "--dir=" + dir, "--idle=1"}, true, "--daemon"},
		{[]string{"--daemon=x {socket}", "--scale=0"}, true, "1 to 10,000,000"},
		{[]string{"--daemon=x {socket}", "--scale=1", "--idle=1"}, true, "--scale"},
		{[]string{"--daemon=x {socket}", "--guests=1000"}, true, "guests"},
		{[]string{"--socket=x", "--dir=" + dir, "--guests=2"}, true, "daemon each"},
		{[]string{"--socket=x", "--dir=" + dir, "--scale=1"}, true, "--daemon"},
		{[]string{"--daemon=x {socket}", "extra"}, true, "unknown command"},
		{[]string{"--daemon=x {socket}", "--rounds=0"}, true, "--rounds must be"},
		{[]string{"--daemon=x {socket}", "--duration=0"}, true, "--duration must be"},
		{[]string{"--daemon=x {socket}", "--queues=0"}, true, "--queues must be"},
		{[]string{"--daemon=x {socket}", "--queue-size=0"}, true, "--queue-size must be"},
		{[]string{"--daemon=x {socket}", "--files=0"}, true, "--files must be"},
		{[]string{"--daemon=x {socket}", "--cold-size=0"}, true, "--cold-size must be"},
		{[]string{"--daemon=x {socket}", "-w", ""}, true, "--workload is empty"},
		{[]string{"--daemon=x {socket}", "--name="}, true, "--name is empty"},
		{[]string{"--daemon=x {socket}", "--vs="}, true, "--vs is empty"},
		{[]string{"--daemon=x {socket}", "--pid=1"}, true, "--socket"},
		{[]string{"--socket=x", "--dir=" + dir, "--self"}, true, "--daemon"},
		{[]string{"--daemon=x {socket}", "--require-ratio=0.97"}, true, "--vs"},
		{[]string{"--daemon=x {socket}", "--max-foreign=0"}, true, "--max-foreign must be"},
		{[]string{"--daemon=x {socket}", "--max-foreign=101"}, true, "--max-foreign"},
		{[]string{"--daemon=x {socket}", "--idle=1", "--self"}, true, "--self would have no effect with --idle"},
		{[]string{"--daemon=x {socket}", "--scale=1", "--max-foreign=5"}, true, "--max-foreign would have no effect with --scale"},
		{[]string{"--daemon=x {socket}", "--idle=1", "--workload=getattr"}, true, "--workload would have no effect with --idle"},
		{[]string{"--daemon=x {socket}", "--scale=1", "--best"}, true, "--best would have no effect with --scale"},
		{[]string{"--show=" + dir + "/none", "--daemon=x"}, true, "--daemon would have no effect with --show"},
		{[]string{"--show=" + dir + "/none", "--workload=nothing"}, true, "--list"},
		{[]string{"--show=" + dir + "/none"}, false, "no such file"},
		{[]string{"--daemon=x {socket}", "--vs=y {socket}", "--svg=" + dir + "/none/x.svg"}, false, "no such file"},
		{[]string{"--socket=" + dir + "/none", "--dir=" + dir}, false, "no such file"},
		{[]string{"--daemon=/no/such/program {socket}", "--files=1", "--cold-size=1"}, false, "No such file"},
		{[]string{"--daemon=/bin/false {socket}", "--files=1", "--cold-size=1"}, false, "exit status 1"},
	} {
		t.Run(fmt.Sprint(tt.args), func(t *testing.T) {
			out, err := benchmark(t, tt.args...)
			if err == nil {
				t.Fatalf("no error; output:\n%s", out)
			}
			var usage usageError
			if errors.As(err, &usage) != tt.usage || !strings.Contains(err.Error(), tt.saying) {
				t.Errorf("%v; want one that says %q, usage error %t", err, tt.saying, tt.usage)
			}
		})
	}
}

// TestBenchShow filters a report, and reads one from standard input.
func TestBenchShow(t *testing.T) {
	report := &bench.Report{Rows: []bench.Row{
		{Workload: "getattr", Unit: "op", Depth: 1, Targets: []bench.Figures{{Target: "a"}}},
		{Workload: "open", Unit: "op", Depth: 1, Targets: []bench.Figures{{Target: "a"}}}}}
	show := func(args ...string) (string, error) {
		var in, out bytes.Buffer
		if err := report.WriteJSON(&in); err != nil {
			t.Fatal(err)
		}
		root := newRoot()
		root.SetIn(&in)
		root.SetOut(&out)
		root.SetArgs(append([]string{"bench", "--show=-"}, args...))
		err := root.Execute()
		return out.String(), err
	}
	if out, err := show(); err != nil || !strings.Contains(out, "\ngetattr:") || !strings.Contains(out, "\nopen:") {
		t.Errorf("all: %v\n%s", err, out)
	}
	if out, err := show("-w", "open"); err != nil || strings.Contains(out, "\ngetattr:") || !strings.Contains(out, "\nopen:") {
		t.Errorf("one: %v\n%s", err, out)
	}
	picture := filepath.Join(t.TempDir(), "x.svg")
	for _, args := range [][]string{{"-w", "rename"}, {"--svg", picture}} {
		_, err := show(args...)
		if usage := (usageError{}); !errors.As(err, &usage) {
			t.Errorf("%v: %v, want a mistake on the command line", args, err)
		}
	}
	if _, err := os.Stat(picture); err == nil {
		t.Error("a picture of nothing was made")
	}
}

// TestBenchRequire: a comparison that is worse than required fails, after its figures were
// written.
func TestBenchRequire(t *testing.T) {
	rounds := func(units uint64) (list []bench.Sample) {
		for range 5 {
			list = append(list, bench.Sample{Units: units, Wall: time.Second, CPU: time.Second})
		}
		return list
	}
	report := &bench.Report{Rows: []bench.Row{{Workload: "getattr", Unit: "op", Depth: 1,
		Targets: []bench.Figures{{Target: "new", Rounds: rounds(900)}, {Target: "old", Rounds: rounds(1000)}}}}}
	saved := filepath.Join(t.TempDir(), "saved.json")
	f, err := os.Create(saved)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(report.WriteJSON(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ option, saying string }{
		{"--require-ratio=0.97", "against old: 0.90 of the operations (0.90-0.90), required 0.97"},
		{"--require-cpu-ratio=1.03", "against old: 1.11 of the processor time"},
		{"--require-ratio=0.9", ""},
		{"--require-cpu-ratio=1.2", ""},
	} {
		out, err := benchmark(t, "--show", saved, tt.option)
		if tt.saying == "" && err != nil || tt.saying != "" && (err == nil || !strings.Contains(err.Error(), tt.saying)) {
			t.Errorf("%s: %v, want %q", tt.option, err, tt.saying)
		}
		if usage := (usageError{}); errors.As(err, &usage) || !strings.Contains(out, "getattr:") {
			t.Errorf("%s: %v, output:\n%s", tt.option, err, out)
		}
	}
}

// TestOutFile: what was in a file stays until there is something new; a new one that gets
// nothing goes again.
func TestOutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	f, err := openOut(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("an empty file is left")
	}
	if err := os.WriteFile(path, []byte("older, longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "new"} {
		if f, err = openOut(path); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			_, err = f.Write([]byte(text))
		}
		if err := errors.Join(err, f.close()); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(path); string(b) != "new" {
		t.Errorf("the file has %q, %v", b, err)
	}
}

func TestBenchList(t *testing.T) {
	out, err := benchmark(t, "--list")
	if err != nil || !strings.Contains(out, "readdirplus") {
		t.Errorf("%v, %q", err, out)
	}
}
