// Package sandbox takes away from the process what serving a share does not need.
// Each mechanism is a file; a caller combines them. None is needed for the safety of
// names: package passthrough does not leave the share without any of them.
package sandbox

import (
	"fmt"
	"strings"
)

// Mode says how the process is shut in.
type Mode int

// The modes.
const (
	Namespace Mode = iota // own mount, process and network namespaces; the share is the root
	Chroot                // the share is the root
	None
)

// ParseMode reads a mode's name, in any case.
func ParseMode(s string) (Mode, error) {
	switch strings.ToLower(s) {
	case "namespace":
		return Namespace, nil
	case "chroot":
		return Chroot, nil
	case "none":
		return None, nil
	}
	return 0, fmt.Errorf("unknown sandbox %q: want namespace, chroot or none", s)
}

// ExitError is the status of a sandboxed child that failed.
type ExitError struct{ Status int }

func (e *ExitError) Error() string {
	return fmt.Sprintf("sandboxed process ended with status %d", e.Status)
}
