package dax

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const unit = 2 << 20

var errOverlap = errors.New("overlap")

// strict is a window as strict as QEMU's: no mapping over a mapping, no unmapping of
// anything but one mapping. It also sees requests that a Table must not make at the
// same time.
type strict struct {
	t    testing.TB
	size uint64
	hold chan struct{} // if not nil, requests wait for it

	mu     sync.Mutex
	have   map[Range]Mapping
	active map[Range]bool
	calls  int
	refuse error // of Map
}

func newStrict(t testing.TB, size uint64) *strict {
	return &strict{t: t, size: size, have: map[Range]Mapping{}, active: map[Range]bool{}}
}

func (w *strict) Size() uint64 { return w.size }

func overlap(a, b Range) bool { return a.Offset < b.Offset+b.Length && b.Offset < a.Offset+a.Length }

func (w *strict) enter(r Range) {
	w.mu.Lock()
	for other := range w.active {
		if overlap(r, other) {
			w.t.Errorf("requests for %v and %v at the same time", r, other)
		}
	}
	w.active[r] = true
	w.calls++
	hold := w.hold
	w.mu.Unlock()
	if hold != nil {
		<-hold
	}
	w.mu.Lock()
}

func (w *strict) leave(r Range) {
	delete(w.active, r)
	w.mu.Unlock()
}

func (w *strict) Map(fd int, m Mapping) error {
	r := Range{m.Offset, m.Length}
	w.enter(r)
	defer w.leave(r)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		w.t.Error("the descriptor is closed:", err)
	}
	if w.refuse != nil {
		return w.refuse
	}
	for have := range w.have {
		if overlap(r, have) {
			return errOverlap
		}
	}
	w.have[r] = m
	return nil
}

func (w *strict) Unmap(r Range) error {
	w.enter(r)
	defer w.leave(r)
	if _, ok := w.have[r]; !ok {
		return errors.New("not mapped")
	}
	delete(w.have, r)
	return nil
}

// mappings are those of the window, by offset.
func (w *strict) mappings() []Mapping {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Mapping
	for _, m := range w.have {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Mapping) int { return int(int64(a.Offset - b.Offset)) })
	return list
}

func newTable(t testing.TB, units uint64) (*Table, *strict) {
	w := newStrict(t, units*unit)
	table := NewTable(units*unit, unit)
	table.Attach(w)
	return table, w
}

// at is the mapping of n units of file at unit i.
func at(i, n, file uint64) Mapping {
	return Mapping{Offset: i * unit, Length: n * unit, File: file, FileOffset: i * unit}
}

func span(i, n uint64) []Range { return []Range{{i * unit, n * unit}} }

// agree checks that table and window have the same.
func agree(t *testing.T, table *Table, w *strict) {
	t.Helper()
	if a, b := table.Mappings(), w.mappings(); !slices.Equal(a, b) {
		t.Errorf("the table has %v, the window %v", a, b)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 20_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("waited for too long")
}

func (m Mapping) String() string {
	return fmt.Sprintf("%x+%x=%d@%x,%t", m.Offset, m.Length, m.File, m.FileOffset, m.Writable)
}
