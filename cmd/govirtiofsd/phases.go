package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// startedEnv has the time at which the keeper has begun to start a worker, in nanoseconds of CLOCK_MONOTONIC.
const startedEnv = "GOVIRTIOFSD_STARTED"

// phases are how long the parts of a successor's start have taken, for the log: where a guest waits for long, they say for
// what. A nil *phases notes nothing.
type phases struct {
	mu        sync.Mutex
	last, cpu time.Duration // at the end of the last one
	all       []string
}

// clockNow is the time by a clock; 0 where that does not work.
func clockNow(clock int32) time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(clock, &ts)
	return time.Duration(ts.Nano())
}

// startedNow is what a worker has in its environment that is started now.
func startedNow() string {
	return startedEnv + "=" + strconv.FormatInt(int64(clockNow(unix.CLOCK_MONOTONIC)), 10)
}

// newPhases begins when the keeper has begun.
func newPhases() *phases {
	began, err := strconv.ParseInt(os.Getenv(startedEnv), 10, 64)
	_ = os.Unsetenv(startedEnv)
	if err != nil {
		return nil
	}
	p := &phases{last: time.Duration(began)}
	p.end("program")
	return p
}

// end notes that a phase has ended: how long it took, and how much processor time of this process.
func (p *phases) end(name string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, cpu := clockNow(unix.CLOCK_MONOTONIC), clockNow(unix.CLOCK_PROCESS_CPUTIME_ID)
	const exact = 10 * time.Microsecond
	p.all = append(p.all, fmt.Sprintf("%s %s (%s)", name, (now-p.last).Round(exact), (cpu-p.cpu).Round(exact)))
	p.last, p.cpu = now, cpu
}

// String lists the phases in their order.
func (p *phases) String() string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.all, ", ")
}
