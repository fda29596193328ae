// Package cli is the command line that the examples have in common.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/usage"
	"github.com/govirtiofs/govirtiofs/server"
)

// Program is an example.
type Program struct {
	// Args names the arguments after the options, for the usage text: "DIR", for example.
	Args string
	// NArgs is the least number of arguments. MaxArgs is the largest number, if it is larger than NArgs.
	NArgs, MaxArgs int
	// Flags adds the program's own options; nil adds none.
	Flags func(*pflag.FlagSet)
	// New makes the file system from the arguments.
	New func(args []string) (server.FileSystem, error)
}

// Main runs the program and ends the process: with 0 after SIGTERM, 2 for a wrong command line, 1 for
// a failure.
func (p *Program) Main() { os.Exit(p.run(os.Args, os.Stdout, os.Stderr)) }

type options struct {
	socket, tag, mount string
	queues             int
	readOnly, ioUring  bool
}

func (p *Program) run(args []string, stdout, stderr io.Writer) int {
	name := filepath.Base(args[0])
	set := pflag.NewFlagSet(name, pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SortFlags = false
	set.SetInterspersed(false)
	var o options
	set.StringVar(&o.socket, "socket-path", "", "serve virtual machines on the vhost-user socket `PATH`")
	set.StringVar(&o.tag, "tag", name, "the `NAME` by which a guest mounts the file system")
	set.StringVar(&o.mount, "mount", "", "serve this machine: mount on the directory `DIR`")
	set.IntVar(&o.queues, "queues", 1, "`NUMBER` of request queues of a guest, or of threads of a mount")
	set.BoolVar(&o.readOnly, "read-only", false, "refuse all requests that change something")
	set.BoolVar(&o.ioUring, "io-uring", false, "with --mount: receive requests by io_uring (Linux 6.14, fuse.enable_uring=Y)")
	if p.Flags != nil {
		p.Flags(set)
	}
	synopsis := fmt.Sprintf("%s {--socket-path=PATH | --mount=DIR} [OPTION]... %s", name, p.Args)
	err := set.Parse(args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(stdout, "Usage: %s\n%s", synopsis, set.FlagUsages())
		return 0
	}
	if err != nil {
		err = errors.New(usage.Message(set, err))
	} else {
		err = p.check(&o, set.NArg())
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\nUsage: %s\nSee '%s --help'.\n", name, err, synopsis, name)
		return 2
	}
	if o.ioUring && !uringEnabled() {
		fmt.Fprintf(stderr, "%s: --io-uring: this kernel does not offer FUSE over io_uring (it needs Linux 6.14 and the module parameter fuse.enable_uring=Y): requests are read from /dev/fuse\n", name)
	}
	if err := p.serve(&o, set.Args()); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// check reports what is wrong with the options, or with the number of arguments.
func (p *Program) check(o *options, args int) error {
	switch {
	case (o.socket == "") == (o.mount == ""):
		return errors.New("give one of --socket-path and --mount")
	case o.ioUring && o.mount == "":
		return errors.New("--io-uring is for --mount only")
	case args < p.NArgs:
		return fmt.Errorf("an argument is missing: want %s", p.Args)
	case args > max(p.NArgs, p.MaxArgs) && p.Args == "":
		return fmt.Errorf("%d arguments are given: want none", args)
	case args > max(p.NArgs, p.MaxArgs):
		return fmt.Errorf("%d arguments are given: want %s", args, p.Args)
	}
	return nil
}

// uringEnabled reports whether the kernel offers FUSE over io_uring.
func uringEnabled() bool {
	b, err := os.ReadFile("/sys/module/fuse/parameters/enable_uring")
	return err == nil && strings.TrimSpace(string(b)) == "Y"
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
