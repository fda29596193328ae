package tasks

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// CallName is the name of a system call in which a thread may wait, or its number.
func CallName(number int) string {
	if name, ok := callNames[number]; ok {
		return name
	}
	return fmt.Sprintf("system call %d", number)
}

var callNames = map[int]string{
	unix.SYS_FUTEX: "futex", unix.SYS_EPOLL_PWAIT: "epoll_pwait", unix.SYS_PPOLL: "ppoll",
	unix.SYS_NANOSLEEP: "nanosleep", unix.SYS_CLOCK_NANOSLEEP: "clock_nanosleep",
	unix.SYS_RECVMSG: "recvmsg", unix.SYS_SENDMSG: "sendmsg", unix.SYS_WAIT4: "wait4", unix.SYS_WAITID: "waitid",
	unix.SYS_READ: "read", unix.SYS_PREAD64: "pread64", unix.SYS_PREADV2: "preadv2",
	unix.SYS_WRITE: "write", unix.SYS_WRITEV: "writev", unix.SYS_PWRITE64: "pwrite64", unix.SYS_PWRITEV2: "pwritev2",
	unix.SYS_OPENAT: "openat", unix.SYS_CLOSE: "close", unix.SYS_FCNTL: "fcntl", unix.SYS_FLOCK: "flock",
	unix.SYS_LSEEK: "lseek", unix.SYS_FSTAT: "fstat", unix.SYS_STATX: "statx", unix.SYS_FSTATFS: "fstatfs",
	unix.SYS_FACCESSAT: "faccessat", unix.SYS_READLINKAT: "readlinkat", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_MKNODAT: "mknodat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_LINKAT: "linkat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_UTIMENSAT: "utimensat",
	unix.SYS_TRUNCATE: "truncate", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNCFS: "syncfs",
	unix.SYS_COPY_FILE_RANGE: "copy_file_range", unix.SYS_IOCTL: "ioctl",
	unix.SYS_GETXATTR: "getxattr", unix.SYS_SETXATTR: "setxattr", unix.SYS_LISTXATTR: "listxattr",
	unix.SYS_REMOVEXATTR: "removexattr", unix.SYS_FGETXATTR: "fgetxattr", unix.SYS_FREMOVEXATTR: "fremovexattr",
	unix.SYS_NAME_TO_HANDLE_AT: "name_to_handle_at", unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at",
}
