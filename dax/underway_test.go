package dax

import (
	"errors"
	"testing"
	"time"
)

// TestOthersGoOn: while one range waits for the window, others are served, and who wants
// the same range waits.
func TestOthersGoOn(t *testing.T) {
	table, w := newTable(t, 8)
	hold := make(chan struct{})
	w.hold = hold
	results := make(chan error, 3)
	go func() { results <- table.Map(0, at(0, 1, 1), nil) }()
	go func() { results <- table.Map(0, at(1, 1, 1), nil) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.active) == 2 })
	go func() { results <- table.Map(0, at(0, 1, 1), nil) }()
	select {
	case err := <-results:
		t.Error("did not wait:", err)
	case <-time.After(10 * time.Millisecond):
	}
	close(hold)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if w.calls != 2 {
		t.Error(w.calls, "requests")
	}
}

// TestLeave: who stops waiting leaves nothing behind, and the next one gets the range.
func TestLeave(t *testing.T) {
	table, w := newTable(t, 4)
	hold := make(chan struct{})
	w.hold = hold
	cancel := make(chan struct{})
	results := make(chan error, 2)
	go func() { results <- table.Map(0, at(0, 1, 1), cancel) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.active) == 1 })
	go func() { results <- table.Map(0, at(0, 1, 2), cancel) }() // waits for the first
	close(cancel)
	for range 2 {
		if err := <-results; !errors.Is(err, ErrCanceled) {
			t.Error(err)
		}
	}
	go func() { results <- table.Map(0, at(0, 1, 3), nil) }()
	close(hold)
	if err := <-results; err != nil {
		t.Error(err)
	}
	table.Wait()
	agree(t, table, w)
	if calls := w.calls; calls != 3 { // map, and then unmap and map for the other file
		t.Error(calls, "requests")
	}

	hold = make(chan struct{})
	w.mu.Lock()
	w.hold = hold
	w.mu.Unlock()
	if err := table.Unmap(span(0, 1), cancel); err != nil {
		t.Error(err)
	}
	close(hold)
	table.Wait()
	if len(w.mappings()) != 0 {
		t.Error("Unmap was not done in the background")
	}
}

// TestLeaveAndComeBack: the same request finds done what nobody waited for.
func TestLeaveAndComeBack(t *testing.T) {
	table, w := newTable(t, 4)
	hold := make(chan struct{})
	w.hold = hold
	cancel := make(chan struct{})
	done := make(chan error)
	go func() { done <- table.Map(0, at(0, 1, 1), cancel) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.active) == 1 })
	close(cancel)
	if err := <-done; !errors.Is(err, ErrCanceled) {
		t.Error(err)
	}
	close(hold)
	table.Wait()
	if !table.Has(at(0, 1, 1)) || table.Map(0, at(0, 1, 1), nil) != nil || w.calls != 1 {
		t.Error(w.calls, "requests")
	}
	// From here on it is as good as any other.
	if err := table.Map(0, at(0, 1, 2), nil); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
}

// TestResetUnderWay: what is being mapped when the guest starts anew goes too.
func TestResetUnderWay(t *testing.T) {
	table, w := newTable(t, 4)
	hold := make(chan struct{})
	w.hold = hold
	done := make(chan error, 1)
	go func() { done <- table.Map(0, at(0, 1, 1), nil) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.active) == 1 })
	table.Reset()
	close(hold)
	<-done
	table.Wait()
	if len(w.mappings()) != 0 || len(table.Mappings()) != 0 {
		t.Error("left:", w.mappings(), table.Mappings())
	}
}

func TestAttachUnderWay(t *testing.T) {
	table, w := newTable(t, 4)
	hold := make(chan struct{})
	w.hold = hold
	done := make(chan error, 1)
	go func() { done <- table.Map(0, at(0, 1, 1), nil) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.active) == 1 })
	table.Attach(nil)
	if err := table.Map(0, at(0, 1, 1), nil); !errors.Is(err, ErrNoWindow) {
		t.Error(err)
	}
	next := newStrict(t, 4*unit)
	table.Attach(next)
	if err := table.Map(0, at(0, 1, 2), nil); err != nil {
		t.Error(err)
	}
	close(hold)
	if err := <-done; !errors.Is(err, ErrNoWindow) {
		t.Error(err)
	}
	table.Wait()
	agree(t, table, next)
}
