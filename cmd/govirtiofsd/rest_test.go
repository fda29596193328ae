package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// TestIntegrationRestThreads: before a front-end connects, a worker takes no signals, which takes three threads, and
// the keeper has no thread that waits for the worker's death. Both begin with the connection.
func TestIntegrationRestThreads(t *testing.T) {
	guest.NeedRoot(t)
	for _, sandbox := range []string{"namespace", "none"} {
		socket := filepath.Join(tempDir(t), "s")
		d := startDaemon(t, nil, "--sandbox="+sandbox, "--shared-dir="+tempDir(t), "--socket-path="+socket)
		d.waitLine(waitingLine)
		keeper, worker := d.cmd.Process.Pid, childOf(t, d.cmd.Process.Pid)
		check := func(waits int, ignores bool) error {
			if n := sharedWaits(t, keeper); n != waits {
				return fmt.Errorf("%d threads of the keeper wait on shared memory, want %d", n, waits)
			}
			for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1} {
				if got := ignored(t, worker, sig); got != ignores {
					return fmt.Errorf("the worker ignores %v: %t, want %t", sig, got, ignores)
				}
			}
			return nil
		}
		if err := check(0, true); err != nil {
			t.Errorf("at rest: %v", err)
		}
		c := connect(t, socket)
		eventually(t, "with a front-end", func() error { return check(1, false) })
		c.Close()
		d.wantStatus(exitOK)
	}
}

// sharedWaits counts threads that wait on a futex in memory that other processes have, too. Go's runtime has none.
func sharedWaits(t *testing.T, pid int) (n int) {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/task", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	d := tasks.Dir(fd)
	for _, name := range d.Entries() {
		s, _ := d.Entry(name)
		if args := strings.Fields(s.Args); s.Call == unix.SYS_FUTEX && len(args) > 1 && args[1] == "0x0" { // FUTEX_WAIT, not private
			n++
		}
	}
	return n
}

func ignored(t *testing.T, pid int, sig syscall.Signal) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nSigIgn:\t")
	mask, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set&(1<<(sig-1)) != 0
}
