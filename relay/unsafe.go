package relay

import "unsafe"

// pointer is where b is; b is aligned to 8 bytes and long enough for what the caller takes it for.
func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

func bytesOf(words *[maxListing / 8]uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(words)), len(words)*8)
}
