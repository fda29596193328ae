package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// withoutProcessors is the environment without GOMAXPROCS.
func withoutProcessors(env []string) []string {
	return slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, "GOMAXPROCS=") })
}

// number is one of a process, from a file in /proc/PID; 0 if it is not there.
func number(pid int, file, name string) (n int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			_, _ = fmt.Sscan(value, &n)
		}
	}
	return n
}

func threads(pid int) int { return number(pid, "status", "Threads") }

// children are the children of a process, which any of its threads may have started.
func children(t *testing.T, pid int) (all []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if len(lists) == 0 {
		t.Skip("a kernel without CONFIG_PROC_CHILDREN:", err)
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, s := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(s)
			if err != nil {
				t.Fatalf("%s: %q", list, b)
			}
			all = append(all, child)
		}
	}
	return all
}

// childOf is the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	all := children(t, pid)
	if len(all) != 1 {
		t.Fatalf("children %d", all)
	}
	return all[0]
}

// TestIntegrationSupervise: the process beside the sandboxed one passes signals on, removes
// what the daemon has made, and ends as the sandboxed one does.
func TestIntegrationSupervise(t *testing.T) {
	guest.NeedRoot(t)
	twice := func(_ *testing.T, pid, _ int, _ string) {
		_ = unix.Kill(pid, unix.SIGTERM)
		_ = unix.Kill(pid, unix.SIGTERM)
	}
	for _, test := range []struct {
		name  string
		pass  func(t *testing.T, pid, child int, socket string)
		want  int
		said  string
		stays bool // what the daemon has made is not removed
	}{
		{"SIGTERM", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGTERM) }, exitOK, "", false},
		{"SIGTERM twice", twice, exitOK, "", false},
		{"SIGINT", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGINT) }, exitOK, "", false},
		{"SIGHUP", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGHUP) }, exitOK, "", false},
		{"SIGQUIT", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGQUIT) }, 2, "goroutine", false},
		{"disconnected", func(t *testing.T, _, _ int, socket string) { connect(t, socket).Close() }, exitOK, "", false},
		{"child ended", func(t *testing.T, _, child int, socket string) {
			c := connect(t, socket)
			t.Cleanup(c.Close)
			_ = unix.Kill(child, unix.SIGTERM)
		}, exitOK, "", false},
		{"both ended at rest", func(_ *testing.T, pid, child int, _ string) {
			_ = unix.Kill(child, unix.SIGTERM) // does nothing: there is nothing to interrupt
			_ = unix.Kill(pid, unix.SIGTERM)
		}, exitOK, "", false},
		{"child killed", func(_ *testing.T, _, child int, _ string) { _ = unix.Kill(child, unix.SIGKILL) }, exitStart, "killed", false},
		{"killed", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGKILL) }, -1, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(tempDir(t), "s")
			address := filepath.Join(tempDir(t), "notify")
			m := newManager(t, address)
			d := startDaemon(t, func(cmd *exec.Cmd) {
				cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address)
			}, "--sandbox=namespace", "--shared-dir="+tempDir(t), "--socket-path="+socket)
			d.waitLine(waitingLine)
			pid := d.cmd.Process.Pid
			m.want("READY=1", pid)
			child := childOf(t, pid)
			test.pass(t, pid, child, socket)
			d.wantStatus(test.want)
			if test.want >= 0 {
				m.want("STOPPING=1", pid)
			}
			_, err1 := os.Lstat(socket)
			_, err2 := os.Lstat(socket + ".pid")
			if stays := err1 == nil && err2 == nil; stays != test.stays || (err1 == nil) != (err2 == nil) {
				t.Errorf("socket: %v, pid file: %v", err1, err2)
			}
			if test.said != "" && !strings.Contains(strings.Join(d.said, "\n"), test.said) {
				t.Errorf("it does not say %q", test.said)
			}
		})
	}
}

// TestIntegrationSuperviseStart sends two signals to daemons at any time from their start on.
// From when they have set up what they do at signals, all end with status 0 and leave nothing.
func TestIntegrationSuperviseStart(t *testing.T) {
	guest.NeedRoot(t)
	dir, share := tempDir(t), tempDir(t)
	const daemons, together = 60, 8
	var all sync.WaitGroup
	room := make(chan struct{}, together)
	for i := range daemons {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			after, then := time.Duration(i/2)*time.Millisecond, time.Duration(i%5)*500*time.Microsecond
			if err := endAfter(t, share, filepath.Join(dir, strconv.Itoa(i)), after, then, endSignals[i%len(endSignals)]); err != nil {
				t.Errorf("%v after %v and %v: %v", endSignals[i%len(endSignals)], after, then, err)
			}
		})
	}
	all.Wait()
}

// endAfter starts a daemon and sends it a signal a while after its socket is there, and
// once more.
func endAfter(t *testing.T, share, socket string, after, then time.Duration, sig os.Signal) error {
	cmd := command(t, nil, "--sandbox=namespace", "--shared-dir="+share, "--socket-path="+socket)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		if _, err := os.Lstat(socket); err == nil {
			break
		}
	}
	time.Sleep(after)
	_ = cmd.Process.Signal(sig)
	time.Sleep(then)
	_ = cmd.Process.Signal(sig)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, said.Bytes())
	}
	for _, path := range []string{socket, socket + ".pid"} {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s stays", filepath.Base(path))
		}
	}
	return nil
}
