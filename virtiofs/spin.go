package virtiofs

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/pause"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// BusyPoll lets a worker spin on an empty ring for a while before it sleeps. That saves the
// driver its kick and the time until a sleeping thread runs, and costs processor time.
// Where requests do not come in time, workers hardly spin.
type BusyPoll struct {
	// Max is the longest time of one spin. 0 is the default: up to 50 us, and only where
	// a measurement shows that it pays. With NoPoll there is no spinning at all.
	Max time.Duration
	// CPU is the most that a worker may spend on spinning, in percent of one
	// processor; 0 is 100.
	CPU int
}

const (
	// NoPoll as BusyPoll.Max makes a worker sleep at once.
	NoPoll time.Duration = -1
	// MaxBusyPoll is the longest BusyPoll.Max: by then a sleep costs next to nothing.
	MaxBusyPoll = 10 * time.Millisecond
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

// The default policy. It spins only where a request comes slowGap after the ring ran empty if
// the worker sleeps, but within spinWorth and in less than three quarters of that time if it
// spins. One spin may take longer, since a spin that is given up is lost.
const (
	spinTime  = 50 * time.Microsecond
	spinWorth = 32 * time.Microsecond
	slowGap   = 16 * time.Microsecond
	// A driver that spins itself, and so answers at once, is worth a spin in any case.
	quickAnswer = 1500 * time.Nanosecond
	// A trial of the other mode takes trialGaps gaps or trialRequests requests. The first
	// trialWarm gaps do not count: the driver has to get used to it.
	trialRequests = 256
	trialGaps     = 11
	trialWarm     = 2
	// leastStay requests go by between two trials. While spinning is the better mode, each
	// trial of sleeping doubles that: it costs a wake-up a gap. Trials of spinning can't wait:
	// they also part a worker and a driver that share a processor.
	leastStay = 1024
	mostStay  = 16 * leastStay
	// maxMisses spins in a row without a request end the spinning early.
	maxMisses = 4
	// The lost-time rule: a worker that loses more than one part in crowdedShare of its spins
	// to other threads keeps others from running, perhaps the driver itself. Alone on a
	// machine it loses 1 %, with 4 guests on 2 processors 30 to 50 %. The rule acts when
	// crowdedLost has been lost on top of that share; one spin counts for lostOnce at most,
	// since anything may happen once. Without the rule, 64 guests beside two busy loops are 10
	// to 14 % slower.
	crowdedShare = 8
	crowdedLost  = 500 * time.Microsecond
	lostOnce     = 300 * time.Microsecond
	// After that the next trial comes trialRequests requests later, and twice as many each
	// time that spinning ended within soonCrowded spins.
	soonCrowded = 512
)

// With a time of the user's, whether spinning pays is not measured.
const (
	// missesMost misses in a row are followed by the longest pause, of 1<<missesMost - 1
	// sleeps without a spin.
	missesMost = 6
	// budgetMost is how much of the user's share can be saved up.
	budgetMost = 20 * time.Millisecond
)

// How to spin.
const (
	// The ring is read pollReads times between two readings of the clock, with pollPauses pauses
	// of the processor in between. That takes a microsecond. If it takes interrupted or more,
	// another thread has run.
	pollReads   = 8
	pollPauses  = 4
	interrupted = 10 * time.Microsecond
	// yieldEvery is how often the default policy offers the processor to other threads. They
	// would have to wait for milliseconds: to the kernel, a thread that spins is busy.
	yieldEvery = 8 * time.Microsecond
)

// clock is a worker's. It is read once for many requests: reading the time takes 40 ns and more,
// and twice that where the day is read with it, as by time.Now.
type clock struct {
	began time.Time
	now   time.Duration // since began, when it was last read
}

func newClock() clock { return clock{began: time.Now()} }

// look returns the time since began.
func (c *clock) look() time.Duration {
	c.now = time.Since(c.began)
	return c.now
}

// spinPolicy decides whether and how long a worker spins on an empty ring instead of
// sleeping at once. It belongs to the worker.
//
// The cost of a sleep depends on the machine and on its load. A processor that has gone idle
// takes 40 us to wake up in some virtual machines. One that runs another program takes 2 us,
// and there spinning would keep the driver from running. A worker that has slept does not
// know when the request came, only when it ran itself. So the policy measures the gaps from
// an empty ring to the next request in both modes, stays in the mode with the shorter gaps,
// and tries the other one now and then.
//
// The gaps do not show what spinning costs other threads: these make the worker's sleeps
// longer, so that spinning looks better than it is. But the clock shows when another thread
// has run during a spin. See crowdedShare.
//
// With a time of the user's the worker always spins, but for pauses after misses.
type spinPolicy struct {
	max      time.Duration // of one spin; 0 is never
	measured bool          // the policy is the default one
	spinning bool          // the mode: spin before sleeping, or sleep at once
	misses   int           // spins in a row without a request
	yield    func()

	// The default policy.
	gapping bool          // the ring was found empty, and no request has come since
	found   bool          // a spin has ended the gap, and the clock shows when
	idle    time.Duration // when the ring was found empty, by the worker's clock
	trying  bool          // the mode is only being tried
	left    int           // requests until the mode may change
	tries   int           // gaps until the trial ends
	stay    int           // requests until the next trial
	rest    int           // requests until the next trial if other threads wanted the processor
	spins   int           // since the mode is to spin
	lost    time.Duration // of the spins to other threads, above the share that is usual
	slept   gaps          // the last ones while the mode was to sleep
	spun    gaps          // and to spin

	// A time of the user's.
	skip   int           // sleeps that are still to be without a spin
	share  time.Duration // of each second that may be spent; 0 is all
	budget time.Duration // that may still be spent
	filled time.Duration // when budget was last added to, by the worker's clock; 0 is never
}

func newSpinPolicy(b BusyPoll) spinPolicy {
	p := spinPolicy{max: b.Max, spinning: true, yield: yield, budget: budgetMost}
	switch b.Max {
	case NoPoll:
		p.max, p.spinning = 0, false
	case 0:
		p.max, p.measured, p.spinning = spinTime, true, false
		p.left, p.stay, p.rest = trialRequests, leastStay, trialRequests
	}
	if b.CPU > 0 && b.CPU < 100 {
		p.share = time.Second * time.Duration(b.CPU) / 100
	}
	return p
}

// yield lets others run that want this processor.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// slowWakeups reports whether waking up a thread takes longer than spinning on this
// machine. If the user has set a time for busy polling, it returns true.
func (p *spinPolicy) slowWakeups() bool { return p.spinning }

// poll spins until there is a request, or until wake reports that there is something else to do.
// It reports whether the worker has to check everything again. The ring has been found
// empty, and the driver does not kick. The caller has just read its clock.
func (p *spinPolicy) poll(c *clock, q *virtqueue.Queue, wake func() bool) bool {
	if p.max == 0 {
		return false
	}
	start := c.now
	p.found = false
	if p.measured && !p.gapping {
		p.gapping, p.idle = true, start
	}
	window := p.window(start)
	var spent, lost, yielded time.Duration
	for spent < window {
		found, before := false, spent
		for range pollReads {
			if found = q.More(); found {
				break
			}
			pause.Loop(pollPauses)
		}
		spent = c.look() - start
		if p.measured && !found && spent-yielded >= yieldEvery {
			p.yield()
			spent = c.look() - start
			yielded = spent
			found = q.More()
		}
		if spent-before >= interrupted {
			lost += spent - before
		}
		if found || spent >= window {
			p.learn(found, spent, lost)
		}
		p.found = found
		if found || wake() {
			return true
		}
	}
	return false
}

// window is how long to spin now; 0 is not at all.
func (p *spinPolicy) window(now time.Duration) time.Duration {
	if !p.spinning {
		return 0
	}
	if p.skip > 0 {
		p.skip--
		return 0
	}
	if p.share == 0 {
		return p.max
	}
	if p.filled != 0 {
		earned := time.Duration(float64(now-p.filled) * p.share.Seconds())
		p.budget = min(p.budget+earned, budgetMost)
	}
	p.filled = now
	return max(0, min(p.max, p.budget))
}

// learn notes how a spin ended. Other threads ran for lost of the time spent.
func (p *spinPolicy) learn(found bool, spent, lost time.Duration) {
	if p.share != 0 {
		p.budget -= spent
	}
	if found {
		p.misses = 0
	} else {
		p.misses++
	}
	if !p.measured {
		if !found {
			p.misses = min(p.misses, missesMost)
			p.skip = 1<<p.misses - 1
		}
		return
	}
	p.spins++
	p.lost = max(0, p.lost+min(lost, lostOnce)-(spent-lost)/crowdedShare)
	switch {
	case p.lost >= crowdedLost:
		if p.spins > soonCrowded {
			p.rest = trialRequests
		}
		p.stop(p.rest)
		p.rest = min(2*p.rest, mostStay)
	case p.misses >= maxMisses && !p.trying:
		p.stop(trialRequests)
	}
}

// stop ends the spinning for so many requests.
func (p *spinPolicy) stop(requests int) {
	p.spinning, p.trying, p.left = false, false, requests
	p.spins, p.misses, p.lost = 0, 0, 0
}

// arrived notes that there is a request. The default policy measures how long the ring was
// empty, and after so many requests it is time to change the mode.
func (p *spinPolicy) arrived(c *clock) {
	if p.gapping {
		p.gapEnds(c)
	}
	if p.measured {
		p.request()
	}
}

// gapEnds is for the first request after the ring was empty.
func (p *spinPolicy) gapEnds(c *clock) {
	if p.gapping = false; !p.found {
		c.look()
	}
	p.gap(c.now - p.idle)
}

// gaps are those of the present mode.
func (p *spinPolicy) gaps() *gaps {
	if p.spinning {
		return &p.spun
	}
	return &p.slept
}

// gap notes how long the ring was empty.
func (p *spinPolicy) gap(d time.Duration) {
	p.gaps().add(d)
	if p.tries--; p.trying && p.tries <= 0 {
		p.left = 0
	}
}

// request counts one, after which a trial may begin or end.
func (p *spinPolicy) request() {
	if p.left--; p.left <= 0 {
		p.change()
	}
}

// change begins or ends a trial.
func (p *spinPolicy) change() {
	if p.trying {
		p.choose()
		return
	}
	p.trying, p.spinning, p.misses = true, !p.spinning, 0
	p.left, p.tries = trialRequests, trialGaps
	*p.gaps() = gaps{}
}

// choose ends a trial. Where the ring is hardly ever empty, a trial may have too few gaps to
// tell, and changes nothing.
func (p *spinPolicy) choose() {
	slept, spun := p.slept.median(), p.spun.median()
	better := p.slept.n > 0 && p.spun.n > 0 && (slept >= slowGap || spun <= quickAnswer) && spun <= spinWorth && spun < slept*3/4
	if p.gaps().n <= trialWarm {
		better = !p.spinning
	}
	if better && !p.spinning {
		p.stay = min(2*p.stay, mostStay)
	} else {
		p.stay = leastStay
	}
	p.spinning, p.trying, p.misses, p.left = better, false, 0, p.stay
}

// gaps are the last gaps of one mode. Their median is what counts: on a busy machine a few
// are a hundred times as long as the others.
type gaps struct {
	last [trialGaps - trialWarm]time.Duration
	n    int // ever noted
}

func (g *gaps) add(gap time.Duration) {
	g.last[g.n%len(g.last)] = gap
	g.n++
}

// median of the gaps that were noted; 0 of none.
func (g *gaps) median() time.Duration {
	sorted := g.last
	known := sorted[:min(g.n, len(sorted))]
	if len(known) == 0 {
		return 0
	}
	slices.Sort(known)
	return known[len(known)/2]
}
