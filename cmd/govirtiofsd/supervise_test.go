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

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
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

// childOf is the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	all := daemontest.Children(t, pid)
	if len(all) != 1 {
		t.Fatalf("children %d", all)
	}
	return all[0]
}

// superviseCase is something that happens to a daemon with two processes, and what comes of it.
type superviseCase struct {
	name  string
	pass  func(t *testing.T, pid, child int, socket string)
	want  int
	said  string
	stays bool // what the daemon has made is not removed
}

func signalled(name string, sig unix.Signal, want int, said string) superviseCase {
	return superviseCase{name: name, want: want, said: said, stays: want < 0,
		pass: func(_ *testing.T, pid, _ int, _ string) { _ = unix.Kill(pid, sig) }}
}

func childSignalled(name string, sig unix.Signal, want int, said string) superviseCase {
	return superviseCase{name: name, want: want, said: said,
		pass: func(_ *testing.T, _, child int, _ string) { _ = unix.Kill(child, sig) }}
}

// TestIntegrationSupervise: the process beside the one that serves passes signals on, removes
// what the daemon has made, and ends as the other one does, in each sandbox.
func TestIntegrationSupervise(t *testing.T) {
	guest.NeedRoot(t)
	cases := []superviseCase{
		signalled("SIGTERM", unix.SIGTERM, exitOK, ""),
		{name: "SIGTERM twice", pass: func(_ *testing.T, pid, _ int, _ string) {
			_ = unix.Kill(pid, unix.SIGTERM)
			_ = unix.Kill(pid, unix.SIGTERM)
		}},
		signalled("SIGINT", unix.SIGINT, exitOK, ""),
		signalled("SIGHUP", unix.SIGHUP, exitOK, ""),
		signalled("SIGQUIT", unix.SIGQUIT, exitQuit, "goroutine"),
		{name: "disconnected", pass: func(t *testing.T, _, _ int, socket string) { connect(t, socket).Close() }},
		{name: "child ended", pass: func(t *testing.T, _, child int, socket string) {
			c := connect(t, socket)
			t.Cleanup(c.Close)
			_ = unix.Kill(child, unix.SIGTERM)
		}},
		{name: "both ended at rest", pass: func(_ *testing.T, pid, child int, _ string) {
			_ = unix.Kill(child, unix.SIGTERM) // does nothing: there is nothing to interrupt
			_ = unix.Kill(pid, unix.SIGTERM)
		}},
		signalled("killed", unix.SIGKILL, -1, ""),
	}
	killed := childSignalled("child killed", unix.SIGKILL, exitStart, "killed")
	for _, mode := range []struct {
		args  []string
		cases []superviseCase
	}{
		{[]string{"--sandbox=namespace"}, cases},
		{[]string{"--sandbox=chroot"}, cases},
		{[]string{"--sandbox=none"}, cases},
		{[]string{"--sandbox=namespace", "--recovery=never"}, append(cases, killed)},
	} {
		for _, test := range mode.cases {
			t.Run(strings.Join(mode.args, " ")+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				testSupervise(t, mode.args, test)
			})
		}
	}
}

func testSupervise(t *testing.T, args []string, test superviseCase) {
	socket := filepath.Join(tempDir(t), "s")
	address := filepath.Join(tempDir(t), "notify")
	m := newManager(t, address)
	d := startDaemon(t, func(cmd *exec.Cmd) {
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address)
	}, append([]string{"--shared-dir=" + tempDir(t), "--socket-path=" + socket}, args...)...)
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
}

// TestIntegrationOneProcess: without recovery and without namespaces there is one process.
func TestIntegrationOneProcess(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range []string{"chroot", "none"} {
		socket := filepath.Join(tempDir(t), "s")
		d := startDaemon(t, nil, "--sandbox="+box, "--recovery=never", "--shared-dir="+tempDir(t), "--socket-path="+socket)
		d.waitLine(waitingLine)
		if tree := processTree(t, d.cmd.Process.Pid); len(tree) != 1 {
			t.Errorf("%s: processes %v", box, tree)
		}
		_ = d.cmd.Process.Signal(unix.SIGQUIT)
		d.wantStatus(exitQuit)
		wantNoFiles(t, socket)
	}
}

// TestIntegrationReplaced: a worker that dies while no front-end is connected is replaced, without a
// word to those who have started the daemon, and connections that are made meanwhile wait.
func TestIntegrationReplaced(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			socket, address := filepath.Join(dir, "s"), filepath.Join(dir, "notify")
			m := newManager(t, address)
			d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address) },
				"--sandbox="+box, "--shared-dir="+tempDir(t), "--socket-path="+socket, "--keep-listening")
			pid := d.cmd.Process.Pid
			m.want("READY=1", pid)
			d.waitLine(waitingLine)
			for n, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSEGV, unix.SIGABRT, unix.SIGKILL, unix.SIGKILL} {
				if err := unix.Kill(childOf(t, pid), sig); err != nil {
					t.Fatal(err)
				}
				said := []string{waitingLine, fmt.Sprintf("worker %d has died (", n+1)}
				if n == 0 { // one that comes between two workers
					c := connect(t, socket)
					if err := exercise(c, false); err != nil {
						t.Error(err)
					}
					c.Close()
					said = append(said, "Client disconnected")
				}
				d.waitLines(said...)
			}
			c := connect(t, socket)
			if _, err := c.Getattr(1); err != nil {
				t.Error(err)
			}
			c.Close()
			b, _ := os.ReadFile(socket + ".pid")
			if string(b) != fmt.Sprintln(pid) {
				t.Errorf("the pid file says %q", b)
			}
			_ = d.cmd.Process.Signal(unix.SIGTERM)
			m.want("STOPPING=1", pid)
			d.wantStatus(exitOK)
			wantNoFiles(t, socket)
		})
	}
}

// TestIntegrationDiedConnected: without recovery the daemon ends with the worker that has the front-end,
// so that it notices.
func TestIntegrationDiedConnected(t *testing.T) {
	guest.NeedRoot(t)
	socket := filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--recovery=never", "--shared-dir="+tempDir(t), "--socket-path="+socket)
	d.waitLine(waitingLine)
	c := connect(t, socket)
	d.waitLine("the first ring runs")
	_ = unix.Kill(childOf(t, d.cmd.Process.Pid), unix.SIGKILL)
	d.wantStatus(exitStart)
	wantNoFiles(t, socket)
	c.Close()
}

// TestIntegrationSuperviseStart sends two signals to daemons at any time from their start on.
// From when they have set up what they do at signals, all end with status 0 and leave nothing.
func TestIntegrationSuperviseStart(t *testing.T) {
	guest.NeedRoot(t)
	dir, share := tempDir(t), tempDir(t)
	const daemons, together = 60, 8
	boxes := sandboxes()
	var all sync.WaitGroup
	room := make(chan struct{}, together)
	for i := range daemons {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			after, then := time.Duration(i/2)*time.Millisecond, time.Duration(i%5)*500*time.Microsecond
			if err := endAfter(t, boxes[i%len(boxes)], share, filepath.Join(dir, strconv.Itoa(i)), after, then, endSignals[i/2%len(endSignals)]); err != nil {
				t.Errorf("%v after %v and %v: %v", endSignals[i%len(endSignals)], after, then, err)
			}
		})
	}
	all.Wait()
}

// endAfter starts a daemon and sends it a signal a while after its socket is there, and
// once more.
func endAfter(t *testing.T, box, share, socket string, after, then time.Duration, sig os.Signal) error {
	cmd := command(t, nil, "--sandbox="+box, "--shared-dir="+share, "--socket-path="+socket)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
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
