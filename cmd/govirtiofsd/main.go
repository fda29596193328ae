// Command govirtiofsd shares a directory of the host with a virtual machine: it is a
// vhost-user back-end for virtio-fs devices, and takes the options of virtiofsd.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
	versions "github.com/govirtiofs/govirtiofs/internal/version"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// version is set by the linker, see internal/version.
var version string

// Exit statuses. Scripts that start virtiofsd tell them apart.
const (
	exitOK    = 0 // the front-end has disconnected, or a signal said to end
	exitStart = 1 // could not start, or could not go on
	exitUsage = 2
	exitQuit  = 2 // as a Go program does at SIGQUIT

	exitParked = keeper.StatusParked // only the keeper sees it
)

func main() {
	if sandbox.RunProbe() {
		return
	}
	lean()
	if os.Getenv(stretchEnv) != "" {
		os.Exit(runStretchHelper())
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// processors is the limit of processors for Go's scheduler: the value of GOMAXPROCS in the
// environment, or the number of processors that the process may run on. Unlike Go's
// default it ignores a cgroup's quota: threads that wait for a disk need a processor of
// the scheduler, and hardly any time on a real one.
func processors() int {
	if n, err := strconv.Atoi(os.Getenv("GOMAXPROCS")); err == nil && n > 0 {
		return n
	}
	return runtime.NumCPU()
}

// run is the program; it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 && !socketsPassed() {
		fmt.Fprint(stderr, shortUsage)
		return exitUsage
	}
	if asksForWords(args) {
		if err := offerWords(args, stdout, stderr); err != nil {
			fmt.Fprintf(stderr, "govirtiofsd: %v\n", err)
			return exitStart
		}
		return exitOK
	}
	o, err := parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "govirtiofsd: %v\n%s\nTry govirtiofsd --help.\n", err, usageLine)
		return exitUsage
	}
	if o.Asks() {
		if err := o.tell(stdout); err != nil {
			fmt.Fprintf(stderr, "govirtiofsd: %v\n", err)
			return exitStart
		}
		return exitOK
	}
	var rustLog *string
	if v, ok := os.LookupEnv("RUST_LOG"); ok {
		rustLog = &v
	}
	log := newLog(o, stderr, rustLog)
	// The reader of the messages may go away. Then the Go runtime would end the daemon at
	// the next message.
	signal.Ignore(unix.SIGPIPE, requestSignal)
	if err := start(o, log); err != nil {
		return exitStatus(log, err)
	}
	return exitOK
}

// options are the configuration, and what the daemon finds out at its start.
type options struct {
	share.Config

	guestFiles      int  // how many descriptors the guest may use up
	landlocked      bool // Landlock is in force
	usesFileHandles bool
	relay           *relayed // nil: the share is a directory
	onConnection    func()   // called before a front-end is served; nil: nothing
}

// connected is called when the process has a front-end.
func (o *options) connected() {
	if o.onConnection != nil {
		o.onConnection()
	}
}

// parse reads the command line. Every error is a mistake in it.
func parse(args []string) (*options, error) {
	c, err := share.Parse(args, socketsPassed() || inChild())
	if err != nil {
		return nil, err
	}
	return &options{Config: *c}, nil
}

// tell prints what the options ask for. An error is one of w.
func (o *options) tell(w io.Writer) error {
	var b bytes.Buffer
	switch {
	case o.Help:
		printHelp(&b)
	case o.Version:
		fmt.Fprintln(&b, versionLine(os.Args[0]))
	case o.PrintLedgerVersions:
		b.WriteString(ownVersions().String())
	case o.Completion != "":
		if err := printCompletion(&b, o.Completion); err != nil {
			return err
		}
	default:
		if err := printCapabilities(&b); err != nil {
			return err
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// replaced is the version of virtiofsd whose options this program takes.
const replaced = "1.14.0"

// versionLine is what the program says of itself. Programs that start virtiofsd read
// "virtiofsd X.Y.Z", so that is what it says when it was put in place of virtiofsd.
func versionLine(name string) string {
	own := "govirtiofsd " + versions.String(version)
	if filepath.Base(name) == "virtiofsd" {
		return fmt.Sprintf("virtiofsd %s (%s)", replaced, own)
	}
	return own
}

// exitStatus logs why the daemon ends and returns its exit status.
func exitStatus(log *logrus.Logger, err error) int {
	var child *childStatus
	switch {
	case errors.As(err, &child): // it has said why
		return child.code
	case errors.Is(err, errSignal):
		log.Info("Ended by a signal")
		return exitOK
	}
	explain(log, err)
	return exitStart
}
