package stretch

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Helper makes stretched files. It has a mount, and one goroutine that answers the
// kernel.
type Helper struct {
	fs   *fileSystem
	root int
	next uint64
}

// NewHelper makes the mount and tests it. It needs CAP_SYS_ADMIN of the initial user namespace
// and Linux 6.9.
func NewHelper() (*Helper, error) {
	dev, root, err := mountFuse()
	if err != nil {
		return nil, fmt.Errorf("stretch: %w", err)
	}
	h := &Helper{fs: &fileSystem{dev: dev}, root: root, next: 2}
	go func() { _ = h.fs.serve() }()
	if err := h.try(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Confine makes the mount the root directory of the process. The mount has no entries.
func (h *Helper) Confine() error {
	if err := unix.Fchdir(h.root); err != nil {
		return fmt.Errorf("stretch: fchdir: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("stretch: chroot: %w", err)
	}
	return nil
}

// Ioctls are the ioctl requests of a Helper, for a system call filter.
func Ioctls() []uint32 { return []uint32{fuseDevIOCBackingOpen, fuseDevIOCBackingClose} }

// Close ends the mount. Mappings of stretched files remain.
func (h *Helper) Close() {
	_ = unix.Close(h.root)
	_ = unix.Close(h.fs.dev)
}

// try stretches a file, and maps it.
func (h *Helper) try() error {
	fd, err := unix.MemfdCreate("stretch", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("stretch: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, []byte{1}, 0); err != nil {
		return fmt.Errorf("stretch: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(h.root, &st); err != nil { // returns after INIT
		return fmt.Errorf("stretch: the mount: %w", err)
	}
	long, err := h.Stretch(fd)
	if err != nil {
		return err
	}
	defer unix.Close(long)
	if size, err := unix.Seek(long, 0, unix.SEEK_END); err != nil || size != Size {
		return fmt.Errorf("stretch: a stretched file has %d bytes, %w", size, err)
	}
	b, err := unix.Mmap(long, 0, 2*unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("stretch: mmap of a stretched file: %w", err)
	}
	defer unix.Munmap(b)
	if b[0] != 1 {
		return errors.New("stretch: a mapping of a stretched file has other data")
	}
	return nil
}

// fuseDevIOCBackingOpen and fuseDevIOCBackingClose are ioctls of /dev/fuse
// (include/uapi/linux/fuse.h).
const (
	fuseDevIOCBackingOpen  = 0x4010e501
	fuseDevIOCBackingClose = 0x4004e502
)

// backingMap is struct fuse_backing_map.
type backingMap struct {
	fd    int32
	flags uint32
	_     uint64
}

// Stretch returns a stretched file of fd, with the same access mode. One call at a time.
func (h *Helper) Stretch(fd int) (int, error) {
	mode, err := accessMode(fd)
	if err != nil {
		return -1, err
	}
	m := backingMap{fd: int32(fd)}
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(h.fs.dev), fuseDevIOCBackingOpen, uintptr(unsafe.Pointer(&m)))
	if errno != 0 {
		h.fs.mu.Lock()
		defer h.fs.mu.Unlock()
		if h.fs.failed != nil {
			return -1, h.fs.failed
		}
		return -1, fmt.Errorf("stretch: FUSE_DEV_IOC_BACKING_OPEN: %w", errno)
	}
	// The open file holds its own reference on the backing file.
	backing := int32(id)
	defer func() {
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(h.fs.dev), fuseDevIOCBackingClose, uintptr(unsafe.Pointer(&backing)))
	}()
	node := h.next
	h.next++ // a new node each time: all open files of a node must have the same backing file
	h.fs.mu.Lock()
	h.fs.node, h.fs.backing = node, backing
	h.fs.mu.Unlock()
	long, err := unix.Openat(h.root, nodeName(node), mode|unix.O_CLOEXEC, 0)
	if err != nil {
		err = fmt.Errorf("stretch: open: %w", err)
	} else {
		// After this the kernel forgets the node with its last descriptor and mapping.
		_ = unix.Unlinkat(h.root, nodeName(node), 0)
	}
	h.fs.mu.Lock()
	h.fs.node = 0
	h.fs.mu.Unlock()
	return long, err
}

// accessMode returns the access mode of fd. The stretched file is opened with the helper's
// privileges, so it must not allow more than the sender's descriptor. A file that is open for
// writing only is an error, because it can't be mapped.
func accessMode(fd int) (int, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return 0, fmt.Errorf("stretch: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stretch: %w", err)
	}
	mode := flags & unix.O_ACCMODE
	if flags&unix.O_PATH != 0 || mode != unix.O_RDONLY && mode != unix.O_RDWR || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, fmt.Errorf("stretch: not a regular file that is open for reading: %w", unix.EINVAL)
	}
	return mode, mayMap(fd, mode)
}

// mayMap returns an error if the kernel does not let fd itself be mapped in the same way. At
// mmap the kernel checks the mapped file, and not its backing file: whether it is append-only
// or a swap file (mm/mmap.c: do_mmap), whether it is sealed, and the security modules.
func mayMap(fd, mode int) error {
	prot := unix.PROT_READ
	if mode == unix.O_RDWR {
		prot |= unix.PROT_WRITE
	}
	b, err := unix.Mmap(fd, 0, unix.Getpagesize(), prot, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("stretch: mmap: %w", err)
	}
	_ = unix.Munmap(b)
	return nil
}
