package events

import (
	"testing"
	"time"
)

// TestLatest: the last changes are known, those of long ago are not, and however many there are, few are kept.
func TestLatest(t *testing.T) {
	var l latest[int]
	at := time.Now()
	for i := range 10 * maxOwn {
		l.note(i, at)
		if i >= maxOwn && (!l.recent(i-maxOwn, at) || !l.recent(i, at)) {
			t.Fatalf("after %d changes the last ones are not known", i)
		}
		if len(l.now)+len(l.before) > 2*maxOwn {
			t.Fatalf("%d and %d are kept", len(l.now), len(l.before))
		}
	}
	last := 10*maxOwn - 1
	if !l.recent(last, at.Add(ownFor-1)) || l.recent(last, at.Add(ownFor)) || l.recent(-1, at) {
		t.Error("wrong times")
	}
	l.note(1, at.Add(3*ownFor))
	l.note(2, at.Add(6*ownFor))
	if len(l.now)+len(l.before) != 2 {
		t.Errorf("%d and %d are kept for long", len(l.now), len(l.before))
	}
	var none latest[int]
	if none.recent(1, at) {
		t.Error("nothing was changed")
	}
}
