package virtiofs

import (
	"errors"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/pause"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// BusyPoll lets a worker look for the next request for a while before it sleeps. That
// saves the driver its kick and the time until a sleeping thread runs, at the cost of
// CPU time. The zero BusyPoll never looks.
type BusyPoll struct {
	// Max is the longest a worker looks at a time. How long it really looks follows
	// the gaps between requests; when these are longer, it does not look at all.
	Max time.Duration
	// CPU is the most that a worker may spend on looking, in percent of one
	// processor; 0 is 100.
	CPU int
}

// MaxBusyPoll is the longest BusyPoll.Max: by then a sleep costs next to nothing.
const MaxBusyPoll = 10 * time.Millisecond

func (b *BusyPoll) check() error {
	switch {
	case b.Max < 0 || b.Max > MaxBusyPoll:
		return errors.New("virtiofs: busy polling: want up to 10ms")
	case b.CPU < 0 || b.CPU > 100:
		return errors.New("virtiofs: busy polling: want up to 100 percent of a processor")
	}
	return nil
}

// poller decides how long a worker looks. It belongs to the worker.
type poller struct {
	max, share time.Duration // share of each second that may be spent; 0 is all

	gap    time.Duration // between requests, in the mean
	idle   time.Time     // when the ring was last found empty; zero while it is not
	budget time.Duration // that may still be spent
	filled time.Time     // when budget was last added to
}

const (
	// pollGaps is how many mean gaps a worker looks: most gaps are not the mean.
	pollGaps = 4
	// pollMemory is how many gaps the mean is of, more or less: as many long ones in
	// a row end the looking.
	pollMemory = 8
	// pollBurst is how much budget can be saved up.
	pollBurst = 20 * time.Millisecond
	// pollRests and pollLooks are how often the processor rests between two looks
	// at the ring, and how many looks there are between two at the clock.
	pollRests = 4
	pollLooks = 8
)

func newPoller(b BusyPoll) poller {
	p := poller{max: b.Max, gap: b.Max / pollGaps, budget: pollBurst}
	if b.CPU > 0 && b.CPU < 100 {
		p.share = time.Second * time.Duration(b.CPU) / 100
	}
	return p
}

// arrived notes that there are requests again; gaps are the times between an empty
// ring and the next request, slept through or not.
func (p *poller) arrived() {
	if p.max == 0 || p.idle.IsZero() {
		return
	}
	p.waited(time.Since(p.idle))
	p.idle = time.Time{}
}

// waited takes a gap into the mean. A long pause counts little more than one that is just
// too long, so that polling begins again soon after it.
func (p *poller) waited(gap time.Duration) {
	p.gap += (min(gap, 2*p.max) - p.gap) / pollMemory
}

// window is how long to look now; 0 is not at all.
func (p *poller) window(now time.Time) time.Duration {
	if p.gap >= p.max {
		return 0
	}
	w := min(p.max, pollGaps*p.gap)
	if p.share == 0 {
		return w
	}
	if !p.filled.IsZero() {
		earned := time.Duration(float64(now.Sub(p.filled)) * p.share.Seconds())
		p.budget = min(p.budget+earned, pollBurst)
	}
	p.filled = now
	return min(w, p.budget)
}

// look waits for a request, or until wake reports that there is something else to do.
// It reports whether the worker has to look at everything again. The ring has been found
// empty, and the driver does not kick.
func (p *poller) look(q *virtqueue.Queue, wake func() bool) bool {
	if p.max == 0 {
		return false
	}
	start := time.Now()
	if p.idle.IsZero() {
		p.idle = start
	}
	window := p.window(start)
	if window <= 0 {
		return false
	}
	found := false
	spent := time.Duration(0)
	for !found && spent < window {
		for range pollLooks {
			if found = q.More(); found {
				break
			}
			pause.Loop(pollRests)
		}
		found = found || wake()
		spent = time.Since(start)
	}
	if p.share != 0 {
		p.budget -= spent
	}
	return found
}
