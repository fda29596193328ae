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

// NewHelper makes the mount and tries it out. It needs CAP_SYS_ADMIN of the initial
// user namespace and Linux 6.9.
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

// Confine makes the mount, in which there is nothing, the root directory of the process.
func (h *Helper) Confine() error {
	if err := unix.Fchdir(h.root); err != nil {
		return fmt.Errorf("stretch: fchdir: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("stretch: chroot: %w", err)
	}
	return nil
}

// Ioctls are requests that a Helper makes, for a filter of system calls.
func Ioctls() []uint32 { return []uint32{fuseDevIOCBackingOpen, fuseDevIOCBackingClose} }

// Close ends the mount. Mappings of stretched files stay.
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
	// The open file keeps what it needs.
	backing := int32(id)
	defer func() {
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(h.fs.dev), fuseDevIOCBackingClose, uintptr(unsafe.Pointer(&backing)))
	}()
	node := h.next
	h.next++ // a new node each time: those of one node would have to have one file
	h.fs.mu.Lock()
	h.fs.node, h.fs.backing = node, backing
	h.fs.mu.Unlock()
	long, err := unix.Openat(h.root, nodeName(node), mode|unix.O_CLOEXEC, 0)
	if err != nil {
		err = fmt.Errorf("stretch: open: %w", err)
	} else {
		// The kernel is to forget the node with the last descriptor and mapping.
		_ = unix.Unlinkat(h.root, nodeName(node), 0)
	}
	h.fs.mu.Lock()
	h.fs.node = 0
	h.fs.mu.Unlock()
	return long, err
}

// accessMode is that of fd, checked: what is opened behind a stretched file is opened
// with the helper's privileges, so it must not be more than the sender had. What can be
// written only can't be mapped.
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

// mayMap returns an error unless the kernel lets fd itself be mapped as a stretched file
// would be. It asks some things at mmap only, of the file that is mapped and not of the
// one behind it: whether it is append-only, or memory to swap to (mm/mmap.c: do_mmap), or
// sealed, and what a security module says.
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
