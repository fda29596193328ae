package main

import (
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// describe is one line for the log: what is shared, with which front-end and how. c is nil for
// vsock.
func (o *options) describe(c *net.UnixConn) string {
	var parts []string
	for _, s := range o.Shares() {
		text := s.Dir
		if o.relay != nil {
			text = "what " + o.relay.Program + " has"
		}
		if len(o.VsockShares) > 0 {
			text += " as " + s.Name
		}
		if s.ReadOnly {
			text += " read-only"
		}
		parts = append(parts, text)
	}
	parts[0] = "Sharing " + parts[0]
	parts = append(parts, "sandbox "+o.Sandbox.String(), "seccomp "+o.Seccomp.String())
	if o.landlocked {
		parts = append(parts, "Landlock")
	} else {
		parts = append(parts, "no Landlock")
	}
	if o.usesFileHandles {
		parts = append(parts, "file handles")
	}
	if c == nil {
		parts = append(parts, "vsock")
	} else if peer := vmm(c); peer != "" {
		parts = append(parts, "VMM: "+peer)
	}
	line := strings.Join(parts, ", ")
	if len(o.Given) > 0 {
		line += "; options: " + strings.Join(o.Given, " ")
	}
	return line
}

// vmm says which process is at the other end. Its number is only known in the same process
// namespace.
func vmm(c *net.UnixConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return ""
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ""
	}
	if cred.Pid == 0 {
		return fmt.Sprintf("a process of user %d", int32(cred.Uid))
	}
	return fmt.Sprintf("process %d of user %d", cred.Pid, int32(cred.Uid))
}
