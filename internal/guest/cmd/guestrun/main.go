// Guestrun boots a guest on vhost-user-fs sockets, for test/guest/run.sh. Its exit
// status is that of the script, or 125 if the guest could not be run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// exitFailed is the exit status of a guest that could not be run.
const exitFailed = 125

// usage is printed before the flags.
const usage = `Boots a guest on vhost-user-fs back-ends that listen already, with each share on
/mnt/TAG. It ends when the script or the shell ends, with the script's status.

usage: test/guest/run.sh uml|qemu72|qemu11 --socket PATH --tag TAG [flags]

`

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "run.sh:", err)
		status = exitFailed
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	kind, o, err := parse(args)
	if err != nil {
		return 0, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := guest.Setup(ctx, kind.String()); err != nil {
		return 0, err
	}
	result, err := guest.Run(ctx, kind, o)
	fmt.Print(result.Output)
	return result.Status, err
}

// parse reads the command line.
func parse(args []string) (guest.Kind, guest.Options, error) {
	var o guest.Options
	var sockets, tags list
	var script string
	var share guest.Share
	f := flag.NewFlagSet("run.sh", flag.ExitOnError)
	f.Var(&sockets, "socket", "vhost-user socket; once for each share")
	f.Var(&tags, "tag", "tag of the share; once for each socket")
	f.StringVar(&script, "script", "", "`file` with a script to run in the guest, - for standard input")
	f.BoolVar(&o.Interactive, "interactive", false, "give a shell on the terminal (after the script); 'exit' ends the guest")
	f.IntVar(&share.Queues, "queues", 1, "request queues of each share")
	f.IntVar(&share.QueueSize, "queue-size", 0, "descriptors in a queue (0: the VMM's default)")
	f.IntVar(&o.Mem, "mem", 512, "memory in MiB")
	f.StringVar(&o.RootShare, "root", "", "`tag` of the share that is the script's root file system")
	f.StringVar(&o.MountOptions, "options", "", "mount options")
	f.StringVar(&o.HostDir, "results", "", "host `directory` that gets what is left in /run/host")
	f.BoolVar(&o.Reboots, "reboots", false, "let the guest reboot, and run the script again")
	f.BoolVar(&o.DAX, "dax", false, "use a device with a shared memory window (qemu11)")
	f.DurationVar(&o.Timeout, "timeout", 0, "end of the guest at the latest (0: two minutes, or a day if interactive)")
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		f.Usage()
		os.Exit(2)
	}
	kind, err := guest.ParseKind(args[0])
	if err != nil {
		return 0, o, err
	}
	if err := f.Parse(args[1:]); err != nil {
		return 0, o, err
	}
	if f.NArg() > 0 || len(sockets) == 0 || len(sockets) != len(tags) {
		return 0, o, fmt.Errorf("want --socket and --tag, equally often, and nothing after the flags")
	}
	for i := range sockets {
		share.Socket, share.Tag = sockets[i], tags[i]
		o.Shares = append(o.Shares, share)
	}
	if o.Interactive && o.Timeout == 0 {
		o.Timeout = 24 * time.Hour
	}
	o.Script, err = readScript(script)
	return kind, o, err
}

// readScript reads the script from a file or from standard input.
func readScript(path string) (string, error) {
	var data []byte
	var err error
	switch path {
	case "":
	case "-":
		data, err = io.ReadAll(os.Stdin)
	default:
		data, err = os.ReadFile(path)
	}
	return string(data), err
}
