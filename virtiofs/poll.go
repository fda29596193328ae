package virtiofs

import (
	"errors"
	"slices"
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

// The short look: it is worth while only where sleeping takes slowGap from the empty ring
// to the next request, and looking at most shortWorth, and less than three quarters of
// that. It may take a little longer at a time, since a look that is given up is lost.
const (
	shortLook  = 50 * time.Microsecond
	shortWorth = 32 * time.Microsecond
	slowGap    = 16 * time.Microsecond
	// A driver that itself looks, and so answers at once, is worth a look in any case.
	quickAnswer = 1500 * time.Nanosecond
	// Where a thread that looks has to make room for another more than once in crowdedShare
	// requests, and not by chance, it keeps others from running, perhaps the very driver.
	// Alone on a machine it is once in a thousand requests, with 16 guests on 2 processors
	// at each. A few times are usual when the driver has woken up on the same processor.
	crowdedShare = 32
	crowdedLeast = 5
	// After stayRequests served one way the other way is tried, for tryGaps gaps or
	// tryRequests. The first gaps don't count: the driver has to get used to it.
	stayRequests = 1024
	tryRequests  = 256
	tryGaps      = 11
	tryWarm      = 2
	// maxMisses looks in a row without a request end the looking early.
	maxMisses = 4
)

const (
	// pollMisses looks in a row that did not pay are followed by the longest pause,
	// of 1<<pollMisses - 1 sleeps without a look.
	pollMisses = 6
	// pollBurst is how much budget can be saved up.
	pollBurst = 20 * time.Millisecond
	// pollRests and pollLooks are how often the processor rests between two looks
	// at the ring, and how many looks there are between two at the clock.
	pollRests = 4
	pollLooks = 8
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
// What a sleep costs depends on the machine and on what else runs: a processor that has
// gone idle takes 40 us to wake up in some virtual machines, one that runs something else
// takes 2, and there looking would keep the driver from running. A worker that has slept
// can't see when the request came, only when it runs itself. So the poller measures the
// gaps from an empty ring to the next request both ways, goes the way with the shorter
// ones, and tries the other one now and then.
//
// A BusyPoll.Max of the user's is looked for without such measuring; after each look in a
// row that has not found anything, twice as many are left out.
type poller struct {
	max   time.Duration // 0 is none
	short bool          // the look is the short one

	looking bool // the present way
	trying  bool // it is only being tried
	seen    int  // requests since the last turn
	// preempted is how often the thread had to make room since it was asked last
	preempted func() int64
	left      int       // requests until the way may change
	tries     int       // gaps that it is still tried for
	slept     gaps      // the last ones of sleeping
	looked    gaps      // and of looking
	idle      time.Time // when the ring was found empty; zero while it is not

	misses int // looks in a row that did not pay, at most pollMisses
	skip   int // sleeps that are still to be without a look

	share  time.Duration // of each second that may be spent; 0 is all
	budget time.Duration // that may still be spent
	filled time.Time     // when budget was last added to
}

func newPoller(b BusyPoll) poller {
	p := poller{max: b.Max, budget: pollBurst, preempted: newPreemptions()}
	switch b.Max {
	case NoPoll:
		p.max = 0
	case 0:
		p.max, p.short, p.left = shortLook, true, tryRequests
	}
	if b.CPU > 0 && b.CPU < 100 {
		p.share = time.Second * time.Duration(b.CPU) / 100
	}
	return p
}

// arrived notes that there is a request.
func (p *poller) arrived() {
	if !p.idle.IsZero() {
		p.gap(time.Since(p.idle))
		p.idle = time.Time{}
	}
	p.request()
}

// gap notes how long the ring was empty.
func (p *poller) gap(d time.Duration) {
	if p.looking {
		p.looked.add(d)
	} else {
		p.slept.add(d)
	}
	if p.tries--; p.trying && p.tries <= 0 {
		p.left = 0
	}
}

// request counts one, after which it may be time to change the way.
func (p *poller) request() {
	p.seen++
	if p.left--; p.short && p.left <= 0 {
		p.turn()
	}
}

// turn decides which way to go next.
func (p *poller) turn() {
	p.misses = 0
	crowded := p.crowded()
	if p.looking && crowded {
		p.looking, p.trying, p.left = false, false, stayRequests
		return
	}
	if !p.trying {
		p.trying, p.looking = true, !p.looking
		p.left, p.tries = tryRequests, tryGaps
		return
	}
	slept, looked := p.slept.median(), p.looked.median()
	p.looking = (slept >= slowGap || looked <= quickAnswer) && looked <= shortWorth && looked < slept*3/4
	p.trying, p.left = false, stayRequests
}

// crowded reports whether others wanted the thread's processor since the last turn.
func (p *poller) crowded() bool {
	n, seen := int(p.preempted()), p.seen
	p.seen = 0
	return n > crowdedLeast && n*crowdedShare > seen
}

// newPreemptions returns a function that tells how often the calling thread was taken off
// its processor since the last call, because something else was to run there.
func newPreemptions() func() int64 {
	var last int64
	return func() int64 {
		var u unix.Rusage
		if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
			return 0
		}
		more := u.Nivcsw - last
		last = u.Nivcsw
		return more
	}
}

// gaps holds the last gaps of one way. Their median is what counts: on a busy machine a
// few are a hundred times as long as the others.
type gaps struct {
	last [tryGaps - tryWarm]time.Duration
	next int
}

func (g *gaps) add(gap time.Duration) {
	g.last[g.next] = gap
	g.next = (g.next + 1) % len(g.last)
}

func (g *gaps) median() time.Duration {
	sorted := g.last
	slices.Sort(sorted[:])
	return sorted[len(sorted)/2]
}

// slowWakeups reports whether it takes longer here to wake up a thread than to look. Who
// asks for busy polling is taken to know that.
func (p *poller) slowWakeups() bool { return p.looking || p.max > 0 && !p.short }

// window is how long to look now; 0 is not at all.
func (p *poller) window(now time.Time) time.Duration {
	if p.short && !p.looking {
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

// judge learns from a look.
func (p *poller) judge(found bool, spent time.Duration) {
	if p.share != 0 {
		p.budget -= spent
	}
	if found {
		p.misses = 0
		return
	}
	p.misses = min(p.misses+1, pollMisses)
	switch {
	case !p.short:
		p.skip = 1<<p.misses - 1
	case p.misses >= maxMisses && !p.trying:
		p.looking, p.left = false, tryRequests
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
	for spent := time.Duration(0); spent < window; {
		found := false
		for range pollLooks {
			if found = q.More(); found {
				break
			}
			pause.Loop(pollRests)
		}
		spent = time.Since(start)
		if found || spent >= window {
			p.judge(found, spent)
		}
		if found || wake() {
			return true
		}
	}
	return false
}
