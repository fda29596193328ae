package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/upgrade"
)

// place puts a file with this content at a path, as a package manager does: under another name
// first.
func place(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// printer is a program that prints this when it is asked for its versions, and otherwise ends with 9. It
// always does if it has nothing to print.
func printer(t *testing.T, text string) []byte {
	t.Helper()
	dir := t.TempDir()
	source := fmt.Sprintf(`package main

import "os"

func main() {
	const text = %q
	if len(os.Args) != 2 || os.Args[1] != %q || text == "" {
		os.Exit(9)
	}
	os.Stdout.WriteString(text)
}
`, text, upgrade.Option)
	if err := os.WriteFile(dir+"/main.go", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := guest.Build("-o", dir+"/program", dir+"/main.go"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dir + "/program")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// upgradeTool runs "govirtiofs upgrade" and returns what it says.
func upgradeTool(t *testing.T, want int, args ...string) string {
	t.Helper()
	cmd := exec.Command(program(t, "govirtiofs"), append([]string{"upgrade"}, args...)...)
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != want {
		t.Errorf("%q: exit status %d, want %d:\n%s", args, status, want, out)
	}
	return string(out)
}

// TestUpgrade: a new program takes over; one that can't is refused or taken back, and the daemon serves on.
func TestUpgrade(t *testing.T) {
	path := filepath.Join(guest.TempDir(t), "govirtiofsd")
	good, err := os.ReadFile(program(t, "govirtiofsd"))
	if err != nil {
		t.Fatal(err)
	}
	place(t, path, good)
	socket, daemon := backend(t, path, t.TempDir(), "--keep-listening")
	pid := daemon.Process.Pid
	until(t, "nobody serves", func() bool { return len(childrenOf(pid)) == 1 })
	serves := func(what string, before []int, changes bool) []int {
		t.Helper()
		until(t, "there is not one worker", func() bool { return len(childrenOf(pid)) == 1 })
		now := childrenOf(pid)
		if changed := now[0] != before[0]; changed != changes {
			t.Errorf("%s: another worker: %t", what, changed)
		}
		exe, err1 := os.Stat(fmt.Sprintf("/proc/%d/exe", now[0]))
		file, err2 := os.Stat(path)
		if same := err1 == nil && err2 == nil && os.SameFile(exe, file); changes != same {
			t.Errorf("%s: it runs the program at the path: %t", what, same)
		}
		return now
	}
	worker := childrenOf(pid)
	if said := upgradeTool(t, 1, fmt.Sprint(worker[0])); !strings.Contains(said, fmt.Sprintf("process %d is the worker; its keeper is process %d: govirtiofs upgrade %[2]d", worker[0], pid)) {
		t.Error(said)
	}
	for n, arg := range []string{socket, fmt.Sprint(pid), socket} {
		place(t, path, good)
		if said := upgradeTool(t, 0, arg); !strings.Contains(said, fmt.Sprintf("process %d: upgraded to govirtiofsd ", pid)) {
			t.Error(said)
		}
		worker = serves(fmt.Sprint("upgrade ", n+1), worker, true)
	}
	other := upgrade.Versions{Program: "govirtiofsd of the future", Ledger: 1000, Reads: 1000, Keeper: 1}
	for _, test := range []struct{ name, prints, says string }{
		{"broken", "", "it can't say what it is: exit status 9"},
		{"another program", "hello", "it does not say which ledgers it reads"},
		{"other ledger", other.String(), "govirtiofsd of the future reads ledgers of the versions 1000 to 1000, and this one has version "},
	} {
		place(t, path, printer(t, test.prints))
		said := upgradeTool(t, 1, socket)
		if !strings.Contains(said, "no upgrade, nothing has changed: "+path) || !strings.Contains(said, test.says) {
			t.Errorf("%s: %s", test.name, said)
		}
		_ = unix.Kill(pid, unix.SIGUSR2) // somebody who does not ask before
		worker = serves(test.name, worker, false)
	}
	asked, err := upgrade.Ask(program(t, "govirtiofsd"))
	if err != nil {
		t.Fatal(err)
	}
	place(t, path, printer(t, asked.String()))
	if said := upgradeTool(t, 1, socket, "--timeout=3s"); !strings.Contains(said, "its log says why") {
		t.Error(said)
	}
	until(t, "the old program does not go on", func() bool { return len(childrenOf(pid)) == 1 })
	place(t, path, good)
	before := childrenOf(pid)
	upgradeTool(t, 0, socket)
	serves("in the end", before, true)
	_ = daemon.Process.Signal(unix.SIGTERM)
	if err := daemon.Wait(); err != nil {
		t.Error(err)
	}
}

// TestUpgradeForeign: the program of a process that handles the signal but is no govirtiofsd is not run, and the
// process gets no signal.
func TestUpgradeForeign(t *testing.T) {
	dir := guest.TempDir(t)
	path, source := filepath.Join(dir, "foreign"), filepath.Join(dir, "main.go")
	// It leaves a mark when it is run with the option, and when it gets the signal.
	if err := os.WriteFile(source, fmt.Appendf(nil, `package main

import (
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	mark := func(name string) { os.WriteFile(%q+"/"+name, nil, 0o600) }
	if len(os.Args) > 1 {
		mark("run")
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR2)
	mark("ready")
	io.Copy(io.Discard, os.Stdin)
	select {
	case <-c:
		mark("signal")
	default:
	}
}
`, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := guest.Build("-o", path, source); err != nil {
		t.Fatal(err)
	}
	foreign := exec.Command(path)
	in, err := foreign.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the process is not ready", func() bool { _, err := os.Stat(dir + "/ready"); return err == nil })
	if said := upgradeTool(t, 1, fmt.Sprint(foreign.Process.Pid)); !strings.Contains(said, fmt.Sprintf("process %d is no govirtiofsd: give the process id", foreign.Process.Pid)) {
		t.Error(said)
	}
	_ = in.Close()
	_ = foreign.Wait()
	for _, mark := range []string{"run", "signal"} {
		if _, err := os.Stat(filepath.Join(dir, mark)); err == nil {
			t.Errorf("there is a file %s", mark)
		}
	}
}

// TestUpgradeOthers: processes that take no upgrade are left alone.
func TestUpgradeOthers(t *testing.T) {
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
	}()
	socket, daemon := backend(t, program(t, "govirtiofsd"), t.TempDir(), "--recovery=never")
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(guest.TempDir(t), "govirtiofsd")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	old := exec.Command(link, "100")
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = old.Process.Kill()
		_ = old.Wait()
	}()
	gone := filepath.Join(guest.TempDir(t), "gone")
	for _, name := range []string{gone, gone + ".pid"} {
		if err := os.WriteFile(name, []byte("999999999"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		arg, says string
		status    int
	}{
		{fmt.Sprint(sleep.Process.Pid), fmt.Sprintf("process %d (sleep) is no govirtiofsd", sleep.Process.Pid), 1},
		{socket, "has --recovery=never: no upgrade, nothing has changed; to run a new program, stop the daemon", 1},
		{fmt.Sprint(daemon.Process.Pid), fmt.Sprintf("process %d has --recovery=never", daemon.Process.Pid), 1},
		{fmt.Sprint(old.Process.Pid), "is a version that can't be upgraded while it runs", 1},
		{"/nonexistent", "there is no file or socket /nonexistent", 1},
		{"/", "/ names no daemon", 1},
		{gone, gone + ": its daemon (process 999999999) has ended", 1},
		{"999999999", "there is no process 999999999", 1},
		{"-1", "unknown option", 2},
		{"0", "is no process id", 2},
	} {
		if said := upgradeTool(t, test.status, test.arg); !strings.Contains(said, test.says) {
			t.Errorf("%s: %s", test.arg, said)
		}
	}
	_ = daemon.Process.Signal(unix.SIGUSR2) // is ignored
	_ = daemon.Process.Signal(unix.SIGTERM)
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon without recovery: %v", err)
	}
	if err := sleep.Process.Signal(unix.Signal(0)); err != nil || zombie(sleep.Process.Pid) {
		t.Error("the other process has ended", err)
	}
}

// TestUpgradeTrust: whoever may write beside the socket can't name another daemon, and root runs no program that others may write.
func TestUpgradeTrust(t *testing.T) {
	guest.NeedRoot(t)
	dir := guest.TempDir(t)
	path := filepath.Join(dir, "govirtiofsd")
	b, err := os.ReadFile(program(t, "govirtiofsd"))
	if err != nil {
		t.Fatal(err)
	}
	place(t, path, b)
	socket, daemon := backend(t, path, t.TempDir())
	forged := filepath.Join(dir, "forged")
	for _, name := range []string{forged, forged + ".pid"} {
		if err := os.WriteFile(name, fmt.Append(nil, daemon.Process.Pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if said := upgradeTool(t, 1, forged); !strings.Contains(said, "which has not written it") {
		t.Error(said)
	}
	for _, change := range []func() error{
		func() error { return os.Chmod(path, 0o775) },
		func() error { return errors.Join(os.Chmod(path, 0o755), os.Chown(path, 1000, 0)) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if said := upgradeTool(t, 1, socket); !strings.Contains(said, "so it is not run") {
			t.Error(said)
		}
	}
	_ = daemon.Process.Signal(unix.SIGTERM)
	if err := daemon.Wait(); err != nil {
		t.Error(err)
	}
}

// TestUpgradeNosuid: a program on a file system whose owners may be a user's invention is not run for a process of others.
func TestUpgradeNosuid(t *testing.T) {
	guest.NeedRoot(t)
	dir := guest.TempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	b, err := os.ReadFile(program(t, "govirtiofsd"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "govirtiofsd")
	place(t, path, b)
	if _, err := ask(path, false); err != nil {
		t.Error(err)
	}
	if _, err := ask(path, true); err == nil || !strings.Contains(err.Error(), "mounted nosuid, so it is not run") {
		t.Error(err)
	}
	for uid, want := range map[uint32]bool{0: false, 1000: true} {
		sleep := exec.Command("sleep", "100")
		sleep.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid}}
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		if got, err := isOthers(sleep.Process.Pid); err != nil || got != want {
			t.Errorf("a process of user %d is of others: %v, %v", uid, got, err)
		}
		p, err := hold("it", sleep.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
		if err := p.signal(unix.SIGUSR2); !errors.Is(err, unix.ESRCH) {
			t.Errorf("a signal for a process that has ended: %v", err)
		}
		p.close()
	}
}
