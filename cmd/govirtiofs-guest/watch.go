package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/helper"
	"github.com/govirtiofs/govirtiofs/events/wire"
)

const watchHelp = `Usage: govirtiofs-guest watch [options] DIR

Reports to the programs of this guest what others change in the share that is mounted on DIR: they
get inotify events, and the caches of this guest's kernel are updated. DIR is an ordinary virtio-fs
mount of a govirtiofsd or govirtiofs relay with --events=auto. Only root can run it.

The command runs in the foreground until it gets SIGTERM; it then takes up to 5 seconds to end.

Options:
`

// watchCommand is the subcommand watch.
func watchCommand(args []string, stdout io.Writer) error {
	f := pflag.NewFlagSet("watch", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	trace := f.BoolP("verbose", "v", false, "print each change")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		_, err = fmt.Fprint(stdout, watchHelp, f.FlagUsages())
		return err
	case err != nil:
		return usageError{err}
	case f.NArg() != 1:
		return usagef("give the DIR that the share is mounted on")
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	log := consoleLog()
	told := false
	o := helper.Options{Log: log, Ready: func() {
		if !told {
			told = true
			fmt.Fprintf(stdout, "%s: changes on the host are reported from now on\n", f.Arg(0))
			notifyReady()
		} else {
			log.Info("Changes on the host are reported again")
		}
	}}
	if *trace {
		o.Trace = func(r wire.Record, err error) { fmt.Fprintln(stdout, traceLine(&r, err)) }
	}
	protect()
	return helper.Watch(ctx, f.Arg(0), o)
}

var opWords = map[wire.Op]string{wire.Hello: "hello", wire.Make: "make", wire.Remove: "remove", wire.Move: "move", wire.Modify: "modify",
	wire.Close: "close", wire.Attributes: "attributes", wire.Check: "check", wire.Refresh: "refresh", wire.Lost: "lost", wire.Found: "found"}

// traceLine is what --verbose says of a change.
func traceLine(r *wire.Record, err error) string {
	line := opWords[r.Op]
	if r.Op == wire.Hello {
		return line // its name is a secret
	}
	if r.Path != "" {
		line += fmt.Sprintf(" %q", r.Path)
	}
	if r.NewPath != "" {
		line += fmt.Sprintf(" %q", r.NewPath)
	}
	if err != nil && r.Op != wire.Check {
		line += ": " + err.Error()
	}
	return line
}

// notifyReady tells systemd, if it has started this process with Type=notify.
func notifyReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.Sendto(fd, []byte("READY=1"), 0, &unix.SockaddrUnix{Name: path})
}
