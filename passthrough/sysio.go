package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls on open files. Each wrapper makes its pointers into numbers in the
// call of unix.Syscall itself: only there does the compiler keep them alive and the
// stack that they may point into where it is.

// counted tells a test of a system call.
func counted() {
	if f := onCall.Load(); f != nil {
		(*f)()
	}
}

// length is the result of a call that returns how many bytes it did.
func length(n uintptr, errno unix.Errno) (int, unix.Errno) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// maxIovecs is UIO_MAXIOV: the most buffers that one vectored call takes.
const maxIovecs = 1024

// vectored is preadv2 or pwritev2. On 64-bit architectures the kernel takes the
// whole offset from the first of its two arguments (fs/read_write.c: pos_from_hilo).
func vectored(nr uintptr, fd int, iov []unix.Iovec, off int64, flags int) (int, unix.Errno) {
	for {
		counted()
		n, _, errno := unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)),
			uintptr(off), 0, uintptr(flags))
		if errno != unix.EINTR {
			return length(n, errno)
		}
	}
}

// rawRead is the most bytes that are copied without telling the scheduler, which can't stop the
// thread meanwhile.
const rawRead = 128 << 10

// readCached is preadv2 with RWF_NOWAIT: it waits for nothing but the memory that it
// copies to.
func readCached(fd int, iov []unix.Iovec, size int, off int64) (int, unix.Errno) {
	if size > rawRead {
		return vectored(unix.SYS_PREADV2, fd, iov, off, unix.RWF_NOWAIT)
	}
	for {
		counted()
		n, _, errno := unix.RawSyscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))),
			uintptr(len(iov)), uintptr(off), 0, unix.RWF_NOWAIT)
		if errno != unix.EINTR {
			return length(n, errno)
		}
	}
}

func sysGetdents64(fd int, buf []byte) (int, unix.Errno) {
	for {
		counted()
		n, _, errno := unix.Syscall(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))),
			uintptr(len(buf)))
		if errno != unix.EINTR {
			return length(n, errno)
		}
	}
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

func sysFallocate(fd int, mode uint32, off, size int64) unix.Errno {
	_, errno := syscall6(unix.SYS_FALLOCATE, uintptr(fd), uintptr(mode), uintptr(off), uintptr(size), 0, 0)
	return errno
}

func sysCopyFileRange(in int, offIn int64, out int, offOut int64, size int) (int, unix.Errno) {
	for {
		counted()
		n, _, errno := unix.Syscall6(unix.SYS_COPY_FILE_RANGE, uintptr(in), uintptr(unsafe.Pointer(&offIn)),
			uintptr(out), uintptr(unsafe.Pointer(&offOut)), uintptr(size), 0)
		if errno != unix.EINTR {
			return length(n, errno)
		}
	}
}

// sysDup makes another descriptor of the same open file.
func sysDup(fd int) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

// sysIoctl is for ioctls that take a pointer to at most len(ioctlArg) bytes.
func sysIoctl(fd int, cmd uint32, arg *ioctlArg) unix.Errno {
	counted()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(arg)))
	return errno
}

// sysFlock must not wait: how has LOCK_NB or is LOCK_UN.
func sysFlock(fd, how int) unix.Errno {
	_, errno := syscall6(unix.SYS_FLOCK, uintptr(fd), uintptr(how), 0, 0, 0, 0)
	return errno
}

// sysFcntlLock is fcntl with F_OFD_SETLK or F_OFD_GETLK.
func sysFcntlLock(fd, cmd int, lk *unix.Flock_t) unix.Errno {
	for {
		counted()
		_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(lk)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

func sysPread(fd int, dst []byte, off int64) (int, unix.Errno) {
	counted()
	n, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(dst))),
		uintptr(len(dst)), uintptr(off), 0, 0)
	return length(n, errno)
}

func sysPwrite(fd int, src []byte, off int64) (int, unix.Errno) {
	counted()
	n, _, errno := unix.Syscall6(unix.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(src))),
		uintptr(len(src)), uintptr(off), 0, 0)
	return length(n, errno)
}

func sysGetxattr(path, name *byte, dst []byte) (int, unix.Errno) {
	counted()
	n, _, errno := unix.Syscall6(unix.SYS_GETXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)), 0, 0)
	return length(n, errno)
}

func sysListxattr(path *byte, dst []byte) (int, unix.Errno) {
	counted()
	n, _, errno := unix.Syscall(unix.SYS_LISTXATTR, uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)))
	return length(n, errno)
}

func sysSetxattr(path, name *byte, value []byte, flags uint32) unix.Errno {
	counted()
	_, _, errno := unix.Syscall6(unix.SYS_SETXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), uintptr(flags), 0)
	return errno
}

func sysRemovexattr(path, name *byte) unix.Errno {
	counted()
	_, _, errno := unix.Syscall(unix.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)), 0)
	return errno
}

func sysFgetxattr(fd int, name *byte, dst []byte) (int, unix.Errno) {
	counted()
	n, _, errno := unix.Syscall6(unix.SYS_FGETXATTR, uintptr(fd), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)), 0, 0)
	return length(n, errno)
}

func sysFremovexattr(fd int, name *byte) unix.Errno {
	counted()
	_, _, errno := unix.Syscall(unix.SYS_FREMOVEXATTR, uintptr(fd), uintptr(unsafe.Pointer(name)), 0)
	return errno
}
