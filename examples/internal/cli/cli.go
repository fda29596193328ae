// Package cli is the command line that the examples have in common.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/server"
)

// Program is an example.
type Program struct {
	// Args says what the arguments behind the options are, for the usage, such as "DIR".
	Args string
	// NArgs is how many there are at least; MaxArgs, if it is larger, at most.
	NArgs, MaxArgs int
	// Flags adds options of the program's own; nil is none.
	Flags func(*flag.FlagSet)
	// New makes the file system.
	New func(args []string) (server.FileSystem, error)
}

// Main runs the program and ends the process: with 0 after SIGTERM, 2 for a wrong command line, 1 for
// a failure.
func (p *Program) Main() { os.Exit(p.run(os.Args, os.Stderr)) }

type options struct {
	socket, tag, mount string
	queues             int
	readOnly, ioUring  bool
}

func (p *Program) run(args []string, stderr io.Writer) int {
	name := filepath.Base(args[0])
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(stderr)
	var o options
	set.StringVar(&o.socket, "socket-path", "", "serve virtual machines on the vhost-user socket `PATH`")
	set.StringVar(&o.tag, "tag", name, "the `NAME` by which a guest mounts the file system")
	set.StringVar(&o.mount, "mount", "", "serve this machine: mount on the directory `DIR`")
	set.IntVar(&o.queues, "queues", 1, "request queues of a guest, or threads of a mount")
	set.BoolVar(&o.readOnly, "read-only", false, "refuse all that changes something")
	set.BoolVar(&o.ioUring, "io-uring", false, "with --mount, take requests by io_uring (Linux 6.14, fuse.enable_uring=Y)")
	if p.Flags != nil {
		p.Flags(set)
	}
	set.Usage = func() {
		fmt.Fprintf(stderr, "Usage: %s {--socket-path=PATH | --mount=DIR} [OPTION]... %s\n", name, p.Args)
		set.PrintDefaults()
	}
	switch err := set.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case (o.socket == "") == (o.mount == ""):
		fmt.Fprintf(stderr, "%s: give one of --socket-path and --mount\n", name)
		return 2
	case o.ioUring && o.mount == "":
		fmt.Fprintf(stderr, "%s: --io-uring is for --mount\n", name)
		return 2
	case set.NArg() < p.NArgs || set.NArg() > max(p.NArgs, p.MaxArgs):
		fmt.Fprintf(stderr, "%s: %d arguments; %s --help says what they are\n", name, set.NArg(), name)
		return 2
	}
	if err := p.serve(&o, set.Args()); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

func (p *Program) serve(o *options, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fs, err := p.New(args)
	if err != nil {
		return err
	}
	s := govirtiofs.Server{FS: fs, Tag: o.tag, Queues: o.queues, ReadOnly: o.readOnly}
	if o.mount != "" {
		err = s.Mount(ctx, o.mount, fusedev.Options{Source: o.tag, Subtype: o.tag, AllowOther: os.Geteuid() == 0, Permissions: true, IOUring: o.ioUring})
	} else {
		err = s.ListenAndServe(ctx, o.socket)
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, s.Close(end))
}
