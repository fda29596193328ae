package vhostuser

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
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
	return mapChecked(checkFile, fd, offset, size)
}

func mapChecked(check func(fd int, offset, size uint64) (align uint64, err error), fd int, offset, size uint64) (mapping, error) {
	align, err := check(fd, offset, size)
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

// checkFile checks that the file has the bytes to map: touching what lies beyond
// the end of a file is a SIGBUS. It returns the size of the file's pages, which
// offset and length of a mapping are multiples of.
func checkFile(fd int, offset, size uint64) (align uint64, err error) {
	if align, err = checkRange(fd, offset, size); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("fstat: %w", err)
	}
	// Devices (DAX, udmabuf) have no size that means anything here.
	if st.Mode&unix.S_IFMT == unix.S_IFREG && offset+size > uint64(st.Size) {
		return 0, fmt.Errorf("%#x bytes at offset %#x: the file has only %#x", size, offset, st.Size)
	}
	return align, nil
}

// checkRange is checkFile that does not read how many bytes the file has.
func checkRange(fd int, offset, size uint64) (align uint64, err error) {
	if size == 0 || size > maxMapping || offset > maxMapping {
		return 0, fmt.Errorf("%#x bytes at offset %#x can't be mapped", size, offset)
	}
	align = uint64(unix.Getpagesize())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err == nil && fs.Type == unix.HUGETLBFS_MAGIC && fs.Bsize > 0 {
		align = uint64(fs.Bsize)
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
