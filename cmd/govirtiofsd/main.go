// Command govirtiofsd shares a host directory with a virtual machine: a vhost-user
// back-end for the virtio-fs device, and a drop-in replacement for virtiofsd.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/sandbox"
)

// Exit statuses, which scripts and supervisors rely on.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// version is set by the linker.
var version = "0.1.0-dev"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	opts, err := parseArgs(args)
	switch {
	case errors.Is(err, errHelp):
		fmt.Print(usage())
		return exitOK
	case err != nil:
		fmt.Fprintf(os.Stderr, "govirtiofsd: %v\nTry 'govirtiofsd --help'.\n", err)
		return exitUsage
	case opts.showVersion:
		fmt.Printf("govirtiofsd %s\n", version)
		return exitOK
	case opts.printCapabilities:
		fmt.Println(capabilities)
		return exitOK
	}
	log := newLog(opts)
	for _, w := range opts.warnings {
		log.Warn(w)
	}
	if err := start(opts, log); err != nil {
		var status *sandbox.ExitError
		if errors.As(err, &status) {
			return status.Status // the child has said why
		}
		log.Error(err)
		return exitFailure
	}
	return exitOK
}

// start serves until the front-end has gone or a signal ends it.
func start(opts *options, log *logrus.Entry) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	if sandbox.InChild() {
		return serveInside(ctx, opts, log)
	}
	l, err := listen(opts)
	if err != nil {
		return err
	}
	defer l.close()
	if err := sandbox.RaiseNofile(opts.rlimitNofile, log); err != nil {
		return err
	}
	if opts.sandbox == sandbox.Namespace {
		return sandbox.RunChild(ctx, opts.sharedDir, []*os.File{l.file})
	}
	return serve(ctx, opts, l.file, log)
}
