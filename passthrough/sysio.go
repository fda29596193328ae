package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIovecs is UIO_MAXIOV: the most buffers that one vectored call takes.
const maxIovecs = 1024

// vectored is preadv2 or pwritev2. On 64-bit architectures the kernel takes the
// offset from the first of its two arguments.
func vectored(nr uintptr, fd int, iov []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	n, errno := syscall6(nr, uintptr(fd), ptr(unsafe.SliceData(iov)), uintptr(len(iov)), uintptr(off), 0, uintptr(flags))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sysGetdents64(fd int, buf []byte) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_GETDENTS64, uintptr(fd), ptr(unsafe.SliceData(buf)), uintptr(len(buf)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sysLseek(fd int, off int64, whence int) (int64, unix.Errno) {
	n, errno := syscall6(unix.SYS_LSEEK, uintptr(fd), uintptr(off), uintptr(whence), 0, 0, 0)
	return int64(n), errno
}

func sysFsync(fd int, dataOnly bool) unix.Errno {
	nr := uintptr(unix.SYS_FSYNC)
	if dataOnly {
		nr = unix.SYS_FDATASYNC
	}
	_, errno := syscall6(nr, uintptr(fd), 0, 0, 0, 0, 0)
	return errno
}

func sysFallocate(fd int, mode uint32, off, length int64) unix.Errno {
	_, errno := syscall6(unix.SYS_FALLOCATE, uintptr(fd), uintptr(mode), uintptr(off), uintptr(length), 0, 0)
	return errno
}

func sysCopyFileRange(in int, offIn *int64, out int, offOut *int64, length int) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_COPY_FILE_RANGE, uintptr(in), ptr(offIn), uintptr(out), ptr(offOut), uintptr(length), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sysIoctl(fd int, cmd uint32, arg unsafe.Pointer) unix.Errno {
	_, errno := syscall6(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(arg), 0, 0, 0)
	return errno
}

func sysFlock(fd, how int) unix.Errno {
	_, errno := syscall6(unix.SYS_FLOCK, uintptr(fd), uintptr(how), 0, 0, 0, 0)
	return errno
}

func sysFcntlLock(fd, cmd int, lk *unix.Flock_t) unix.Errno {
	_, errno := syscall6(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), ptr(lk), 0, 0, 0)
	return errno
}

func sysGetxattr(path, name *byte, dst []byte) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_GETXATTR, ptr(path), ptr(name), ptr(unsafe.SliceData(dst)), uintptr(len(dst)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sysListxattr(path *byte, dst []byte) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_LISTXATTR, ptr(path), ptr(unsafe.SliceData(dst)), uintptr(len(dst)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func sysSetxattr(path, name *byte, value []byte, flags uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_SETXATTR, ptr(path), ptr(name), ptr(unsafe.SliceData(value)), uintptr(len(value)), uintptr(flags), 0)
	return errno
}

func sysRemovexattr(path, name *byte) unix.Errno {
	_, errno := syscall6(unix.SYS_REMOVEXATTR, ptr(path), ptr(name), 0, 0, 0, 0)
	return errno
}
