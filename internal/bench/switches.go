package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Switches counts how often each thread has been put on a processor or taken off it so
// far. It shows whether an idle process is woken.
type Switches map[string]int

// CountSwitches counts the context switches of all threads of processes (proc_pid_status(5)).
func CountSwitches(pids ...int) (Switches, error) {
	s := make(Switches)
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(tasks) == 0 {
			return nil, fmt.Errorf("process %d is gone: %w", pid, unix.ESRCH)
		}
		for _, task := range tasks {
			if b, err := os.ReadFile(task); err == nil { // else the thread has ended
				s[task] = parseSwitches(string(b))
			}
		}
	}
	return s, nil
}

// parseSwitches adds up the voluntary and the other ones.
func parseSwitches(status string) (n int) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		var one int
		if strings.HasSuffix(name, "ctxt_switches") {
			_, _ = fmt.Sscan(value, &one)
			n += one
		}
	}
	return n
}

// Since is the number of switches since before. Threads that have ended count as 0.
func (s Switches) Since(before Switches) (n int) {
	for task, count := range s {
		n += count - before[task]
	}
	return n
}
