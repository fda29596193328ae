package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
)

// Sample is what one round has measured. Times are in nanoseconds in JSON.
type Sample struct {
	Units    uint64        `json:"units"`    // operations, or directory entries
	Requests uint64        `json:"requests"` // FUSE requests
	Wall     time.Duration `json:"wall_ns"`
	CPU      time.Duration `json:"cpu_ns"`    // of the back-end, all its threads and processes
	Driver   time.Duration `json:"driver_ns"` // processor time of the load generator's threads
	Kicks    uint64        `json:"kicks"`     // notifications of the back-end
	Calls    uint64        `json:"calls"`     // notifications by it
	// Foreign is the part of the processors' time that other programs had meanwhile,
	// from 0 to 1.
	Foreign float64 `json:"foreign,omitempty"`
}

func (s *Sample) add(o Sample) {
	s.Units += o.Units
	s.Requests += o.Requests
	s.Wall += o.Wall
	s.CPU += o.CPU
	s.Driver += o.Driver
	s.Kicks += o.Kicks
	s.Calls += o.Calls
}

// Measurement is one target with one workload at one depth.
type Measurement struct {
	Target  string
	Self    bool // it is the first target once more
	Rounds  []Sample
	Latency *Hist // of requests, all rounds
	// Syscalls is how many system calls the back-end makes per unit, eventfd calls
	// included; 0 if they were not counted.
	Syscalls float64
}

// Result is one workload at one depth, with all targets in their order. The floor
// comes last, if it was asked for.
type Result struct {
	Workload Workload
	Depth    int
	Targets  []Measurement
	// Dropped rounds are those in which others had more than Options.MaxForeign of the
	// processors' time. Disturbed is set if some of these had to be kept, as there were not
	// enough others.
	Dropped   int
	Disturbed bool
}

// Run measures all workloads, on all targets in turn. When it returns, its daemons
// have ended and its files are removed. When ctx ends, Run returns the results so
// far, and an error.
func Run(ctx context.Context, o *Options) (results []Result, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	// The threads of the queues sleep in system calls and must not keep others waiting.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), o.Guests*o.Queues+3)))
	r := &runner{ctx: ctx, opts: o}
	defer func() { err = errors.Join(ended(ctx, err), r.close()) }()
	for i := range o.Targets {
		o.Progress("starting "+o.Targets[i].Name, 0)
		g, err := openGroup(ctx, &o.Targets[i], o)
		r.groups = append(r.groups, g)
		if err != nil {
			return nil, err
		}
	}
	o.Progress("preparing files", 0)
	if r.files, err = prepare(o, r.alive); err != nil {
		return nil, err
	}
	for _, g := range r.groups {
		if err := g.findFiles(r.files); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return r.run()
}

// runner is one Run.
type runner struct {
	ctx    context.Context
	opts   *Options
	files  *files
	groups []*group
	done   int // rounds, for progress
}

// ended returns the reason why a run has failed. If its context has ended, that is the reason.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// alive returns an error if the run can't continue: a back-end or the context has ended.
func (r *runner) alive() error {
	for _, g := range r.groups {
		if err := g.alive(); err != nil {
			return err
		}
	}
	return context.Cause(r.ctx)
}

func (r *runner) close() (err error) {
	var sessions []*session
	for _, g := range r.groups {
		sessions = append(sessions, g.sessions...)
	}
	err = closeSessions(sessions)
	if r.files != nil {
		err = errors.Join(err, r.files.remove())
	}
	return err
}

func (r *runner) run() (results []Result, err error) {
	for _, w := range r.opts.Workloads {
		list, err := r.workload(&w)
		results = append(results, list...)
		if err != nil {
			return results, fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	return results, nil
}

// subject is something that can be measured for a while.
type subject struct {
	name    string
	self    bool
	measure func(depth int, d time.Duration, h *Hist) (Sample, error)
	pids    []int // of the back-end; none for the floor
}

// workload measures all targets with one workload, depth by depth.
func (r *runner) workload(w *Workload) (results []Result, err error) {
	var subjects []subject
	for _, g := range r.groups {
		if err := g.setup(w, r.share()); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		subjects = append(subjects, subject{g.name, g.self, func(depth int, d time.Duration, h *Hist) (Sample, error) {
			m, err := g.measure(r, depth, d, h)
			if err != nil {
				err = fmt.Errorf("%s: %w", g.name, err)
			}
			return m, err
		}, g.pids()})
	}
	if r.opts.Floor && w.floor != nil {
		f, err := w.floor(r.files)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", floorName, err)
		}
		defer f.close()
		subjects = append(subjects, subject{floorName, false, func(depth int, d time.Duration, _ *Hist) (Sample, error) {
			return measureFloor(r.ctx, f, depth*r.opts.Queues*max(r.opts.Guests, 1), d)
		}, nil})
	}
	for _, depth := range r.opts.Depths {
		result := Result{Workload: *w, Depth: depth}
		err := r.rounds(&result, subjects)
		if err != nil {
			return results, err
		}
		results = append(results, result)
	}
	return results, nil
}

// rounds measures the subjects in turn. Each round begins with another subject, so that a
// machine that gets slower or faster does so for all. Rounds that other programs have disturbed
// are repeated, up to once each.
func (r *runner) rounds(result *Result, subjects []subject) error {
	watch, err := r.watch()
	if err != nil {
		return err
	}
	var list []attempt
	for quiet := 0; quiet < r.opts.Rounds && len(list) < 2*r.opts.Rounds; {
		r.opts.Progress(fmt.Sprintf("%s, depth %d", result.Workload.Name, result.Depth), r.share())
		a, err := r.round(watch, subjects, result.Depth, len(list))
		if err != nil {
			return err
		}
		list = append(list, a)
		if a.foreign() <= r.opts.MaxForeign {
			quiet++
			r.done++
		}
		if len(list) == 2*r.opts.Rounds {
			r.done += r.opts.Rounds - quiet
		}
	}
	kept, disturbed := keep(list, r.opts.Rounds, r.opts.MaxForeign)
	result.Dropped, result.Disturbed = len(list)-len(kept), disturbed
	for i, s := range subjects {
		m := Measurement{Target: s.name, Self: s.self, Latency: new(Hist)}
		for _, a := range kept {
			m.Rounds = append(m.Rounds, a.samples[i])
			m.Latency.Add(a.latencies[i])
		}
		result.Targets = append(result.Targets, m)
	}
	return r.countCalls(result, subjects)
}

// watch measures the processor time of all programs that are not measured.
func (r *runner) watch() (*foreignWatch, error) {
	var pids []int
	for _, g := range r.groups {
		pids = append(pids, g.pids()...)
	}
	return newForeignWatch(pids)
}

// round measures each subject once.
func (r *runner) round(watch *foreignWatch, subjects []subject, depth, n int) (a attempt, err error) {
	a.samples, a.latencies = make([]Sample, len(subjects)), make([]*Hist, len(subjects))
	for i := range subjects {
		// Each is first, in the middle and last equally often: after a pause,
		// processors and their caches have to wake up.
		i = (i + n) % len(subjects)
		if r.opts.Warmup > 0 {
			if _, err := subjects[i].measure(depth, r.warmup(n), new(Hist)); err != nil {
				return a, err
			}
		}
		if err := watch.start(); err != nil {
			return a, err
		}
		a.latencies[i] = new(Hist)
		if a.samples[i], err = subjects[i].measure(depth, r.opts.Duration, a.latencies[i]); err != nil {
			return a, err
		}
		if a.samples[i].Foreign, err = watch.share(); err != nil {
			return a, err
		}
		if r.ctx.Err() != nil {
			return a, context.Cause(r.ctx)
		}
	}
	return a, nil
}

// share is the part of the run that is done, 0 to 1.
func (r *runner) share() float64 {
	return float64(r.done) / float64(len(r.opts.Workloads)*len(r.opts.Depths)*r.opts.Rounds)
}

// warmup is the time to run before a round. It is long before the first round. Before later
// rounds it fills the caches again.
func (r *runner) warmup(round int) time.Duration {
	if round == 0 {
		return r.opts.Warmup
	}
	return min(r.opts.Warmup, r.opts.Duration/4)
}

// countCalls runs a short round of its own for each target, if Options.Syscalls
// asks for it.
func (r *runner) countCalls(result *Result, subjects []subject) error {
	if !r.opts.Syscalls {
		return nil
	}
	for i, s := range subjects {
		if s.pids == nil {
			continue
		}
		c, err := newCallCounter(s.pids)
		if err != nil {
			return err
		}
		// The round is long enough that other calls of the back-end hardly
		// count, if the disk is slow.
		var total Sample
		for range 10 {
			var m Sample
			m, err = s.measure(result.Depth, min(r.opts.Duration, 50*time.Millisecond), new(Hist))
			total.add(m)
			if err != nil || total.Units >= 2000 || r.ctx.Err() != nil {
				break
			}
		}
		n, countErr := c.total()
		c.close()
		if err := errors.Join(err, countErr); err != nil {
			return err
		}
		result.Targets[i].Syscalls = ratio(float64(n), float64(total.Units))
	}
	return nil
}

// measure drives a session's queues for a while. If the workload ends by itself
// before, it does this in stretches.
func (r *runner) measure(s *session, j job, depth int, d time.Duration, h *Hist) (total Sample, err error) {
	team, err := newTeam(s, j, depth)
	if err != nil {
		return total, err
	}
	defer team.close()
	for {
		if err := j.between(s); err != nil {
			return total, err
		}
		part, err := team.stretch(r.ctx, d-total.Wall, r.opts.Count-min(total.Units, r.opts.Count))
		total.add(part)
		if err != nil {
			return total, err
		}
		if r.ctx.Err() != nil || part.Units == 0 ||
			r.opts.Count > 0 && total.Units >= r.opts.Count || r.opts.Count == 0 && total.Wall >= d*9/10 {
			break
		}
	}
	for _, w := range team.workers {
		h.Add(&w.latency)
	}
	return total, j.between(s)
}

// team are the workers of one measurement.
type team struct {
	session *session
	workers []*worker
	stop    atomic.Bool
}

// worker drives one queue. It is a frontend.Source that counts.
type worker struct {
	team     *team
	pipe     *frontend.Pipe
	op       operation
	half     []bool // slots whose operation has begun; it is finished after the stretch
	left     uint64 // units to begin; counts down
	units    uint64
	requests uint64
	cpu      time.Duration
	latency  Hist
}

func newTeam(s *session, j job, depth int) (*team, error) {
	t := &team{session: s}
	for i, q := range s.client.Queues[1:] {
		p, err := q.NewPipe(depth)
		if err != nil {
			t.close()
			return nil, err
		}
		p.Spin = s.opts.Spin
		t.workers = append(t.workers, &worker{team: t, pipe: p, op: j.worker(i, depth), half: make([]bool, depth)})
	}
	return t, nil
}

func (t *team) close() {
	for _, w := range t.workers {
		w.pipe.Close()
	}
}

// stretch runs all workers until the time is over, or each has done its part of count
// units, or the operations end.
func (t *team) stretch(ctx context.Context, d time.Duration, count uint64) (Sample, error) {
	t.stop.Store(false)
	var before Sample
	for _, w := range t.workers {
		w.left = ^uint64(0)
		if count > 0 {
			w.left = max(1, count/uint64(len(t.workers)))
		}
		before.add(w.sample())
	}
	cpu, err := treeCPU(t.session.pids)
	if err != nil {
		return Sample{}, err
	}
	if count == 0 {
		timer := time.AfterFunc(d, func() { t.stop.Store(true) })
		defer timer.Stop()
	}
	defer context.AfterFunc(ctx, func() { t.stop.Store(true) })()
	start := time.Now()
	err = t.runAll()
	m := Sample{Wall: time.Since(start)}
	after, cpuErr := treeCPU(t.session.pids)
	m.CPU = after - cpu
	for _, w := range t.workers {
		m.add(w.sample())
	}
	m.Units -= before.Units
	m.Requests -= before.Requests
	m.Driver -= before.Driver
	m.Kicks -= before.Kicks
	m.Calls -= before.Calls
	return m, errors.Join(err, cpuErr)
}

func (t *team) runAll() error {
	errs := make([]error, len(t.workers))
	var wg sync.WaitGroup
	for i, w := range t.workers {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cpu := threadCPU()
			if errs[i] = w.pipe.Run(w); errs[i] != nil {
				t.stop.Store(true)
			}
			w.cpu += threadCPU() - cpu
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *worker) sample() Sample {
	return Sample{Units: w.units, Requests: w.requests, Driver: w.cpu, Kicks: w.pipe.Kicks, Calls: w.pipe.Calls}
}

// Next implements frontend.Source.
func (w *worker) Next(s *frontend.Slot) bool {
	if !w.half[s.Index()] {
		if w.left == 0 || w.team.stop.Load() {
			return false
		}
		w.left--
	}
	return w.op.next(s)
}

// Done implements frontend.Source.
func (w *worker) Done(s *frontend.Slot) error {
	w.latency.Record(w.pipe.Now - s.Sent())
	w.requests++
	n, err := w.op.done(s)
	w.units += uint64(n)
	w.half[s.Index()] = n == 0
	return err
}
