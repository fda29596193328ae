// Command govirtiofs-guest is the part of govirtiofs that runs in a virtual machine. It mounts shares over vsock
// where there is no virtio-fs device, and reports changes on the host to the guest's programs. It is one static
// program and needs nothing else.
//
// Exit status: 0 for success, 1 for a failure, 2 for a wrong command line. If mount(8) runs it as
// mount.govirtiofs, it has the statuses of mount(8): 1 for a wrong command line, 32 for a failure.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	versions "github.com/govirtiofs/govirtiofs/internal/version"
)

// version is set by the linker, see internal/version.
var version string

const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2

	exitMountUsage = 1  // EX_USAGE of mount(8)
	exitMountFail  = 32 // EX_FAIL
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// command is a subcommand.
type command struct {
	name, args, help string
	run              func(args []string, stdout io.Writer) error
}

// commands are the subcommands, one file each.
func commands() []command {
	return []command{
		{"mount", "[options] ADDRESS DIR", "mount a share", mountCommand},
		{"watch", "[options] DIR", "report to programs what others change in a share", watchCommand},
	}
}

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run is the whole program; it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	// mount(8) looks for mount.TYPE and mount.TYPE.SUBTYPE.
	if name := filepath.Base(strings.TrimPrefix(args[0], "@")); name == "mount.govirtiofs" || name == "mount.fuse.govirtiofs" {
		return report(name, mountHelper(args[1:], stdout), exitMountUsage, exitMountFail, stderr)
	}
	return report("govirtiofs-guest", dispatch(args[1:], stdout), exitUsage, exitFail, stderr)
}

// report tells what is wrong, and returns the exit status.
func report(name string, err error, usage, fail int, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, strings.TrimSpace(err.Error()))
	var wrong usageError
	if errors.As(err, &wrong) {
		if name == "govirtiofs-guest" {
			fmt.Fprintln(stderr, "Try govirtiofs-guest --help.")
		}
		return usage
	}
	return fail
}

// dispatch runs a subcommand.
func dispatch(args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return usagef("a command is missing: mount or watch")
	}
	switch args[0] {
	case "-h", "--help", "help":
		return help(stdout)
	case "-V", "--version", "version":
		_, err := fmt.Fprintf(stdout, "govirtiofs-guest %s\n", versions.String(version))
		return err
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(args[1:], stdout)
		}
	}
	return usagef("unknown command %q: mount and watch are possible", args[0])
}

func help(w io.Writer) error {
	var b strings.Builder
	b.WriteString("The guest's side of govirtiofs.\n\nUsage:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  govirtiofs-guest %s %s\n        %s\n", c.name, c.args, c.help)
	}
	b.WriteString("  govirtiofs-guest --version\n\nEach command has --help. See govirtiofs-guest(8).\n")
	_, err := io.WriteString(w, b.String())
	return err
}
