package virtiofs

import "time"

// turns decides who waits for requests that each wait for a disk by themselves, as reads
// past the page cache do: threads of their own, which keep the disk busy with all of them at
// once, or the queue's thread, one after the other, which takes half the processor time.
//
// Where processors are idle the disk decides, and threads are up to three times as fast.
// Where the guest itself needs all processors, as an emulated one does, turns are up to a
// quarter faster. So both are measured: how long turnRequests of them take, from one to the
// next, one way and then the other.
type turns struct {
	inTurn bool // the present way
	trying bool // it is only being tried

	seen  int           // requests since it is measured; negative while it is not
	spent time.Duration // that they took
	last  time.Time     // when the last one came
	other time.Duration // what the other way took, while this one is tried
	stay  int           // requests that went the better way before the other was tried
}

const (
	// turnRequests are measured each way, after turnWarm that still have to do with the
	// other one.
	turnRequests = 512
	turnWarm     = 32
	// turnGap is the most that counts from one request to the next: the rest is the guest's
	// having had nothing to do.
	turnGap = time.Millisecond
	// turnStay requests go the better way until the other one is tried again, and twice as
	// many each time that it was no better.
	turnStay     = 8 << 10
	turnStayMost = 128 << 10
)

// next counts a request that comes now, and reports whether the queue's thread is to wait
// for it.
func (t *turns) next(now time.Time) bool {
	gap := min(now.Sub(t.last), turnGap)
	t.last = now
	if t.seen++; t.seen <= 0 {
		return t.inTurn
	}
	t.spent += gap
	switch {
	case t.trying && t.spent >= t.other:
		t.turn(false, min(max(2*t.stay, turnStay), turnStayMost))
	case t.seen < turnRequests:
	case t.trying:
		t.trying, t.stay = false, turnStay
		t.seen, t.spent = -t.stay, 0
	default:
		t.other = t.spent
		t.turn(true, turnWarm)
	}
	return t.inTurn
}

// turn changes the way, which is measured after so many requests.
func (t *turns) turn(trying bool, after int) {
	t.inTurn, t.trying = !t.inTurn, trying
	if !trying {
		t.stay = after
	}
	t.seen, t.spent = -after, 0
}
