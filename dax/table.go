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

// Table checks and remembers what is mapped in a Window. It is safe for concurrent
// use.
type Table struct {
	size, align uint64

	mu      sync.Mutex    // guards the following; a leaf
	window  Window        // nil: there is none
	entries []*entry      // by offset; they do not overlap
	running int           // operations under way, those in old windows included
	probe   chan struct{} // of the window; closed when Probe has ended, nil before it was called
	traits  Traits
	idle    sync.Cond // running is 0
}

// entry is a range that is not free. Its fields are guarded by Table.mu.
type entry struct {
	m      Mapping
	state  state
	op     *op  // what is under way, or nil
	unwant bool // to be unmapped when op has ended
	orphan bool // nobody waited for it to be mapped: gives way to others
}

// state of an entry.
type state uint8

const (
	mapping   state = iota // nothing is mapped yet
	mapped                 // the only one without an op
	upgrading              // mapped, and being made writable
	unmapping
	gone // the table does not have the entry any more
)

// op is something that a window does.
type op struct {
	window Window
	done   chan struct{} // closed at the end; what follows is valid from then on
	err    error         // of Map
	kept   error         // of Unmap
}

// NewTable returns the table of a window of size bytes, without the window: that comes
// by Attach. Offsets and lengths are multiples of align, a power of two.
func NewTable(size, align uint64) *Table {
	t := &Table{size: size, align: align}
	t.idle.L = &t.mu
	return t
}

// Size is the window's length in bytes.
func (t *Table) Size() uint64 { return t.size }

// Align is what offsets and lengths are multiples of.
func (t *Table) Align() uint64 { return t.align }

// Attach gives the table a window, empty as far as the table knows, or takes it away
// with nil. All mappings are forgotten; what is under way is refused.
func (t *Table) Attach(w Window) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		e.state = gone
	}
	t.entries, t.window = nil, w
	t.probe, t.traits = nil, Traits{}
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

// Has reports whether m is mapped, and writable if m says so: Map would have nothing
// to do.
func (t *Table) Has(m Mapping) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, j := t.overlapping(Range{m.Offset, m.Length})
	if j != i+1 || t.entries[i].state != mapped || !t.entries[i].has(m) {
		return false
	}
	t.entries[i].orphan = false
	return true
}

// Mappings are those that the guest sees, by offset.
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

// Map maps a range of the file fd, which stays the caller's. The range must be free, or
// hold the same mapping already.
//
// What is mapped for reading becomes writable only if the window can do that in place;
// most can not. Not to need it, map writable what may be written to later.
//
// When cancel is closed Map returns ErrCanceled at once. The mapping may come about all
// the same: then it stays until the range is wanted for another, as the same request most
// often comes again. A nil cancel waits for ever.
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
		return o.err // just done
	}
	if e.state == mapping {
		e.orphan = true
	}
	return ErrCanceled
}

// reserve makes the entry of m, or finds the one that is to be made writable. Without
// an op there is nothing to do, or an error.
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
			t.entries = slices.Insert(t.entries, i, e)
			return e, t.begin(e, mapping), nil
		}
		if t.evict(t.entries[i:j], m) {
			continue
		}
		e := t.entries[i]
		switch {
		case j > i+1 || !e.shows(m):
			return nil, nil, fmt.Errorf("%w: %#x bytes at %#x", ErrTaken, m.Length, m.Offset)
		case e.has(m):
			e.orphan = false
			return nil, nil, nil
		}
		e.orphan = false
		return e, t.begin(e, upgrading), nil
	}
}

// evict begins to unmap entries that nobody waited for, unless they are m. It reports
// whether there were any. mu is held.
func (t *Table) evict(entries []*entry, m Mapping) (any bool) {
	for _, e := range slices.Clone(entries) {
		if e.orphan && !e.shows(m) {
			t.drop(e)
			any = true
		}
	}
	return any
}

// runMap has the window map, and ends the op. fd is closed.
func (t *Table) runMap(e *entry, o *op, fd int, m Mapping) {
	defer unix.Close(fd)
	err := o.window.Map(fd, m)
	if err != nil && t.mayBeStale(e) && o.window.Unmap(Range{m.Offset, m.Length}) == nil {
		// The window had something that the table does not know of: from a server that
		// ran before this one, or left by an Unmap that failed.
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
		t.settle(e, nil)
	case e.state == upgrading:
		t.settle(e, err) // as it was
	default:
		t.remove(e)
		t.end(o, err)
	}
}

// mayBeStale reports whether the window can't have anything of ours in the range.
func (t *Table) mayBeStale(e *entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return e.state == mapping
}

// Unmap frees ranges. Each covers whole mappings, any number of them; where nothing is
// mapped there is nothing to do. If one range is wrong none is unmapped.
//
// The ranges are free for Map when it returns, or when that has waited for them: with
// cancel closed Unmap returns early, without an error. A window that refuses to unmap
// is reported, and taken at its word that there is nothing to unmap.
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

// unmap begins Unmap; it returns what to wait for. A guest may send 65,535 ranges, each of
// the whole window, so each entry is looked at once.
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

// Reset frees the whole window, without waiting for it: the guest starts anew. Map
// waits where it has to.
func (t *Table) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range slices.Clone(t.entries) {
		t.drop(e)
	}
}

// Wait returns when nothing is under way.
func (t *Table) Wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.running > 0 {
		t.idle.Wait()
	}
}

// drop unmaps an entry, now or as soon as what is under way has ended, and returns the
// op that ends with that. mu is held.
func (t *Table) drop(e *entry) *op {
	switch e.state {
	case mapped:
		t.begin(e, unmapping)
		go t.runUnmap(e, e.op)
	case mapping, upgrading:
		e.unwant = true
	}
	return e.op
}

// runUnmap has the window unmap, and ends the op.
func (t *Table) runUnmap(e *entry, o *op) {
	err := o.window.Unmap(Range{e.m.Offset, e.m.Length})
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.state != gone {
		t.remove(e)
	}
	o.kept = err
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

// settle ends the op of e with e mapped, unless nobody wants it any more: then the op
// goes on until it is unmapped. mu is held.
func (t *Table) settle(e *entry, err error) {
	o := e.op
	if e.unwant {
		e.state = unmapping
		go t.runUnmap(e, o)
		return
	}
	e.state, e.op = mapped, nil
	t.end(o, err)
}

// remove takes e out of the table; mu is held.
func (t *Table) remove(e *entry) {
	i, _ := t.overlapping(Range{e.m.Offset, e.m.Length})
	t.entries = slices.Delete(t.entries, i, i+1)
	e.state, e.op = gone, nil
}

// overlapping are the entries i to j-1; i is where one for r belongs if there are none.
// mu is held.
func (t *Table) overlapping(r Range) (i, j int) {
	i = sort.Search(len(t.entries), func(i int) bool {
		return t.entries[i].m.Offset+t.entries[i].m.Length > r.Offset
	})
	j = i + sort.Search(len(t.entries)-i, func(k int) bool {
		return t.entries[i+k].m.Offset >= r.Offset+r.Length
	})
	return i, j
}

// wait lets go of mu until o has ended or cancel is closed.
func (t *Table) wait(o *op, cancel <-chan struct{}) {
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-o.done:
	case <-cancel:
	}
}

// underWay is an op of one of the entries, or nil.
func underWay(entries []*entry) *op {
	for _, e := range entries {
		if e.op != nil {
			return e.op
		}
	}
	return nil
}

// shows reports whether the entry is m, writable or not.
func (e *entry) shows(m Mapping) bool {
	e2 := e.m
	e2.Writable = m.Writable
	return e2 == m
}

// has reports whether the entry makes m unnecessary.
func (e *entry) has(m Mapping) bool { return e.shows(m) && (e.m.Writable || !m.Writable) }

func canceled(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
