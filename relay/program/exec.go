package program

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runExec is the second process: its thread gives up privileges, gets the filter and becomes the program.
func runExec(s string) {
	runtime.LockOSThread()
	unix.CloseOnExec(controlFD)
	var o setup
	err := json.Unmarshal([]byte(s), &o)
	if err == nil {
		err = o.becomeProgram(os.Args[1:])
	}
	fail(err)
}

// becomeProgram returns only if it fails.
func (o *setup) becomeProgram(args []string) error {
	if err := dropCapabilities(o.Capabilities); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	fd, err := installFilter(o.Admin)
	if err != nil {
		return err
	}
	report(event{Kind: eventFilter}, fd)
	if err := unix.Close(fd); err != nil {
		return err
	}
	// What this process has inherited by accident is not for the program. Before Linux 5.11 it stays open.
	_ = unix.CloseRange(controlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	fill := []string{placeMount, o.Mount}
	if o.Inherit {
		fill = append(fill, placeFD, fmt.Sprint(deviceFD))
		if _, err := unix.FcntlInt(deviceFD, unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	replace := strings.NewReplacer(fill...)
	argv := slices.Clone(args)
	for i := range argv[1:] {
		argv[i+1] = replace.Replace(argv[i+1])
	}
	if err := unix.Exec(args[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	return nil
}

// dropCapabilities leaves the calling thread, and what it executes, these capabilities at most.
func dropCapabilities(keep []uintptr) error {
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		// It fails without CAP_SETPCAP. A user other than root has no capabilities after exec anyway.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL && os.Geteuid() == 0 {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range sets {
		var mask uint32
		for _, c := range keep {
			if int(c/32) == i {
				mask |= 1 << (c % 32)
			}
		}
		sets[i].Permitted &= mask
		sets[i].Effective = sets[i].Permitted
		sets[i].Inheritable = 0
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0); errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}
