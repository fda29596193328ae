package dax

import (
	"runtime"
	"testing"
	"time"
)

// TestProbeNoAnswer: a window that never answers costs the same however many sessions a guest
// begins and ends meanwhile.
func TestProbeNoAnswer(t *testing.T) {
	const units = 8
	table := NewTable(units*unit, unit)
	w := newStrict(t, units*unit)
	w.hold = make(chan struct{})
	table.Attach(w)
	before := runtime.NumGoroutine()
	for range 10_000 {
		table.StartProbe(true)
		table.Reset()
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
	close(w.hold)
	if err := table.Probe(true); err != nil {
		t.Error(err)
	}
	table.Reset()
	table.Wait()
}
