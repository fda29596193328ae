package server

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// iovLen is the length of the buffers together, in bytes.
func iovLen(iov []unix.Iovec) (n uint64) {
	for i := range iov {
		n += uint64(iov[i].Len)
	}
	return n
}

func iovBytes(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// inBuffers reports whether an address lies in one of the buffers.
func inBuffers(iov []unix.Iovec, addr uintptr) bool {
	for i := range iov {
		if start := uintptr(unsafe.Pointer(iov[i].Base)); addr >= start && addr-start < uintptr(iov[i].Len) {
			return true
		}
	}
	return false
}

// gather copies len(dst) bytes from iov, after the first skip ones; it returns how
// many there were.
func gather(dst []byte, iov []unix.Iovec, skip uint64) (n int) {
	for i := range iov {
		b := iovBytes(&iov[i])
		if skip >= uint64(len(b)) {
			skip -= uint64(len(b))
			continue
		}
		n += copy(dst[n:], b[skip:])
		skip = 0
		if n == len(dst) {
			break
		}
	}
	return n
}

// scatter copies src to iov, after the first skip bytes; it returns how many fitted.
func scatter(iov []unix.Iovec, skip uint64, src []byte) (n int) {
	for i := range iov {
		b := iovBytes(&iov[i])
		if skip >= uint64(len(b)) {
			skip -= uint64(len(b))
			continue
		}
		n += copy(b[skip:], src[n:])
		skip = 0
		if n == len(src) {
			break
		}
	}
	return n
}

// cut appends to dst the buffers of iov that hold size bytes after the first skip
// ones. The buffers of iov stay as they are.
func cut(dst, iov []unix.Iovec, skip, size uint64) []unix.Iovec {
	for i := range iov {
		b := iovBytes(&iov[i])
		if skip >= uint64(len(b)) {
			skip -= uint64(len(b))
			continue
		}
		b = b[skip:]
		skip = 0
		if uint64(len(b)) > size {
			b = b[:size]
		}
		if len(b) == 0 {
			break
		}
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		v.SetLen(len(b))
		dst = append(dst, v)
		if size -= uint64(len(b)); size == 0 {
			break
		}
	}
	return dst
}

// alignedBytes is memory for n bytes, aligned to 8 for fuseproto.View.
func alignedBytes(n int) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)[:n]
}
