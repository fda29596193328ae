package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// group are the daemons of one target, each with a guest of its own. If there are
// several, all guests do the same at the same time, and the sum of their work counts.
type group struct {
	name     string
	self     bool // Target.Self
	sessions []*session
	jobs     []job // of the present workload, for each session
}

// openGroup starts a target once for each guest. The caller must close the result, also after an
// error.
func openGroup(ctx context.Context, t *Target, o *Options) (*group, error) {
	g := &group{name: t.Name, self: t.Self}
	for i := range o.Guests {
		if o.Guests > 1 {
			o.Progress(fmt.Sprintf("starting %s, guest %d of %d", t.Name, i+1, o.Guests), 0)
		}
		s, err := openSession(ctx, t, o)
		if err != nil {
			return g, err
		}
		s.guest = i
		if o.Guests > 1 { // they make files in one directory
			s.name = fmt.Sprintf("%s-%d", t.Name, i)
		}
		g.sessions = append(g.sessions, s)
	}
	return g, nil
}

// alive is an error if one of the back-ends has ended.
func (g *group) alive() error {
	for _, s := range g.sessions {
		if err := s.alive(); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) findFiles(f *files) error {
	for _, s := range g.sessions {
		if err := s.findFiles(f); err != nil {
			return s.explain(err)
		}
	}
	return nil
}

func (g *group) pids() (list []int) {
	for _, s := range g.sessions {
		list = append(list, s.pids...)
	}
	return list
}

// setup prepares a workload for each guest. done is the part of the run that is done, 0 to 1.
func (g *group) setup(w *Workload, done float64) error {
	g.jobs = g.jobs[:0]
	for i, s := range g.sessions {
		if len(g.sessions) > 1 {
			s.opts.Progress(fmt.Sprintf("preparing %s, guest %d of %d of %s", w.Name, i+1, len(g.sessions), g.name), done)
		}
		j, err := w.setup(s)
		if err != nil {
			return s.explain(err)
		}
		g.jobs = append(g.jobs, j)
	}
	return nil
}

// measure lets all guests work for a while and adds up their results. Guests do not end at the
// same moment. The time of the sum is the mean of their times, so that the speed of the sum is
// the sum of their speeds.
func (g *group) measure(r *runner, depth int, d time.Duration, h *Hist) (sum Sample, err error) {
	samples, hists, errs := make([]Sample, len(g.sessions)), make([]Hist, len(g.sessions)), make([]error, len(g.sessions))
	var wg sync.WaitGroup
	for i, s := range g.sessions {
		wg.Go(func() {
			if samples[i], errs[i] = r.measure(s, g.jobs[i], depth, d, &hists[i]); errs[i] != nil {
				errs[i] = s.explain(errs[i])
			}
		})
	}
	wg.Wait()
	for i := range samples {
		sum.add(samples[i])
		h.Add(&hists[i])
	}
	sum.Wall /= time.Duration(len(samples))
	return sum, errors.Join(errs...)
}
