package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// DefaultCapabilities are the capabilities that a daemon needs to act for a guest's users: to
// set owners, modes and file capabilities, to make nodes, and to act as any user.
func DefaultCapabilities() []cap.Value {
	return []cap.Value{
		cap.CHOWN, cap.DAC_OVERRIDE, cap.FOWNER, cap.FSETID,
		cap.SETGID, cap.SETUID, cap.MKNOD, cap.SETFCAP,
	}
}

// ModifyCapabilities applies a list like "+sys_admin:-mknod" to a set. Names are
// without CAP_, in any case.
func ModifyCapabilities(set []cap.Value, changes string) ([]cap.Value, error) {
	set = slices.Clone(set)
	for _, change := range strings.Split(changes, ":") {
		if change == "" || (change[0] != '+' && change[0] != '-') {
			return nil, fmt.Errorf("%q: want + or - and the name of a capability", change)
		}
		v, err := cap.FromName("cap_" + strings.ToLower(change[1:]))
		if err != nil {
			return nil, fmt.Errorf("%q: no such capability", change)
		}
		set = slices.DeleteFunc(set, func(c cap.Value) bool { return c == v })
		if change[0] == '+' {
			set = append(set, v)
		}
	}
	return set, nil
}

// SetCapabilities removes all capabilities except keep from every thread. Programs that the
// process starts can't get others. It adds no capability that the process does not have.
func SetCapabilities(keep []cap.Value) error {
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("capabilities: clear ambient set: %w", err)
	}
	if err := dropBounding(keep); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	now, set := cap.GetProc(), cap.NewSet()
	for _, v := range keep {
		permitted, err := now.GetFlag(cap.Permitted, v)
		if err != nil {
			return fmt.Errorf("capabilities: %s: %w", v, err)
		}
		if !permitted {
			continue
		}
		for _, f := range [...]cap.Flag{cap.Effective, cap.Permitted} {
			if err := set.SetFlag(f, true, v); err != nil {
				return fmt.Errorf("capabilities: %s: %w", v, err)
			}
		}
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// dropBounding removes capabilities from the bounding set. Without CAP_SETPCAP it does
// nothing: such a process has few capabilities anyway.
func dropBounding(keep []cap.Value) error {
	if ok, err := cap.GetProc().GetFlag(cap.Effective, cap.SETPCAP); err != nil || !ok {
		return err
	}
	for v := range cap.MaxBits() {
		// All threads have what the program was started with, see Launcher. To ask one of them is enough, and cheap.
		if in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(v), 0, 0, 0); slices.Contains(keep, v) || err == nil && in == 0 {
			continue
		}
		if err := cap.DropBound(v); err != nil {
			return fmt.Errorf("drop %s from the bounding set: %w", v, err)
		}
	}
	return nil
}

// NoNewPrivileges sets no_new_privs on every thread: no thread can gain privileges by
// set-user-ID programs or file capabilities.
func NoNewPrivileges() error {
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}

// DropGroups removes all supplementary groups. Files that the daemon creates, and
// directories that it may read, must not depend on the groups of the user who started it.
// Without CAP_SETGID, or in a user namespace that forbids it, the groups remain.
func DropGroups() error {
	err := syscall.Setgroups(nil)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("setgroups: %w", err)
	}
	return nil
}
