// Package daemontest is for tests that start the daemon or look at a log.
package daemontest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// Main runs the tests with the daemon as it is shipped: built without cgo, which the race detector
// needs. It is called name, in a new directory of dir that every user can enter, and its path is in
// *program. Main returns the exit status for TestMain.
func Main(m *testing.M, dir, name string, program *string) int {
	dir, err := os.MkdirTemp(dir, "govirtiofs-bin-")
	if err == nil {
		defer os.RemoveAll(dir)
		*program = filepath.Join(dir, name)
		err = errors.Join(os.Chmod(dir, 0o755), guest.Build("-o", *program, "./cmd/govirtiofsd"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the daemon:", err)
		return 1
	}
	return m.Run()
}

// exiting reports whether a process is dead or about to be.
func exiting(pid int) bool {
	s, ok := tasks.StatOf(pid)
	return !ok || s.Exiting()
}

// Children are the children of a process, in no order, without those that are about to be gone: the next worker
// may be there while the kernel still takes the last one's memory apart. The kernel lists children by thread, and
// any of its threads may have started them. The test is skipped on a kernel without these lists
// (CONFIG_PROC_CHILDREN).
func Children(t testing.TB, pid int) (all []int) {
	t.Helper()
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		guest.Missing(t, fmt.Errorf("the kernel lists no children: %w", err))
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // the thread may have ended
		for _, s := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(s)
			if err != nil {
				t.Fatalf("%s: %q", list, b)
			}
			if !exiting(child) {
				all = append(all, child)
			}
		}
	}
	return all
}
