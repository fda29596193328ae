package virtiofs

import (
	"testing"
	"time"
)

// TestSpinUser: with a time of the user's a worker spins always, and after misses leaves
// out more and more spins.
func TestSpinUser(t *testing.T) {
	p := newSpinPolicy(BusyPoll{Max: 100 * time.Microsecond})
	spins := 0
	serve := func(requests int, gap time.Duration) {
		for range requests {
			if window := p.window(1); window > 0 {
				spins++
				p.learn(gap <= window, min(gap, window), 0)
			}
		}
	}
	serve(100, 90*time.Microsecond)
	if spins != 100 {
		t.Errorf("%d spins at 100 gaps that pay", spins)
	}
	spins = 0
	serve(1000, time.Millisecond)
	if spins > 30 {
		t.Errorf("%d spins at 1000 gaps that don't pay", spins)
	}
	spins = 0
	serve(200, time.Microsecond)
	if spins < 130 {
		t.Errorf("%d spins at 200 gaps that pay again", spins)
	}
	never := newSpinPolicy(BusyPoll{Max: NoPoll})
	if w := never.max; w != 0 {
		t.Errorf("without spinning: %v", w)
	}
	if !p.slowWakeups() || never.slowWakeups() {
		t.Error("wake-ups must count as slow with a time of the user, and not at first otherwise")
	}
}

// TestPollBudget: a share of the CPU is not exceeded for long.
func TestPollBudget(t *testing.T) {
	const most = 100 * time.Microsecond
	p := newSpinPolicy(BusyPoll{Max: most, CPU: 10})
	now, spent := time.Duration(1), time.Duration(0)
	const steps = 20_000 // 2 seconds in which there would always be reason to spin
	for range steps {
		w := p.window(now)
		p.budget -= w
		spent += w
		now += most
	}
	share := float64(spent-budgetMost) / float64(steps*most)
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
	w, err := startWorker(newServer(&testFS{}), nil, r.vring(), BusyPoll{Max: MaxBusyPoll}, false, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	const requests = 300
	// Where other things run, the driver and the worker may come late. Without spinning more than 0.9 are kicked.
	for end := time.Now().Add(60 * time.Second); ; {
		r.kicks = 0
		for range requests {
			r.getattr(0)
		}
		if r.kicks <= requests*3/4 {
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

// TestSpinYields: the default policy lets others have the processor, and does not spin again
// soon when they use it. With a time of the user's the worker keeps it.
func TestSpinYields(t *testing.T) {
	r := newRing(t)
	if err := r.queue.Begin(); err != nil {
		t.Fatal(err)
	}
	defer r.queue.End()
	for _, max := range []time.Duration{0, 50 * time.Microsecond} {
		p := newSpinPolicy(BusyPoll{Max: max})
		c, yields := newClock(), 0
		p.yield = func() {
			yields++
			time.Sleep(time.Millisecond)
		}
		for range p.left {
			p.arrived(&c) // the time for a trial has come
		}
		for range 2 {
			p.poll(&c, r.queue, func() bool { return false })
		}
		if short := max == 0; short && yields != 2 || !short && yields != 0 || p.spinning == short {
			t.Errorf("max %v: %d yields in 2 spins, spinning is %v", max, yields, p.spinning)
		}
	}
}

// us is a microsecond.
const us = time.Microsecond

// rhythm is how a driver and a machine behave.
type rhythm struct {
	asleep, awake time.Duration // from an empty ring to the next request
	lost          time.Duration // of each spin, to other threads
}

// serve has a worker see requests that each find the ring empty, and counts its spins.
func (r rhythm) serve(w *spinPolicy, requests int) (spins int) {
	for range requests {
		gap := r.asleep
		if w.spinning {
			spins++
			gap = r.awake
			w.learn(gap+r.lost <= spinTime, min(gap, spinTime)+r.lost, r.lost)
		}
		w.gap(gap)
		w.request()
	}
	return spins
}

// TestSpin: a worker spins where a sleep takes longer, and only there.
func TestSpin(t *testing.T) {
	for _, test := range []struct {
		name string
		rhythm
		want bool
	}{
		{"processors that go idle", rhythm{45 * us, 6 * us, 0}, true},
		{"the driver is slower than the sleep", rhythm{45 * us, 40 * us, 0}, false},
		{"both modes take the same", rhythm{20 * us, 18 * us, 0}, false},
		{"wake-ups are quick", rhythm{3 * us, 2 * us, 0}, false},
		{"the driver can't run while the worker spins", rhythm{us / 5, 58 * us, 0}, false},
		{"the driver spins, too", rhythm{4 * us, us, 0}, true},
		{"the guest has little to do", rhythm{time.Millisecond, time.Millisecond, 0}, false},
		{"others want the processor", rhythm{45 * us, 6 * us, 50 * us}, false},
	} {
		w := newSpinPolicy(BusyPoll{})
		test.serve(&w, trialRequests+trialGaps)
		const requests = 20 * leastStay
		share := float64(test.serve(&w, requests)) / requests
		if share > 0.015 != test.want || test.want && share < 0.99 {
			t.Errorf("%s: spins at %.1f%% of the gaps, want it: %v", test.name, 100*share, test.want)
		}
	}
}

// TestSpinChanges: the mode changes with what the machine does, within the longest stay.
func TestSpinChanges(t *testing.T) {
	idle := rhythm{45 * us, 6 * us, 0}
	for _, other := range []rhythm{{us / 5, 58 * us, 0}, {3 * us, 2 * us, 0}, {45 * us, 6 * us, 300 * us}} {
		w := newSpinPolicy(BusyPoll{})
		for i := range 6 {
			now, want := idle, i%2 == 0
			if !want {
				now = other
			}
			now.serve(&w, 10*mostStay)
			for w.trying {
				now.serve(&w, 1)
			}
			if w.spinning != want {
				t.Fatalf("%+v, step %d: spinning is %v", now, i, w.spinning)
			}
			// It has stayed as it is for long, and yet notices.
			later := idle
			if want {
				later = other
			}
			later.serve(&w, mostStay+trialRequests)
			for w.trying {
				later.serve(&w, 1)
			}
			if w.spinning == want {
				t.Fatalf("step %d: %+v is not noticed", i, later)
			}
		}
	}
}

// TestSpinOnce: what takes the processor away once, for however long, does not end the
// spinning, and what does so now and then ends it for moments only.
func TestSpinOnce(t *testing.T) {
	idle := rhythm{45 * us, 6 * us, 0}
	w := newSpinPolicy(BusyPoll{})
	idle.serve(&w, 2*leastStay)
	for w.trying || !w.spinning {
		idle.serve(&w, 1)
	}
	w.learn(true, time.Second, time.Second)
	if !w.spinning {
		t.Error("one interruption ends the spinning")
	}
	const requests = 100 * leastStay
	spins := 0
	for range requests / 1000 {
		spins += idle.serve(&w, 998)
		spins += rhythm{45 * us, 6 * us, time.Millisecond}.serve(&w, 2)
	}
	if spins < requests*6/10 {
		t.Errorf("%d spins at %d gaps", spins, requests)
	}
}

// TestSpinSparse: a guest that had little to do is served as quickly as any, soon after
// it has more to do, however long that was.
func TestSpinSparse(t *testing.T) {
	w := newSpinPolicy(BusyPoll{})
	rhythm{time.Millisecond, time.Millisecond, 0}.serve(&w, 100*leastStay)
	for n := 0; !w.spinning || w.trying; n++ {
		if n > leastStay+trialRequests {
			t.Fatal("it never spins")
		}
		rhythm{45 * us, 6 * us, 0}.serve(&w, 1)
	}
}

// TestSpinBackOff: where others want the processor, spinning is tried less and less often,
// and so is sleeping where it is worse.
func TestSpinBackOff(t *testing.T) {
	const requests = 10 * mostStay
	for _, test := range []struct {
		rhythm
		spinning bool
	}{{rhythm{45 * us, 6 * us, 100 * us}, false}, {rhythm{45 * us, 6 * us, 0}, true}} {
		w := newSpinPolicy(BusyPoll{})
		test.serve(&w, 2*mostStay)
		tried := test.serve(&w, requests)
		if test.spinning {
			tried = requests - tried
		}
		if most := 11 * trialGaps; tried > most {
			t.Errorf("%+v: %d of %d gaps are in the other mode, want at most %d", test, tried, requests, most)
		}
	}
}

// TestSpinFewGaps: a trial in which the ring was hardly ever empty changes nothing. What was
// never measured does not count as no time at all.
func TestSpinFewGaps(t *testing.T) {
	for _, spinning := range []bool{false, true} {
		w := newSpinPolicy(BusyPoll{})
		r := rhythm{45 * us, 60 * us, 0} // sleeping is better
		if spinning {
			r.awake = 6 * us
		}
		for w.trying || w.spinning != spinning || w.left == trialRequests {
			r.serve(&w, 1)
		}
		for !w.trying {
			r.serve(&w, 1)
		}
		w.gap(60 * us)
		for w.trying {
			w.request()
		}
		if w.spinning != spinning {
			t.Errorf("after a trial with one gap the worker spins: %v, before: %v", w.spinning, spinning)
		}
	}
}

// TestSpinGapsUnfilled: gaps that were never measured do not count as short ones.
func TestSpinGapsUnfilled(t *testing.T) {
	var g gaps
	for i := range len(g.last) {
		g.add(7 * us)
		if got := g.median(); got != 7*us {
			t.Errorf("%d gaps of 7us: median %v", i+1, got)
		}
	}
	w := newSpinPolicy(BusyPoll{})
	for range 4 * leastStay { // the ring is never empty
		w.request()
	}
	if w.spinning && !w.trying {
		t.Error("it spins, and was never seen to gain by it")
	}
	w = newSpinPolicy(BusyPoll{})
	for range 3 { // a spin takes long, and that is known from three gaps only
		w.slept.add(20 * us)
		w.spun.add(30 * us)
	}
	if w.choose(); w.spinning {
		t.Error("gaps that were not measured count as spins that were quick")
	}
}
