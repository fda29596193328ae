package fuse

import (
	"errors"
	"io"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffers are the client's memory for a request, a reply, or the file data in one of them.
// They are pieces of any length, one after the other, in the form that preadv(2) and
// pwritev(2) take. They are borrowed: after the call that they were passed to, they may
// belong to another request.
//
// A client can change their content at any time. Copy what a decision depends on, and
// decide on the copy. Access to a buffer whose memory the client has taken away panics.
// The transport recovers, and the request is lost.
type Buffers []unix.Iovec

// Over returns buffers over memory of this process, which must live as long as they do.
// Empty pieces are left out.
func Over(pieces ...[]byte) Buffers {
	b := make(Buffers, 0, len(pieces))
	for _, p := range pieces {
		b = b.Append(p)
	}
	return b
}

// Append appends a piece of this process's memory, if it is not empty.
func (b Buffers) Append(p []byte) Buffers {
	if len(p) == 0 {
		return b
	}
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return append(b, v)
}

// Len is the length of all pieces together, in bytes. It can exceed the size of the
// memory, because pieces may overlap.
func (b Buffers) Len() (n uint64) {
	for i := range b {
		n += uint64(b[i].Len)
	}
	return n
}

// Piece is the memory of b[i].
func (b Buffers) Piece(i int) []byte { return unsafe.Slice(b[i].Base, b[i].Len) }

// CopyTo copies from b, after its first skip bytes, to dst. It returns the number of
// copied bytes, which is less than len(dst) at the end of b.
func (b Buffers) CopyTo(dst []byte, skip uint64) (n int) {
	if len(b) > 0 && skip <= uint64(b[0].Len) && uint64(len(dst)) <= uint64(b[0].Len)-skip { // as most are
		return copy(dst, b.Piece(0)[skip:])
	}
	return b.copyTo(dst, skip)
}

func (b Buffers) copyTo(dst []byte, skip uint64) (n int) {
	for i := range b {
		p := b.Piece(i)
		if skip >= uint64(len(p)) {
			skip -= uint64(len(p))
			continue
		}
		n += copy(dst[n:], p[skip:])
		skip = 0
		if n == len(dst) {
			break
		}
	}
	return n
}

// CopyFrom copies src to b, after its first skip bytes. It returns the number of copied
// bytes.
func (b Buffers) CopyFrom(src []byte, skip uint64) (n int) {
	if len(b) > 0 && skip <= uint64(b[0].Len) && uint64(len(src)) <= uint64(b[0].Len)-skip { // as most are
		return copy(b.Piece(0)[skip:], src)
	}
	return b.copyFrom(src, skip)
}

func (b Buffers) copyFrom(src []byte, skip uint64) (n int) {
	for i := range b {
		p := b.Piece(i)
		if skip >= uint64(len(p)) {
			skip -= uint64(len(p))
			continue
		}
		n += copy(p[skip:], src[n:])
		skip = 0
		if n == len(src) {
			break
		}
	}
	return n
}

// Fill fills b with the content of r from the offset off on, in bytes. It returns the
// number of bytes. At the end of r this is less than b has room for, which is not an
// error. r writes to the client's own memory and must not rely on what it has written
// there.
func (b Buffers) Fill(r io.ReaderAt, off uint64) (n int, err error) {
	for i := range b {
		at := off + uint64(n)
		if at > math.MaxInt64 || at < off {
			return n, nil // r has nothing there
		}
		p := b.Piece(i)
		k, err := r.ReadAt(p, int64(at))
		n += k
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil || k < len(p) {
			return n, err
		}
	}
	return n, nil
}

// Cut appends to dst the pieces of b that hold size bytes after the first skip bytes, or fewer
// at the end of b. It copies no data and does not change b. dst may not share memory with b.
func (b Buffers) Cut(dst Buffers, skip, size uint64) Buffers {
	for i := range b {
		if size == 0 {
			break
		}
		p := b.Piece(i)
		if skip >= uint64(len(p)) {
			skip -= uint64(len(p))
			continue
		}
		p = p[skip:]
		skip = 0
		p = p[:min(uint64(len(p)), size)]
		size -= uint64(len(p))
		dst = dst.Append(p)
	}
	return dst
}

// Holds reports whether an address lies in one of the pieces.
func (b Buffers) Holds(addr uintptr) bool {
	for i := range b {
		if start := uintptr(unsafe.Pointer(b[i].Base)); addr >= start && addr-start < uintptr(b[i].Len) {
			return true
		}
	}
	return false
}
