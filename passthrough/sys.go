package passthrough

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls of the request path. The wrappers of x/sys allocate a C string for a
// name and copy vectors; these take NUL-terminated bytes and kept buffers.

// onCall is called before each system call while a test has set it.
var onCall atomic.Pointer[func()]

// syscall6 repeats a call that was interrupted. Pointers are made into numbers in the
// call of this function: with the directive the compiler then keeps what they point to
// alive, and on the heap. A stack may move while the call is under way.
//
//go:uintptrescapes
func syscall6(nr, a, b, c, d, e, f uintptr) (uintptr, unix.Errno) {
	counted()
	for {
		r, _, errno := unix.Syscall6(nr, a, b, c, d, e, f)
		// The runtime's own signals interrupt some calls.
		if errno != unix.EINTR {
			return r, errno
		}
	}
}

// nonblocking is for calls that can't block: no hand-over to the scheduler.
//
//go:uintptrescapes
func nonblocking(nr, a, b, c uintptr) (uintptr, unix.Errno) {
	counted()
	r, _, errno := unix.RawSyscall(nr, a, b, c)
	return r, errno
}

var emptyName = [1]byte{}

// statxMask is what attributes and identity need.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

func sysStatx(dirfd int, name *byte, flags int, st *unix.Statx_t) unix.Errno {
	_, errno := syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
		uintptr(flags|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT), statxMask, uintptr(unsafe.Pointer(st)), 0)
	return errno
}

// statxFD is statx of what fd refers to.
func statxFD(fd int, st *unix.Statx_t) unix.Errno {
	return sysStatx(fd, &emptyName[0], unix.AT_EMPTY_PATH, st)
}

// statxCached is statxFD that asks no file server: what is in memory is enough to know which file it is.
func statxCached(fd int, st *unix.Statx_t) unix.Errno {
	return sysStatx(fd, &emptyName[0], unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, st)
}

// statxLocal is statxFD of a file on the host's own disks. An inode that is open is in
// memory, so it does not wait, and the scheduler need not know: that takes a sixth of
// the call's time. With a file server behind it, the whole process would stand still at
// the next garbage collection until it answers.
func statxLocal(fd int, st *unix.Statx_t) unix.Errno {
	counted()
	_, _, errno := unix.RawSyscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(&emptyName[0])),
		unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask, uintptr(unsafe.Pointer(st)), 0)
	return errno
}

// basicStat is the result of fstat, which is an eighth faster than statx.
type basicStat unix.Stat_t

// fstatLocal is statxLocal for the attributes that GETATTR has.
func fstatLocal(fd int, b *basicStat) unix.Errno {
	counted()
	_, _, errno := unix.RawSyscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(b)), 0)
	return errno
}

// to puts the basic attributes in st, and leaves the others as they were.
func (b *basicStat) to(st *unix.Statx_t) {
	st.Ino, st.Size, st.Blocks, st.Blksize = b.Ino, uint64(b.Size), uint64(b.Blocks), uint32(b.Blksize)
	st.Mode, st.Nlink, st.Uid, st.Gid = uint16(b.Mode), uint32(b.Nlink), b.Uid, b.Gid
	st.Rdev_major, st.Rdev_minor = unix.Major(b.Rdev), unix.Minor(b.Rdev)
	st.Atime.Sec, st.Atime.Nsec = b.Atim.Sec, uint32(b.Atim.Nsec)
	st.Mtime.Sec, st.Mtime.Nsec = b.Mtim.Sec, uint32(b.Mtim.Nsec)
	st.Ctime.Sec, st.Ctime.Nsec = b.Ctim.Sec, uint32(b.Ctim.Nsec)
}

func sysOpenat(dirfd int, name *byte, flags int, mode uint32) (int, unix.Errno) {
	fd, errno := syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)), uintptr(flags|unix.O_CLOEXEC), uintptr(mode), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), 0
}

func sysClose(fd int) unix.Errno {
	counted()
	// Not repeated after EINTR: the descriptor is gone by then.
	_, _, errno := unix.Syscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return errno
}

func sysMkdirat(dirfd int, name *byte, mode uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_MKDIRAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)), uintptr(mode), 0, 0, 0)
	return errno
}

func sysMknodat(dirfd int, name *byte, mode uint32, dev uint64) unix.Errno {
	_, errno := syscall6(unix.SYS_MKNODAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)), uintptr(mode), uintptr(dev), 0, 0)
	return errno
}

func sysSymlinkat(target *byte, dirfd int, name *byte) unix.Errno {
	_, errno := syscall6(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(target)), uintptr(dirfd), uintptr(unsafe.Pointer(name)), 0, 0, 0)
	return errno
}

func sysUnlinkat(dirfd int, name *byte, flags int) unix.Errno {
	_, errno := syscall6(unix.SYS_UNLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)), uintptr(flags), 0, 0, 0)
	return errno
}

func sysRenameat2(olddir int, oldName *byte, newdir int, newName *byte, flags uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_RENAMEAT2, uintptr(olddir), uintptr(unsafe.Pointer(oldName)),
		uintptr(newdir), uintptr(unsafe.Pointer(newName)), uintptr(flags), 0)
	return errno
}

func sysLinkat(olddir int, oldName *byte, newdir int, newName *byte, flags int) unix.Errno {
	_, errno := syscall6(unix.SYS_LINKAT, uintptr(olddir), uintptr(unsafe.Pointer(oldName)),
		uintptr(newdir), uintptr(unsafe.Pointer(newName)), uintptr(flags), 0)
	return errno
}

func sysReadlinkat(dirfd int, name *byte, dst []byte) (int, unix.Errno) {
	n, errno := syscall6(unix.SYS_READLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// sysFchmodat follows a symbolic link: it is used on /proc/self/fd only.
func sysFchmodat(dirfd int, name *byte, mode uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_FCHMODAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)), uintptr(mode), 0, 0, 0)
	return errno
}

func sysFchownFD(fd int, uid, gid uint32) unix.Errno {
	_, errno := syscall6(unix.SYS_FCHOWNAT, uintptr(fd), uintptr(unsafe.Pointer(&emptyName[0])), uintptr(uid), uintptr(gid), unix.AT_EMPTY_PATH, 0)
	return errno
}

// sysUtimensat follows a symbolic link: it is used on /proc/self/fd only.
func sysUtimensat(dirfd int, name *byte, times *[2]unix.Timespec) unix.Errno {
	_, errno := syscall6(unix.SYS_UTIMENSAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(times)), 0, 0, 0)
	return errno
}

func sysTruncate(path *byte, size int64) unix.Errno {
	_, errno := syscall6(unix.SYS_TRUNCATE, uintptr(unsafe.Pointer(path)), uintptr(size), 0, 0, 0, 0)
	return errno
}

func sysFtruncate(fd int, size int64) unix.Errno {
	_, errno := syscall6(unix.SYS_FTRUNCATE, uintptr(fd), uintptr(size), 0, 0, 0, 0)
	return errno
}

func sysFstatfs(fd int, st *unix.Statfs_t) unix.Errno {
	_, errno := syscall6(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(st)), 0, 0, 0, 0)
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

func sysNameToHandleAt(dirfd int, name *byte, h *rawHandle, flags int) unix.Errno {
	h.size = maxHandle
	_, errno := syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(&h.mount)), uintptr(flags), 0)
	if errno == 0 && h.size > maxHandle {
		return unix.EOVERFLOW
	}
	return errno
}

func sysOpenByHandleAt(mountFD int, h *rawHandle, flags int) (int, unix.Errno) {
	fd, errno := syscall6(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mountFD), uintptr(unsafe.Pointer(h)),
		uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), 0
}
