package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// callCounter counts the system calls of processes with the kernel's tracepoint
// raw_syscalls:sys_enter. Counting slows every system call of the machine, so
// nothing is timed while it counts.
type callCounter struct{ fds []int }

// newCallCounter begins to count for all threads of the processes, and those that they
// start later.
func newCallCounter(pids []int) (*callCounter, error) {
	id, err := tracepoint("raw_syscalls/sys_enter")
	if err != nil {
		return nil, fmt.Errorf("count system calls: %w", err)
	}
	c := &callCounter{}
	for _, pid := range pids {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		for _, e := range list {
			tid, _ := strconv.Atoi(e.Name())
			attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
			attr.Size = uint32(unsafe.Sizeof(attr))
			fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err == unix.ESRCH {
				continue
			}
			if err != nil {
				c.close()
				return nil, fmt.Errorf("count system calls: perf_event_open: %w", err)
			}
			c.fds = append(c.fds, fd)
		}
	}
	return c, nil
}

// total is the number of calls so far.
func (c *callCounter) total() (sum uint64, err error) {
	var b [8]byte
	for _, fd := range c.fds {
		if n, err := unix.Read(fd, b[:]); err != nil || n != len(b) {
			return 0, fmt.Errorf("count system calls: %w", errors.Join(err, errors.New("short read")))
		}
		sum += binary.NativeEndian.Uint64(b[:])
	}
	return sum, nil
}

func (c *callCounter) close() {
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
}

// tracepoint is a tracepoint's number. It is read from a tracefs of our own that is
// mounted nowhere, because not every machine has one mounted.
func tracepoint(name string) (uint64, error) {
	fd, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("tracefs: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigCreate(fd); err != nil {
		return 0, fmt.Errorf("tracefs: %w", err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("tracefs: %w", err)
	}
	defer unix.Close(mnt)
	file, err := unix.Openat(mnt, "events/"+name+"/id", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("tracepoint %s: %w", name, err)
	}
	defer unix.Close(file)
	var b [32]byte
	n, err := unix.Read(file, b[:])
	if err != nil {
		return 0, fmt.Errorf("tracepoint %s: %w", name, err)
	}
	return strconv.ParseUint(strings.TrimSpace(string(b[:n])), 10, 64)
}
