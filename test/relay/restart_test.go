package relay_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
)

// programs are the processes of the program that a relay of b has started.
func (b *bench) programs(path string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err == nil && bytes.HasPrefix(line, append([]byte(path), 0)) && bytes.Contains(line, []byte(b.dir)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// restarted is a program that ends while a guest uses it. It is not among the recipes.
var restarted = recipe{name: "restarted", needs: []string{"bindfs"}, options: []string{"--restart"}, prepare: func(b *bench) []string {
	return []string{"bindfs", b.sample("src"), "{mount}"}
}}

// endProgram does what the guest asks for: "stop", that the program does not answer any more, or "kill", that there is another one.
func (s *served) endProgram() func(question string) bool {
	path, err := exec.LookPath(s.args[0])
	if err != nil {
		s.bench.t.Fatal(err)
	}
	var killed []int
	return func(question string) bool {
		now := s.programs(path)
		switch {
		case question == "stop":
			return len(now) > 0 && all(now, func(pid int) bool {
				_ = unix.Kill(pid, unix.SIGSTOP)
				return state(pid) == 'T'
			})
		case killed == nil && len(now) > 0:
			killed = now
			for _, pid := range now {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		case killed != nil && len(now) > 0 && all(now, func(pid int) bool { return !slices.Contains(killed, pid) }):
			killed = nil
			return true
		}
		return false
	}
}

func all(pids []int, is func(pid int) bool) bool {
	return !slices.ContainsFunc(pids, func(pid int) bool { return !is(pid) })
}

// state is the letter that proc(5) has for the state of a process, or 0.
func state(pid int) byte {
	s, _ := tasks.StatOf(pid)
	return s.State
}

// TestIntegrationMountRestart: a mount on this machine is served by a program that was started again, and goes away at SIGTERM
// all the same: no copy of it stays in the program's namespace.
func TestIntegrationMountRestart(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	for _, u := range users {
		t.Run(u.name, func(t *testing.T) {
			var device unix.Stat_t
			if err := unix.Stat("/dev/fuse", &device); u.uid != 0 && (err != nil || device.Mode&6 != 6) {
				t.Logf("not tried: only root can open /dev/fuse, %v", err)
				return
			}
			b := newBench(t, u)
			dir, r := b.mounted([]string{"--restart", "--stop-timeout=2"}, rawfuse, "{mount}")
			hello := filepath.Join(dir, "hello")
			if got := b.run("", "cat", hello); got != "hello, guest\n" {
				t.Errorf("%q", got)
			}
			first := b.programs(rawfuse)
			if len(first) != 1 {
				t.Fatalf("processes of the program: %v", first)
			}
			if err := unix.Kill(first[0], unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r.until("another program", func() bool {
				now := b.programs(rawfuse)
				return len(now) == 1 && now[0] != first[0]
			})
			r.until("an answer of the other program", func() bool { return b.command("cat", hello).Run() == nil })
			r.stop()
			if left, _ := filepath.Glob(b.path("govirtiofs-program-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestIntegrationMountElsewhere: a mount ends at SIGTERM although another process has a copy of it in a mount namespace of its
// own.
func TestIntegrationMountElsewhere(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	_, r := newBench(t, users[0]).mounted([]string{"--stop-timeout=1"}, rawfuse, "{mount}")
	elsewhere := exec.Command("sleep", "1000")
	elsewhere.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := elsewhere.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = elsewhere.Process.Kill()
		_ = elsewhere.Wait()
	}()
	r.stop()
}

// TestIntegrationMountHangs: SIGTERM ends a mount whose program hangs, while a process waits for a reply. That gets an
// error, and no process of the program is left.
func TestIntegrationMountHangs(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	b := newBench(t, users[0])
	dir, r := b.mounted([]string{"--stop-timeout=1"}, rawfuse, "{mount}")
	for _, pid := range b.programs(rawfuse) {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	read := b.command("cat", filepath.Join(dir, "hello"))
	if err := read.Start(); err != nil {
		t.Fatal(err)
	}
	r.until("a process that waits", func() bool { return state(read.Process.Pid) == 'D' || state(read.Process.Pid) == 'S' })
	r.stop()
	if err := read.Wait(); err == nil {
		t.Error("a program that hangs has answered")
	}
	if left := b.programs(rawfuse); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestIntegrationMountUnmounted: when somebody unmounts, the relay ends, and its program.
func TestIntegrationMountUnmounted(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	b := newBench(t, users[0])
	dir, r := b.mounted(nil, rawfuse, "{mount}")
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("the relay does not end")
	}
	if r.err != nil {
		t.Errorf("the relay ended with %v", r.err)
	}
	if left := b.programs(rawfuse); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
