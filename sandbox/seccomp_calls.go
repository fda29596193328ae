package sandbox

import "golang.org/x/sys/unix"

// TestFilterTables compares these lists with the source of all code that runs under them. If
// only the standard library makes a call, add it to otherCalls in that test as well.

// runtimeCalls are the calls that the Go runtime and its packages os, net and time make after
// the start, and those of the C library in a program built with cgo (the race detector).
var runtimeCalls = []uintptr{
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_TGKILL, unix.SYS_KILL, unix.SYS_GETPID, unix.SYS_GETTID,
	unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RESTART_SYSCALL, unix.SYS_GETRANDOM,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_UNAME,
}

// fileCalls are the calls of a file system, with files by descriptor or by a name below a
// directory's descriptor.
var fileCalls = []uintptr{
	unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_PREADV2,
	unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITE64, unix.SYS_PWRITEV2,
	unix.SYS_OPENAT, unix.SYS_CLOSE,
	unix.SYS_FCNTL, unix.SYS_FLOCK, unix.SYS_LSEEK,
	unix.SYS_FSTAT, sysNewfstatat, unix.SYS_STATX, unix.SYS_FSTATFS,
	unix.SYS_FACCESSAT, unix.SYS_READLINKAT, unix.SYS_GETDENTS64,
	unix.SYS_MKNODAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT,
	unix.SYS_RENAMEAT2,
	unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT,
	unix.SYS_UTIMENSAT, unix.SYS_TRUNCATE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS,
	unix.SYS_COPY_FILE_RANGE,
	unix.SYS_GETXATTR, unix.SYS_SETXATTR, unix.SYS_LISTXATTR, unix.SYS_REMOVEXATTR,
	unix.SYS_FGETXATTR, unix.SYS_FREMOVEXATTR,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_FCHDIR, unix.SYS_UMASK,
	unix.SYS_PPOLL, unix.SYS_MEMFD_CREATE,
}

// socketCalls serve an existing connection.
var socketCalls = []uintptr{
	unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_SENDFILE, unix.SYS_SHUTDOWN,
	unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
}

// credentialCalls let a thread act as a user of the guest.
var credentialCalls = []uintptr{
	unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETGROUPS,
	unix.SYS_GETEUID, unix.SYS_GETEGID,
	unix.SYS_CAPGET, unix.SYS_CAPSET,
}
