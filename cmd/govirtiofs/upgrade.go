package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/upgrade"
)

func newUpgrade() *cobra.Command {
	timeout := time.Minute
	cmd := &cobra.Command{
		Use:   "upgrade PID|SOCKET",
		Short: "Replace the program of a running daemon, without a pause for the guest",
		Long: `Replaces a running govirtiofsd by the program that is now at its path, for
example after an update of its package. Guests keep their mounts and open files:
their requests wait for some milliseconds. If the new program can't take over, the
old one continues to serve.

The argument is the process id of the daemon, or its socket. A daemon that was
started with --socket-path has its process id in the file SOCKET.pid. The daemon
must run with --recovery=auto, which is the default.`,
		Example: `  govirtiofs upgrade /run/share.sock
  govirtiofs upgrade "$(systemctl show -P MainPID govirtiofsd@data)"`,
		Args: oneArg("give one argument: the process id of the daemon, or its socket"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err := daemonPID(args[0])
			if err != nil {
				return err
			}
			p, err := hold(args[0], pid)
			if err != nil {
				return err
			}
			defer p.close()
			if err := checkKeeper(args[0], pid); err != nil {
				return err
			}
			if err := checkNamed(args[0], pid); err != nil {
				return err
			}
			return upgradeDaemon(cmd, p, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for the new program")
	return cmd
}

// daemonPID is the process that an argument names.
func daemonPID(arg string) (int, error) {
	if pid, err := strconv.Atoi(arg); err == nil {
		if pid < 1 {
			return 0, usagef("%q is no process id", arg)
		}
		return pid, nil
	}
	b, err := os.ReadFile(arg + ".pid")
	if _, missing := os.Lstat(arg); err != nil && errors.Is(missing, os.ErrNotExist) {
		return 0, noSuchFile(arg)
	} else if err != nil {
		return 0, fmt.Errorf("%s names no daemon: %w; give its process id", arg, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 1 {
		return 0, fmt.Errorf("%s.pid has no process id", arg)
	}
	return pid, nil
}

// process is a process that is held by a descriptor: when it has ended, a signal does not reach another process that
// has got its number. What was read from /proc before a signal was sent therefore belongs to the same process.
type process struct {
	pid int
	fd  int // -1 before Linux 5.3
}

// hold opens a descriptor of the process that arg has named.
func hold(arg string, pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil, hasEnded(arg, pid)
	case err != nil:
		fd = -1
	}
	return &process{pid, fd}, nil
}

func (p *process) signal(sig unix.Signal) error {
	if p.fd < 0 {
		return unix.Kill(p.pid, sig)
	}
	return unix.PidfdSendSignal(p.fd, sig, nil, 0)
}

func (p *process) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
	}
}

// upgradeDaemon has a daemon upgraded and waits until that is done.
func upgradeDaemon(cmd *cobra.Command, p *process, timeout time.Duration) error {
	pid := p.pid
	path, now, err := nextProgram(pid)
	if err != nil {
		return fmt.Errorf("process %d: no upgrade, nothing has changed: %w", pid, err)
	}
	before := childrenOf(pid)
	if err := p.signal(unix.SIGUSR2); err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if p.signal(0) != nil {
			return fmt.Errorf("process %d has ended", pid)
		}
		if runs(pid, path, before) {
			fmt.Fprintf(cmd.OutOrStdout(), "process %d: upgraded to %s\n", pid, now.Program)
			return nil
		}
	}
	return fmt.Errorf("process %d does not run %s after %s; its log says why", pid, path, timeout)
}

// nextProgram is the program that a daemon is to run next.
func nextProgram(pid int) (string, upgrade.Versions, error) {
	var none upgrade.Versions
	link := fmt.Sprintf("/proc/%d/exe", pid)
	path, err := os.Readlink(link)
	if err != nil {
		return "", none, err
	}
	path = strings.TrimSuffix(path, " (deleted)")
	others, err := isOthers(pid)
	if err != nil {
		return "", none, err
	}
	old, err := ask(link, others)
	if err != nil {
		return "", none, fmt.Errorf("the program that runs: %w", err)
	}
	now, err := ask(path, others)
	if err == nil {
		err = now.Fits(old)
	}
	if err != nil {
		return "", none, fmt.Errorf("%s: %w", path, err)
	}
	return path, now, nil
}

// ask runs a program with the option that prints its versions, if nobody but root and the caller can have written it: the process
// may be another user's, who then would have this user, perhaps root, run what he likes. Where a user can mount (FUSE with
// user_allow_other, images by udisks), the owners of files are what he says. Such mounts are nosuid for this reason: no program of them is
// run for a process of others.
func ask(path string, others bool) (upgrade.Versions, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return upgrade.Versions{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return upgrade.Versions{}, err
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return upgrade.Versions{}, fmt.Errorf("user %d, or others, may write this program, so it is not run: run this command as the daemon's user", st.Uid)
	}
	var on unix.Statfs_t
	if err := unix.Fstatfs(fd, &on); err != nil {
		return upgrade.Versions{}, err
	}
	if others && on.Flags&unix.MS_NOSUID != 0 {
		return upgrade.Versions{}, errors.New("this program is on a file system that is mounted nosuid, so it is not run: run this command as the daemon's user")
	}
	return upgrade.Ask(fmt.Sprintf("/proc/self/fd/%d", fd)) // the very file, whatever is at the path now
}

// isOthers reports whether a process, or a part of its rights, is neither root's nor the caller's.
func isOthers(pid int) (bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); key == "Uid" {
			return slices.ContainsFunc(strings.Fields(value), func(id string) bool { return id != "0" && id != strconv.Itoa(os.Geteuid()) }), nil
		}
	}
	return true, nil
}

// checkNamed reports an error if arg is a socket whose pid file is not the process's own: others may write its directory.
func checkNamed(arg string, pid int) error {
	if _, err := strconv.Atoi(arg); err == nil {
		return nil
	}
	named, err := os.Lstat(arg + ".pid")
	if err != nil {
		return err
	}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if open, err := os.Stat(link); err == nil && os.SameFile(open, named) {
			return nil
		}
	}
	return fmt.Errorf("%s.pid names process %d, which has not written it: no upgrade, nothing has changed; give the process id of the daemon", arg, pid)
}

// checkKeeper reports an error if the process that arg has named is not the keeper of a govirtiofsd. A keeper has a
// ledger and handles the signal that asks for an upgrade; another process would be ended by the signal. So the
// check comes first, before the signal and before the process's program is run.
func checkKeeper(arg string, pid int) error {
	role, err := roleOf(pid)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return hasEnded(arg, pid)
		}
		return fmt.Errorf("process %d: %w", pid, err)
	}
	if role.ledger && !role.upgrades {
		if above, err := roleOf(role.parent); err == nil && above.ledger && above.upgrades {
			return fmt.Errorf("process %d is the worker; its keeper is process %d: govirtiofs upgrade %d", pid, role.parent, role.parent)
		}
	}
	switch {
	case !role.upgrades:
		return notUpgradable(pid, role.parent)
	case !role.ledger:
		return fmt.Errorf("process %d is no govirtiofsd: give the process id of the daemon, or its socket", pid)
	}
	return nil
}

// notUpgradable is why a process, which does not handle the signal that asks for an upgrade, can't be upgraded.
func notUpgradable(pid, parent int) error {
	name, command := commandOf(pid)
	const restart = "no upgrade, nothing has changed; to run a new program, stop the daemon and start it again"
	switch {
	case !strings.Contains(name, "virtiofsd"):
		return fmt.Errorf("process %d (%s) is no govirtiofsd: give the process id of the daemon, or its socket", pid, name)
	case hasOption(command, "--recovery", "never"):
		if above, _ := commandOf(parent); above == "govirtiofs" {
			return fmt.Errorf("process %d serves govirtiofs relay, which can't be upgraded while it runs: %s", pid, restart)
		}
		return fmt.Errorf("process %d has --recovery=never: %s", pid, restart)
	}
	return fmt.Errorf("process %d (%s) is a version that can't be upgraded while it runs: %s", pid, name, restart)
}

// commandOf is the name of a process, and its command line. Both are empty if it has ended.
func commandOf(pid int) (name string, command []string) {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(string(comm)), strings.Split(string(line), "\x00")
}

// hasOption reports whether a command line gives an option this value, in one word or in two.
func hasOption(command []string, name, value string) bool {
	for i, word := range command {
		if word == name+"="+value || word == name && i+1 < len(command) && command[i+1] == value {
			return true
		}
	}
	return false
}

// role is what tells a keeper, a worker and other processes apart.
type role struct {
	ledger   bool // it has one open
	upgrades bool // it handles the signal that asks for an upgrade
	parent   int
}

// roleOf reads the role of a process from /proc. The error is os.ErrNotExist if there is none.
func roleOf(pid int) (r role, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return r, os.ErrNotExist
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "PPid":
			r.parent, _ = strconv.Atoi(value)
		case "SigCgt":
			signals, _ := strconv.ParseUint(value, 16, 64)
			r.upgrades = signals&(1<<(unix.SIGUSR2-1)) != 0
		}
	}
	name, err := ledgerOf(pid)
	r.ledger = name != ""
	return r, err
}

// settled is for how long a new process has to be there until the upgrade counts.
const settled = 500 * time.Millisecond

// runs reports whether all that a daemon has started since is the program at path, and stays.
func runs(pid int, path string, before []int) bool {
	program, err := os.Stat(path)
	if err != nil {
		return false
	}
	found := newChildren(pid, program, before)
	if len(found) == 0 {
		return false
	}
	time.Sleep(settled)
	return slices.Equal(found, newChildren(pid, program, before))
}

func newChildren(pid int, program os.FileInfo, before []int) (found []int) {
	for _, child := range childrenOf(pid) {
		exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", child))
		if err == nil && os.SameFile(exe, program) && !slices.Contains(before, child) {
			found = append(found, child)
		}
	}
	return found
}

// childrenOf are the children of all threads of a process.
func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	slices.Sort(children)
	return children
}
