// Package memfile makes files in memory that one process leaves to the next.
package memfile

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const pageSize = 4 << 10

const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// Create makes a file of size bytes whose size never changes, so that a mapping of all of it is safe. It takes no memory
// yet. The name is what /proc shows, see memfd_create(2). The descriptor is the caller's.
func Create(name string, size int64) (fd int, err error) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur < uint64(size) {
		// ftruncate would send SIGXFSZ.
		return -1, fmt.Errorf("files may have %d bytes at most (RLIMIT_FSIZE, ulimit -f): %d are needed, of which few are used", limit.Cur, size)
	}
	return Small(name, size)
}

// Small is Create for a file of few pages. It does not ask for RLIMIT_FSIZE, which the daemon's system call filter forbids.
func Small(name string, size int64) (fd int, err error) {
	if fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if err = unix.Ftruncate(fd, size); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Check reports an error unless fd is a file as Create makes one of this size: then nothing that is done with it can
// fail or wait for ever.
func Check(fd int, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != size {
		return fmt.Errorf("a file of %d bytes: want a memfd of %d", st.Size, size)
	}
	if has, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || has&seals != seals {
		return errors.New("the file is not a sealed memfd")
	}
	return nil
}

// Populate makes the kernel provide memory for size bytes from at on of a mapping, which is of the whole file fd. Otherwise a
// write to them when memory is short would end the process. It is a system call.
func Populate(mapping []byte, fd int, at, size int64) error {
	from := at / pageSize * pageSize
	// This gives memory and maps it, page after page in one call.
	err := unix.Madvise(mapping[from:at+size], unix.MADV_POPULATE_WRITE)
	if err != unix.EINVAL { // Linux 5.14 has it
		return err
	}
	return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, from, at+size-from)
}
