package passthrough

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls of the request path. The wrappers of x/sys allocate a C string for a
// name and copy vectors; these take NUL-terminated bytes and kept buffers.

// calls counts system calls while a test has set it.
var calls atomic.Pointer[atomic.Int64]

func syscall6(nr, a, b, c, d, e, f uintptr) (uintptr, unix.Errno) {
	if n := calls.Load(); n != nil {
		n.Add(1)
	}
	for {
		r, _, errno := unix.Syscall6(nr, a, b, c, d, e, f)
		// The runtime's own signals interrupt some calls.
		if errno != unix.EINTR {
			return r, errno
		}
	}
}

// nonblocking is for calls that can't block: no hand-over to the scheduler.
func nonblocking(nr, a, b, c uintptr) (uintptr, unix.Errno) {
	if n := calls.Load(); n != nil {
		n.Add(1)
	}
	r, _, errno := unix.RawSyscall(nr, a, b, c)
	return r, errno
}

func ptr[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

var emptyName = [1]byte{}

// statxMask is what attributes and identity need.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

func sysStatx(dirfd int, name *byte, flags int, st *unix.Statx_t) unix.Errno {
	_, errno := syscall6(unix.SYS_STATX, uintptr(dirfd), ptr(name), uintptr(flags|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT),
		statxMask, ptr(st), 0)
	return errno
}

// statxFD is statx of what fd refers to.
func statxFD(fd int, st *unix.Statx_t) unix.Errno {
	return sysStatx(fd, &emptyName[0], unix.AT_EMPTY_PATH, st)
}

func sysOpenat(dirfd int, name *byte, flags int, mode uint32) (int, unix.Errno) {
	fd, errno := syscall6(unix.SYS_OPENAT, uintptr(dirfd), ptr(name), uintptr(flags|unix.O_CLOEXEC), uintptr(mode), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), 0
}

func sysClose(fd int) unix.Errno {
	if n := calls.Load(); n != nil {
		n.Add(1)
	}
	// Not repeated after EINTR: the descriptor is gone by then.
	_, _, errno := unix.Syscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return errno
}

func sysMkdirat(dirfd int, name *byte, mode uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_MKDIRAT, uintptr(dirfd), ptr(name), uintptr(mode), 0, 0, 0)
	return errno
}

func sysMknodat(dirfd int, name *byte, mode uint32, dev uint64) unix.Errno {
	_, errno := syscall6(unix.SYS_MKNODAT, uintptr(dirfd), ptr(name), uintptr(mode), uintptr(dev), 0, 0)
	return errno
}

func sysSymlinkat(target *byte, dirfd int, name *byte) unix.Errno {
	_, errno := syscall6(unix.SYS_SYMLINKAT, ptr(target), uintptr(dirfd), ptr(name), 0, 0, 0)
	return errno
}

func sysUnlinkat(dirfd int, name *byte, flags int) unix.Errno {
	_, errno := syscall6(unix.SYS_UNLINKAT, uintptr(dirfd), ptr(name), uintptr(flags), 0, 0, 0)
	return errno
}

func sysRenameat2(olddir int, oldName *byte, newdir int, newName *byte, flags uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_RENAMEAT2, uintptr(olddir), ptr(oldName), uintptr(newdir), ptr(newName), uintptr(flags), 0)
	return errno
}

func sysLinkat(olddir int, oldName *byte, newdir int, newName *byte, flags int) unix.Errno {
	_, errno := syscall6(unix.SYS_LINKAT, uintptr(olddir), ptr(oldName), uintptr(newdir), ptr(newName), uintptr(flags), 0)
	return errno
}

func sysReadlinkat(dirfd int, name *byte, dst []byte) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_READLINKAT, uintptr(dirfd), ptr(name), ptr(unsafe.SliceData(dst)), uintptr(len(dst)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// sysFchmodat follows a symbolic link: it is used on /proc/self/fd only.
func sysFchmodat(dirfd int, name *byte, mode uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_FCHMODAT, uintptr(dirfd), ptr(name), uintptr(mode), 0, 0, 0)
	return errno
}

func sysFchownFD(fd int, uid, gid uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_FCHOWNAT, uintptr(fd), ptr(&emptyName[0]), uintptr(uid), uintptr(gid), unix.AT_EMPTY_PATH, 0)
	return errno
}

// sysUtimensat follows a symbolic link: it is used on /proc/self/fd only.
func sysUtimensat(dirfd int, name *byte, times *[2]unix.Timespec) unix.Errno {
	_, errno := syscall6(unix.SYS_UTIMENSAT, uintptr(dirfd), ptr(name), ptr(times), 0, 0, 0)
	return errno
}

func sysTruncate(path *byte, size int64) unix.Errno {
	_, errno := syscall6(unix.SYS_TRUNCATE, ptr(path), uintptr(size), 0, 0, 0, 0)
	return errno
}

func sysFtruncate(fd int, size int64) unix.Errno {
	_, errno := syscall6(unix.SYS_FTRUNCATE, uintptr(fd), uintptr(size), 0, 0, 0, 0)
	return errno
}

func sysFstatfs(fd int, st *unix.Statfs_t) unix.Errno {
	_, errno := syscall6(unix.SYS_FSTATFS, uintptr(fd), ptr(st), 0, 0, 0, 0)
	return errno
}

// procName is the name of a descriptor in /proc/self/fd, in buf.
func procName(buf *[16]byte, fd int) *byte {
	i := len(buf) - 1
	buf[i] = 0
	for {
		i--
		buf[i] = byte('0' + fd%10)
		if fd /= 10; fd == 0 {
			return &buf[i]
		}
	}
}

func addBytes(p *byte, n int) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(p), n)) }
