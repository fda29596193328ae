package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// wantNofile is the limit that is aimed at when none is given.
const wantNofile = 1_000_000

// RaiseNofile sets the limit of open descriptors: to n, to a large number when n is
// negative, not at all when it is 0.
func RaiseNofile(n int64, log *logrus.Entry) error {
	if n == 0 {
		return nil
	}
	want := uint64(n)
	if n < 0 {
		want = min(wantNofile, nrOpen())
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	limit := unix.Rlimit{Cur: want, Max: max(want, now.Max)}
	if n > 0 {
		limit.Max = want
	}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		return nil
	}
	if n > 0 && want > now.Max {
		return fmt.Errorf("--rlimit-nofile %d is above the hard limit %d; raise that or use a smaller number", n, now.Max)
	}
	limit = unix.Rlimit{Cur: min(want, now.Max), Max: now.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("setrlimit: %w", err)
	}
	log.Debugf("open descriptors are limited to %d", limit.Cur)
	return nil
}

// nrOpen is the largest limit that the kernel allows.
func nrOpen() uint64 {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return wantNofile
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return wantNofile
	}
	return n
}
