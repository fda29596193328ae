package program

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// decide is what the filter does with a system call.
func decide(t *testing.T, arch, number, arg0 uint32) uint32 {
	t.Helper()
	var list []bpf.Instruction
	for _, f := range filter(false) {
		list = append(list, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(list)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64) // struct seccomp_data, in the byte order of the network, which the VM reads
	binary.BigEndian.PutUint32(data[dataNumber:], number)
	binary.BigEndian.PutUint32(data[dataArch:], arch)
	binary.BigEndian.PutUint32(data[dataArgs:], arg0)
	verdict, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(verdict)
}

// TestFilter: no call gets around the rules by another numbering.
func TestFilter(t *testing.T) {
	const eperm, enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	for _, c := range []struct {
		what               string
		arch, number, arg0 uint32
		want               uint32
	}{
		{"read", auditArch, unix.SYS_READ, 0, unix.SECCOMP_RET_ALLOW},
		{"mount", auditArch, unix.SYS_MOUNT, 0, unix.SECCOMP_RET_USER_NOTIF},
		{"fork", auditArch, unix.SYS_CLONE, uint32(unix.SIGCHLD), unix.SECCOMP_RET_USER_NOTIF},
		{"a thread", auditArch, unix.SYS_CLONE, unix.CLONE_VM | unix.CLONE_THREAD, unix.SECCOMP_RET_ALLOW},
		{"a user namespace", auditArch, unix.SYS_CLONE, unix.CLONE_NEWUSER, eperm},
		{"unshare of one", auditArch, unix.SYS_UNSHARE, unix.CLONE_NEWUSER, eperm},
		{"unshare with the numbers of x32", auditArch, 1<<30 | unix.SYS_UNSHARE, unix.CLONE_NEWUSER, enosys},
		{"call -1", auditArch, ^uint32(0), 0, enosys},
		{"unshare with the numbers of i386", unix.AUDIT_ARCH_I386, 310, unix.CLONE_NEWUSER, unix.SECCOMP_RET_KILL_PROCESS},
		{"unshare with the numbers of arm", unix.AUDIT_ARCH_ARM, 337, unix.CLONE_NEWUSER, unix.SECCOMP_RET_KILL_PROCESS},
	} {
		if got := decide(t, c.arch, c.number, c.arg0); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
}
