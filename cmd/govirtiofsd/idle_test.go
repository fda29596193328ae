package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// switches counts the context switches of all threads of a process, by thread.
func switches(t *testing.T, pid int) map[string]int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatal("no threads:", err)
	}
	counts := make(map[string]int)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			var n int
			if strings.HasSuffix(name, "ctxt_switches") {
				_, _ = fmt.Sscan(value, &n)
				counts[f] += n
			}
		}
	}
	return counts
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
			total = 0
			for thread, n := range switches(t, d.cmd.Process.Pid) {
				total += n - before[thread]
			}
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
