// Package wire is what a share and govirtiofs-guest say to each other about changes on the host.
//
// The share has a directory [Dir], which no listing shows and only root may enter, with a file
// [File]. The helper opens it and reads with pread(2). The offset of a read is the number of the
// last record that was performed; the answer has the next records. A read waits some seconds for
// them, and then its answer is empty. The first record says a name in Dir, which the helper's
// thread looks up: so the share gets to know the thread.
//
// All numbers are little-endian. A record:
//
//	u16 length of the record, u8 Op, u8 type of the file (DT_...)
//	u16 length of Path, u16 length of NewPath
//	u64 Seq, u64 Nonce
//	Path, NewPath
package wire

import (
	"encoding/binary"
	"errors"
	"strings"
)

// Names in the root of a share.
const (
	Dir  = ".govirtiofs"
	File = "events"
	// ReadOnly is added to the secret name by a helper whose mount is read-only.
	ReadOnly = ".ro"
)

// Op is what the helper does.
type Op uint8

const (
	// Hello is the first record: look Path up in Dir.
	Hello Op = iota + 1
	// Make makes Path, a file of the type.
	Make
	// Remove removes Path.
	Remove
	// Move renames Path to NewPath.
	Move
	// Modify asks for the attributes of Path anew, and sets its time of modification to Nonce
	// seconds, the access time not.
	Modify
	// Close opens Path for writing, and closes it.
	Close
	// Attributes sets both times of Path to Nonce seconds.
	Attributes
	// Check has the kernel look the name up again: it makes Path as a file that must not exist.
	// It always fails.
	Check
	// Refresh asks for the attributes of Path anew.
	Refresh
	// Lost says that changes were missed. The records up to Found say what is known of them.
	Lost
	// Found ends what Lost began.
	Found
	numOps
)

// Limits of what is in a record, in bytes.
const (
	MaxPath   = 4095
	headSize  = 24
	MaxRecord = headSize + 2*MaxPath
)

// Record is one thing that the helper does.
type Record struct {
	Op            Op
	Type          uint8 // DT_REG and the like; 0 is a regular file
	Seq, Nonce    uint64
	Path, NewPath string // relative to the root of the share; "" is the root
}

// ErrBad says that bytes are not records.
var ErrBad = errors.New("wire: not a record")

// Size is the length of the record, in bytes.
func (r *Record) Size() int { return headSize + len(r.Path) + len(r.NewPath) }

// Append appends the record, whose paths have at most MaxPath bytes.
func (r *Record) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Size()))
	b = append(b, byte(r.Op), r.Type)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Path)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.NewPath)))
	b = binary.LittleEndian.AppendUint64(b, r.Seq)
	b = binary.LittleEndian.AppendUint64(b, r.Nonce)
	return append(append(b, r.Path...), r.NewPath...)
}

// Parse takes one record from b, and returns what follows.
func Parse(b []byte) (r Record, rest []byte, err error) {
	if len(b) < headSize {
		return r, nil, ErrBad
	}
	size := int(binary.LittleEndian.Uint16(b))
	path, newPath := int(binary.LittleEndian.Uint16(b[4:])), int(binary.LittleEndian.Uint16(b[6:]))
	r = Record{Op: Op(b[2]), Type: b[3], Seq: binary.LittleEndian.Uint64(b[8:]), Nonce: binary.LittleEndian.Uint64(b[16:])}
	if size != headSize+path+newPath || size > len(b) || path > MaxPath || newPath > MaxPath || r.Op == 0 || r.Op >= numOps {
		return r, nil, ErrBad
	}
	r.Path, r.NewPath = string(b[headSize:headSize+path]), string(b[headSize+path:size])
	if !goodPath(r.Path) || !goodPath(r.NewPath) {
		return r, nil, ErrBad
	}
	return r, b[size:], nil
}

// goodPath reports whether a path stays in the share, whatever is in it.
func goodPath(p string) bool {
	if p == "" {
		return true
	}
	for c := range strings.SplitSeq(p, "/") {
		if c == "" || c == "." || c == ".." || strings.IndexByte(c, 0) >= 0 {
			return false
		}
	}
	return true
}
