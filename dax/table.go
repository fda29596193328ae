package dax

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// Table records the mappings of a Window and checks requests for it. It is safe for
// concurrent use.
type Table struct {
	size, align uint64

	mu      sync.Mutex    // guards the following; a leaf
	window  Window        // nil: there is none
	entries []*entry      // by offset; they do not overlap
	running int           // operations under way, also in earlier windows
	probe   chan struct{} // for this window: nil before Probe was called, closed when it has ended
	traits  Traits
	idle    sync.Cond // running is 0
	record  Recorder  // nil: nothing is recorded
	later   *bool     // StartProbe was called with it when there was no window yet
}

// entry is a range that is not free. Its fields are guarded by Table.mu.
type entry struct {
	m          Mapping
	state      state
	op         *op  // the operation under way, or nil
	unmapAfter bool // to be unmapped when op has ended
	unclaimed  bool // mapped, but its caller no longer waited: another mapping may replace it
	doubtful   bool // left by another process, which may have mapped it or not
}

// state of an entry.
type state uint8

const (
	mapping   state = iota // nothing is mapped yet
	mapped                 // the only state without an op
	upgrading              // mapped, and being made writable
	unmapping
	gone // the table does not have the entry any more
)

// op is one operation of a window: it maps or unmaps a range.
type op struct {
	window Window
	done   chan struct{} // closed at the end; err and kept are valid after that
	err    error         // of Map
	kept   error         // of Unmap
}

// NewTable returns the table of a window of size bytes. Attach gives it the window. Offsets
// and lengths are multiples of align, a power of two.
func NewTable(size, align uint64) *Table {
	t := &Table{size: size, align: align}
	t.idle.L = &t.mu
	return t
}

// Size is the window's length in bytes.
func (t *Table) Size() uint64 { return t.size }

// Align is the unit of offsets and lengths: they are multiples of it.
func (t *Table) Align() uint64 { return t.align }

// Attach gives the table a window, or with nil takes the window away. The table forgets
// all mappings. Operations under way fail.
func (t *Table) Attach(w Window) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		e.state = gone
		_ = t.note(e)
	}
	t.entries, t.window, t.later = nil, w, nil
	t.probe, t.traits = nil, Traits{}
	t.noteTraits(false)
}

// Attached reports whether there is a window.
func (t *Table) Attached() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.window != nil
}

// Check returns ErrRange unless m could be mapped in an empty window.
func (t *Table) Check(m Mapping) error {
	if err := t.checkRange(Range{m.Offset, m.Length}); err != nil {
		return err
	}
	if m.FileOffset%t.align != 0 || m.FileOffset > math.MaxInt64-m.Length {
		return fmt.Errorf("%w: %#x bytes at %#x of the file", ErrRange, m.Length, m.FileOffset)
	}
	return nil
}

func (t *Table) checkRange(r Range) error {
	if r.Length == 0 || (r.Offset|r.Length)%t.align != 0 || r.Length > t.size || r.Offset > t.size-r.Length {
		return fmt.Errorf("%w: %#x bytes at %#x of %#x", ErrRange, r.Length, r.Offset, t.size)
	}
	return nil
}

// Has reports whether m is mapped, and writable if m is. Map then has nothing to do.
func (t *Table) Has(m Mapping) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, j := t.overlapping(Range{m.Offset, m.Length})
	if j != i+1 || t.entries[i].state != mapped || !t.entries[i].covers(m) {
		return false
	}
	t.entries[i].unclaimed = false
	return true
}

// Mappings are the mappings that the guest sees, sorted by offset.
func (t *Table) Mappings() []Mapping {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []Mapping
	for _, e := range t.entries {
		if e.state == mapped || e.state == upgrading {
			list = append(list, e.m)
		}
	}
	return list
}

// Map maps a range of the file fd. The caller keeps fd. The range must be free, or have the
// same mapping already.
//
// A mapping for reading becomes writable only if the window can do this in place; most
// windows can't. So map a range writable at once if it may be written later.
//
// When cancel is closed Map returns ErrCanceled at once. The mapping may succeed later. It
// then remains until another mapping needs the range, because a guest mostly repeats the
// same request. With a nil cancel Map waits for ever.
func (t *Table) Map(fd int, m Mapping, cancel <-chan struct{}) error {
	if err := t.Check(m); err != nil {
		return err
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // may outlive the call
	if err != nil {
		return fmt.Errorf("dax: dup: %w", err)
	}
	e, o, err := t.reserve(m, cancel)
	if o == nil {
		_ = unix.Close(own)
		return err
	}
	go t.runMap(e, o, own, m)
	select {
	case <-o.done:
		return o.err
	case <-cancel:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.op != o {
		return o.err // it has just ended
	}
	if e.state == mapping {
		e.unclaimed = true
	}
	return ErrCanceled
}

// reserve makes the entry of m, or finds the entry that has to become writable. If it
// returns no op, there is an error or nothing to do.
func (t *Table) reserve(m Mapping, cancel <-chan struct{}) (*entry, *op, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case canceled(cancel):
			return nil, nil, ErrCanceled
		case t.window == nil:
			return nil, nil, ErrNoWindow
		}
		i, j := t.overlapping(Range{m.Offset, m.Length})
		if o := underWay(t.entries[i:j]); o != nil {
			t.wait(o, cancel)
			continue
		}
		if i == j {
			e := &entry{m: m}
			if err := t.note(e); err != nil {
				return nil, nil, err
			}
			t.entries = slices.Insert(t.entries, i, e)
			return e, t.begin(e, mapping), nil
		}
		if t.evict(t.entries[i:j], m) {
			continue
		}
		e := t.entries[i]
		switch {
		case j > i+1 || !e.matches(m):
			return nil, nil, fmt.Errorf("%w: %#x bytes at %#x", ErrTaken, m.Length, m.Offset)
		case e.covers(m):
			e.unclaimed = false
			return nil, nil, nil
		}
		e.unclaimed = false
		return e, t.begin(e, upgrading), nil
	}
}

// evict begins to unmap unclaimed entries, except one that matches m. It reports whether
// there were any. mu is held.
func (t *Table) evict(entries []*entry, m Mapping) (any bool) {
	for _, e := range slices.Clone(entries) {
		if e.unclaimed && !e.matches(m) {
			t.drop(e)
			any = true
		}
	}
	return any
}

// runMap calls the window's Map, ends the op and closes fd.
func (t *Table) runMap(e *entry, o *op, fd int, m Mapping) {
	defer unix.Close(fd)
	err := o.window.Map(fd, m)
	if err != nil && t.mayBeStale(e) && o.window.Unmap(Range{m.Offset, m.Length}) == nil {
		// The window had a mapping that the table does not know: of an earlier server, or
		// because an Unmap has failed.
		err = o.window.Map(fd, m)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case e.state == gone:
		e.op = nil
		t.end(o, ErrNoWindow)
	case err == nil:
		e.m.Writable = m.Writable
		t.completeMap(e, nil)
	case e.state == upgrading:
		t.completeMap(e, err) // still mapped for reading
	default:
		t.remove(e)
		t.end(o, err)
	}
}

// mayBeStale reports whether the table has no mapping in the range of e yet: a mapping that
// the window has there is stale.
func (t *Table) mayBeStale(e *entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.state == mapping
}

// Unmap frees ranges. Each range covers any number of whole mappings, or none. If one range
// is wrong, nothing is unmapped.
//
// The ranges are free when Unmap returns. If cancel is closed, Unmap returns earlier, without
// an error, and Map waits for the ranges. If a window refuses to unmap, Unmap returns its
// error, and the range counts as free.
func (t *Table) Unmap(ranges []Range, cancel <-chan struct{}) error {
	ops, err := t.unmap(ranges)
	for _, o := range ops {
		select {
		case <-o.done:
			if err == nil {
				err = o.kept
			}
		case <-cancel:
			return nil
		}
	}
	return err
}

// unmap begins Unmap and returns the operations to wait for. A guest may send 65,535 ranges
// of the whole window each, so this checks each entry only once.
func (t *Table) unmap(ranges []Range) (ops []*op, err error) {
	ranges = slices.SortedFunc(slices.Values(ranges), func(a, b Range) int { return cmp.Compare(a.Offset, b.Offset) })
	t.mu.Lock()
	defer t.mu.Unlock()
	var hit []*entry
	done := 0 // entries before it are in hit, or in no range
	for _, r := range ranges {
		if err := t.checkRange(r); err != nil {
			return nil, err
		}
		i, j := t.overlapping(r)
		if i == j {
			continue
		}
		if last := t.entries[j-1].m; t.entries[i].m.Offset < r.Offset || last.Offset+last.Length > r.Offset+r.Length {
			return nil, fmt.Errorf("%w: %#x bytes at %#x cut a mapping", ErrRange, r.Length, r.Offset)
		}
		if i = max(i, done); i < j {
			hit = append(hit, t.entries[i:j]...)
			done = j
		}
	}
	for _, e := range hit {
		ops = append(ops, t.drop(e))
	}
	return ops, nil
}

// Reset frees the whole window for a new session of the guest. It does not wait; Map waits
// for ranges that are not free yet.
func (t *Table) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range slices.Clone(t.entries) {
		t.drop(e)
	}
}

// Wait returns when no operation is under way.
func (t *Table) Wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.running > 0 {
		t.idle.Wait()
	}
}

// drop unmaps an entry, now or as soon as its operation under way has ended. It returns the
// op that ends with the unmapping. mu is held.
func (t *Table) drop(e *entry) *op {
	switch e.state {
	case mapped:
		if t.window == nil { // what another process has left, before Reattach
			e.doubtful = true
			o := &op{done: make(chan struct{})}
			close(o.done)
			return o
		}
		t.begin(e, unmapping)
		_ = t.note(e)
		go t.runUnmap(e, e.op)
	case mapping, upgrading:
		e.unmapAfter = true
	}
	return e.op
}

// runUnmap calls the window's Unmap and ends the op.
func (t *Table) runUnmap(e *entry, o *op) {
	err := o.window.Unmap(Range{e.m.Offset, e.m.Length})
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.state != gone {
		t.remove(e)
	}
	if !e.doubtful { // otherwise it may have been unmapped before
		o.kept = err
	}
	t.end(o, nil)
}

// begin starts an op on e; mu is held.
func (t *Table) begin(e *entry, s state) *op {
	e.state = s
	e.op = &op{window: t.window, done: make(chan struct{})}
	t.running++
	return e.op
}

// end ends an op; mu is held.
func (t *Table) end(o *op, err error) {
	o.err = err
	close(o.done)
	if t.running--; t.running == 0 {
		t.idle.Broadcast()
	}
}

// completeMap ends the op of e, which is mapped now. If e has to be unmapped, the op continues
// until that is done. mu is held.
func (t *Table) completeMap(e *entry, err error) {
	o := e.op
	if e.unmapAfter {
		e.state = unmapping
		_ = t.note(e)
		go t.runUnmap(e, o)
		return
	}
	e.state, e.op = mapped, nil
	_ = t.note(e)
	t.end(o, err)
}

// remove takes e out of the table; mu is held.
func (t *Table) remove(e *entry) {
	i, _ := t.overlapping(Range{e.m.Offset, e.m.Length})
	t.entries = slices.Delete(t.entries, i, i+1)
	e.state, e.op = gone, nil
	_ = t.note(e)
}

// overlapping returns the entries i to j-1 that overlap r. If there are none, i is where an
// entry for r belongs. mu is held.
func (t *Table) overlapping(r Range) (i, j int) {
	i = sort.Search(len(t.entries), func(i int) bool {
		return t.entries[i].m.Offset+t.entries[i].m.Length > r.Offset
	})
	j = i + sort.Search(len(t.entries)-i, func(k int) bool {
		return t.entries[i+k].m.Offset >= r.Offset+r.Length
	})
	return i, j
}

// wait releases mu until o has ended or cancel is closed.
func (t *Table) wait(o *op, cancel <-chan struct{}) {
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-o.done:
	case <-cancel:
	}
}

// underWay returns an op of one of the entries, or nil.
func underWay(entries []*entry) *op {
	for _, e := range entries {
		if e.op != nil {
			return e.op
		}
	}
	return nil
}

// matches reports whether the entry maps the same bytes of the same file as m, writable or not.
func (e *entry) matches(m Mapping) bool {
	e2 := e.m
	e2.Writable = m.Writable
	return e2 == m
}

// covers reports whether the entry makes m unnecessary.
func (e *entry) covers(m Mapping) bool { return e.matches(m) && (e.m.Writable || !m.Writable) }

func canceled(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
