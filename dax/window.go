package dax

import (
	"errors"
)

// Mapping is one range of a file in a window.
type Mapping struct {
	Offset, Length uint64 // in the window, in bytes
	// File identifies the file. The Table only compares it, to recognize a mapping that
	// exists already.
	File       uint64
	FileOffset uint64 // in bytes
	Writable   bool   // the guest can change the file through it
}

// Range is a part of a window, in bytes.
type Range struct{ Offset, Length uint64 }

// Window is memory of a guest that files can be mapped into. Methods may be called
// concurrently, for ranges that do not overlap.
type Window interface {
	// Size is the window's length in bytes.
	Size() uint64
	// Map maps m.Length bytes of the file fd from m.FileOffset on at m.Offset. The caller
	// keeps fd. When Map returns without an error the guest sees the file. If it returns
	// an error, nothing has changed.
	//
	// The Table calls it for a free range, and again to make a mapped range writable, with
	// the same file and offset. The second call must leave no gap; a window that can't do
	// this returns an error.
	Map(fd int, m Mapping) error
	// Unmap removes the mapping of exactly one Map.
	Unmap(r Range) error
}

// Errors of a Table, on which a caller may decide.
var (
	// ErrRange is a range that is empty, not aligned, outside the window or, to be
	// unmapped, not made of whole mappings.
	ErrRange = errors.New("dax: bad range")
	// ErrTaken is a range in which something else is mapped.
	ErrTaken = errors.New("dax: range is taken")
	// ErrNoWindow means that there is no window at the moment.
	ErrNoWindow = errors.New("dax: no window")
	// ErrCanceled says that the caller did not want to wait any longer. The guest must
	// not count on the mapping.
	ErrCanceled = errors.New("dax: canceled")
)
