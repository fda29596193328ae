package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/server"
)

func newState() *cobra.Command {
	c := &cobra.Command{
		Use:   "state",
		Short: "Print the state that a daemon keeps for its successor",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			_ = cmd.Help()
			return usagef("a command is missing: show")
		},
	}
	show := &cobra.Command{
		Use:   "show FILE|PID|SOCKET|-",
		Short: "Print a ledger or the state of a migration",
		Long: `Prints the ledger of a running govirtiofsd, one record a line. If the process that serves the
guest dies, the next process continues from the ledger. It has the requests under way, the nodes
that the guest knows, and the open files. PID is any process of the daemon. SOCKET is the
vhost-user socket that the daemon has made; the file SOCKET.pid must be beside it. The daemon is not stopped
and nothing is changed. A record that the daemon changes at this moment may be printed half old
and half new.

FILE or - (standard input) is a copy of a ledger, or the state of a guest that moves to another
host, as govirtiofsd gives it to the VMM.

A line has the kind of the record and then words of the form key=value. Names are quoted.`,
		Example: `  govirtiofs state show /run/fs.sock`,
		Args:    oneArg("give one FILE, PID, SOCKET or -"),
		RunE:    func(cmd *cobra.Command, args []string) error { return showState(cmd.OutOrStdout(), args[0]) },
	}
	show.Args = wrapArgs(show.Args)
	show.DisableFlagsInUseLine = true
	c.AddCommand(show)
	return c
}

// showState prints what the argument of the command stands for.
func showState(to io.Writer, arg string) error {
	if arg == "-" {
		return showFile(to, os.Stdin)
	}
	name := arg
	if st, err := os.Stat(arg); err == nil && st.Mode()&os.ModeSocket != 0 {
		pid, err := daemonPID(arg)
		if err != nil {
			return err
		}
		name = strconv.Itoa(pid)
	}
	if pid, err := strconv.ParseUint(name, 10, 31); err == nil {
		if name, err = ledgerFile(arg, int(pid)); err != nil {
			return err
		}
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return noSuchFile(arg)
	} else if err != nil {
		return err
	}
	defer f.Close()
	return showFile(to, f)
}

// noSuchFile is the error for an argument that names nothing.
func noSuchFile(arg string) error { return fmt.Errorf("there is no file or socket %s", arg) }

// hasEnded is the error for a process that is not there. arg has named it: by its id, or as its socket.
func hasEnded(arg string, pid int) error {
	if _, err := strconv.Atoi(arg); err != nil {
		return fmt.Errorf("%s: its daemon (process %d) has ended", arg, pid)
	}
	return fmt.Errorf("there is no process %d", pid)
}

// ledgerFile is the path of the ledger that a process has open, which arg has named.
func ledgerFile(arg string, pid int) (string, error) {
	name, err := ledgerOf(pid)
	switch {
	case errors.Is(err, os.ErrNotExist) && arg == strconv.Itoa(pid):
		return "", fmt.Errorf("%w (a file of that name is ./%d)", hasEnded(arg, pid), pid)
	case errors.Is(err, os.ErrNotExist):
		return "", hasEnded(arg, pid)
	case err != nil:
		return "", err
	case name == "":
		return "", fmt.Errorf("process %d has no ledger: it is no govirtiofsd, or one with --recovery=never", pid)
	}
	return name, nil
}

// ledgerOf is the path of the ledger that a process has open, or "". The error is os.ErrNotExist if there is no
// such process.
func ledgerOf(pid int) (string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return "", os.ErrNotExist
	case err != nil:
		return "", fmt.Errorf("%w: run this as root or as the daemon's user", err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if link, err := os.Readlink(name); err == nil && strings.HasPrefix(link, "/memfd:"+ledger.FileName) {
			return name, nil
		}
	}
	return "", nil
}

// showFile prints a ledger, its copy, or a state.
func showFile(to io.Writer, f *os.File) error {
	v, err := ledger.OpenView(int(f.Fd()))
	if err != nil {
		begin := bufio.NewReader(f)
		if head, _ := begin.Peek(64); server.IsState(head) {
			return server.PrintState(to, begin, passthrough.PrintState)
		} else if !ledger.IsLedger(head) {
			return fmt.Errorf("%s: this is neither a ledger nor the state of a migration", f.Name())
		}
		if v, err = ledger.ViewCopy(f); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	defer v.Close()
	return v.Print(to)
}
