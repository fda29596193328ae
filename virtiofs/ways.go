package virtiofs

import (
	"slices"
	"time"
)

// The short look is worth while only where sleeping takes slowGap from the empty ring to
// the next request, and looking at most shortWorth, and less than three quarters of that.
// It may take a little longer at a time, since a look that is given up is lost.
const (
	shortWorth = 32 * time.Microsecond
	slowGap    = 16 * time.Microsecond
	// A driver that itself looks, and so answers at once, is worth a look in any case.
	quickAnswer = 1500 * time.Nanosecond
	// The other way is tried for tryGaps gaps or tryRequests. The first gaps don't count:
	// the driver has to get used to it.
	tryRequests = 256
	tryGaps     = 11
	tryWarm     = 2
	// Between two trials are leastStay requests. Where sleeping has been tried and was not
	// better, each time twice as many: it costs a wake-up a gap. Trials of looking can't wait:
	// they are also what parts a worker and a driver that have come to share a processor.
	leastStay = 1024
	mostStay  = 16 * leastStay
	// maxMisses looks in a row without a request end the looking early.
	maxMisses = 4
	// A worker that loses more than one part in crowdedShare of the time of its looks keeps
	// others from running, perhaps the very driver. Alone on a machine it is 1 %, with 4
	// guests on 2 processors 30 to 50. It is found out when crowdedLost has been lost on top of
	// that share, at most lostOnce at a time, since anything may happen once.
	crowdedShare = 8
	crowdedLost  = 500 * time.Microsecond
	lostOnce     = 300 * time.Microsecond
	// After that the next trial is in tryRequests, and in twice as many each time that it
	// comes within soonCrowded looks.
	soonCrowded = 512
)

// ways decides whether a worker takes short looks at an empty ring or sleeps at once.
//
// What a sleep costs depends on the machine and on what else runs: a processor that has
// gone idle takes 40 us to wake up in some virtual machines, one that runs something else
// takes 2, and there looking would keep the driver from running. A worker that has slept
// can't see when the request came, only when it runs itself. So the gaps from an empty
// ring to the next request are measured both ways, the way with the shorter ones is gone,
// and the other one tried now and then.
//
// The gaps are no measure of what looking costs others who want the processor: these make
// the sleeps of a worker longer, so that looking seems to be the better way. But the clock
// shows when something else has run during a look.
type ways struct {
	looking bool // the present way
	trying  bool // it is only being tried

	left   int           // requests until the way may change
	tries  int           // gaps that it is still tried for
	stay   int           // requests until the next trial
	rest   int           // requests until the next trial when others wanted the processor
	looks  int           // since looking began
	misses int           // looks in a row without a request
	lost   time.Duration // of the looks, above the share that is usual
	slept  gaps          // the last ones of sleeping
	awake  gaps          // and of looking
}

func newWays() ways { return ways{left: tryRequests, stay: leastStay, rest: tryRequests} }

// gap notes how long the ring was empty.
func (w *ways) gap(d time.Duration) {
	if w.looking {
		w.awake.add(d)
	} else {
		w.slept.add(d)
	}
	if w.tries--; w.trying && w.tries <= 0 {
		w.left = 0
	}
}

// request counts one, after which it may be time to change the way.
func (w *ways) request() {
	if w.left--; w.left > 0 {
		return
	}
	if w.trying {
		w.choose()
		return
	}
	w.trying, w.looking, w.misses = true, !w.looking, 0
	w.left, w.tries = tryRequests, tryGaps
}

// choose ends a trial.
func (w *ways) choose() {
	slept, ok1 := w.slept.median()
	awake, ok2 := w.awake.median()
	better := ok1 && ok2 && (slept >= slowGap || awake <= quickAnswer) && awake <= shortWorth && awake < slept*3/4
	if better && !w.looking {
		w.stay = min(2*w.stay, mostStay)
	} else {
		w.stay = leastStay
	}
	w.looking, w.trying, w.misses, w.left = better, false, 0, w.stay
}

// looked learns from a look. Something else ran for lost of the time spent.
func (w *ways) looked(found bool, spent, lost time.Duration) {
	w.looks++
	w.lost = max(0, w.lost+min(lost, lostOnce)-(spent-lost)/crowdedShare)
	switch {
	case w.lost >= crowdedLost:
		if w.looks > soonCrowded {
			w.rest = tryRequests
		}
		w.sleep(w.rest)
		w.rest = min(2*w.rest, mostStay)
	case found:
		w.misses = 0
	default:
		if w.misses++; w.misses >= maxMisses && !w.trying {
			w.sleep(tryRequests)
		}
	}
}

// sleep ends the looking.
func (w *ways) sleep(requests int) {
	w.looking, w.trying, w.left = false, false, requests
	w.looks, w.misses, w.lost = 0, 0, 0
}

// gaps holds the last gaps of one way. Their median is what counts: on a busy machine a
// few are a hundred times as long as the others.
type gaps struct {
	last [tryGaps - tryWarm]time.Duration
	next int
	seen int // entries of last that are filled
}

func (g *gaps) add(gap time.Duration) {
	g.last[g.next] = gap
	g.next = (g.next + 1) % len(g.last)
	g.seen = min(g.seen+1, len(g.last))
}

// median is that of the gaps seen; ok is false when there was none.
func (g *gaps) median() (d time.Duration, ok bool) {
	if g.seen == 0 {
		return 0, false
	}
	all := g.last
	sorted := all[:g.seen]
	slices.Sort(sorted)
	return sorted[len(sorted)/2], true
}
