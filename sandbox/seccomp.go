package sandbox

import (
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FilterAction says what happens to a thread that makes a system call outside of the list.
type FilterAction int

// The actions.
const (
	FilterNone FilterAction = iota // no filter
	FilterKill                     // the kernel kills the process
	FilterLog                      // the kernel makes the call and logs it
	FilterTrap                     // SIGSYS: the process prints its stacks and ends
)

// String returns the option's word for a.
func (a FilterAction) String() string {
	switch a {
	case FilterNone:
		return "none"
	case FilterKill:
		return "kill"
	case FilterLog:
		return "log"
	case FilterTrap:
		return "trap"
	}
	return fmt.Sprintf("sandbox.FilterAction(%d)", int(a))
}

// verdict is the action as a return value of the filter, SECCOMP_RET_*.
func (a FilterAction) verdict() uint32 {
	switch a {
	case FilterLog:
		return unix.SECCOMP_RET_LOG
	case FilterTrap:
		return unix.SECCOMP_RET_TRAP
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}

// FilterOptions say what the filter allows in addition to the calls that serving a
// share needs.
type FilterOptions struct {
	Action FilterAction
	Accept bool // more connections: accept4 on the listening socket
	Extra  []uintptr
	Ioctls []uint32 // ioctl requests in addition to those on files of the share
}

// Filter limits the system calls of every thread, also of later ones, to those that serving a
// share needs. It sets no_new_privs.
func Filter(o FilterOptions) error {
	if o.Action == FilterNone {
		return nil
	}
	if err := NoNewPrivileges(); err != nil {
		return err
	}
	prog := program(o)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	return install(&fprog)
}

// install puts all threads under a filter. If seccomp(2) is forbidden, each thread installs
// the filter for itself with prctl(2), which other filters allow.
func install(fprog *unix.SockFprog) error {
	tid, errno := uintptr(0), unix.ENOSYS
	if !endsProcess(unix.SYS_SECCOMP) {
		tid, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(fprog)))
	}
	if errno == unix.ENOSYS || errno == unix.EPERM {
		_, _, errno = syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER,
			uintptr(unsafe.Pointer(fprog)))
		tid = 0
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if tid != 0 {
		return fmt.Errorf("seccomp: thread %d has a filter of its own", tid)
	}
	return nil
}

// Offsets in struct seccomp_data; arguments are little-endian 64-bit words.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// argRule allows a system call if the lower 32 bits of its argument have none of the bits
// deny, or one of the values allow. Every other call gets the verdict otherwise.
type argRule struct {
	number    uintptr
	arg       int
	deny      uint32
	allow     []uint32
	otherwise uint32 // 0: the filter's action
}

const cloneNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// refuse makes a system call fail. It is for calls that programs can do without.
func refuse(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

// argRules are the system calls that are allowed with some arguments only.
func argRules(o FilterOptions) []argRule {
	return []argRule{
		// No memory that is or becomes executable.
		{number: unix.SYS_MMAP, arg: 2, deny: unix.PROT_EXEC},
		{number: unix.SYS_MPROTECT, arg: 2, deny: unix.PROT_EXEC},
		// Threads, but no namespaces. A filter can't see the flags of clone3; programs
		// fall back to clone.
		{number: unix.SYS_CLONE, arg: 0, deny: cloneNamespaces},
		{number: unix.SYS_CLONE3, allow: []uint32{}, otherwise: refuse(unix.ENOSYS)},
		{number: unix.SYS_UNSHARE, arg: 0, deny: ^uint32(unix.CLONE_FS)},
		// File attributes and flags. Nothing for terminals and devices.
		{number: unix.SYS_IOCTL, arg: 1, allow: slices.Concat(allowedIoctls, o.Ioctls), otherwise: refuse(unix.ENOTTY)},
		// Names of memory areas, which the Go runtime sets.
		{number: unix.SYS_PRCTL, arg: 0, allow: []uint32{unix.PR_SET_VMA}, otherwise: refuse(unix.EINVAL)},
	}
}

// allowedIoctls are the ioctl requests that package passthrough makes on files and directories
// of the share. TestFilterIoctls compares them with the source.
var allowedIoctls = []uint32{
	unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS,
	0x801c581f, // FS_IOC_FSGETXATTR
	0x401c5820, // FS_IOC_FSSETXATTR
}

// program assembles the filter. For calls that are allowed with any arguments, the kernel uses
// a bitmap and does not run the program (Linux 5.11).
func program(o FilterOptions) []unix.SockFilter {
	a := assembler{verdict: o.Action.verdict()}
	a.load(dataArch)
	a.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 1, 0, auditArch)
	a.ret(unix.SECCOMP_RET_KILL_PROCESS)
	a.load(dataNumber)
	for _, r := range argRules(o) {
		a.argRule(r)
	}
	for _, nr := range allowed(o) {
		a.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, uint32(nr))
		a.ret(unix.SECCOMP_RET_ALLOW)
	}
	a.ret(a.verdict)
	return a.prog
}

// allowed lists the system calls that are allowed with any arguments.
func allowed(o FilterOptions) []uintptr {
	list := slices.Concat(runtimeCalls, fileCalls, socketCalls, credentialCalls, archCalls, o.Extra)
	if o.Accept {
		list = append(list, unix.SYS_ACCEPT4)
	}
	if o.Action == FilterTrap {
		list = append(list, unix.SYS_RT_SIGQUEUEINFO)
	}
	return list
}

type assembler struct {
	prog    []unix.SockFilter
	verdict uint32
}

func (a *assembler) emit(code uint16, jt, jf uint8, k uint32) {
	a.prog = append(a.prog, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}

func (a *assembler) load(offset uint32) { a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset) }
func (a *assembler) ret(verdict uint32) { a.emit(unix.BPF_RET|unix.BPF_K, 0, 0, verdict) }

// argRule emits a block that ends in a verdict. Other system calls jump over it.
func (a *assembler) argRule(r argRule) {
	otherwise := r.otherwise
	if otherwise == 0 {
		otherwise = a.verdict
	}
	start := len(a.prog)
	a.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 0, uint32(r.number))
	if r.deny != 0 {
		a.load(uint32(dataArgs + 8*r.arg))
		a.emit(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, 1, 0, r.deny)
		a.ret(unix.SECCOMP_RET_ALLOW)
	} else if len(r.allow) > 0 {
		a.load(uint32(dataArgs + 8*r.arg))
		for _, v := range r.allow {
			a.emit(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, v)
			a.ret(unix.SECCOMP_RET_ALLOW)
		}
	}
	a.ret(otherwise)
	a.prog[start].Jf = uint8(len(a.prog) - start - 1)
}
