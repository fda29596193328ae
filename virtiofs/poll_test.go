package virtiofs

import (
	"testing"
	"time"
)

// TestPollWindow: how long a worker looks follows the gaps between requests.
func TestPollWindow(t *testing.T) {
	const most = 100 * time.Microsecond
	now := time.Now()
	p := newPoller(BusyPoll{Max: most})
	if w := p.window(now); w != most {
		t.Errorf("at first: %v, want %v", w, most)
	}
	for range 50 {
		p.waited(5 * time.Microsecond)
	}
	if w := p.window(now); w < 15*time.Microsecond || w > 60*time.Microsecond {
		t.Errorf("with gaps of 5us: %v", w)
	}
	p.waited(time.Hour)
	if w := p.window(now); w == 0 {
		t.Error("one long pause ends the looking")
	}
	for range 20 {
		p.waited(time.Millisecond)
	}
	if w := p.window(now); w != 0 {
		t.Errorf("with gaps of 1ms: %v, want none", w)
	}
	for range 20 {
		p.waited(5 * time.Microsecond)
	}
	if w := p.window(now); w == 0 {
		t.Error("it does not begin again")
	}
	never := newPoller(BusyPoll{})
	if w := never.window(now); w != 0 {
		t.Errorf("without being asked to: %v", w)
	}
}

// TestPollBudget: a share of the CPU is not exceeded for long.
func TestPollBudget(t *testing.T) {
	const most = 100 * time.Microsecond
	p := newPoller(BusyPoll{Max: most, CPU: 10})
	now := time.Now()
	p.gap = most - 1
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
	for _, b := range []BusyPoll{{Max: -1}, {Max: MaxBusyPoll + 1}, {Max: 1, CPU: 101}, {Max: 1, CPU: -1}} {
		if _, err := New(newServer(&testFS{}), Options{BusyPoll: b, Log: quiet()}); err == nil {
			t.Errorf("%+v is accepted", b)
		}
	}
}

// TestBusyPoll: a driver that sends one request after the other need not kick, and a
// worker that nobody asks anything sleeps.
func TestBusyPoll(t *testing.T) {
	r := newRing(t)
	w, err := startWorker(newServer(&testFS{}), r.vring(), BusyPoll{Max: MaxBusyPoll}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	r.init()
	r.kicks = 0
	const requests = 300
	for range requests {
		r.getattr(0)
	}
	if r.kicks > requests/3 {
		t.Errorf("%d kicks for %d requests", r.kicks, requests)
	}
	within(t, "stop", w.stop)
	r.released()
}
