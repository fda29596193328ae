package virtiofs

import (
	"testing"
	"time"
)

// serve has a poller see requests that each find the ring empty: gap says for how long,
// by whether the worker looks meanwhile.
func serve(p *poller, requests int, gap func(looking bool) time.Duration) {
	for range requests {
		window := p.window(time.Time{})
		d := gap(window > 0)
		if window > 0 {
			p.judge(d <= window, min(d, window))
		}
		p.gap(d)
		p.request()
	}
}

// constant is gaps that do not change.
func constant(asleep, looking time.Duration) func(bool) time.Duration {
	return func(l bool) time.Duration {
		if l {
			return looking
		}
		return asleep
	}
}

// TestShortLook: a worker looks where a sleep takes longer, and only there.
func TestShortLook(t *testing.T) {
	const us = time.Microsecond
	for _, test := range []struct {
		name            string
		asleep, looking time.Duration
		want            bool
	}{
		{"processors that go idle", 45 * us, 6 * us, true},
		{"the driver is slower than the sleep", 45 * us, 40 * us, false},
		{"both ways take the same", 20 * us, 18 * us, false},
		{"wake-ups are quick", 3 * us, 2 * us, false},
		{"the driver can't run while the worker looks", 200, 58 * us, false},
		{"the driver looks, too", 4 * us, us, true},
		{"the guest has little to do", time.Millisecond, time.Millisecond, false},
	} {
		p := newPoller(BusyPoll{})
		gap := constant(test.asleep, test.looking)
		serve(&p, tryRequests+tryGaps, gap)
		looks := 0
		serve(&p, 20*stayRequests, func(looking bool) time.Duration {
			if looking {
				looks++
			}
			return gap(looking)
		})
		if share := float64(looks) / (20 * stayRequests); share > 0.02 != test.want || test.want && share < 0.98 {
			t.Errorf("%s: looks at %.0f%% of the gaps, want it: %v", test.name, 100*share, test.want)
		}
	}
}

// TestShortLookChanges: the way changes with what the machine does.
func TestShortLookChanges(t *testing.T) {
	const us = time.Microsecond
	p := newPoller(BusyPoll{})
	idle, busy := constant(45*us, 6*us), constant(200, 58*us)
	for i := range 6 {
		gap := idle
		if i%2 == 1 {
			gap = busy
		}
		serve(&p, 2*stayRequests, gap)
		for p.trying {
			serve(&p, 1, gap)
		}
		if p.slowWakeups() != (i%2 == 0) {
			t.Fatalf("step %d: looking is %v", i, p.slowWakeups())
		}
	}
}

// TestShortLookCrowded: a worker does not look where that keeps others from running,
// however short the gaps are when it does run.
func TestShortLookCrowded(t *testing.T) {
	const us = time.Microsecond
	looks := func(each int64) (n int) {
		p := newPoller(BusyPoll{})
		var sum int64
		p.preempted = func() int64 { defer func() { sum = 0 }(); return sum }
		serve(&p, 20*stayRequests, func(looking bool) time.Duration {
			if looking {
				n++
				sum += each
				return 6 * us
			}
			return 45 * us
		})
		return n
	}
	if n := looks(0); n < 19*stayRequests {
		t.Errorf("alone on the machine it looks at %d of %d gaps", n, 20*stayRequests)
	}
	if n := looks(1); n > stayRequests {
		t.Errorf("on a crowded machine it looks at %d of %d gaps", n, 20*stayRequests)
	}
}

// TestLongPoll: with a time of the user's a worker looks always, and after misses leaves
// out more and more looks.
func TestLongPoll(t *testing.T) {
	p := newPoller(BusyPoll{Max: 100 * time.Microsecond})
	looks := 0
	count := func(gap time.Duration) func(bool) time.Duration {
		return func(looking bool) time.Duration {
			if looking {
				looks++
			}
			return gap
		}
	}
	serve(&p, 100, count(90*time.Microsecond))
	if looks != 100 {
		t.Errorf("%d looks at 100 gaps that pay", looks)
	}
	looks = 0
	serve(&p, 1000, count(time.Millisecond))
	if looks > 30 {
		t.Errorf("%d looks at 1000 gaps that don't pay", looks)
	}
	looks = 0
	serve(&p, 200, count(time.Microsecond))
	if looks < 130 {
		t.Errorf("%d looks at 200 gaps that pay again", looks)
	}
	never := newPoller(BusyPoll{Max: NoPoll})
	if w := never.max; w != 0 {
		t.Errorf("without looking: %v", w)
	}
	if !p.slowWakeups() || never.slowWakeups() {
		t.Error("wake-ups are slow for who asks for polling, and for nobody else at first")
	}
}

// TestPollBudget: a share of the CPU is not exceeded for long.
func TestPollBudget(t *testing.T) {
	const most = 100 * time.Microsecond
	p := newPoller(BusyPoll{Max: most, CPU: 10})
	now := time.Now()
	spent := time.Duration(0)
	const steps = 20_000 // 2 seconds in which there would always be reason to look
	for range steps {
		w := p.window(now)
		p.budget -= w
		spent += w
		now = now.Add(most)
	}
	share := float64(spent-pollBurst) / float64(steps*most)
	if share < 0.08 || share > 0.11 {
		t.Errorf("%.0f%% of the CPU spent, want 10%%", 100*share)
	}
}

func TestBusyPollLimits(t *testing.T) {
	for _, b := range []BusyPoll{{Max: -2}, {Max: MaxBusyPoll + 1}, {Max: 1, CPU: 101}, {Max: 1, CPU: -1}} {
		if _, err := New(newServer(&testFS{}), Options{BusyPoll: b, Log: quiet()}); err == nil {
			t.Errorf("%+v is accepted", b)
		}
	}
}

// TestBusyPoll: a driver that sends one request after the other need not kick, and a
// worker that nobody asks anything sleeps.
func TestBusyPoll(t *testing.T) {
	r := newRing(t)
	w, err := startWorker(newServer(&testFS{}), r.vring(), BusyPoll{Max: MaxBusyPoll}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	const requests = 300
	for end := time.Now().Add(20 * time.Second); ; { // where other things run, the driver may come late
		r.kicks = 0
		for range requests {
			r.getattr(0)
		}
		if r.kicks <= requests/3 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d kicks for %d requests", r.kicks, requests)
			break
		}
	}
	within(t, "stop", w.stop)
	r.released()
}
