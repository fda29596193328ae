package ticks

import (
	"testing"
	"time"
)

// TestNow: the counter goes on, and a millisecond of it is not longer than one.
func TestNow(t *testing.T) {
	if Millisecond() == 0 {
		t.Fatal("a millisecond has no ticks")
	}
	then := Now()
	for end := time.Now().Add(20 * time.Second); Now()-then < Millisecond(); {
		if time.Now().After(end) {
			t.Fatalf("the counter was %d, and is %d after 20 s", then, Now())
		}
	}
}
