package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/govirtiofs/govirtiofs/internal/doctor"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// doctorOptions are the command line of doctor.
type doctorOptions struct {
	plan               doctor.Plan
	pids               []int
	guest, probe, json bool
	tag                string
	rules, preset      string // of names of attributes
}

func newDoctor() *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor [options]",
		Short: "Find out why a share does not work, and what to do",
		Long: `Looks at the host, the shared directory, the socket and the VMM that uses it, and
says in one line each what is well, what could be better (warn) and what keeps the
share from working (FAIL), with what to type in the line after it.

Run it as the user that runs the daemon, with the daemon's options. Those that are not
below are taken and change nothing. It changes nothing and disturbs nobody; only --probe connects to the daemon.

Exit status: 0 if nothing keeps the share from working, 1 if something does, 2 for
a wrong command line.`,
		Example: `  govirtiofs doctor --shared-dir /srv/data --socket-path /run/share.sock
  govirtiofs doctor --socket-path /run/share.sock --pid $(pidof qemu-system-x86_64)
  govirtiofs doctor --guest --tag data      (in the guest)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.plan.SharedDir, "shared-dir", "", "the daemon's shared `DIR`")
	f.StringVar(&o.plan.SocketPath, "socket-path", "", "`PATH` of the daemon's socket")
	f.IntSliceVar(&o.pids, "pid", nil, "process `ID` of a VMM, if it does not use --socket-path")
	f.StringVar(&o.plan.Sandbox, "sandbox", "namespace", "the daemon's --sandbox: `namespace|chroot|none`")
	f.StringVar(&o.plan.Seccomp, "seccomp", "kill", "the daemon's --seccomp: `none|kill|log|trap`")
	f.BoolVar(&o.plan.Xattr, "xattr", false, "the daemon has --xattr")
	negotiatedVar(f, &o.plan.PosixACL, "posix-acl", "the daemon's --posix-acl: `never|auto|always`")
	negotiatedVar(f, &o.plan.SecurityLabel, "security-label", "the daemon's --security-label: `never|auto|always`")
	f.BoolVar(&o.plan.ReadOnly, "readonly", false, "the daemon has --readonly")
	f.StringArrayVar(&o.plan.UIDMaps, "uid-map", nil, "the daemon's --uid-map `:INSIDE:OUTSIDE:COUNT:`")
	f.StringArrayVar(&o.plan.GIDMaps, "gid-map", nil, "the daemon's --gid-map `:INSIDE:OUTSIDE:COUNT:`")
	f.StringVar(&o.plan.Ownership, "ownership", "host", "the daemon's --ownership: `host|xattr`")
	f.StringVar(&o.rules, "xattrmap", "", "the daemon's --xattrmap `RULES`")
	f.StringVar(&o.preset, "xattrmap-preset", "", "the daemon's --xattrmap-preset `LIST`")
	f.StringVar(&o.plan.ModCaps, "modcaps", "", "the daemon's --modcaps `LIST`")
	f.StringVar(&o.plan.DAX, "dax", "never", "the daemon's --dax: `never|inode|always`")
	f.StringVar(&o.plan.Locks, "locks", "guest", "the daemon's --locks: `guest|host`")
	f.BoolVar(&o.probe, "probe", false, "connect to --socket-path and mount once; a daemon without --keep-listening ends after that")
	f.BoolVar(&o.guest, "guest", false, "look at this machine as the guest")
	f.StringVar(&o.tag, "tag", "", "with --guest: `NAME` of the share that should be there; otherwise the daemon's")
	f.BoolVar(&o.json, "json", false, "write JSON")
	takeDaemonOptions(f)
	return cmd
}

// errUnwell is the exit status 1 of an examination that has found a fault.
var errUnwell = errors.New("something keeps the share from working, see FAIL above")

// check refuses what makes no sense together.
func (o *doctorOptions) check(cmd *cobra.Command) error {
	for _, word := range []*string{&o.plan.Sandbox, &o.plan.Seccomp, &o.plan.Ownership, &o.plan.DAX, &o.plan.Locks} {
		*word = strings.ToLower(*word)
	}
	if err := o.checkNames(); err != nil {
		return err
	}
	var modErr error
	if o.plan.ModCaps != "" {
		_, modErr = sandbox.ModifyCapabilities(nil, o.plan.ModCaps)
	}
	switch {
	case !slices.Contains([]string{"namespace", "chroot", "none"}, o.plan.Sandbox):
		return usagef("--sandbox %s: want namespace, chroot or none", o.plan.Sandbox)
	case !slices.Contains([]string{"none", "kill", "log", "trap"}, o.plan.Seccomp):
		return usagef("--seccomp %s: want none, kill, log or trap", o.plan.Seccomp)
	case !slices.Contains([]string{"host", "xattr"}, o.plan.Ownership):
		return usagef("--ownership %s: want host or xattr", o.plan.Ownership)
	case !slices.Contains([]string{"never", "inode", "always"}, o.plan.DAX):
		return usagef("--dax %s: want never, inode or always", o.plan.DAX)
	case !slices.Contains([]string{"guest", "host"}, o.plan.Locks):
		return usagef("--locks %s: want guest or host", o.plan.Locks)
	case o.plan.Ownership == "xattr" && o.plan.PosixACL:
		return usagef("--ownership=xattr excludes --posix-acl: on the host all files belong to the daemon's user")
	case modErr != nil:
		return usagef("--modcaps: %w", modErr)
	case o.probe && o.plan.SocketPath == "":
		return usagef("--probe needs --socket-path")
	}
	if !o.guest {
		return nil
	}
	for _, name := range []string{"shared-dir", "socket-path", "pid", "probe"} {
		if cmd.Flags().Changed(name) {
			return usagef("--guest and --%s exclude each other: one is for the guest, one for the host", name)
		}
	}
	return nil
}

// checkNames reads the rules for names of attributes, which bring --xattr with them.
func (o *doctorOptions) checkNames() (err error) {
	switch {
	case o.rules != "" && o.preset != "":
		return usagef("--xattrmap and --xattrmap-preset exclude each other")
	case o.rules != "":
		if o.plan.Names, err = xattrmap.Parse(o.rules); err != nil {
			return usagef("--xattrmap: %w", err)
		}
	case o.preset != "":
		if o.plan.Names, err = xattrmap.Preset(o.preset); err != nil {
			return usagef("--xattrmap-preset: %w", err)
		}
	}
	o.plan.Xattr = o.plan.Xattr || o.plan.Names != nil
	return nil
}

func (o *doctorOptions) run(cmd *cobra.Command) error {
	if err := o.check(cmd); err != nil {
		return err
	}
	r := o.examine()
	write := r.WriteText
	if o.json {
		write = r.WriteJSON
	}
	if err := write(cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	if r.Status == doctor.Fail {
		return errUnwell
	}
	return nil
}

func (o *doctorOptions) examine() *doctor.Report {
	if o.guest {
		return doctor.ExamineGuest(doctor.GatherGuest(), o.tag)
	}
	f := doctor.Gather(o.plan, o.pids)
	r := doctor.Examine(o.plan, f)
	if o.probe {
		fmt.Fprintln(os.Stderr, "govirtiofs: connecting to the daemon")
		a, err := doctor.Ask(o.plan.SocketPath)
		doctor.ExamineAnswer(r, f.Socket, a, err)
	}
	return r
}
