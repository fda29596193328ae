package dax

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	for end := time.Now().Add(60 * time.Second); runtime.NumGoroutine() > before+2; time.Sleep(time.Millisecond) {
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

// TestProbe: Local maps all that is asked for; other windows refuse some of it.
func TestProbe(t *testing.T) {
	table, w := newTable(t, 4)
	w.refuse = unix.EINVAL
	if err := table.Probe(true); err != nil || table.Traits() != (Traits{}) {
		t.Error(err, table.Traits())
	}
	w.refuse = nil
	calls := w.calls
	if err := table.Probe(true); err != nil || w.calls != calls {
		t.Error("probed twice:", err)
	}
	local, err := NewLocal(4 * unit)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	table.Attach(local)
	if err := table.Probe(true); err != nil || table.Traits() != (Traits{true, true}) || len(table.Mappings()) != 0 {
		t.Error(err, table.Traits(), table.Mappings())
	}
	table.Attach(writer{local})
	if err := table.Probe(false); err != nil || table.Traits() != (Traits{}) {
		t.Error(err, table.Traits())
	}
	table.Attach(nil)
	if err := table.Probe(true); err != nil || table.Traits() != (Traits{}) {
		t.Error("without a window:", err)
	}
}

// TestProbeTwice: who asks while the window is tried out waits, and then knows.
func TestProbeTwice(t *testing.T) {
	table, w := newTable(t, 4)
	hold := make(chan struct{})
	w.hold = hold
	first, second := make(chan error), make(chan error)
	go func() { first <- table.Probe(true) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.active) == 1 })
	go func() { second <- table.Probe(true) }()
	select {
	case <-second:
		t.Error("did not wait")
	case <-time.After(10 * time.Millisecond):
		close(hold)
		if err := <-second; err != nil || table.Traits() != (Traits{true, true}) {
			t.Error(err, table.Traits())
		}
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// writer is a window that maps everything for writing.
type writer struct{ *Local }

func (w writer) Map(fd int, m Mapping) error {
	m.Writable = true
	return w.Local.Map(fd, m)
}
