package main

import (
	"bufio"
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

// buildWithEntry builds the daemon as releases are, so that its supervisor can sleep.
func buildWithEntry(t *testing.T) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "govirtiofsd")
	if err := guest.Build("-ldflags", "-E govirtiofs_entry", "-o", path, "./cmd/govirtiofsd"); err != nil {
		t.Fatal(err)
	}
	return path
}

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

// resident is a process's memory in KiB. VmRSS in "status" is only about right, see
// proc_pid_status(5).
func resident(pid int) int { return number(pid, "smaps_rollup", "Rss") }

// comm is a process's name.
func comm(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(b))
}

// fellAsleep reports whether a supervisor has given up its memory and threads, and has its name
// back, which is the last that it does.
func fellAsleep(pid int) bool {
	return resident(pid) <= 400 && threads(pid) == 1 && comm(pid) == "govirtiofsd"
}

// childOf is the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Skip(err) // a kernel without CONFIG_PROC_CHILDREN
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatalf("children %q", b)
	}
	return child
}

// TestIntegrationAsleep: the process beside the sandboxed one gives up its memory, and
// does all the same what it is for.
func TestIntegrationAsleep(t *testing.T) {
	guest.NeedRoot(t)
	program := buildWithEntry(t)
	for _, test := range []struct {
		name  string
		pass  func(t *testing.T, pid, child int, socket string)
		want  int
		said  string
		stays bool // what the daemon has made is not removed
	}{
		{"SIGTERM", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGTERM) }, exitOK, "", false},
		{"SIGINT", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGINT) }, exitOK, "", false},
		{"SIGHUP", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGHUP) }, exitOK, "", false},
		{"SIGQUIT", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGQUIT) }, 2, "goroutine", false},
		{"disconnected", func(t *testing.T, _, _ int, socket string) { connect(t, socket).Close() }, exitOK, "", false},
		{"child ended", func(_ *testing.T, _, child int, _ string) { _ = unix.Kill(child, unix.SIGTERM) }, exitOK, "", false},
		{"child killed", func(_ *testing.T, _, child int, _ string) { _ = unix.Kill(child, unix.SIGKILL) }, exitStart, "killed", false},
		{"killed", func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, unix.SIGKILL) }, -1, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(tempDir(t), "s")
			address := filepath.Join(tempDir(t), "notify")
			m := newManager(t, address)
			d := startDaemon(t, func(cmd *exec.Cmd) {
				cmd.Path = program
				cmd.Env = append(withoutProcessors(os.Environ()), "NOTIFY_SOCKET="+address)
			}, "--sandbox=namespace", "--shared-dir="+tempDir(t), "--socket-path="+socket)
			d.waitLine(waitingLine)
			pid := d.cmd.Process.Pid
			m.want("READY=1", pid)
			child := childOf(t, pid)
			for deadline := time.Now().Add(20 * time.Second); !fellAsleep(pid); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the supervisor %q has %d threads and %d KiB", comm(pid), threads(pid), resident(pid))
				}
			}
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", child)); err != nil || bytes.Contains(b, []byte("GOMAXPROCS")) {
				t.Errorf("the environment of the sandboxed process: %q, %v", b, err)
			}
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

// TestIntegrationFallAsleep ends daemons about the time at which their supervisors fall
// asleep. It takes 8 s.
func TestIntegrationFallAsleep(t *testing.T) {
	guest.NeedRoot(t)
	program := buildWithEntry(t)
	dir, share := tempDir(t), tempDir(t)
	const daemons, together = 200, 50
	var all sync.WaitGroup
	room := make(chan struct{}, together)
	for i := range daemons {
		// From 20 ms before to 20 ms after, as far as can be told from here.
		after := sleepAfter + time.Duration(i-daemons/2)*200*time.Microsecond
		sig := endSignals[i%len(endSignals)]
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if err := endAfter(program, share, filepath.Join(dir, strconv.Itoa(i)), after, sig); err != nil {
				t.Errorf("%v after %v: %v", sig, after, err)
			}
		})
	}
	all.Wait()
}

// endAfter starts a daemon and sends it a signal a while after it is ready.
func endAfter(program, share, socket string, after time.Duration, sig os.Signal) error {
	cmd := exec.Command(program, "--sandbox=namespace", "--shared-dir="+share, "--socket-path="+socket)
	r, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	said := bufio.NewScanner(r)
	for said.Scan() && !strings.Contains(said.Text(), waitingLine) {
	}
	time.Sleep(after)
	_ = cmd.Process.Signal(sig)
	for said.Scan() { // Wait closes the pipe
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	for _, path := range []string{socket, socket + ".pid"} {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s stays", filepath.Base(path))
		}
	}
	return nil
}
