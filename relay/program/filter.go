package program

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rule is what the filter does with a system call.
type rule struct {
	number  uintptr
	verdict uint32
	// arg is the argument that decides. The lower 32 bits must have one of mask's bits, or none of without's, or be value if
	// both are 0. -1: any arguments.
	arg                  int
	value, mask, without uint32
}

func refused(number uintptr, errno unix.Errno) rule {
	return rule{number: number, verdict: unix.SECCOMP_RET_ERRNO | uint32(errno), arg: -1}
}

func noted(number uintptr) rule {
	return rule{number: number, verdict: unix.SECCOMP_RET_USER_NOTIF, arg: -1}
}

// mountCalls are other ways to mount, and what goes with them. libfuse falls back to mount(2) or fusermount when they fail.
var mountCalls = []uintptr{
	unix.SYS_FSOPEN, unix.SYS_FSPICK, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR, unix.SYS_PIVOT_ROOT,
	unix.SYS_SETNS,
}

// rules is the table of the filter. Other calls are allowed. admin says that the program may mount in its namespace.
func rules(admin bool) []rule {
	list := []rule{
		noted(unix.SYS_MOUNT),
		noted(unix.SYS_UMOUNT2),
		// A reply that is spliced into a socket is cut into packets of 16 pages. libfuse begins with vmsplice;
		// go-fuse splices only what fits into its pipe.
		refused(unix.SYS_VMSPLICE, unix.ENOSYS),
		{number: unix.SYS_FCNTL, verdict: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), arg: 1, value: unix.F_SETPIPE_SZ},
		// Large parts of the kernel that no FUSE program needs. A filter can't see the flags of clone3; programs fall
		// back to clone.
		refused(unix.SYS_CLONE3, unix.ENOSYS),
		{number: unix.SYS_CLONE, verdict: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), arg: 0, mask: unix.CLONE_NEWUSER},
		// fork(3), but not the start of a thread or vfork.
		{number: unix.SYS_CLONE, verdict: unix.SECCOMP_RET_USER_NOTIF, arg: 0, without: unix.CLONE_VM},
		{number: unix.SYS_UNSHARE, verdict: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), arg: 0, mask: unix.CLONE_NEWUSER},
		refused(unix.SYS_BPF, unix.EPERM),
		refused(unix.SYS_PERF_EVENT_OPEN, unix.EPERM),
		refused(unix.SYS_USERFAULTFD, unix.EPERM),
		refused(unix.SYS_ADD_KEY, unix.EPERM),
		refused(unix.SYS_REQUEST_KEY, unix.EPERM),
		refused(unix.SYS_KEYCTL, unix.EPERM),
		refused(unix.SYS_PTRACE, unix.EPERM),
		refused(unix.SYS_PROCESS_VM_READV, unix.EPERM),
		refused(unix.SYS_PROCESS_VM_WRITEV, unix.EPERM),
		refused(unix.SYS_KEXEC_LOAD, unix.EPERM),
	}
	if !admin {
		for _, number := range mountCalls {
			list = append(list, refused(number, unix.EPERM))
		}
	}
	return list
}

// Offsets in struct seccomp_data; arguments are little-endian 64-bit words.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// otherNumbers is where the numbers of x32 begin, a second set for the same architecture (__X32_SYSCALL_BIT). No other call has
// such a number.
const otherNumbers = 1 << 30

// filter assembles the rules. A call with another architecture's numbers ends the process: it would get around the rules, and a
// program for such numbers can't mount.
func filter(admin bool) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	prog := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, auditArch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS), load(dataNumber),
		jump(unix.BPF_JGE, otherNumbers, 0, 1), ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
	}
	for _, r := range rules(admin) {
		if r.arg < 0 {
			prog = append(prog, jump(unix.BPF_JEQ, uint32(r.number), 0, 1), ret(r.verdict))
			continue
		}
		test := jump(unix.BPF_JEQ, r.value, 0, 1)
		switch {
		case r.mask != 0:
			test = jump(unix.BPF_JSET, r.mask, 0, 1)
		case r.without != 0:
			test = jump(unix.BPF_JSET, r.without, 1, 0)
		}
		prog = append(prog, jump(unix.BPF_JEQ, uint32(r.number), 0, 4), load(uint32(dataArgs+8*r.arg)), test, ret(r.verdict), load(dataNumber))
	}
	return append(prog, ret(unix.SECCOMP_RET_ALLOW))
}

// installFilter puts the calling thread under the filter and returns the descriptor at which the noted calls
// arrive.
func installFilter(admin bool) (int, error) {
	prog := filter(admin)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	var errno unix.Errno
	// Without WAIT_KILLABLE_RECV (Linux 5.19) a signal interrupts a call that is being answered, and the program
	// makes it again.
	for _, flags := range []uintptr{unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER} {
		var fd uintptr
		fd, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
		if errno == 0 {
			return int(fd), nil
		}
		if errno != unix.EINVAL {
			break
		}
	}
	switch errno {
	case unix.EBUSY:
		return -1, fmt.Errorf("seccomp: another program watches the system calls of this one already (a container manager?): %w", errno)
	case unix.EINVAL, unix.ENOSYS:
		return -1, fmt.Errorf("seccomp: Linux 5.9 is needed: %w", errno)
	}
	return -1, os.NewSyscallError("seccomp", errno)
}
