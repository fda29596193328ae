package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/bench"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

func switches(t *testing.T, pid int) bench.Switches {
	t.Helper()
	s, err := bench.CountSwitches(pid)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestIntegrationIdle: a daemon whose guest asks nothing is not woken, with and without
// busy polling.
func TestIntegrationIdle(t *testing.T) {
	for _, poll := range []string{"", "0", "1ms"} {
		socket := filepath.Join(tempDir(t), "s")
		args := []string{"--sandbox=none", "--shared-dir=" + tempDir(t), "--socket-path=" + socket}
		if poll != "" {
			args = append(args, "--busy-poll="+poll)
		}
		d := startDaemon(t, nil, args...)
		d.waitLine(waitingLine)
		c := connect(t, socket)
		if err := exercise(c, false); err != nil {
			t.Fatal(err)
		}
		// What the requests have stirred up settles within a second, or a few on a busy
		// machine. What wakes up by itself does so in every second.
		total := 0
		for range 20 {
			before := switches(t, d.cmd.Process.Pid)
			time.Sleep(time.Second)
			total = switches(t, d.cmd.Process.Pid).Since(before)
			if total <= 1 {
				break
			}
		}
		if total > 1 {
			t.Errorf("--busy-poll=%s: %d context switches in a second of nothing to do", poll, total)
		}
		c.Close()
		d.wantStatus(exitOK)
	}
}

// TestIntegrationIdleMemory: a host has as many idle daemons as guests. The median of five
// has about 1300 KiB; which thread runs what makes a difference of 100 KiB and more from
// one daemon to the next. The limit is what no such accident reaches.
func TestIntegrationIdleMemory(t *testing.T) {
	const maxAnonymous, maxThreads = 2100, 24
	guest.NeedRoot(t)
	var sizes, counts []int
	for range 5 {
		socket := filepath.Join(tempDir(t), "s")
		d := startDaemon(t, func(cmd *exec.Cmd) {
			cmd.Env = withoutProcessors(os.Environ())
		},
			"--sandbox=none", "--shared-dir="+tempDir(t), "--socket-path="+socket)
		d.waitLine(waitingLine)
		f, err := frontend.Dial(socket, frontend.Options{Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		c := handshake(t, f)
		for range 64 { // nothing that has to wait, for which a daemon starts threads
			if _, err := c.Getattr(1); err != nil {
				t.Fatal(err)
			}
		}
		pid := d.cmd.Process.Pid
		sizes, counts = append(sizes, number(pid, "smaps_rollup", "Anonymous")), append(counts, threads(pid))
		c.Close()
		d.wantStatus(exitOK)
	}
	slices.Sort(sizes)
	slices.Sort(counts)
	anonymous, threads := sizes[2], counts[2]
	t.Logf("%d KiB, %d threads", sizes, counts)
	if anonymous == 0 || anonymous > maxAnonymous || threads > maxThreads {
		t.Errorf("%d KiB of memory and %d threads, want at most %d and %d", anonymous, threads, maxAnonymous, maxThreads)
	}
}

// TestIntegrationRest: what daemons have that no front-end uses yet, with the process beside
// them.
func TestIntegrationRest(t *testing.T) {
	const maxAnonymous, maxThreads = 2100, 10
	guest.NeedRoot(t)
	for name, pick := range map[string]func(pid int) int{
		"supervisor": func(pid int) int { return pid },
		"daemon":     func(pid int) int { return childOf(t, pid) },
	} {
		var sizes, counts []int
		for range 5 {
			d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = withoutProcessors(os.Environ()) },
				"--sandbox=namespace", "--shared-dir="+tempDir(t), "--socket-path="+filepath.Join(tempDir(t), "s"))
			d.waitLine(waitingLine)
			pid := pick(d.cmd.Process.Pid)
			sizes, counts = append(sizes, number(pid, "smaps_rollup", "Anonymous")), append(counts, threads(pid))
			_ = d.cmd.Process.Signal(syscall.SIGTERM)
			d.wantStatus(exitOK)
		}
		slices.Sort(sizes)
		slices.Sort(counts)
		t.Logf("%s: %d KiB, %d threads", name, sizes, counts)
		// Where huge pages are used without being asked for, the supervisor may have two.
		if sizes[2] == 0 || sizes[2] > maxAnonymous+4<<10 || name == "daemon" && sizes[2] > maxAnonymous || counts[2] > maxThreads {
			t.Errorf("%s: %d KiB of memory and %d threads, want at most %d and %d", name, sizes[2], counts[2], maxAnonymous, maxThreads)
		}
	}
}

// TestIntegrationReady: what starts a virtual machine waits for the daemon's socket.
func TestIntegrationReady(t *testing.T) {
	// It takes milliseconds. Something that it waits for in vain shows also with the race
	// detector and where much else runs.
	const want = time.Second
	best := time.Hour
	for range 10 {
		begin := time.Now()
		d := startDaemon(t, nil, "--sandbox=none", "--shared-dir="+tempDir(t), "--socket-path="+filepath.Join(tempDir(t), "s"))
		d.waitLine(waitingLine)
		best = min(best, time.Since(begin))
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		d.wantStatus(exitOK)
		if best < want {
			break
		}
	}
	t.Logf("ready after %v", best)
	if best > want {
		t.Errorf("ready after %v at the earliest, want %v", best, want)
	}
}
