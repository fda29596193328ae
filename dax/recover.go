package dax

import (
	"fmt"
)

// A front-end keeps the mappings in its window when this process dies. So a Table can record them
// for a successor, which continues with them:
//
//	recorded as  what the successor does
//	sure         it is mapped: nothing
//	not sure     the process has died while it was mapped or unmapped: unmap it. The guest has
//	             no answer, so it does not use the range, and its request is served again
//
// Mapping and unmapping are done again without harm: what is unmapped twice is an error of the
// window's, which changes nothing.

// Recorder keeps the mappings of a Table outside of the process. The Table calls it with a lock held,
// one call at a time.
type Recorder interface {
	// Put records a mapping, in place of the one at the same offset. An error is want of memory,
	// and only for an offset that has none.
	Put(r Record) error
	// Remove records that nothing is mapped from offset on.
	Remove(offset uint64)
	// SetTraits records what Probe has found; known is false before it has.
	SetTraits(t Traits, known bool)
	// Records yields what a predecessor has recorded, by offset. Nothing in it is taken on trust.
	Records(yield func(r Record) bool)
	// Traits is what a predecessor has recorded.
	Traits() (t Traits, known bool)
}

// Record is a mapping as a Recorder has it.
type Record struct {
	Mapping
	Sure bool // it is mapped; otherwise it was about to be mapped or unmapped
}

// Recover begins to record, and takes over what a predecessor has recorded. The mappings count when
// Reattach is called; Attach forgets them. It is called once, before the table is used.
func (t *Table) Recover(r Recorder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record = r
	end := uint64(0)
	var forged []uint64
	for rec := range r.Records {
		m := rec.Mapping
		if t.Check(m) != nil || m.Offset < end {
			forged = append(forged, m.Offset)
			continue
		}
		end = m.Offset + m.Length
		// The guest may have got no answer. If it does not ask for it again, another mapping may have the range.
		t.entries = append(t.entries, &entry{m: m, state: mapped, unclaimed: true, doubtful: !rec.Sure || m.File == probeFile})
	}
	for _, offset := range forged {
		r.Remove(offset)
	}
}

// Reattach is Attach for the window of a predecessor, in which its mappings still are. Those that may be
// there or not are unmapped; Map waits for that.
func (t *Table) Reattach(w Window) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window = w
	for _, e := range append([]*entry(nil), t.entries...) {
		if e.doubtful {
			t.drop(e)
		}
	}
	var known bool
	if t.record != nil {
		t.traits, known = t.record.Traits()
	}
	switch {
	case known:
		t.probe = make(chan struct{})
		close(t.probe)
	case t.later != nil:
		t.startProbe(*t.later)
	}
	t.later = nil
}

// note records the state of e; mu is held.
func (t *Table) note(e *entry) error {
	switch {
	case t.record == nil:
		return nil
	case e.state == gone:
		t.record.Remove(e.m.Offset)
		return nil
	}
	if err := t.record.Put(Record{e.m, e.state == mapped || e.state == upgrading}); err != nil {
		return fmt.Errorf("dax: record: %w", err)
	}
	return nil
}

// noteTraits records what Probe has found; mu is held.
func (t *Table) noteTraits(known bool) {
	if t.record != nil {
		t.record.SetTraits(t.traits, known)
	}
}
