package bench

import (
	"errors"
	"fmt"
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
