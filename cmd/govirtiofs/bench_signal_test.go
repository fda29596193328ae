package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// TestBenchInterrupted: whether it is asked to end or killed, no daemon stays behind; the
// exit status tells the signal.
func TestBenchInterrupted(t *testing.T) {
	daemon := buildDaemon(t)
	program := filepath.Join(filepath.Dir(daemon), "govirtiofs")
	if err := guest.Build("-o", program, "./cmd/govirtiofs"); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			if signal.Ignored(sig) {
				t.Skip("the signal is ignored here, and so by the program: nohup, or a shell's background")
			}
			temp, err := os.MkdirTemp("", "bench")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(temp)
			cmd := exec.Command(program, "bench", "--daemon", daemonCommand(daemon), "--duration=60s", "--workload=getattr",
				"--files=1", "--cold-size=1", "--warm-up=1ms", "--depth=1")
			cmd.Env = append(os.Environ(), "TMPDIR="+temp)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			child := waitChild(t, cmd.Process.Pid, filepath.Base(daemon))
			worker := waitChild(t, child, filepath.Base(daemon))
			waitBusy(t, worker)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); sig != unix.SIGKILL && code != 128+int(sig) {
				t.Errorf("exit status %d, want %d:\n%s", code, 128+int(sig), out.String())
			}
			for _, pid := range []int{child, worker} {
				until(t, "the daemon is still there", func() bool { return unix.Kill(pid, 0) != nil || zombie(pid) })
			}
			if left, _ := filepath.Glob(temp + "/*"); len(left) > 0 && sig != unix.SIGKILL {
				t.Errorf("%v was left", left)
			}
		})
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 30 s %s", what)
		}
	}
}

// waitChild waits until a process has a child that runs a program.
func waitChild(t *testing.T, parent int, program string) (pid int) {
	t.Helper()
	until(t, "there is no daemon", func() bool {
		for _, child := range daemontest.Children(t, parent) {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
			if strings.TrimSpace(string(name)) == program[:min(15, len(program))] {
				pid = child
			}
		}
		return pid != 0
	})
	return pid
}

// waitBusy waits until a process has been at work for a while.
func waitBusy(t *testing.T, pid int) {
	t.Helper()
	until(t, "the daemon does nothing", func() bool {
		var ts unix.Timespec
		return unix.ClockGettime(int32(^pid<<3|2), &ts) == nil && ts.Nano() > int64(100*time.Millisecond)
	})
}

func zombie(pid int) bool {
	s, ok := tasks.StatOf(pid)
	return ok && s.State == 'Z'
}
