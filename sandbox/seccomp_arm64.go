package sandbox

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// archCalls are what the runtime and library use on this architecture only.
var archCalls = []uintptr{unix.SYS_PPOLL}
