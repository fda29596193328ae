package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/bench"
)

// benchFlags are the command line of "govirtiofs bench".
type benchFlags struct {
	opts       bench.Options
	socket     string
	pid        int
	daemon     string
	vs         []string
	names      []string
	workloads  []string
	coldMiB    int
	json       bool
	benchstat  bool
	svg        string
	markdown   bool
	show       string
	listOnly   bool
	idle       []int
	scale      []int
	noProgress bool
	self       bool
	foreign    int // percent
	require    bench.Require
	picture    *outFile // of --svg; nil without
}

func newBench() *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use:   "bench (--socket PATH --dir DIR | --daemon 'COMMAND {socket} {dir}') [options]",
		Short: "Measure a vhost-user-fs back-end, or compare several",
		Long: `Drives a vhost-user-fs back-end as a Linux guest does, without a virtual machine.
Reports operations per second, the back-end's processor time per operation,
latencies and notifications.

The files that the workloads need are made in a new directory in the shared one and
removed at the end: up to 68 MiB, and --cold-size more for randread. All reads use
one file. Each queue of each guest writes to a file of its own (64 MiB more for each
after the first, at most 512 MiB together), because the host's kernel lets only one
writer at a time into a file.

With --daemon it starts the back-end itself, and with --vs other back-ends to compare
with. All use the same directory and are measured in turn, round by round. A ratio is
the median of the rounds' ratios; its range is the 95 % confidence interval. "noise"
instead of a ratio means that the rounds show no difference, or differ too much.
--self measures the first back-end a second time, to show how much noise there is.

Rounds in which other programs used more than --max-foreign percent of the
processors' time are left out and counted. Each is repeated at most once.

SIGINT, SIGTERM or SIGHUP ends the measurement. The command then removes its files and
writes the results so far; the exit status is 128 plus the number of the signal. A
second signal ends it at once.`,
		Example: `  govirtiofs bench --daemon 'govirtiofsd --shared-dir {dir} --socket-path {socket}'
  govirtiofs bench --daemon 'govirtiofsd --shared-dir {dir} --socket-path {socket}' \
    --vs '/usr/libexec/virtiofsd --shared-dir {dir} --socket-path {socket}' --depth 1,8 --rounds 9 --self
  govirtiofs bench --socket /run/fs.sock --dir /srv/share --workload read-4k,getattr`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	return cmd
}

func (f *benchFlags) register(cmd *cobra.Command) {
	fl, o := cmd.Flags(), &f.opts
	fl.SortFlags = false
	fl.StringVar(&f.socket, "socket", "", "measure the back-end that listens at this socket")
	fl.IntVar(&f.pid, "pid", 0, "the process whose CPU time counts, with --socket (default: the one that listens)")
	fl.StringVar(&f.daemon, "daemon", "", "start a back-end with this command; {socket} and {dir} are replaced")
	fl.StringArrayVar(&f.vs, "vs", nil, "compare with the back-end that this command starts (repeatable)")
	fl.BoolVar(&f.self, "self", false, "compare also with a second back-end of --daemon, to show how much noise there is")
	fl.StringArrayVar(&f.names, "name", nil, "name of a back-end in the report; repeat it in their order (default: the program's name)")
	fl.StringVar(&o.Dir, "dir", "", "the shared directory (default with --daemon: a new one in the temporary directory)")
	fl.StringSliceVarP(&f.workloads, "workload", "w", nil, "measure only these workloads; see --list")
	fl.BoolVar(&f.listOnly, "list", false, "list the workloads and end")
	fl.IntSliceVar(&o.Depths, "depth", []int{1, 8, 32}, "requests under way at the same time, per queue")
	fl.IntVar(&o.Queues, "queues", 1, "request queues, each driven by a thread")
	fl.IntVar(&o.Guests, "guests", 1, "daemons of each command, each with a guest of its own, measured together")
	fl.IntVar(&o.QueueSize, "queue-size", 128, "entries of each queue")
	fl.DurationVar(&o.Duration, "duration", 300*time.Millisecond, "length of a round")
	fl.Uint64Var(&o.Count, "count", 0, "make this many operations in a round, instead of measuring for --duration")
	fl.IntVar(&o.Rounds, "rounds", 5, "rounds of each workload and depth")
	fl.BoolVar(&o.Best, "best", false, "report the best round of each instead of medians, for a machine that also does other work")
	fl.IntVar(&f.foreign, "max-foreign", 10, "leave out rounds in which others used more than this percentage of the processors' time; with 100 none is left out")
	fl.DurationVar(&o.Warmup, "warm-up", 100*time.Millisecond, "how long to run before the first round of each")
	fl.DurationVar(&o.Spin, "spin", 0, "poll for replies for this time before sleeping, as a guest that polls does")
	fl.IntVar(&o.Chunk, "chunk", 0, "size of the largest data buffer in bytes; 4096 is a guest without large folios (default: one buffer for all data)")
	fl.IntVar(&o.Files, "files", 10000, "number of nodes that lookup-new looks up")
	fl.IntVar(&f.coldMiB, "cold-size", 256, "MiB of the file that randread reads from disk, in the shared directory")
	fl.IntVar(&o.ListSize, "list-size", 32<<10, "size in bytes of the reply to a READDIRPLUS")
	fl.BoolVar(&o.NoIndirect, "no-indirect", false, "use no indirect descriptors")
	fl.BoolVar(&o.NoEventIdx, "no-event-idx", false, "use no event indexes")
	fl.BoolVar(&o.Floor, "floor", false, "measure also the system calls of each operation alone, without a back-end")
	fl.BoolVar(&o.Syscalls, "syscalls", false, "count also the back-end's system calls per operation (needs root)")
	fl.IntSliceVar(&f.idle, "idle", nil, "measure instead what this many idle daemons cost: memory, threads, wake-ups (1,8,64)")
	fl.IntSliceVar(&f.scale, "scale", nil, "measure instead directories of this many files, and the same number of known nodes (10,10000,1000000); a million take 1 GiB in a tmpfs, and minutes on a disk")
	fl.Float64Var(&f.require.Ratio, "require-ratio", 0, "fail if a ratio of operations per second is certainly less than this, for example 0.97")
	fl.Float64Var(&f.require.CPURatio, "require-cpu-ratio", 0, "fail if a ratio of processor times is certainly more than this, for example 1.03")
	fl.BoolVar(&f.json, "json", false, "write JSON")
	fl.BoolVar(&f.benchstat, "benchstat", false, "write the format of Go benchmarks, for benchstat")
	fl.BoolVar(&f.markdown, "markdown", false, "write a table for a document")
	fl.StringVar(&f.show, "show", "", "measure nothing; print the results that an earlier run has written with --json to this file (- is standard input); with -w, only these workloads")
	fl.StringVar(&f.svg, "svg", "", "write also a picture of the ratios to this file")
	fl.BoolVar(&f.noProgress, "no-progress", false, "show no progress on the terminal")
}

func (f *benchFlags) run(cmd *cobra.Command) (err error) {
	if err := f.checkFlags(cmd); err != nil {
		return err
	}
	if f.show != "" {
		return f.showReport(cmd)
	}
	if f.listOnly {
		for _, w := range bench.Workloads() {
			fmt.Fprintf(cmd.OutOrStdout(), "%-15s %s\n", w.Name, w.Title)
		}
		return nil
	}
	if err := f.targets(); err != nil {
		return err
	}
	if err := errors.Join(f.checkIdle(), f.checkScale()); err != nil {
		return err
	}
	ctx, stop := untilSignal() // before anything is made that has to be removed
	defer stop()
	if f.opts.Dir == "" {
		if f.opts.Dir, err = os.MkdirTemp("", "govirtiofs-share-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(f.opts.Dir)) }()
	}
	if f.opts.Dir, err = filepath.Abs(f.opts.Dir); err != nil {
		return err
	}
	f.opts.ColdSize = int64(f.coldMiB) << 20
	if f.opts.MaxForeign = float64(f.foreign) / 100; f.foreign > 100 {
		return usagef("--max-foreign: 1 to 100 percent are possible")
	}
	if err := f.opts.Check(); err != nil {
		return usageError{err}
	}
	if err := f.openPicture(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.closePicture()) }()
	return f.measure(ctx, cmd)
}

// measure does what was asked for, and writes what came out even if it ended early.
func (f *benchFlags) measure(ctx context.Context, cmd *cobra.Command) error {
	progress := newProgress(f.noProgress)
	f.opts.Progress = progress.show
	if f.idle != nil {
		list, err := bench.MeasureIdle(ctx, &f.opts, f.idle)
		progress.clear()
		return errors.Join(err, f.writeIdle(cmd.OutOrStdout(), list))
	}
	if f.scale != nil {
		list, err := bench.MeasureScale(ctx, &f.opts, f.scale)
		progress.clear()
		return errors.Join(err, f.writeScale(cmd.OutOrStdout(), list))
	}
	results, err := bench.Run(ctx, &f.opts)
	progress.clear()
	if len(results) > 0 {
		r := bench.NewReport(&f.opts, results)
		err = errors.Join(err, f.write(cmd.OutOrStdout(), r), f.judge(cmd.ErrOrStderr(), r))
	}
	return err
}

// judge is an error if a comparison is worse than required. What is unclear, it only says.
func (f *benchFlags) judge(w io.Writer, r *bench.Report) error {
	failed, unclear := r.Judge(f.require)
	for _, line := range unclear {
		fmt.Fprintln(w, "unclear, try more --rounds: "+line)
	}
	if len(failed) > 0 {
		return errors.New("worse than required:\n" + strings.Join(failed, "\n"))
	}
	return nil
}

func (f *benchFlags) openPicture() (err error) {
	if f.svg != "" {
		f.picture, err = openOut(f.svg)
	}
	return err
}

func (f *benchFlags) closePicture() error {
	if f.picture == nil {
		return nil
	}
	return f.picture.close()
}

// showReport writes an earlier run's results, or those of some workloads, in another format.
func (f *benchFlags) showReport(cmd *cobra.Command) (err error) {
	if _, err := bench.FindWorkloads(f.workloads); err != nil {
		return usagef("%w (--list shows all)", err)
	}
	r, err := readReport(cmd.InOrStdin(), f.show)
	if err != nil {
		return err
	}
	if len(f.workloads) > 0 {
		r.Rows = slices.DeleteFunc(r.Rows, func(row bench.Row) bool { return !slices.Contains(f.workloads, row.Workload) })
		if len(r.Rows) == 0 {
			return usagef("%s has no results of %s", f.show, strings.Join(f.workloads, ", "))
		}
	}
	if f.svg != "" && len(r.Rows[0].Targets) < 2 {
		return usagef("a picture shows ratios, and %s has one target", f.show)
	}
	if err := f.openPicture(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.closePicture()) }()
	if cmd.Flags().Changed("best") {
		r.Summarize(f.opts.Best)
	}
	return errors.Join(f.write(cmd.OutOrStdout(), r), f.judge(cmd.ErrOrStderr(), r))
}

// readReport reads a report from a file, or from stdin if that is "-".
func readReport(stdin io.Reader, path string) (*bench.Report, error) {
	if path == "-" {
		return bench.ReadReport(stdin)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r, err := bench.ReadReport(file)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return r, err
}

// checkIdle refuses what --idle cannot do.
func (f *benchFlags) checkIdle() error {
	switch {
	case f.idle == nil:
		return nil
	case f.daemon == "":
		return usagef("--idle starts the daemons itself: it needs --daemon")
	case f.benchstat || f.markdown || f.svg != "":
		return usagef("--idle writes a table, or --json")
	case len(f.idle) == 0 || slices.Min(f.idle) < 1 || slices.Max(f.idle) > 1000:
		return usagef("--idle: 1 to 1000 daemons are possible")
	}
	return nil
}

// checkScale refuses what --scale cannot do.
func (f *benchFlags) checkScale() error {
	switch {
	case f.scale == nil:
		return nil
	case f.daemon == "":
		return usagef("--scale starts the daemons itself: it needs --daemon")
	case f.idle != nil || f.benchstat || f.svg != "":
		return usagef("--scale writes its own tables, or --json")
	case len(f.scale) == 0 || slices.Min(f.scale) < 1 || slices.Max(f.scale) > 10_000_000:
		return usagef("--scale: 1 to 10,000,000 files are possible")
	}
	return nil
}

func (f *benchFlags) writeIdle(w io.Writer, list []bench.Idle) error {
	if f.json {
		return encode(w, list)
	}
	return bench.WriteIdle(w, list)
}

func (f *benchFlags) writeScale(w io.Writer, list []bench.Scale) error {
	if f.json {
		return encode(w, list)
	}
	return bench.WriteScale(w, list, f.markdown)
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// targets puts the targets together from the flags.
func (f *benchFlags) targets() (err error) {
	if f.opts.Workloads, err = bench.FindWorkloads(f.workloads); err != nil {
		return usagef("%w (--list shows all)", err)
	}
	switch {
	case f.self && f.daemon == "":
		return usagef("--self starts the back-end a second time: it needs --daemon")
	case f.daemon != "" && f.socket != "":
		return usagef("--socket and --daemon exclude each other: the first measures a back-end that runs already")
	case f.daemon != "":
		f.opts.Targets = append(f.opts.Targets, bench.Target{Name: programName(f.daemon), Command: f.daemon})
	case f.socket == "":
		return usagef("name a back-end with --socket, or a command that starts one with --daemon")
	case f.opts.Dir == "":
		return usagef("with --socket, --dir must name the directory that the back-end shares")
	default:
		f.opts.Targets = append(f.opts.Targets, bench.Target{Name: filepath.Base(f.socket), Socket: f.socket, PID: f.pid})
	}
	for _, command := range f.vs {
		f.opts.Targets = append(f.opts.Targets, bench.Target{Name: programName(command), Command: command})
	}
	if len(f.vs) == 0 && f.require != (bench.Require{}) {
		return usagef("--require-ratio and --require-cpu-ratio need --vs")
	}
	if len(f.names) > len(f.opts.Targets) {
		return usagef("%d names for %d targets", len(f.names), len(f.opts.Targets))
	}
	seen := map[string]int{}
	for i := range f.opts.Targets {
		t := &f.opts.Targets[i]
		if i < len(f.names) {
			t.Name = f.names[i]
		}
		if t.Command != "" && !strings.Contains(t.Command, "{socket}") {
			return usagef("the command %q does not say where {socket} goes", t.Command)
		}
		if seen[t.Name]++; seen[t.Name] > 1 { // the same program twice
			t.Name = fmt.Sprintf("%s-%d", t.Name, seen[t.Name])
		}
	}
	if f.self {
		f.opts.Targets = append(f.opts.Targets, bench.Target{Name: "itself", Command: f.daemon, Self: true})
	}
	if f.svg != "" && len(f.opts.Targets) < 2 {
		return usagef("a picture shows ratios: --svg needs --vs")
	}
	return nil
}

// programName is the program of a command, for a report.
func programName(command string) string {
	for _, word := range strings.Fields(command) {
		if !strings.Contains(word, "=") { // a variable for its environment
			return filepath.Base(strings.Trim(word, `'"`))
		}
	}
	return "daemon"
}

func (f *benchFlags) write(w io.Writer, r *bench.Report) (err error) {
	switch {
	case f.json:
		err = r.WriteJSON(w)
	case f.benchstat:
		err = r.WriteBenchstat(w)
	case f.markdown:
		err = r.WriteMarkdown(w)
	default:
		err = r.WriteTable(w)
	}
	if err != nil || f.svg == "" {
		return err
	}
	return r.WriteSVG(f.picture)
}

// progress is a line on a terminal.
type progress struct {
	on    bool
	began time.Time
	last  time.Time
}

func newProgress(off bool) *progress {
	_, err := unix.IoctlGetTermios(2, unix.TCGETS)
	return &progress{on: err == nil && !off, began: time.Now()}
}

// show says what is being done, once it has taken a while.
func (p *progress) show(what string, done float64) {
	now := time.Now()
	if !p.on || now.Sub(p.began) < time.Second || now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last = now
	left := ""
	if done > 0.02 {
		left = fmt.Sprintf(", %s left", (time.Duration(float64(now.Sub(p.began)) * (1 - done) / done)).Round(time.Second))
	}
	fmt.Fprintf(os.Stderr, "\r\x1b[K%3.0f%% %s%s", done*100, what, left)
}

func (p *progress) clear() {
	if p.on && !p.last.IsZero() {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}
