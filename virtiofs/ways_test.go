package virtiofs

import (
	"testing"
	"time"
)

// us is a microsecond.
const us = time.Microsecond

// rhythm is how a driver and a machine behave.
type rhythm struct {
	asleep, awake time.Duration // from an empty ring to the next request
	lost          time.Duration // of each look, to something else
}

// serve has a worker see requests that each find the ring empty, and counts its looks.
func (r rhythm) serve(w *ways, requests int) (looks int) {
	for range requests {
		gap := r.asleep
		if w.looking {
			looks++
			gap = r.awake
			w.looked(gap+r.lost <= shortLook, min(gap, shortLook)+r.lost, r.lost)
		}
		w.gap(gap)
		w.request()
	}
	return looks
}

// TestShortLook: a worker looks where a sleep takes longer, and only there.
func TestShortLook(t *testing.T) {
	for _, test := range []struct {
		name string
		rhythm
		want bool
	}{
		{"processors that go idle", rhythm{45 * us, 6 * us, 0}, true},
		{"the driver is slower than the sleep", rhythm{45 * us, 40 * us, 0}, false},
		{"both ways take the same", rhythm{20 * us, 18 * us, 0}, false},
		{"wake-ups are quick", rhythm{3 * us, 2 * us, 0}, false},
		{"the driver can't run while the worker looks", rhythm{us / 5, 58 * us, 0}, false},
		{"the driver looks, too", rhythm{4 * us, us, 0}, true},
		{"the guest has little to do", rhythm{time.Millisecond, time.Millisecond, 0}, false},
		{"others want the processor", rhythm{45 * us, 6 * us, 50 * us}, false},
	} {
		w := newWays()
		test.serve(&w, tryRequests+tryGaps)
		const requests = 20 * leastStay
		share := float64(test.serve(&w, requests)) / requests
		if share > 0.015 != test.want || test.want && share < 0.99 {
			t.Errorf("%s: looks at %.1f%% of the gaps, want it: %v", test.name, 100*share, test.want)
		}
	}
}

// TestShortLookChanges: the way changes with what the machine does, within the longest stay.
func TestShortLookChanges(t *testing.T) {
	idle := rhythm{45 * us, 6 * us, 0}
	for _, other := range []rhythm{{us / 5, 58 * us, 0}, {3 * us, 2 * us, 0}, {45 * us, 6 * us, 300 * us}} {
		w := newWays()
		for i := range 6 {
			now, want := idle, i%2 == 0
			if !want {
				now = other
			}
			now.serve(&w, 10*mostStay)
			for w.trying {
				now.serve(&w, 1)
			}
			if w.looking != want {
				t.Fatalf("%+v, step %d: looking is %v", now, i, w.looking)
			}
			// It has stayed as it is for long, and yet notices.
			later := idle
			if want {
				later = other
			}
			later.serve(&w, mostStay+tryRequests)
			for w.trying {
				later.serve(&w, 1)
			}
			if w.looking == want {
				t.Fatalf("step %d: %+v is not noticed", i, later)
			}
		}
	}
}

// TestShortLookOnce: what takes the processor away once, for however long, does not end the
// looking, and what does so now and then ends it for moments only.
func TestShortLookOnce(t *testing.T) {
	idle := rhythm{45 * us, 6 * us, 0}
	w := newWays()
	idle.serve(&w, 2*leastStay)
	for w.trying || !w.looking {
		idle.serve(&w, 1)
	}
	w.looked(true, time.Second, time.Second)
	if !w.looking {
		t.Error("one interruption ends the looking")
	}
	const requests = 100 * leastStay
	looks := 0
	for range requests / 1000 {
		looks += idle.serve(&w, 998)
		looks += rhythm{45 * us, 6 * us, time.Millisecond}.serve(&w, 2)
	}
	if looks < requests*6/10 {
		t.Errorf("%d looks at %d gaps", looks, requests)
	}
}

// TestShortLookSparse: a guest that had little to do is served as quickly as any, soon after
// it has more to do, however long that was.
func TestShortLookSparse(t *testing.T) {
	w := newWays()
	rhythm{time.Millisecond, time.Millisecond, 0}.serve(&w, 100*leastStay)
	for n := 0; !w.looking || w.trying; n++ {
		if n > leastStay+tryRequests {
			t.Fatal("it never looks")
		}
		rhythm{45 * us, 6 * us, 0}.serve(&w, 1)
	}
}

// TestShortLookBackOff: where others want the processor, looking is tried less and less often,
// and so is sleeping where it is worse.
func TestShortLookBackOff(t *testing.T) {
	const requests = 10 * mostStay
	for _, test := range []struct {
		rhythm
		looking bool
	}{{rhythm{45 * us, 6 * us, 100 * us}, false}, {rhythm{45 * us, 6 * us, 0}, true}} {
		w := newWays()
		test.serve(&w, 2*mostStay)
		tried := test.serve(&w, requests)
		if test.looking {
			tried = requests - tried
		}
		if most := 11 * tryGaps; tried > most {
			t.Errorf("%+v: %d of %d gaps go the other way, want at most %d", test, tried, requests, most)
		}
	}
}

// TestGapsUnfilled: gaps that were never measured do not count as short ones. A worker whose
// ring is hardly ever empty has few of them when a trial ends.
func TestGapsUnfilled(t *testing.T) {
	var g gaps
	if _, ok := g.median(); ok {
		t.Error("there is a median of nothing")
	}
	for i := range len(g.last) {
		g.add(7 * us)
		if got, ok := g.median(); !ok || got != 7*us {
			t.Errorf("%d gaps of 7us: median %v", i+1, got)
		}
	}
	w := newWays()
	for range 4 * leastStay { // the ring is never empty
		w.request()
	}
	if w.looking && !w.trying {
		t.Error("it looks, and was never seen to gain by it")
	}
	w = newWays()
	for range 3 { // a look takes long, and that is known from three gaps only
		w.slept.add(20 * us)
		w.awake.add(30 * us)
	}
	if w.choose(); w.looking {
		t.Error("gaps that were not measured count as looks that were quick")
	}
}
