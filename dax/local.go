package dax

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Local is a Window in this process. Bytes has what a guest would see. It can map past the
// end of files, and it replaces mappings without a gap.
type Local struct{ memory []byte }

// NewLocal reserves the addresses of a window of size bytes, a multiple of the page
// size. An access to a part that is not mapped faults.
func NewLocal(size uint64) (*Local, error) {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("dax: window of %#x bytes: %w", size, err)
	}
	return &Local{memory: b}, nil
}

// Close frees the window and its mappings.
func (l *Local) Close() error { return unix.Munmap(l.memory) }

// Bytes is the window.
func (l *Local) Bytes() []byte { return l.memory }

// Size implements Window.
func (l *Local) Size() uint64 { return uint64(len(l.memory)) }

// Map implements Window.
func (l *Local) Map(fd int, m Mapping) error {
	prot := unix.PROT_READ
	if m.Writable {
		prot |= unix.PROT_WRITE
	}
	return l.put(Range{m.Offset, m.Length}, fd, int64(m.FileOffset), prot, unix.MAP_SHARED)
}

// Unmap implements Window.
func (l *Local) Unmap(r Range) error {
	return l.put(r, -1, 0, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
}

// put replaces the mappings of the range in one step.
func (l *Local) put(r Range, fd int, offset int64, prot, flags int) error {
	if r.Length == 0 || r.Length > l.Size() || r.Offset > l.Size()-r.Length {
		return fmt.Errorf("dax: %#x bytes at %#x of %#x", r.Length, r.Offset, l.Size())
	}
	at := unsafe.Pointer(&l.memory[r.Offset])
	if _, err := unix.MmapPtr(fd, offset, at, uintptr(r.Length), prot, flags|unix.MAP_FIXED); err != nil {
		return fmt.Errorf("dax: mmap: %w", err)
	}
	return nil
}
