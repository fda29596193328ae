package virtiofs

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/pause"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// BusyPoll lets a worker look for the next request for a while before it sleeps. That
// saves the driver its kick and the time until a sleeping thread runs, at the cost of
// CPU time. Where requests do not come in time, there is next to no looking.
type BusyPoll struct {
	// Max is the longest a worker looks at a time. 0 is a short look, which costs no more
	// than the sleep that it saves; NoPoll is none.
	Max time.Duration
	// CPU is the most that a worker may spend on looking, in percent of one
	// processor; 0 is 100.
	CPU int
}

const (
	// NoPoll as BusyPoll.Max makes a worker sleep at once.
	NoPoll time.Duration = -1
	// MaxBusyPoll is the longest BusyPoll.Max: by then a sleep costs next to nothing.
	MaxBusyPoll = 10 * time.Millisecond
)

// shortLook is how long the short look takes at most; see ways for whether there is one.
const shortLook = 50 * time.Microsecond

const (
	// pollMisses looks in a row that did not pay are followed by the longest pause,
	// of 1<<pollMisses - 1 sleeps without a look.
	pollMisses = 6
	// pollBurst is how much budget can be saved up.
	pollBurst = 20 * time.Millisecond
	// pollRests and pollLooks are how often the processor rests between two looks
	// at the ring, and how many looks there are between two at the clock. Between those
	// it takes a microsecond, at interrupted or more something else has run.
	pollRests   = 4
	pollLooks   = 8
	interrupted = 10 * time.Microsecond
	// yieldEvery is how often a short look offers the processor to others, whom it would
	// keep waiting for milliseconds: the kernel takes a thread for busy that only looks.
	yieldEvery = 8 * time.Microsecond
)

func (b *BusyPoll) check() error {
	switch {
	case b.Max < 0 && b.Max != NoPoll || b.Max > MaxBusyPoll:
		return errors.New("virtiofs: busy polling: want up to 10ms")
	case b.CPU < 0 || b.CPU > 100:
		return errors.New("virtiofs: busy polling: want up to 100 percent of a processor")
	}
	return nil
}

// poller decides whether and how long a worker looks for a request when it has found the
// ring empty, instead of sleeping at once. It belongs to the worker.
//
// Whether it takes the short look is decided by measuring; see ways. A BusyPoll.Max of the
// user's is looked for without that; after each look in a row that has not found anything,
// twice as many are left out.
type poller struct {
	max   time.Duration // 0 is none
	short bool          // the look is the short one
	ways  ways          // whether to take it
	idle  time.Time     // when the ring was found empty; zero while it is not
	yield func()

	misses int // looks in a row that did not pay, at most pollMisses
	skip   int // sleeps that are still to be without a look

	share  time.Duration // of each second that may be spent; 0 is all
	budget time.Duration // that may still be spent
	filled time.Time     // when budget was last added to
}

func newPoller(b BusyPoll) poller {
	p := poller{max: b.Max, yield: yield, budget: pollBurst}
	switch b.Max {
	case NoPoll:
		p.max = 0
	case 0:
		p.max, p.short, p.ways = shortLook, true, newWays()
	}
	if b.CPU > 0 && b.CPU < 100 {
		p.share = time.Second * time.Duration(b.CPU) / 100
	}
	return p
}

// yield lets others run that want this processor.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// arrived notes that there is a request.
func (p *poller) arrived() {
	if !p.short {
		return
	}
	if !p.idle.IsZero() {
		p.ways.gap(time.Since(p.idle))
		p.idle = time.Time{}
	}
	p.ways.request()
}

// slowWakeups reports whether it takes longer here to wake up a thread than to look. Who
// asks for busy polling is taken to know that.
func (p *poller) slowWakeups() bool { return p.ways.looking || p.max > 0 && !p.short }

// window is how long to look now; 0 is not at all.
func (p *poller) window(now time.Time) time.Duration {
	if p.short && !p.ways.looking {
		return 0
	}
	if p.skip > 0 {
		p.skip--
		return 0
	}
	if p.share == 0 {
		return p.max
	}
	if !p.filled.IsZero() {
		earned := time.Duration(float64(now.Sub(p.filled)) * p.share.Seconds())
		p.budget = min(p.budget+earned, pollBurst)
	}
	p.filled = now
	return max(0, min(p.max, p.budget))
}

// judge learns from a look. Something else ran for lost of the time spent.
func (p *poller) judge(found bool, spent, lost time.Duration) {
	if p.share != 0 {
		p.budget -= spent
	}
	switch {
	case p.short:
		p.ways.looked(found, spent, lost)
	case found:
		p.misses = 0
	default:
		p.misses = min(p.misses+1, pollMisses)
		p.skip = 1<<p.misses - 1
	}
}

// look waits for a request, or until wake reports that there is something else to do.
// It reports whether the worker has to look at everything again. The ring has been found
// empty, and the driver does not kick.
func (p *poller) look(q *virtqueue.Queue, wake func() bool) bool {
	if p.max == 0 {
		return false
	}
	start := time.Now()
	if p.short && p.idle.IsZero() {
		p.idle = start
	}
	window := p.window(start)
	var spent, lost, yielded time.Duration
	for spent < window {
		found, before := false, spent
		for range pollLooks {
			if found = q.More(); found {
				break
			}
			pause.Loop(pollRests)
		}
		spent = time.Since(start)
		if p.short && !found && spent-yielded >= yieldEvery {
			p.yield()
			spent = time.Since(start)
			yielded = spent
			found = q.More()
		}
		if spent-before >= interrupted {
			lost += spent - before
		}
		if found || spent >= window {
			p.judge(found, spent, lost)
		}
		if found || wake() {
			return true
		}
	}
	return false
}
