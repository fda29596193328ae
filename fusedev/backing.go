package fusedev

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The numbers of the ioctls on /dev/fuse.
const (
	devIocClone        = 0x8004e500 // FUSE_DEV_IOC_CLONE
	devIocBackingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	devIocBackingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

// backingMap is struct fuse_backing_map.
type backingMap struct {
	fd    int32
	flags uint32
	_     uint64
}

// OpenBacking implements fuse.Backing: replies to OPEN with the returned number have the kernel read
// and write the file behind fd itself (FUSE_PASSTHROUGH, Linux 6.9). It works after INIT has settled
// that, and needs CAP_SYS_ADMIN: EPERM otherwise.
func (m *Mount) OpenBacking(fd int) (id int32, err error) {
	b := backingMap{fd: int32(fd)}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, m.file.Fd(), devIocBackingOpen, uintptr(unsafe.Pointer(&b)))
	if errno != 0 {
		return 0, os.NewSyscallError("FUSE_DEV_IOC_BACKING_OPEN", errno)
	}
	return int32(n), nil
}

// CloseBacking implements fuse.Backing.
func (m *Mount) CloseBacking(id int32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.file.Fd(), devIocBackingClose, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return os.NewSyscallError("FUSE_DEV_IOC_BACKING_CLOSE", errno)
	}
	return nil
}
