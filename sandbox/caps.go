package sandbox

import (
	"fmt"
	"os"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// CapChange is one item of --modcaps.
type CapChange struct {
	value cap.Value
	add   bool
}

// ParseModcaps reads a list like "+sys_admin:-mknod".
func ParseModcaps(s string) ([]CapChange, error) {
	if s == "" {
		return nil, nil
	}
	var changes []CapChange
	for _, item := range strings.Split(s, ":") {
		if len(item) < 2 || item[0] != '+' && item[0] != '-' {
			return nil, fmt.Errorf("%q: want +NAME or -NAME", item)
		}
		v, err := cap.FromName("cap_" + strings.ToLower(item[1:]))
		if err != nil {
			return nil, fmt.Errorf("unknown capability %q (names are like sys_admin)", item[1:])
		}
		changes = append(changes, CapChange{value: v, add: item[0] == '+'})
	}
	return changes, nil
}

// needed are the capabilities for acting as the guest's users on the share.
var needed = []cap.Value{
	cap.CHOWN, cap.DAC_OVERRIDE, cap.FOWNER, cap.FSETID, cap.SETGID, cap.SETUID,
	cap.MKNOD, cap.SETFCAP, cap.DAC_READ_SEARCH,
}

// DropCapabilities leaves every thread of the process with what serving a share
// needs, changed as the list says, and not more than it has. It does nothing for a
// process that is not root. New privileges can't be had any more (PR_SET_NO_NEW_PRIVS).
func DropCapabilities(changes []CapChange) error {
	if err := setNoNewPrivs(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	have := cap.GetProc()
	keep := cap.NewSet()
	want := map[cap.Value]bool{}
	for _, v := range needed {
		want[v] = true
	}
	for _, c := range changes {
		want[c.value] = c.add
	}
	for v, on := range want {
		if ok, err := have.GetFlag(cap.Permitted, v); err != nil || !ok || !on {
			continue
		}
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := keep.SetFlag(flag, true, v); err != nil {
				return fmt.Errorf("capability %s: %w", v, err)
			}
		}
	}
	if err := keep.SetProc(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
