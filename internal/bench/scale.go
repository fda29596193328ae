package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Scale is the cost for a target of a directory with so many files, and of as many
// known nodes. Every measurement has a new daemon, which knows no nodes at first.
type Scale struct {
	Target string `json:"target"`
	Files  int    `json:"files"`
	// Failed is the reason why the target failed; the steps after it have no figures.
	Failed string `json:"failed,omitempty"`
	// Names is a listing by READDIR. New is the first listing by READDIRPLUS, which
	// makes a node of each entry. Known is the second one.
	Names Listing `json:"names"`
	New   Listing `json:"new"`
	Known Listing `json:"known"`
	// First is the time until the first reply of a listing in microseconds. Middle is that
	// of a reply from the middle of the directory, which the open file has not read
	// before.
	First  float64 `json:"first_us"`
	Middle float64 `json:"middle_us"`
	// Lookups are LOOKUPs of known nodes at random, at each depth.
	Lookups []ScaleLookup `json:"lookups"`
	// Forget is the processor time to forget a node in microseconds.
	Forget float64 `json:"forget_cpu_us"`
	// Reading is the largest amount of private memory in bytes that the daemon takes for
	// READDIR. Node is the bytes that each node takes, if there are many. Descriptors is the
	// number of open descriptors then: no figure contains the kernel's memory for these.
	Reading     float64 `json:"reading_bytes"`
	Node        float64 `json:"node_bytes"`
	Descriptors float64 `json:"descriptors"`
}

// Listing is how fast a directory is read by one reader.
type Listing struct {
	PerSecond float64 `json:"per_second"` // entries
	CPU       float64 `json:"cpu_us"`     // of the back-end, per entry
	P50       float64 `json:"p50_us"`     // latency of a reply
	Max       float64 `json:"max_us"`
}

// ScaleLookup is how fast names of known nodes are looked up.
type ScaleLookup struct {
	Depth     int     `json:"depth"`
	PerSecond float64 `json:"per_second"`
	CPU       float64 `json:"cpu_us"`
	P50       float64 `json:"p50_us"`
	P999      float64 `json:"p99_9_us"`
	Max       float64 `json:"max_us"`
}

// figures are pointers to all figures, in a fixed order.
func (m *Scale) figures() []*float64 {
	list := []*float64{&m.First, &m.Middle, &m.Forget, &m.Reading, &m.Node, &m.Descriptors}
	for _, l := range []*Listing{&m.Names, &m.New, &m.Known} {
		list = append(list, &l.PerSecond, &l.CPU, &l.P50, &l.Max)
	}
	for i := range m.Lookups {
		l := &m.Lookups[i]
		list = append(list, &l.PerSecond, &l.CPU, &l.P50, &l.P999, &l.Max)
	}
	return list
}

// MeasureScale measures each target with directories of so many files, in turn, in as
// many rounds as the options say. Figures are medians over the rounds.
func MeasureScale(ctx context.Context, o *Options, sizes []int) (list []Scale, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Queues != 1 || o.Guests != 1 {
		return nil, errors.New("one reader is measured: neither several queues nor guests are possible")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 4)))
	r := &runner{ctx: ctx, opts: o}
	defer func() { err = errors.Join(ended(ctx, err), r.close()) }()
	for i, n := range sizes {
		one, err := r.scale(n, float64(i)/float64(len(sizes)))
		list = append(list, one...)
		if err != nil {
			return list, fmt.Errorf("%d files: %w", n, err)
		}
	}
	return list, nil
}

// scale measures all targets with one directory.
func (r *runner) scale(n int, done float64) (list []Scale, err error) {
	o := r.opts
	o.Progress(fmt.Sprintf("making %d files", n), done)
	if r.files, err = prepareScale(r.ctx, o, n); err != nil {
		return nil, err
	}
	defer func() { err, r.files = errors.Join(err, r.files.remove()), nil }()
	rounds := make([][]Scale, len(o.Targets)+1)
	for round := range o.Rounds {
		for i := range o.Targets {
			i = (i + round) % len(o.Targets)
			o.Progress(fmt.Sprintf("%s, %d files", o.Targets[i].Name, n), done)
			one, err := r.scaleTarget(&o.Targets[i], n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", o.Targets[i].Name, err)
			}
			rounds[i] = append(rounds[i], one)
		}
		if o.Floor {
			one, err := floorScale(r.ctx, r.files, n, o)
			if err != nil {
				return nil, err
			}
			rounds[len(o.Targets)] = append(rounds[len(o.Targets)], one)
		}
	}
	for _, of := range rounds {
		if len(of) > 0 {
			list = append(list, medianScale(of))
		}
	}
	return list, nil
}

// medianScale sums up the rounds of one target. A failure is the target's.
func medianScale(rounds []Scale) Scale {
	sum := rounds[0]
	for _, r := range rounds {
		if r.Failed != "" {
			return r
		}
	}
	var values [][]float64
	for i := range rounds {
		var v []float64
		for _, f := range rounds[i].figures() {
			v = append(v, *f)
		}
		values = append(values, v)
	}
	for k, f := range sum.figures() {
		var v []float64
		for i := range values {
			v = append(v, values[i][k])
		}
		*f = median(v)
	}
	return sum
}

// prepareScale makes a directory "list" of n empty files.
func prepareScale(ctx context.Context, o *Options, n int) (f *files, err error) {
	path, err := os.MkdirTemp(o.Dir, "govirtiofs-bench-")
	if err != nil {
		return nil, fmt.Errorf("prepare files: %w", err)
	}
	f = &files{path: path, name: filepath.Base(path)}
	if err := f.scale(ctx, n); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare files: %w", err), f.remove())
	}
	return f, nil
}

func (f *files) scale(ctx context.Context, n int) error {
	if err := os.Mkdir(filepath.Join(f.path, "list"), 0o755); err != nil {
		return err
	}
	dir, err := openPath(f, "list", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for i := range n {
		if err := unix.Mknodat(dir, fileName(i), unix.S_IFREG|0o644, 0); err != nil {
			return err
		}
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
