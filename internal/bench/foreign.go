package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// clockTick is the unit of /proc/stat (USER_HZ, 100 on all architectures of Linux's ABI that
// Go knows).
const clockTick = 10 * time.Millisecond

// foreignWatch measures the processor time of other programs during a measurement. It counts all
// time except idle time, interrupts, and the time of the measured processes, of this process and
// of kernel threads (which work for the measured processes). Time that a hypervisor steals
// counts. It looks only at the processors that this process may use.
type foreignWatch struct {
	cpus    unix.CPUSet
	pids    []int // of the back-ends
	kernel  []int // kernel threads
	started reading
}

// reading has the values of the counters at one moment.
type reading struct {
	at    time.Time
	stat  procStat
	own   time.Duration // of this process and the back-ends
	tasks map[int]time.Duration
}

// newForeignWatch watches all processes except these and this one.
func newForeignWatch(pids []int) (*foreignWatch, error) {
	w := &foreignWatch{pids: pids, kernel: tasks.Descendants(2)} // kthreadd, if it is visible
	if err := unix.SchedGetaffinity(0, &w.cpus); err != nil {
		return nil, fmt.Errorf("processors of this process: %w", err)
	}
	return w, nil
}

// start begins to count.
func (w *foreignWatch) start() (err error) {
	w.started, err = w.read()
	return err
}

// share is the part of the processors' time that other programs have had since start, from 0 to
// 1. Times below the resolution of the kernel's counters count as 0.
func (w *foreignWatch) share() (float64, error) {
	now, err := w.read()
	if err != nil {
		return 0, err
	}
	return foreignShare(&w.started, &now), nil
}

func foreignShare(from, to *reading) float64 {
	all := to.at.Sub(from.at) * time.Duration(to.stat.cpus)
	if all <= 0 {
		return 0
	}
	foreign := all - (to.stat.idle - from.stat.idle) - (to.stat.irq - from.stat.irq) - (to.own - from.own)
	for pid, t := range to.tasks {
		if before, ok := from.tasks[pid]; ok {
			foreign -= t - before
		}
	}
	foreign -= time.Duration(to.stat.cpus) * clockTick / 2
	return max(0, min(1, float64(foreign)/float64(all)))
}

func (w *foreignWatch) read() (r reading, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return r, err
	}
	r.at = time.Now()
	if r.stat, err = parseStat(string(b), func(cpu int) bool { return w.cpus.IsSet(cpu) }); err != nil {
		return r, err
	}
	others, err1 := treeCPU(w.pids)
	self, err2 := processCPU(os.Getpid())
	r.own = others + self
	r.tasks = make(map[int]time.Duration, len(w.kernel))
	for _, pid := range w.kernel {
		if t, err := processCPU(pid); err == nil { // else it has ended
			r.tasks[pid] = t
		}
	}
	return r, errors.Join(err1, err2)
}

// procStat is what /proc/stat says of some processors (proc_stat(5)).
type procStat struct {
	cpus int
	idle time.Duration // waiting for a disk included
	irq  time.Duration // interrupts, soft ones included
}

// parseStat adds up the lines of the processors that count.
func parseStat(stat string, counts func(cpu int) bool) (s procStat, err error) {
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		cpu, err := strconv.Atoi(fields[0][len("cpu"):])
		if err != nil || !counts(cpu) { // "cpu" is all of them
			continue
		}
		var ticks [8]time.Duration // user, nice, system, idle, iowait, irq, softirq
		for i, f := range fields[1:8] {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return s, fmt.Errorf("/proc/stat: %q: %w", strings.TrimSpace(line), err)
			}
			ticks[i] = time.Duration(n) * clockTick
		}
		s.cpus++
		s.idle += ticks[3] + ticks[4]
		s.irq += ticks[5] + ticks[6]
	}
	if s.cpus == 0 {
		return s, errors.New("/proc/stat: no processor that this process may use")
	}
	return s, nil
}
