package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
// busy polling, and neither is its keeper.
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
		for range 60 {
			total = 0
			var before []bench.Switches
			processes := processTree(t, d.cmd.Process.Pid)
			for _, pid := range processes {
				before = append(before, switches(t, pid))
			}
			time.Sleep(time.Second)
			for i, pid := range processes {
				total += switches(t, pid).Since(before[i])
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

// maxRestThreads is more than the threads that a daemon with few queues has by accident. A Go
// program has 3 (main's, one more that init needs, sysmon), 3 more if it handles signals (package
// os/signal), and one for each system call that was slow while others were, which a busy machine
// makes more of. A thread for each queue or processor would be above it.
const maxRestThreads = 16

// manyQueues are more than maxRestThreads.
const manyQueues = "--num-request-queues=24"

// TestIntegrationIdleMemory: a host has as many idle daemons as guests. One has about 1400 KiB;
// which thread runs what makes a difference of 100 KiB and more from one to the next. The limits
// are what no such accident reaches, and one daemon within them is enough.
func TestIntegrationIdleMemory(t *testing.T) {
	const maxAnonymous, maxThreads = 2100, 24
	guest.NeedRoot(t)
	var sizes, counts []int
	for within := false; !within; {
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
		pid := servingPID(t, d.cmd.Process.Pid)
		anonymous, threads := number(pid, "smaps_rollup", "Anonymous"), threads(pid)
		c.Close()
		d.wantStatus(exitOK)
		sizes, counts = append(sizes, anonymous), append(counts, threads)
		within = anonymous > 0 && anonymous <= maxAnonymous && threads <= maxThreads
		if !within && len(sizes) == 20 {
			t.Fatalf("%d KiB of memory and %d threads, want at most %d and %d", sizes, counts, maxAnonymous, maxThreads)
		}
	}
	t.Logf("%d KiB, %d threads", sizes, counts)
}

// TestIntegrationRest: what daemons have that no front-end uses yet, with the keeper beside
// them. One of several that is within the limits is enough.
func TestIntegrationRest(t *testing.T) {
	guest.NeedRoot(t)
	type rest struct{ kib, threads int }
	for _, test := range []struct {
		name, options string
		pick          func(pid int) int
		max           int // KiB
	}{
		{"keeper", "--sandbox=namespace", func(pid int) int { return pid }, 1500},
		{"worker", "--sandbox=namespace", func(pid int) int { return childOf(t, pid) }, 1500},
		{"worker without namespaces", "--sandbox=none", func(pid int) int { return childOf(t, pid) }, 1500},
		{"alone", "--sandbox=none --recovery=never", func(pid int) int { return pid }, 1600},
	} {
		var all []rest
		for within := false; !within; {
			begin := time.Now()
			d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = withoutProcessors(os.Environ()) },
				append(strings.Fields(test.options), manyQueues, "--shared-dir="+tempDir(t), "--socket-path="+filepath.Join(tempDir(t), "s"))...)
			d.waitLine(waitingLine)
			t.Logf("%s: ready after %v", test.name, time.Since(begin))
			pid := test.pick(d.cmd.Process.Pid)
			one := rest{number(pid, "smaps_rollup", "Anonymous"), threads(pid)}
			_ = d.cmd.Process.Signal(syscall.SIGTERM)
			d.wantStatus(exitOK)
			all = append(all, one)
			within = one.kib > 0 && one.kib <= test.max && one.threads <= maxRestThreads
			if !within && len(all) == 20 {
				t.Errorf("%s: %d KiB of memory and threads, want at most %d and %d", test.name, all, test.max, maxRestThreads)
				break
			}
		}
		t.Logf("%s: %d", test.name, all)
	}
}

// TestIntegrationLean: the program replaces itself at its start, which nobody notices.
func TestIntegrationLean(t *testing.T) {
	guest.NeedRoot(t)
	const name = "its-name"
	link := filepath.Join(tempDir(t), name)
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	for _, processors := range []string{"", "3"} {
		d := startDaemon(t, func(cmd *exec.Cmd) {
			cmd.Path = link
			cmd.Env = withoutProcessors(os.Environ())
			if processors != "" {
				cmd.Env = append(cmd.Env, "GOMAXPROCS="+processors)
			}
		}, "--sandbox=namespace", "--shared-dir="+tempDir(t), "--socket-path="+filepath.Join(tempDir(t), "s"))
		d.waitLine(waitingLine)
		pid := d.cmd.Process.Pid
		for pid, want := range map[int]string{pid: name, childOf(t, pid): "govirtiofsd"} {
			if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) != want+"\n" {
				t.Errorf("its name is %q, %v, want %q", comm, err, want)
			}
			args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if got := strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00"); !slices.Equal(got, d.cmd.Args) {
				t.Errorf("arguments %q, %v, want %q", got, err, d.cmd.Args)
			}
			env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			got := ""
			for _, v := range strings.Split(string(env), "\x00") {
				if n, ok := strings.CutPrefix(v, "GOMAXPROCS="); ok {
					got = n
				}
			}
			if want := cmp.Or(processors, "1"); got != want {
				t.Errorf("started with GOMAXPROCS=%s, %v, want %s", got, err, want)
			}
		}
		// The heap is small where the host uses huge pages for all programs.
		if on := number(pid, "status", "THP_enabled"); on != 0 {
			t.Errorf("THP_enabled: %d", on)
		}
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		d.wantStatus(exitOK)
	}
}
