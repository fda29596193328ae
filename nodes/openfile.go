package nodes

import (
	"sync/atomic"
	"unsafe"

	"github.com/govirtiofs/govirtiofs/fuse"
)

// OpenFile is the part of an open file or directory that [OpenFiles] knows. A file
// system's type of open files begins with it.
type OpenFile struct {
	id   uint64
	refs atomic.Int32 // the table's, while the file is open, and of requests that use it
}

// ID is the client's number for the open file: fh in the protocol. The caller has a
// reference.
func (f *OpenFile) ID() uint64 { return f.id }

// Acquire takes a reference for a request, which OpenFiles.Release drops; false when the
// last one is gone.
func (f *OpenFile) Acquire() bool {
	for {
		v := f.refs.Load()
		if v == 0 {
			return false
		}
		if f.refs.CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// OpenFiles is the open files and directories of one file system, by id. All threads may
// call its methods. One request may use an open file while another closes it: the open
// file ends when the last request has released it.
//
// An F may be used again after that, for the same OpenFiles: all of it but its OpenFile
// may be changed then. So a request that finds an open file by its number must take a
// reference and compare the number before it reads anything else.
type OpenFiles[F any] struct {
	slots    slots[F]
	recorder OpenRecorder[F]
	gone     func(*F)
}

// OpenConfig has the functions that are told of changes; both may be nil.
type OpenConfig[F any] struct {
	// Gone is called when the last reference on an open file was released, with none of
	// the table's locks held.
	Gone func(*F)
	// Recorder is called for every change.
	Recorder OpenRecorder[F]
}

// NewOpenFiles returns a table without open files. The first field of the struct F must
// be an embedded OpenFile; otherwise NewOpenFiles panics.
func NewOpenFiles[F any](c OpenConfig[F]) *OpenFiles[F] {
	mustBeginWith[F, OpenFile]()
	return &OpenFiles[F]{recorder: c.Recorder, gone: c.Gone}
}

// StartAt has ids begin in this generation; see Table.StartAt.
func (t *OpenFiles[F]) StartAt(generation uint32) { t.slots.startAt(generation) }

// openFile is the part of f that the table knows. NewOpenFiles has checked that f begins
// with it.
func openFile[F any](f *F) *OpenFile { return (*OpenFile)(unsafe.Pointer(f)) }

// Add adds f and returns its id; 0 when the table, or the recorder, is full. The table has a
// reference until Close. by is the request that opens f, or nil.
func (t *OpenFiles[F]) Add(by *fuse.Cell, f *F) (id uint64) {
	return t.slots.add(f, func(id uint64) bool { return t.open(by, f, id) })
}

// Adopt is Add with another table's id, before Settle. It returns false when the id is
// taken or invalid. Ids whose slot is limit or more are refused: the sender of the ids
// decides where they are in the table, and each page of the table costs memory.
func (t *OpenFiles[F]) Adopt(f *F, id uint64, limit uint32) bool {
	return t.slots.put(id, limit, f, func() bool { return t.open(nil, f, id) }, func(*F) {})
}

// open makes f an open file that requests can find.
func (t *OpenFiles[F]) open(by *fuse.Cell, f *F, id uint64) bool {
	b := openFile(f)
	b.id = id
	if t.recorder != nil && !t.recorder.Opened(by, f) {
		return false
	}
	b.refs.Store(1)
	return true
}

// Acquire finds an open file and takes a reference for a request, which Release drops.
// It returns nil when the client does not have it, or no longer. The caller must check
// that the open file belongs to the request's node.
func (t *OpenFiles[F]) Acquire(id uint64) *F {
	f := t.slots.get(id)
	if f == nil {
		return nil
	}
	b := openFile(f)
	if !b.Acquire() {
		return nil
	}
	if b.id != id { // it was closed, and the number is another one's by now
		t.Release(f)
		return nil
	}
	return f
}

// Release drops a reference.
func (t *OpenFiles[F]) Release(f *F) {
	if openFile(f).refs.Add(-1) == 0 {
		t.drop(f)
	}
}

// drop ends an open file whose last reference was released.
func (t *OpenFiles[F]) drop(f *F) {
	t.slots.release(uint32(openFile(f).id), f, func() {})
	if t.gone != nil {
		t.gone(f)
	}
}

// Close ends an open file's id. Requests that use it continue. Close returns false if it
// is closed already. The caller has a reference and keeps it.
func (t *OpenFiles[F]) Close(f *F) bool {
	b := openFile(f)
	if !t.slots.retire(b.id) {
		return false
	}
	if t.recorder != nil {
		t.recorder.Closed(f)
	}
	t.Release(f)
	return true
}

// Has reports whether f is open. The caller has a reference.
func (t *OpenFiles[F]) Has(f *F) bool { return t.slots.get(openFile(f).id) == f }

// All yields the open files, each with a reference that ends after yield. Other
// threads may open and close files meanwhile.
func (t *OpenFiles[F]) All(yield func(*F) bool) {
	for id := range t.slots.all {
		f := t.Acquire(id)
		if f == nil {
			continue
		}
		more := yield(f)
		t.Release(f)
		if !more {
			return
		}
	}
}

// Settle, End and Generations are those of Table.
func (t *OpenFiles[F]) Settle(end, generations uint32) { t.slots.settle(end, generations) }

// End is one more than the largest slot that was ever in use.
func (t *OpenFiles[F]) End() uint32 { return t.slots.end() }

// Generations is the largest generation that was ever in use.
func (t *OpenFiles[F]) Generations() uint32 { return t.slots.generations() }
