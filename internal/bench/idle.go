package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// Idle is what one idle daemon of several takes, on average; sizes are in bytes.
type Idle struct {
	Target  string `json:"target"`
	Daemons int    `json:"daemons"`
	// PSS is the proportional set size (proc_pid_smaps(5)), that of all its processes
	// together: memory that k processes share counts with 1/k. The guest's memory,
	// which is shared with the front-end, is left out.
	PSS float64 `json:"pss"`
	// Private is memory that belongs to no file and that only one process has.
	Private   float64 `json:"private"`
	Processes float64 `json:"processes"`
	Threads   float64 `json:"threads"`
	// Wakeups is how often a thread of it has run in a second.
	Wakeups float64 `json:"wakeups"`
}

// settle is the time without requests before the daemons are measured. look is the time in
// which their wake-ups are counted.
const (
	settle = 1500 * time.Millisecond // some daemons take less memory after a while
	look   = 500 * time.Millisecond
)

// MeasureIdle starts each target's daemon as often as counts says, each with a front-end
// that sends it some hundred requests and then nothing more, and measures what they
// take. Targets need a Command.
func MeasureIdle(ctx context.Context, o *Options, counts []int) (list []Idle, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	f, err := prepareIdle(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(ended(ctx, err), f.remove()) }()
	for i, n := range counts {
		for k := range o.Targets {
			t := &o.Targets[k]
			o.Progress(fmt.Sprintf("%d of %s", n, t.Name), float64(i*len(o.Targets)+k)/float64(len(counts)*len(o.Targets)))
			one, err := measureIdle(ctx, t, o, f, n)
			if err != nil {
				return list, fmt.Errorf("%d of %s: %w", n, t.Name, err)
			}
			list = append(list, one)
		}
	}
	return list, nil
}

// prepareIdle makes the files that exercise asks for.
func prepareIdle(ctx context.Context, o *Options) (*files, error) {
	path, err := os.MkdirTemp(o.Dir, "govirtiofs-bench-")
	if err != nil {
		return nil, fmt.Errorf("prepare files: %w", err)
	}
	f := &files{path: path, name: filepath.Base(path), alive: func() error { return context.Cause(ctx) }}
	if err := f.fill("small", idleFiles, smallSize); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare files: %w", err), f.remove())
	}
	return f, nil
}

// idleFiles are looked up, read and closed, which is 5 requests for each.
const idleFiles = 64

func measureIdle(ctx context.Context, t *Target, o *Options, f *files, n int) (idle Idle, err error) {
	var pids []int
	var sessions []*session
	defer func() { err = errors.Join(err, closeSessions(sessions)) }()
	for range n {
		s, err := openSession(ctx, t, o)
		if err != nil {
			return Idle{}, err
		}
		sessions = append(sessions, s)
		if err := exercise(s, f); err != nil {
			return Idle{}, s.explain(err)
		}
		pids = append(pids, s.pids...)
	}
	if err := sleep(ctx, settle); err != nil {
		return Idle{}, err
	}
	before, err := CountSwitches(pids...)
	if err != nil {
		return Idle{}, err
	}
	if err := sleep(ctx, look); err != nil {
		return Idle{}, err
	}
	after, err := CountSwitches(pids...)
	if err != nil {
		return Idle{}, err
	}
	idle = Idle{Target: t.Name, Daemons: n, Processes: float64(len(pids)), Threads: float64(len(before)),
		Wakeups: float64(after.Since(before)) / look.Seconds()}
	for _, pid := range pids {
		pss, private, err := processMemory(pid)
		if err != nil {
			return Idle{}, err
		}
		idle.PSS, idle.Private = idle.PSS+pss, idle.Private+private
	}
	for _, v := range []*float64{&idle.PSS, &idle.Private, &idle.Processes, &idle.Threads, &idle.Wakeups} {
		*v /= float64(n)
	}
	return idle, nil
}

// exercise sends the requests of a guest that mounts the share, lists a directory and reads some
// files.
func exercise(s *session, f *files) error {
	top, err := s.client.Lookup(rootID, f.name)
	if err != nil {
		return fmt.Errorf("look up %s: %w (does the back-end share %s?)", f.name, err, s.opts.Dir)
	}
	dir, err := s.client.Lookup(top.NodeID, "small")
	if err != nil {
		return err
	}
	if _, err := s.client.ReadAll(dir.NodeID, true); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	for i := range idleFiles {
		e, err := s.client.Lookup(dir.NodeID, fileName(i))
		if err != nil {
			return err
		}
		fh, err := s.client.Open(e.NodeID, readOnly)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		_, err1 := s.client.Read(e.NodeID, fh, 0, smallSize)
		_, err2 := s.client.Getattr(e.NodeID)
		if err := errors.Join(err1, err2, s.client.Release(e.NodeID, fh)); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// processMemory reads the proportional set size of a process without shared memory
// objects, and its private memory that is not a file's, in bytes.
func processMemory(pid int) (pss, private float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		var kB float64
		if _, err := fmt.Sscanf(value, "%f kB", &kB); err == nil {
			found[name] = kB * 1024
		}
	}
	if found["Pss"] == 0 {
		return 0, 0, fmt.Errorf("/proc/%d/smaps_rollup has no Pss", pid)
	}
	return found["Pss"] - found["Pss_Shmem"], found["Pss_Anon"], nil
}

// WriteIdle writes a table. Its ratios compare with the last target with as many
// daemons.
func WriteIdle(w io.Writer, list []Idle) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "daemons\ttarget\tPSS of each\tratio\tprivate\tprocesses\tthreads\twake-ups/s\t\n")
	for i, m := range list {
		last := m
		for _, o := range list[i:] {
			if o.Daemons != m.Daemons {
				break
			}
			last = o
		}
		fmt.Fprintf(tw, "%d\t%s\t%.0f KiB\t%.2f\t%.0f KiB\t%.0f\t%.1f\t%.1f\t\n",
			m.Daemons, m.Target, m.PSS/1024, m.PSS/last.PSS, m.Private/1024, m.Processes, m.Threads, m.Wakeups)
	}
	return tw.Flush()
}
