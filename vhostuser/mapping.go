package vhostuser

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// maxMapping bounds offset and size of one mapping to what an address space can
// hold.
const maxMapping = 1 << 46

// mapping is a part of a front-end's file in our address space.
type mapping struct {
	all  []byte // what mmap gave: whole pages
	part []byte // what was asked for
}

// mapFile maps size bytes of fd at offset, shared; fd stays the caller's. A file
// that may not be written is mapped for reading: the front-end tells us about
// windows of shared memory like that.
func mapFile(fd int, offset, size uint64) (mapping, error) {
	align, err := checkFile(fd, offset, size)
	if err != nil {
		return mapping{}, err
	}
	lead := offset % align
	length := (lead + size + align - 1) &^ (align - 1)
	const flags = unix.MAP_SHARED | unix.MAP_NORESERVE
	b, err := unix.Mmap(fd, int64(offset-lead), int(length), unix.PROT_READ|unix.PROT_WRITE, flags)
	if errors.Is(err, unix.EACCES) {
		b, err = unix.Mmap(fd, int64(offset-lead), int(length), unix.PROT_READ, flags)
	}
	if err != nil {
		return mapping{}, fmt.Errorf("mmap of %#x bytes at %#x: %w", length, offset-lead, err)
	}
	_ = unix.Madvise(b, unix.MADV_DONTDUMP) // a core dump of ours is not for the guest's secrets
	return mapping{all: b, part: b[lead : lead+size : lead+size]}, nil
}

// maxPage is the largest huge page there is.
const maxPage = 1 << 30

// checkFile checks that the file has the bytes to map: touching what lies beyond
// the end of a file is a SIGBUS. It returns the size of the file's pages, which
// offset and length of a mapping are multiples of.
func checkFile(fd int, offset, size uint64) (align uint64, err error) {
	if size == 0 || size > maxMapping || offset > maxMapping {
		return 0, fmt.Errorf("%#x bytes at offset %#x can't be mapped", size, offset)
	}
	info, err := fdstat.Stat(fd)
	if err != nil {
		return 0, err
	}
	// Devices (DAX, udmabuf) have no size that means anything here.
	if info.Kind() == unix.S_IFREG && offset+size > uint64(info.Size) {
		return 0, fmt.Errorf("%#x bytes at offset %#x: the file has only %#x", size, offset, info.Size)
	}
	align = uint64(unix.Getpagesize())
	// Files of huge pages have blocks of that size (fs/hugetlbfs/inode.c:
	// hugetlbfs_fill_super). Other files may be mapped in such multiples, too.
	if block := uint64(info.BlockSize); block > align && block <= maxPage && block&(block-1) == 0 {
		align = block
	}
	return align, nil
}

// contains reports whether an address of ours is in m.
func (m *mapping) contains(addr uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(m.all)))
	return addr >= start && addr-start < uintptr(len(m.all))
}

// unmap may be called on the zero mapping.
func (m *mapping) unmap() {
	if m.all != nil {
		_ = unix.Munmap(m.all)
	}
	*m = mapping{}
}
