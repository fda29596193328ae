package sandbox

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// SeccompAction is what happens on a system call that is not allowed.
type SeccompAction int

// The actions.
const (
	SeccompKill SeccompAction = iota
	SeccompLog
	SeccompTrap
	SeccompNone
)

// ParseSeccomp reads an action's name, in any case.
func ParseSeccomp(s string) (SeccompAction, error) {
	switch strings.ToLower(s) {
	case "kill":
		return SeccompKill, nil
	case "log":
		return SeccompLog, nil
	case "trap":
		return SeccompTrap, nil
	case "none":
		return SeccompNone, nil
	}
	return 0, fmt.Errorf("unknown seccomp action %q: want kill, log, trap or none", s)
}

var seccompReturns = map[SeccompAction]uint32{
	SeccompKill: unix.SECCOMP_RET_KILL_PROCESS,
	SeccompLog:  unix.SECCOMP_RET_LOG,
	SeccompTrap: unix.SECCOMP_RET_TRAP,
}

// Offsets in struct seccomp_data.
const (
	seccompNr   = 0
	seccompArch = 4
)

// setNoNewPrivs makes every thread unable to gain privileges by execve.
func setNoNewPrivs() error {
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	return nil
}

// Seccomp allows every thread of the process the system calls that serving a share
// and the Go runtime need, and nothing else. syslog allows those for the system log.
func Seccomp(action SeccompAction, syslog bool) error {
	if action == SeccompNone {
		return nil
	}
	allowed := append([]uintptr(nil), allowedCalls...)
	allowed = append(allowed, archCalls...)
	if syslog {
		allowed = append(allowed, unix.SYS_SENDTO, unix.SYS_CONNECT, unix.SYS_SOCKET)
	}
	prog, err := assemble(allowed, seccompReturns[action])
	if err != nil {
		return fmt.Errorf("seccomp filter: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	// TSYNC: the filter is for all threads at once, or the call fails.
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// assemble builds the filter: another architecture's calls are killed, calls in the
// list are allowed, and the rest gets the action.
func assemble(allowed []uintptr, action uint32) ([]unix.SockFilter, error) {
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: seccompArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: seccompNr, Size: 4},
	}
	for _, nr := range allowed {
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(nr), SkipTrue: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
	}
	prog = append(prog, bpf.RetConstant{Val: action})
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// allowedCalls are the same on all architectures. The hot ones come first: a filter
// is a list that is gone through from the start.
var allowedCalls = []uintptr{
	// serving
	unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_STATX, unix.SYS_OPENAT, unix.SYS_CLOSE,
	unix.SYS_WRITE, unix.SYS_READ, unix.SYS_EPOLL_PWAIT, unix.SYS_FUTEX, unix.SYS_GETDENTS64,
	unix.SYS_LSEEK, unix.SYS_READLINKAT, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT,
	unix.SYS_UNLINKAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT,
	unix.SYS_UTIMENSAT, unix.SYS_TRUNCATE, unix.SYS_FTRUNCATE, unix.SYS_FSTATFS, unix.SYS_SYNCFS,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FALLOCATE, unix.SYS_COPY_FILE_RANGE,
	unix.SYS_IOCTL, unix.SYS_FLOCK, unix.SYS_FCNTL, unix.SYS_GETXATTR, unix.SYS_SETXATTR,
	unix.SYS_LISTXATTR, unix.SYS_REMOVEXATTR, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
	unix.SYS_SETGROUPS, unix.SYS_CAPGET, unix.SYS_CAPSET, unix.SYS_UMASK, unix.SYS_UNSHARE, unix.SYS_FCHDIR,
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT,
	// the front-end's socket and memory
	unix.SYS_ACCEPT4, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN, unix.SYS_MMAP, unix.SYS_MUNMAP,
	unix.SYS_MADVISE, unix.SYS_MEMFD_CREATE, unix.SYS_EVENTFD2, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL,
	unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2,
	// the Go runtime
	unix.SYS_CLONE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_MPROTECT, unix.SYS_MINCORE, unix.SYS_SET_ROBUST_LIST,
	unix.SYS_RSEQ, unix.SYS_PRCTL, unix.SYS_GETRANDOM, unix.SYS_UNAME, unix.SYS_RESTART_SYSCALL,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
	unix.SYS_PRLIMIT64, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
}
