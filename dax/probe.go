package dax

import (
	"golang.org/x/sys/unix"
)

// Probe finds out whether the window maps past the end of a file, once for each window
// that is attached; PastEnd has the answer. It waits for the window, which should not be
// in use yet.
//
// Guests map whole units, and most files end within one. Where the window maps no more
// than the file has, the rest of the unit would have to be something else, and be
// exchanged in the moment in which the file grows. QEMU refuses (as of 11.1), others do
// what mmap does: a page is there as soon as the file has it.
func (t *Table) Probe() error {
	t.mu.Lock()
	w := t.window
	done := t.probed || w == nil
	t.probed = true
	t.mu.Unlock()
	if done {
		return nil
	}
	fd, err := unix.MemfdCreate("govirtiofs-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, []byte{0}, 0); err != nil {
		return err
	}
	// The last unit is the last that a guest would use.
	r := Range{t.size - t.align, t.align}
	if err := t.Map(fd, Mapping{Offset: r.Offset, Length: r.Length, File: probeFile}, nil); err != nil {
		return err
	}
	t.mu.Lock()
	t.pastEnd = t.window == w
	t.mu.Unlock()
	return t.Unmap([]Range{r}, nil)
}

// probeFile is Mapping.File of Probe, which nobody else has.
const probeFile = ^uint64(0)

// PastEnd reports whether the window was seen to map past the end of a file.
func (t *Table) PastEnd() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pastEnd
}
