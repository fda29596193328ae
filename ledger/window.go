package ledger

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// windowHeader is of the DAX window. Records of mappings follow it, by the offset in the window.
type windowHeader struct {
	size, unit uint64 // of the window, in bytes
	word       uint64 // see Window.SetWord
}

// mappingRecord is a mapping, by the unit of the window that it begins in.
type mappingRecord struct {
	state      uint64 // 0 is none; written last, and cleared first
	offset     uint64
	length     uint64
	file       uint64
	fileOffset uint64
	_          [3]uint64
}

const (
	mappingSize = int64(unsafe.Sizeof(mappingRecord{}))
	mappingBits = 6
)

var _ = [1]struct{}{}[(mappingSize<<mappingBits)-pageSize]

// MappingRecord is a mapping in a DAX window, as package dax means it.
type MappingRecord struct {
	State          uint64 // not 0
	Offset, Length uint64 // in the window, in bytes; multiples of its unit
	File           uint64
	FileOffset     uint64
}

// Window is the mappings in a DAX window. Its methods are called one at a time.
type Window struct {
	header  *windowHeader
	unit    uint64
	records section
}

// Window returns the mappings in a DAX window of size bytes, that begin at multiples of unit. It has
// those that another process has left, if its window was the same. An error is want of memory, or a window of
// more than MaxMappings units.
func (l *Ledger) Window(size, unit uint64) (*Window, error) {
	if unit == 0 || size/unit > MaxMappings {
		return nil, fmt.Errorf("ledger: a window of %d bytes, in units of %d: at most %d units", size, unit, MaxMappings)
	}
	if err := l.need(windowAt, pageSize); err != nil {
		return nil, err
	}
	w := &Window{header: (*windowHeader)(l.at(windowAt)), unit: unit}
	w.records = section{ledger: l, at: windowAt + pageSize, size: mappingSize, bits: mappingBits, count: MaxMappings}
	same := w.header.size == size && w.header.unit == unit
	err := w.records.scan(func(first uint32) {
		for i := first; !same && i < first+1<<mappingBits; i++ {
			store(&w.record(i).state, 0)
		}
	})
	if !same {
		w.SetWord(0)
		w.header.size, w.header.unit = size, unit
	}
	return w, err
}

func (w *Window) record(i uint32) *mappingRecord { return (*mappingRecord)(w.records.record(i)) }

// slot is where a mapping is that begins at offset.
func (w *Window) slot(offset uint64) uint32 {
	return uint32(min(offset/w.unit, MaxMappings-1))
}

// Put records a mapping, in place of the one that begins at the same offset. An error is want of
// memory, which can only be if there was none.
func (w *Window) Put(m MappingRecord) error {
	i := w.slot(m.Offset)
	if _, err := w.records.need(i); err != nil {
		return err
	}
	r := w.record(i)
	if r.state != 0 && r.offset == m.Offset && r.length == m.Length && r.file == m.File && r.fileOffset == m.FileOffset {
		store(&r.state, m.State)
		return nil
	}
	store(&r.state, 0)
	r.offset, r.length, r.file, r.fileOffset = m.Offset, m.Length, m.File, m.FileOffset
	store(&r.state, m.State)
	return nil
}

// Remove records that there is no mapping that begins at offset.
func (w *Window) Remove(offset uint64) {
	if i := w.slot(offset); w.records.has(i) {
		store(&w.record(i).state, 0)
	}
}

// Mappings yields the mappings in the order of their offsets, until yield returns false. What makes no sense
// in a record is yield's to find out, but for the offset.
func (w *Window) Mappings(yield func(m MappingRecord) bool) {
	w.records.records(func(i uint32) bool {
		r := w.record(i)
		if r.state == 0 {
			return true
		}
		m := MappingRecord{r.state, r.offset, r.length, r.file, r.fileOffset}
		if m.Offset != uint64(i)*w.unit {
			return true
		}
		return yield(m)
	})
}

// SetWord keeps a number about the window, of the caller's choice. At first it is 0.
func (w *Window) SetWord(v uint64) { atomic.StoreUint64(&w.header.word, v) }

// Word is the number of SetWord.
func (w *Window) Word() uint64 { return atomic.LoadUint64(&w.header.word) }
