package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// waitListening waits up to 30 seconds until a back-end listens on a socket. It
// does not connect to find out, because a back-end may serve its first
// connection only.
func waitListening(ctx context.Context, socket string) error {
	deadline := time.Now().Add(30 * time.Second)
	for !listening(socket) {
		if time.Now().After(deadline) {
			// A back-end in another network namespace is not in our table. If
			// nothing listens on this socket, the front-end will say so.
			if _, err := os.Stat(socket); err != nil {
				return fmt.Errorf("guest: nobody listens: %w", err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("guest: nobody listens on %s: %w", socket, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// listening reports whether a socket listens. In the kernel's table the fourth column
// has a socket's flags, 10000 for one that listens. The last column is the path that
// it was bound to.
func listening(socket string) bool {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && fields[3] == "00010000" && mayBe(fields[7], socket) {
			_, err := os.Stat(socket)
			return err == nil
		}
	}
	return false
}

// mayBe reports whether a socket bound to the path bound can be the one at path. If it
// was bound by a relative path or through a file descriptor, as in
// /proc/self/fd/3/sock, only the last element can be compared. Our daemon binds to
// PATH.new and renames it when it listens.
func mayBe(bound, path string) bool {
	bound = strings.TrimSuffix(bound, ".new")
	if filepath.Base(bound) != filepath.Base(path) {
		return false
	}
	if !filepath.IsAbs(bound) || strings.HasPrefix(bound, "/proc/") {
		return true
	}
	a, errA := filepath.EvalSymlinks(filepath.Dir(bound))
	b, errB := filepath.EvalSymlinks(filepath.Dir(path))
	return errA == nil && errB == nil && a == b
}
