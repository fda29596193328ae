// Guestbench compares virtio-fs back-ends in real guests. It runs fio and the two
// workloads of the puffs paper: extracting a source tree, and reading a large file that
// is cached nowhere, in the guest, or only on the side of the back-end. "make
// bench-guest" runs it.
//
// Without hardware virtualisation more time goes into the guest's kernel than into the
// daemon. User-Mode Linux is several times nearer to a real machine than emulation.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guestbench:", err)
		os.Exit(1)
	}
}

// target is a back-end. {dir}, {socket} and {tag} in its arguments are replaced.
type target struct {
	name    string
	args    []string
	tagless bool // it does not know its tag, which User-Mode Linux needs
}

func run(args []string) error {
	f := flag.NewFlagSet("guestbench", flag.ExitOnError)
	kindName := f.String("guest", "uml", "uml, qemu72 or qemu11")
	rounds := f.Int("rounds", 3, "boots of each back-end, in turn")
	ours := f.String("ours", "bin/govirtiofsd", "our daemon's program")
	also := f.String("also", "", "measure our daemon with these options, too, as \"--busy-poll=0\"")
	megabytes := f.Int("file", 256, "MiB of the large file")
	only := f.String("w", "", "workloads, as \"backend,cached,randread16\"; all without it, and "+workloadNames())
	repeat := f.Int("repeat", 1, "times that each workload is run in a boot, of which the median counts")
	names := f.String("targets", "", "back-ends whose names begin so, as \"govirtiofsd,virtiofsd (C)\"; all without it")
	_ = f.Parse(args)
	kind, err := guest.ParseKind(*kindName)
	if err != nil {
		return err
	}
	plan := plan{kind: kind, megabytes: *megabytes, repeat: *repeat}
	if plan.workloads, err = choose(*only); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for _, part := range []string{kind.String(), "fio", "peers"} {
		if err := guest.Setup(ctx, part); err != nil {
			return err
		}
	}
	targets, err := backends(*ours, *also)
	if err != nil {
		return err
	}
	if targets = among(targets, *names); len(targets) == 0 {
		return fmt.Errorf("no back-end is called %q", *names)
	}
	results := map[string]map[string][]float64{} // by workload and target
	for round := range *rounds {
		for i := range targets {
			t := targets[(i+round)%len(targets)] // each target is first in one of the rounds
			fmt.Fprintf(os.Stderr, "guestbench: round %d of %d: %s:", round+1, *rounds, t.name)
			figures, err := measure(ctx, &plan, t)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			for _, w := range workloads {
				if v, measured := figures[w.name]; measured {
					fmt.Fprintf(os.Stderr, " %s %.4g", w.name, v)
				}
			}
			fmt.Fprintln(os.Stderr)
			for workload, v := range figures {
				if results[workload] == nil {
					results[workload] = map[string][]float64{}
				}
				results[workload][t.name] = append(results[workload][t.name], v)
			}
		}
	}
	report(os.Stdout, targets, results)
	return nil
}

// backends are our daemon, the peers, and our daemon with other options if
// there are any.
func backends(ours, also string) ([]target, error) {
	rust, err := guest.PeerPath(guest.RustPeer)
	if err != nil {
		return nil, err
	}
	c, err := guest.PeerPath(guest.CPeer)
	if err != nil {
		return nil, err
	}
	common := []string{"--shared-dir={dir}", "--socket-path={socket}", "--tag={tag}", "--allow-direct-io"}
	list := []target{
		{name: "govirtiofsd", args: append([]string{ours}, common...)},
		{name: "virtiofsd (Rust) 1.14", args: append([]string{rust}, common...)},
		{name: "virtiofsd (C) 7.2", args: []string{c, "-f", "-o", "source={dir},allow_direct_io", "--socket-path={socket}"}, tagless: true},
	}
	if also != "" {
		list = append(list, target{name: "govirtiofsd " + also, args: slices.Concat([]string{ours}, common, strings.Fields(also))})
	}
	return list, nil
}

// among are the targets whose names begin with one of the comma-separated prefixes.
func among(targets []target, prefixes string) []target {
	return slices.DeleteFunc(targets, func(t target) bool {
		return !slices.ContainsFunc(strings.Split(prefixes, ","), func(p string) bool { return strings.HasPrefix(t.name, p) })
	})
}

// plan is what is measured in each boot.
type plan struct {
	kind      guest.Kind
	megabytes int             // of the large file
	workloads map[string]bool // by name
	repeat    int             // runs of each
}

// choose returns the workloads that are listed with commas between them, or all.
func choose(list string) (map[string]bool, error) {
	chosen := map[string]bool{}
	for _, w := range workloads {
		chosen[w.name] = list == ""
	}
	for name := range strings.SplitSeq(list, ",") {
		if _, known := chosen[name]; !known && list != "" {
			return nil, fmt.Errorf("no workload %q: want %s", name, workloadNames())
		}
		chosen[name] = true
	}
	delete(chosen, "")
	return chosen, nil
}

func workloadNames() string {
	var names []string
	for _, w := range workloads {
		names = append(names, w.name)
	}
	return strings.Join(names, ", ")
}

// workloads are in the order of the report, with the meaning of their figures.
var workloads = []struct{ name, what, unit string }{
	{"extract", "extract 2,000 files", "s"},
	{"walk", "find and stat them", "s"},
	{"cold", "read the large file, cached nowhere", "s"},
	{"backend", "read it, cached by the back-end's host", "s"},
	{"cached", "read it again: opening has made the guest forget it", "s"},
	{"randread1", "fio randread 4k direct, depth 1", "IOPS"},
	{"randread16", "fio randread 4k direct, depth 16", "IOPS"},
	{"randwrite16", "fio randwrite 4k direct, depth 16", "IOPS"},
	{"seqread", "fio read 1M direct", "IOPS"},
}

// report writes a table with medians and, for the peers, how many times faster ours is.
func report(w io.Writer, targets []target, results map[string]map[string][]float64) {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprint(t, "| workload\t| unit")
	for i, target := range targets {
		fmt.Fprintf(t, "\t| %s", target.name)
		if i > 0 {
			fmt.Fprint(t, "\t| ours is")
		}
	}
	fmt.Fprint(t, "\t|\n|---\t|---"+strings.Repeat("\t|---", 2*len(targets)-1)+"\t|\n")
	for _, workload := range workloads {
		by := results[workload.name]
		if len(by) == 0 {
			continue
		}
		first := median(by[targets[0].name])
		fmt.Fprintf(t, "| %s\t| %s", workload.what, workload.unit)
		for i, target := range targets {
			v := median(by[target.name])
			fmt.Fprintf(t, "\t| %.4g", v)
			if i == 0 {
				continue
			}
			ratio := first / v
			if workload.unit == "s" {
				ratio = v / first
			}
			fmt.Fprintf(t, "\t| %.2fx", ratio)
		}
		fmt.Fprint(t, "\t|\n")
	}
	_ = t.Flush()
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// measureTimeout bounds one boot with all workloads.
const measureTimeout = 6 * time.Minute
