package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// unsaid are the options that describe leaves out: it says them in other words, or they are
// how the daemon was reached.
var unsaid = map[string]bool{"shared-dir": true, "socket-path": true, "socket": true, "fd": true, "readonly": true}

// givenOptions are the options of the command line, in the alphabet's order.
func givenOptions(set *pflag.FlagSet) (given []string) {
	set.Visit(func(f *pflag.Flag) {
		switch value := f.Value.String(); {
		case unsaid[f.Name]:
		case f.Value.Type() == "bool" && value == "true":
			given = append(given, "--"+f.Name)
		default:
			given = append(given, "--"+f.Name+"="+value)
		}
	})
	return given
}

// describe is what is shared with whom and how: one line for whoever reads the log later.
func (o *options) describe(c *net.UnixConn) string {
	parts := []string{"Sharing " + o.sharedDir}
	if o.readOnly {
		parts[0] += " read-only"
	}
	parts = append(parts, "sandbox "+o.sandboxMode.String(), "seccomp "+o.seccomp)
	if o.landlocked {
		parts = append(parts, "Landlock")
	} else {
		parts = append(parts, "no Landlock")
	}
	if o.usesFileHandles {
		parts = append(parts, "file handles")
	}
	if peer := vmm(c); peer != "" {
		parts = append(parts, "VMM: "+peer)
	}
	line := strings.Join(parts, ", ")
	if len(o.given) > 0 {
		line += "; options: " + strings.Join(o.given, " ")
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
