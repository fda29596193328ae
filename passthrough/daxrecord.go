package passthrough

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// windowRecorder keeps the mappings of the window in the ledger. It implements dax.Recorder.
type windowRecorder struct{ *ledger.Window }

// Bits of a mapping in the ledger. One is always set.
const (
	mappingThere = 1 << iota
	mappingSure
	mappingWritable
)

// Bits of what is known about the window.
const (
	windowKnown = 1 << iota
	windowReadOnly
	windowPastEnd
)

func bit(is bool, b uint64) uint64 {
	if is {
		return b
	}
	return 0
}

// Put implements dax.Recorder.
func (w windowRecorder) Put(r dax.Record) error {
	return w.Window.Put(ledger.MappingRecord{
		State:  mappingThere | bit(r.Sure, mappingSure) | bit(r.Writable, mappingWritable),
		Offset: r.Offset, Length: r.Length, File: r.File, FileOffset: r.FileOffset,
	})
}

// Records implements dax.Recorder.
func (w windowRecorder) Records(yield func(r dax.Record) bool) {
	for m := range w.Mappings {
		r := dax.Record{
			Mapping: dax.Mapping{Offset: m.Offset, Length: m.Length, File: m.File, FileOffset: m.FileOffset, Writable: m.State&mappingWritable != 0},
			Sure:    m.State&mappingSure != 0,
		}
		if !yield(r) {
			return
		}
	}
}

// SetTraits implements dax.Recorder.
func (w windowRecorder) SetTraits(t dax.Traits, known bool) {
	w.SetWord(bit(known, windowKnown) | bit(t.ReadOnly, windowReadOnly) | bit(t.PastEnd, windowPastEnd))
}

// Traits implements dax.Recorder.
func (w windowRecorder) Traits() (t dax.Traits, known bool) {
	v := w.Word()
	return dax.Traits{ReadOnly: v&windowReadOnly != 0, PastEnd: v&windowPastEnd != 0}, v&windowKnown != 0
}

// recordWindow has the window's mappings recorded, and takes over those of a predecessor.
func (fs *FS) recordWindow() error {
	d := fs.cfg.DAX
	if d == nil {
		return nil
	}
	w, err := fs.cfg.Ledger.Window(d.Table.Size(), d.Table.Align())
	if err != nil {
		return fmt.Errorf("passthrough: DAX window: %w", err)
	}
	d.Table.Recover(windowRecorder{w})
	return nil
}

// mappings marks the nodes that are mapped in the window: the client uses them by DAX.
func (r *resumer) mappings() {
	d := r.fs.cfg.DAX
	if d == nil {
		return
	}
	for _, m := range d.Table.Mappings() {
		n := r.fs.nodes.Restored(uint32(m.File))
		if n != nil && n.ID() == m.File && n.isReg() {
			n.marks |= markDAX
		}
	}
}
