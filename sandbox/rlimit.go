package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultNoFile is the default limit of open files, if the kernel's fs.nr_open is not less.
const defaultNoFile = 1000000

// DefaultNoFile returns the limit of open files that a daemon sets by default.
func DefaultNoFile() uint64 {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return defaultNoFile
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return defaultNoFile
	}
	return min(n, defaultNoFile)
}

// SetNoFile sets the limit of open files, hard and soft, and returns the limit that is now in
// force. If the process may not raise the hard limit, it uses the hard limit.
func SetNoFile(want uint64) (uint64, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return 0, fmt.Errorf("getrlimit: %w", err)
	}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: want})
	if err == nil {
		return want, nil
	}
	if want < now.Max {
		return 0, fmt.Errorf("setrlimit to %d: %w", want, err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: now.Max, Max: now.Max}); err != nil {
		return 0, fmt.Errorf("setrlimit to the hard limit %d: %w", now.Max, err)
	}
	return now.Max, nil
}

// NoFile returns the limit of open files that is in force.
func NoFile() (uint64, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return 0, fmt.Errorf("getrlimit: %w", err)
	}
	return now.Cur, nil
}
