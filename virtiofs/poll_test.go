package virtiofs

import (
	"testing"
	"time"
)

// TestLongPoll: with a time of the user's a worker looks always, and after misses leaves
// out more and more looks.
func TestLongPoll(t *testing.T) {
	p := newPoller(BusyPoll{Max: 100 * time.Microsecond})
	looks := 0
	serve := func(requests int, gap time.Duration) {
		for range requests {
			if window := p.window(time.Time{}); window > 0 {
				looks++
				p.judge(gap <= window, min(gap, window), 0)
			}
		}
	}
	serve(100, 90*time.Microsecond)
	if looks != 100 {
		t.Errorf("%d looks at 100 gaps that pay", looks)
	}
	looks = 0
	serve(1000, time.Millisecond)
	if looks > 30 {
		t.Errorf("%d looks at 1000 gaps that don't pay", looks)
	}
	looks = 0
	serve(200, time.Microsecond)
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

// TestShortLookYields: a short look lets others have the processor, and is not taken again
// soon when they use it. The user's own look keeps it.
func TestShortLookYields(t *testing.T) {
	r := newRing(t)
	if err := r.queue.Begin(); err != nil {
		t.Fatal(err)
	}
	defer r.queue.End()
	for _, max := range []time.Duration{0, 50 * time.Microsecond} {
		p := newPoller(BusyPoll{Max: max})
		yields := 0
		p.yield = func() {
			yields++
			time.Sleep(time.Millisecond)
		}
		for range p.ways.left {
			p.arrived() // the time for a trial has come
		}
		for range 2 {
			p.look(r.queue, func() bool { return false })
		}
		if short := max == 0; short && yields != 2 || !short && yields != 0 || p.ways.looking {
			t.Errorf("max %v: %d yields in 2 looks, looking is %v", max, yields, p.ways.looking)
		}
	}
}
