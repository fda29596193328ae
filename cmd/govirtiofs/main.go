// Command govirtiofs has the tools that go with the daemon govirtiofsd, one
// subcommand each.
//
// Exit status: 0 for success, 1 for a failure, 2 for a wrong command line; 128 and the
// signal's number when a signal has ended a measurement.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/govirtiofs/govirtiofs/internal/usage"
	versions "github.com/govirtiofs/govirtiofs/internal/version"
	fuseprogram "github.com/govirtiofs/govirtiofs/relay/program"
)

// version is set by the linker, see internal/version.
var version string

// usageError is a mistake on the command line: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitStatus is the exit status of a command that was run for the user.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usagef is a mistake on the command line, with what to do about it.
func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func main() {
	if fuseprogram.RunChild() {
		return
	}
	os.Exit(run(os.Args[1:]))
}

// run is the whole program; it returns the exit status.
func run(args []string) int {
	root := newRoot()
	addCompletion(root)
	wrapHelp(root)
	root.SetArgs(args)
	out := &output{w: os.Stdout}
	root.SetOut(out)
	cmd, err := root.ExecuteC()
	if err == nil {
		err = out.err // cobra's help does not report it
	}
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "govirtiofs: %s\n", strings.TrimSpace(err.Error()))
	var signal signalled
	if errors.As(err, &signal) {
		return 128 + int(signal.sig)
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "See '%s --help'.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

// output remembers the first error of a writer.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "govirtiofs",
		Short: "Tools for sharing host directories with virtual machines",
		Long: `Tools that go with govirtiofsd, the virtio-fs daemon. Each works with any
vhost-user-fs back-end unless its help says otherwise.`,
		Version:       versions.String(version),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			_ = cmd.Help()
			return usagef("a command is missing")
		},
	}
	root.SetVersionTemplate("govirtiofs {{.Version}}\n") // as the daemon has it
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{errors.New(usage.Message(cmd.Flags(), err))}
	})
	root.SetUsageTemplate(strings.NewReplacer("Flags:", "Options:", "Global Flags:", "Global options:",
		".FlagUsages |", ".FlagUsagesWrapped 100 |").Replace(root.UsageTemplate()))
	root.DisableFlagsInUseLine = true
	root.AddCommand(subcommands()...)
	for _, c := range root.Commands() {
		c.Args = wrapArgs(c.Args)
		c.DisableFlagsInUseLine = true
	}
	root.Args = wrapArgs(root.Args)
	return root
}

// unknownCommand is the mistake in the name of a subcommand.
func unknownCommand(root *cobra.Command, name string) error {
	var names []string
	for _, c := range root.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	if like := usage.Similar(names, name); like != "" {
		return usagef("unknown command %q; did you mean %s?", name, like)
	}
	return usagef("unknown command %q", name)
}

// wrapHelp has the help command refuse what is no command: it would print the help of all and end with 0.
func wrapHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			continue
		}
		c.Args = func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil || found == root && len(rest) > 0 {
				return unknownCommand(root, args[0])
			}
			return nil
		}
	}
}

// addCompletion adds the completion command, which would print its help and end with
// 0 at an unknown shell.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args = wrapArgs(c.Args)
			c.RunE = func(*cobra.Command, []string) error {
				return usagef("a shell is missing: bash, fish, powershell or zsh")
			}
			for _, shell := range c.Commands() {
				shell.Args = wrapArgs(shell.Args)
			}
		}
	}
}

// oneArg refuses anything but one argument, and says which.
func oneArg(want string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return errors.New(want)
		}
		return nil
	}
}

// wrapArgs makes a wrong number of arguments, or an unknown command, a usageError.
func wrapArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		check = cobra.NoArgs
	}
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
