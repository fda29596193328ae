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

func TestBadRequestsChangeNothing(t *testing.T) {
	table, w := newTable(t, 8)
	if err := table.Map(0, at(2, 2, 1), nil); err != nil {
		t.Fatal(err)
	}
	calls := w.calls
	const big = 1 << 63
	for _, m := range []Mapping{
		{Offset: 0, Length: 0},
		{Offset: 4096, Length: unit},
		{Offset: 0, Length: unit - 4096},
		{Offset: 0, Length: unit, FileOffset: 4096},
		{Offset: 8 * unit, Length: unit},
		{Offset: 7 * unit, Length: 2 * unit},
		{Offset: 0, Length: 9 * unit},
		{Offset: big, Length: big},
		{Offset: 1<<64 - unit, Length: unit},
		{Offset: 0, Length: unit, FileOffset: big},
		{Offset: 0, Length: unit, FileOffset: big - unit},
	} {
		if err := table.Map(0, m, nil); !errors.Is(err, ErrRange) {
			t.Errorf("Map(%+v): %v", m, err)
		}
		if m.FileOffset == 0 {
			list := []Range{{2 * unit, 2 * unit}, {m.Offset, m.Length}}
			if err := table.Unmap(list, nil); !errors.Is(err, ErrRange) {
				t.Errorf("Unmap(%v): %v", list, err)
			}
		}
	}
	for _, m := range []Mapping{at(2, 1, 1), at(3, 1, 1), at(1, 2, 1), at(0, 8, 1), at(2, 2, 2)} {
		if err := table.Map(0, m, nil); !errors.Is(err, ErrTaken) {
			t.Errorf("Map(%+v): %v", m, err)
		}
	}
	for _, list := range [][]Range{span(2, 1), span(3, 1), span(0, 3), append(span(2, 2), span(3, 4)...)} {
		if err := table.Unmap(list, nil); !errors.Is(err, ErrRange) {
			t.Errorf("Unmap(%v): %v", list, err)
		}
	}
	if err := table.Map(-1, at(5, 1, 1), nil); !errors.Is(err, unix.EBADF) {
		t.Error("Map of no file:", err)
	}
	if w.calls != calls || len(table.Mappings()) != 1 {
		t.Errorf("%d requests reached the window; mapped: %v", w.calls-calls, table.Mappings())
	}
}

func TestUnmap(t *testing.T) {
	table, w := newTable(t, 8)
	for i := range uint64(6) {
		if err := table.Map(0, at(i, 1, 1), nil); err != nil {
			t.Fatal(err)
		}
	}
	// Ranges may repeat, cover several mappings, and be free.
	if err := table.Unmap(append(append(span(1, 2), span(1, 1)...), span(6, 2)...), nil); err != nil {
		t.Fatal(err)
	}
	if got := len(table.Mappings()); got != 4 {
		t.Errorf("%d mappings are left", got)
	}
	agree(t, table, w)
	table.Reset()
	table.Wait()
	if len(w.mappings()) != 0 {
		t.Error("after Reset:", w.mappings())
	}
}

// TestUnmapManyTimes: the longest list that a guest can send, with the same range in each
// place, is no more work than the mappings are.
func TestUnmapManyTimes(t *testing.T) {
	const units, times = 64, 65535
	table, w := newTable(t, units)
	for i := range uint64(units) {
		if err := table.Map(0, at(i, 1, 1), nil); err != nil {
			t.Fatal(err)
		}
	}
	ranges := make([]Range, 0, times+2)
	for range times {
		ranges = append(ranges, span(0, units)...)
	}
	// Ranges within others, in front of them and behind.
	ranges = append(ranges, span(3, 2)[0], span(0, 1)[0])
	ops, err := table.unmap(ranges)
	if err != nil || len(ops) != units {
		t.Errorf("%d unmapped, %v, want %d", len(ops), err, units)
	}
	table.Wait()
	agree(t, table, w)
}

func TestRefusal(t *testing.T) {
	table, w := newTable(t, 4)
	w.refuse = unix.ENOMEM
	if err := table.Map(0, at(0, 1, 1), nil); !errors.Is(err, unix.ENOMEM) {
		t.Error(err)
	}
	w.refuse = nil
	agree(t, table, w)
	if err := table.Map(0, at(0, 1, 1), nil); err != nil {
		t.Error("after a refusal:", err)
	}
}

func TestUpgrade(t *testing.T) {
	table, w := newTable(t, 4)
	m := at(0, 1, 1)
	m.Writable = true
	if err := table.Map(0, m, nil); err != nil {
		t.Fatal(err)
	}
	calls := w.calls
	for _, writable := range []bool{false, true} {
		m.Writable = writable
		if !table.Has(m) || table.Map(0, m, nil) != nil || w.calls != calls {
			t.Error("what is writable is mapped again")
		}
	}
	// A window that can't do it in place refuses, and the mapping stays.
	m = at(1, 1, 1)
	if err := table.Map(0, m, nil); err != nil {
		t.Fatal(err)
	}
	m.Writable = true
	if table.Has(m) || table.Map(0, m, nil) == nil {
		t.Error("a window that refuses was taken to agree")
	}
	agree(t, table, w)

	local, err := NewLocal(4 * unit)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	table.Attach(local)
	fd := memfd(t, unit, 'a')
	m = at(0, 1, 1)
	for _, writable := range []bool{false, true} {
		m.Writable = writable
		if err := table.Map(fd, m, nil); err != nil {
			t.Fatal(err)
		}
	}
	local.Bytes()[0] = 'b' // faults unless it is writable
}

func memfd(t testing.TB, size int64, fill byte) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	b := make([]byte, size)
	for i := range b {
		b[i] = fill
	}
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestStale: a mapping in the window that the table does not know of goes.
func TestStale(t *testing.T) {
	table, w := newTable(t, 4)
	if err := table.Map(0, at(1, 1, 1), nil); err != nil {
		t.Fatal(err)
	}
	table.Attach(w) // as with a new server
	if err := table.Map(0, at(1, 1, 2), nil); err != nil {
		t.Error(err)
	}
	agree(t, table, w)
}

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

func TestLocal(t *testing.T) {
	local, err := NewLocal(4 * unit)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	table := NewTable(4*unit, unit)
	table.Attach(local)
	// A file that ends within the range.
	fd := memfd(t, 5000, 'x')
	m := at(0, 1, 1)
	m.Offset, m.Writable = 2*unit, true
	if err := table.Map(fd, m, nil); err != nil {
		t.Fatal(err)
	}
	guest := local.Bytes()[2*unit:]
	if guest[4999] != 'x' || guest[5000] != 0 {
		t.Error("wrong data at the end of the file")
	}
	guest[0] = 'y'
	if _, err := unix.Pwrite(fd, []byte("grown"), 9000); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := unix.Pread(fd, b, 0); err != nil || b[0] != 'y' {
		t.Error("the file does not have what the guest wrote:", err, b)
	}
	if string(guest[9000:9005]) != "grown" {
		t.Error("the guest does not see how the file grew")
	}
	if err := table.Unmap(span(2, 1), nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Range{{0, 0}, {4 * unit, 4096}, {0, 5 * unit}, {1<<64 - 4096, 8192}} {
		if local.Unmap(r) == nil {
			t.Error("outside the window:", r)
		}
	}
}

// BenchmarkTable is the cost of the books alone, with 4096 mappings as in a window of
// 8 GiB.
func BenchmarkTable(b *testing.B) {
	const units = 4096
	table := NewTable(units*unit, unit)
	table.Attach(nothing{})
	for i := range uint64(units) {
		if err := table.Map(0, at(i, 1, 1), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for i := range b.N {
		j := uint64(i*7919) % units
		if err := errors.Join(table.Unmap(span(j, 1), nil), table.Map(0, at(j, 1, 1), nil)); err != nil {
			b.Fatal(err)
		}
	}
}

type nothing struct{}

func (nothing) Size() uint64           { return 0 }
func (nothing) Map(int, Mapping) error { return nil }
func (nothing) Unmap(Range) error      { return nil }

func (m Mapping) String() string {
	return fmt.Sprintf("%x+%x=%d@%x,%t", m.Offset, m.Length, m.File, m.FileOffset, m.Writable)
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
