package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch     = unix.AUDIT_ARCH_X86_64
	sysNewfstatat = unix.SYS_NEWFSTATAT
)

// archCalls are old forms that the Go runtime and packages use on amd64 only.
// Numbers of the x32 interface (bit 30 set) are on no list.
var archCalls = []uintptr{unix.SYS_ARCH_PRCTL}
