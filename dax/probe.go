package dax

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Traits are the abilities in which windows differ.
type Traits struct {
	// ReadOnly: a file that is open for reading only can be mapped. QEMU 11.1 maps
	// everything for writing and refuses it.
	ReadOnly bool
	// PastEnd: a range can be mapped that ends behind the end of the file; a page of it
	// is there as soon as the file has it, as mmap has it. QEMU 11.1 refuses.
	PastEnd bool
}

// Traits are the abilities that Probe has found. Before Probe there are none.
func (t *Table) Traits() Traits {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.traits
}

// Probe finds out the window's abilities by mapping files of its own, once for each window
// that is attached. It waits for the window, or for another call that probes it. The window
// should not be in use much yet. It tries PastEnd only if asked for, because a VMM may log
// what it refuses.
func (t *Table) Probe(pastEnd bool) error {
	t.StartProbe(pastEnd)
	t.mu.Lock()
	w, ended := t.window, t.probe
	t.mu.Unlock()
	if w == nil {
		return nil
	}
	<-ended
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.window != w {
		return ErrNoWindow
	}
	return nil
}

// runProbe is Probe for the window w.
func (t *Table) runProbe(w Window, ended chan struct{}, pastEnd bool) {
	defer close(ended)
	seen := Traits{ReadOnly: t.try(true, t.align)}
	if pastEnd {
		seen.PastEnd = t.try(false, 1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.window == w {
		t.traits = seen
		t.noteTraits(true)
	}
}

// StartProbe runs Probe in a goroutine, unless Probe has begun already. So a window that
// never answers costs one goroutine, however often a guest begins a session.
func (t *Table) StartProbe(pastEnd bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.startProbe(pastEnd)
}

// startProbe is StartProbe; mu is held.
func (t *Table) startProbe(pastEnd bool) {
	switch {
	case t.window == nil:
		t.later = &pastEnd
	case t.probe == nil:
		ended := make(chan struct{})
		t.probe = ended
		go t.runProbe(t.window, ended, pastEnd)
	}
}

// probeFile is the Mapping.File that only Probe uses.
const probeFile = ^uint64(0)

// try maps a file of the given size, sealed against writing or not, into the last unit of
// the window. A guest uses this unit last.
func (t *Table) try(sealed bool, bytes uint64) bool {
	fd, err := probe(sealed, bytes)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	r := Range{t.size - t.align, t.align}
	m := Mapping{Offset: r.Offset, Length: r.Length, File: probeFile, Writable: !sealed}
	if t.Map(fd, m, nil) != nil {
		return false
	}
	return t.Unmap([]Range{r}, nil) == nil
}

func probe(sealed bool, bytes uint64) (int, error) {
	fd, err := unix.MemfdCreate("govirtiofs-probe", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("dax: %w", err)
	}
	err = unix.Ftruncate(fd, int64(bytes))
	if err == nil && sealed {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("dax: %w", err)
	}
	return fd, nil
}
