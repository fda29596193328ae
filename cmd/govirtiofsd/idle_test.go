package main

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/bench"
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
