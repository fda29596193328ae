package dax

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

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

func (nothing) Size() uint64 { return 0 }

func (nothing) Map(int, Mapping) error { return nil }

func (nothing) Unmap(Range) error { return nil }
