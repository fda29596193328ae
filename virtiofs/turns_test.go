package virtiofs

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestTurns: the way on which requests take less time is taken, the other one is tried now
// and then, and what was better once need not stay so.
func TestTurns(t *testing.T) {
	const us = time.Microsecond
	var w turns
	now := time.Now()
	for _, step := range []struct {
		name            string
		elsewhere, here time.Duration // from one request to the next
		pause           time.Duration // in which the guest does something else, at times
		requests        int
		least, most     float64 // bounds of the share that goes here
	}{
		{"threads are quicker", 30 * us, 90 * us, 0, 100_000, 0, 0.02},
		{"still, with pauses", 30 * us, 90 * us, time.Hour, 100_000, 0, 0.01},
		{"turns are quicker", 90 * us, 80 * us, 0, 300_000, 0.5, 1},
		{"still", 90 * us, 80 * us, 0, 100_000, 0.97, 1},
		{"neither waits any more", 1, 1, 0, 100_000, 0, 1},
		{"threads are quicker again", 20 * us, 80 * us, 0, 300_000, 0, 0.5},
	} {
		here := 0
		for i := range step.requests {
			gap := step.elsewhere
			if w.inTurn {
				gap = step.here
			}
			if i%1000 == 999 {
				gap += step.pause
			}
			now = now.Add(gap)
			if w.next(now) {
				here++
			}
		}
		if share := float64(here) / float64(step.requests); share < step.least || share > step.most {
			t.Errorf("%s: %.3f go here, want %v to %v", step.name, share, step.least, step.most)
		}
	}
}

// TestTurnsEnds: a way that turns out worse is given up as soon as it has taken as long as
// the other one.
func TestTurnsEnds(t *testing.T) {
	var w turns
	now := time.Now()
	tried := 0
	for range 4 * turnRequests {
		gap := 10 * time.Microsecond
		if w.inTurn {
			gap = time.Millisecond
		}
		now = now.Add(gap)
		if w.next(now) {
			tried++
		}
	}
	if most := turnWarm + turnRequests/100 + 2; tried == 0 || tried > most {
		t.Errorf("%d requests went the slow way, want 1 to %d", tried, most)
	}
}

// TestInTurn: requests that wait for a disk each by itself go both ways and are all answered
// once, and none waits here that another thread is to wait for.
func TestInTurn(t *testing.T) {
	const depth, rounds = 4, 6 * turnRequests / 4
	var here, elsewhere atomic.Int64
	var first atomic.Pointer[server.Thread]
	r, w := start(t, &testFS{fsync: func(r *server.Request) unix.Errno {
		switch {
		case !r.MayWait:
			first.Store(r.Thread)
			return server.WouldBlockInTurn
		case r.Thread == first.Load():
			here.Add(1)
		default:
			elsewhere.Add(1)
		}
		return unix.EIO
	}})
	for range rounds {
		for slot := range depth {
			r.send(slot, fp.OpFsync, 1, fsyncBody, 0)
		}
		r.notify()
		answered := 0
		for range depth {
			answered |= 1 << r.wait()
		}
		if answered != 1<<depth-1 {
			t.Fatalf("slots %b are answered", answered)
		}
	}
	// Which way is better, the machine decides; each was taken at least to be measured.
	if n, m := here.Load(), elsewhere.Load(); n+m != depth*rounds || n == 0 || m < turnRequests-1 {
		t.Errorf("%d waits on the queue's thread and %d elsewhere, of %d", n, m, depth*rounds)
	}
	within(t, "stop", w.stop)
	r.released()
}
