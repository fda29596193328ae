package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/govirtiofs/govirtiofs/internal/doctor"
	"github.com/govirtiofs/govirtiofs/internal/share"
)

// doctorOptions are the command line of doctor.
type doctorOptions struct {
	plan               share.Config // what the daemon is meant to do
	pids               []int
	guest, probe, json bool
	tag                string
}

func newDoctor() *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor [options]",
		Short: "Find out why a share does not work, and what to do",
		Long: `Checks the host, the shared directory, the socket and the VMM that uses the socket.
Each check gives one line: ok, warn for something that could be better, or FAIL for
something that keeps the share from working. The line after a warn or FAIL says what
to do.

Run it as the user that runs the daemon, with the daemon's options. Options that are not
listed below are accepted and have no effect. It changes nothing and does not disturb the
daemon or the VMM; only --probe connects to the daemon.

Exit status: 0 if nothing keeps the share from working, 1 if something does, 2 for
a wrong command line.`,
		Example: `  govirtiofs doctor --shared-dir /srv/data --socket-path /run/share.sock
  govirtiofs doctor --socket-path /run/share.sock --pid $(pidof qemu-system-x86_64)
  govirtiofs doctor --shared-dir /srv/data --vsock-uds /run/vm.vsock:1024 --vsock-token token
  govirtiofs doctor --guest --tag data      (in the guest)`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 {
				return fmt.Errorf("%q: doctor takes options only, such as --shared-dir and --socket-path", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntSliceVar(&o.pids, "pid", nil, "process `ID` of a VMM, if it does not use --socket-path")
	f.BoolVar(&o.probe, "probe", false, "connect to --socket-path and mount once; a daemon without --keep-listening ends after that")
	f.BoolVar(&o.guest, "guest", false, "check this machine as the guest")
	f.StringVar(&o.tag, "tag", "", "with --guest: `NAME` of the share that this guest should have; without --guest: the daemon's option")
	f.BoolVar(&o.json, "json", false, "write JSON")
	takeDaemonOptions(f, &o.plan)
	if err := share.AddCompletion(cmd); err != nil {
		panic(err) // an option that was declared twice
	}
	return cmd
}

// errUnwell is the exit status 1 of an examination that has found a fault.
var errUnwell = errors.New("something keeps the share from working, see FAIL above")

// check refuses what makes no sense together.
func (o *doctorOptions) check(cmd *cobra.Command) error {
	if err := o.plan.SettleNames(cmd.Flags()); err != nil {
		return usageError{err}
	}
	if err := o.plan.SettleCapabilities(); err != nil {
		return usageError{err}
	}
	if err := o.plan.SettleVsock(); err != nil {
		return usageError{err}
	}
	if err := o.plan.CheckOwnership(); err != nil {
		return usageError{err}
	}
	if o.probe && o.plan.SocketPath == "" {
		return usagef("--probe needs --socket-path")
	}
	if !o.guest {
		return nil
	}
	for _, name := range []string{"shared-dir", "socket-path", "vsock", "vsock-uds", "vsock-share", "pid", "probe"} {
		if cmd.Flags().Changed(name) {
			return usagef("--guest and --%s exclude each other: one is for the guest, one for the host", name)
		}
	}
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
	f := doctor.Gather(&o.plan, o.pids)
	r := doctor.Examine(&o.plan, f)
	if o.probe {
		fmt.Fprintln(os.Stderr, "govirtiofs: connecting to the daemon")
		a, err := doctor.Ask(o.plan.SocketPath)
		doctor.ExamineAnswer(r, f.Socket, a, err)
	}
	return r
}
