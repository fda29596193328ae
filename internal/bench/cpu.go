package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processCPU is the processor time of all threads that a process has or had. The
// process's clock is used because /proc/PID/stat counts in steps of 10 ms.
func processCPU(pid int) (time.Duration, error) {
	const cpuclockSched = 2 // include/linux/posix-timers.h: ~pid<<3 | CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts); err != nil {
		return 0, fmt.Errorf("clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// threadCPU is the processor time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// treeCPU is the processor time of a process and its present descendants. The
// descendants count because some daemons serve from a child.
func treeCPU(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		t, e := processCPU(pid)
		sum, err = sum+t, errors.Join(err, e)
	}
	return sum, err
}

// descendants are pid and its children, and theirs.
func descendants(pid int) []int {
	parents := map[int][]int{}
	list, _ := os.ReadDir("/proc")
	for _, e := range list {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(n); ok {
			parents[parent] = append(parents[parent], n)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, parents[all[i]]...)
	}
	return all
}

// parentOf reads /proc/PID/stat. The name in it may have any characters, also brackets.
func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}
