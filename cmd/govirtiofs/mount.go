package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/bridge"
)

// mountOptions are the options of the subcommand mount.
type mountOptions struct {
	queues    int
	queueSize uint16
	requests  int
	readOnly  bool
	private   bool
	suid, dev bool
	words     []string // of -o
	socket    string
	dir       string
	command   []string
}

func newMount() *cobra.Command {
	o := &mountOptions{}
	c := &cobra.Command{
		Use:   "mount [options] SOCKET DIR [-- COMMAND [ARG]...]",
		Short: "Mount a vhost-user-fs back-end on this machine, without a virtual machine",
		Long: `Mounts the share of a vhost-user-fs back-end (govirtiofsd, virtiofsd or another) on
the directory DIR of this machine. This machine's own FUSE client takes the guest's
place, so that any program or test suite can run against the back-end.

With a COMMAND, the share is mounted while the command runs, and the exit status is
that of the command. Otherwise it is mounted until SIGINT, SIGTERM or SIGHUP, until
somebody unmounts DIR, or until the back-end ends, which is a failure. If DIR is in use
when the signal comes, it disappears from the directory tree and is served until nobody
uses it. A second signal ends the mount at once.

The back-end decides where locks are kept (govirtiofsd --locks). At most half of
--requests may wait for locks on the host; a further request fails with ENOLCK.

It needs root, or fusermount3 (package fuse3). There is no DAX: /dev/fuse does not have it.`,
		Example: `  govirtiofsd --socket-path /tmp/fs.sock --shared-dir /srv/share & sleep 1
  govirtiofs mount /tmp/fs.sock /mnt -- ls -l /mnt`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("give the SOCKET of a back-end and a DIR to mount on")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.socket, o.dir, o.command = args[0], args[1], args[2:]
			if len(o.command) > 0 && cmd.ArgsLenAtDash() != 2 {
				return usagef("%q: only SOCKET and DIR are expected; a command comes after --", args[2])
			}
			return runMount(o)
		},
	}
	f := c.Flags()
	f.IntVar(&o.queues, "queues", 1, "request `queues`")
	f.Uint16Var(&o.queueSize, "queue-size", 128, "`entries` of each queue, a power of two up to 32768")
	f.IntVar(&o.requests, "requests", 16, "`requests` under way at the same time, per queue")
	f.BoolVar(&o.readOnly, "read-only", false, "mount read-only")
	f.StringSliceVarP(&o.words, "options", "o", nil, "mount `options` as in mount(8): suid and dev let set-user-ID programs and devices work as in a guest (root only); nosuid and nodev, the default, do not; ro and rw")
	f.BoolVar(&o.private, "private", false, "give access only to the user who mounts (this is always so unless root mounts)")
	_ = c.RegisterFlagCompletionFunc("options", completeWords) // the option is there
	return c
}

// mountWords are what -o takes.
var mountWords = []string{"suid", "nosuid", "dev", "nodev", "ro", "rw"}

// completeWords offers the next word of a list.
func completeWords(_ *cobra.Command, _ []string, typed string) (offers []string, _ cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	for _, word := range mountWords {
		if strings.HasPrefix(before+word, typed) && !slices.Contains(strings.Split(before, ","), word) {
			offers = append(offers, before+word)
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// read takes the words of -o, of which the last one counts.
func (o *mountOptions) read() error {
	for _, word := range o.words {
		switch word {
		case "suid", "nosuid":
			o.suid = word == "suid"
		case "dev", "nodev":
			o.dev = word == "dev"
		case "ro", "rw":
			o.readOnly = word == "ro"
		default:
			return usagef("-o %s: %s are possible", word, strings.Join(mountWords, ", "))
		}
	}
	if (o.suid || o.dev) && os.Geteuid() != 0 {
		return usagef("-o suid and -o dev are for root only")
	}
	return nil
}

// check tells what is wrong with the options.
func (o *mountOptions) check() error {
	if err := o.read(); err != nil {
		return err
	}
	switch {
	case o.queues < 1 || o.queues > 64:
		return usagef("--queues=%d: 1 to 64 are possible", o.queues)
	case o.queueSize < 4 || o.queueSize&(o.queueSize-1) != 0 || o.queueSize > 1<<15:
		return usagef("--queue-size=%d: must be a power of two from 4 to 32768", o.queueSize)
	case o.requests < 1 || o.requests > 256:
		return usagef("--requests=%d: 1 to 256 are possible", o.requests)
	}
	return nil
}

// dialNotice is how long a back-end may be silent before the user is told.
const dialNotice = 3 * time.Second

func runMount(o *mountOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := checkTarget(o.dir); err != nil {
		return err
	}
	slow := time.AfterFunc(dialNotice, func() {
		fmt.Fprintf(os.Stderr, "govirtiofs: waiting for the back-end at %s: does it serve somebody else?\n", o.socket)
	})
	front, err := frontend.Dial(o.socket, frontend.Options{Queues: o.queues, QueueSize: o.queueSize, Slots: o.requests})
	slow.Stop()
	if err != nil {
		return dialHint(o.socket, err)
	}
	defer front.Close()
	if err := front.CheckQueues(); err != nil {
		return fmt.Errorf("back-end at %s: %w", o.socket, err)
	}
	mount, err := fusedev.New(o.dir, fusedev.Options{Source: o.socket, Subtype: "virtiofs", ReadOnly: o.readOnly, SetID: o.suid, Devices: o.dev,
		AllowOther: os.Geteuid() == 0 && !o.private, Permissions: true, MaxRead: 1 << 20})
	if err != nil {
		return fuseHint(err)
	}
	defer func() { _ = mount.Close() }()
	return serveMount(o, front, mount)
}

// dialHint adds what to do about a back-end that can't be reached.
func dialHint(socket string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("back-end at %s: %w\nStart the daemon first, with --socket-path=%s", socket, err, socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("back-end at %s: %w\nNobody listens there: the daemon has ended, or serves another front-end. "+
			"Each mount and each guest needs a daemon and a socket of its own", socket, err)
	}
	return fmt.Errorf("back-end at %s: %w", socket, err)
}

// fuseHint adds what to do about a /dev/fuse that cannot be opened.
func fuseHint(err error) error {
	text := err.Error()
	switch {
	case !strings.Contains(text, "/dev/fuse"):
		return err
	case errors.Is(err, os.ErrNotExist) || strings.Contains(text, "No such file"):
		return fmt.Errorf("%w\nThe kernel has no FUSE here: load it with 'modprobe fuse'; a container needs '--device /dev/fuse'", err)
	case errors.Is(err, os.ErrPermission) || strings.Contains(text, "ermission denied"):
		return fmt.Errorf("%w\nThe user may not open /dev/fuse: run this as root, or let users mount with 'chmod 666 /dev/fuse', as most distributions do", err)
	}
	return err
}

// serveMount carries requests until it is over, for one reason or another.
func serveMount(o *mountOptions, front *frontend.Frontend, mount *fusedev.Mount) error {
	b, err := bridge.New(front, mount)
	if err != nil {
		_ = mount.Detach()
		return err
	}
	served := make(chan error, 1)
	go func() { served <- b.Serve(o.requests) }()
	signals := make(chan os.Signal, 2)
	if list := ending(); len(list) > 0 {
		signal.Notify(signals, list...)
	}
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd, command := o.start(ctx)
	if cmd == nil {
		fmt.Fprintf(os.Stderr, "govirtiofs: %s is mounted on %s\n", o.socket, o.dir)
	}
	var result error
	leaving := false
	for {
		select {
		case err := <-served:
			if err != nil {
				_ = mount.Detach()
				return fmt.Errorf("%s: %w", o.dir, err)
			}
			return result
		case result = <-command:
			command = nil
			leaving = true
			leave(mount)
		case sig := <-signals:
			switch {
			case command != nil && sig != syscall.SIGINT:
				_ = cmd.Process.Signal(sig)
			case command != nil: // the terminal has sent it SIGINT as well
			case leaving && sig == syscall.SIGHUP: // a terminal that is closed sends two
			case leaving:
				return errors.Join(result, fmt.Errorf("%s: ended while it was in use", o.dir))
			default:
				leaving = true
				leave(mount)
			}
		}
	}
}

// start runs the command, if there is one; its end comes over the channel.
func (o *mountOptions) start(ctx context.Context) (*exec.Cmd, chan error) {
	if len(o.command) == 0 {
		return nil, nil
	}
	ended := make(chan error, 1)
	cmd := exec.CommandContext(ctx, o.command[0], o.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		ended <- err
		return cmd, ended
	}
	go func() {
		err := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() >= 0 {
			err = exitStatus(exit.ExitCode())
		}
		ended <- err
	}()
	return cmd, ended
}

// checkTarget reports an error if dir is not a directory to mount on.
func checkTarget(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case err == nil && !st.IsDir():
		err = fmt.Errorf("%s is not a directory: give a directory to mount on", dir)
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("%w: make the directory to mount on first: mkdir -p %s", err, dir)
	case errors.Is(err, unix.ENOTCONN):
		err = fmt.Errorf("%w: the server of an earlier mount there has ended; remove the mount with 'umount %s' or 'fusermount3 -u %s'", err, dir, dir)
	}
	return err
}

// leave unmounts; what is in use goes out of sight, and is served to its end.
func leave(mount *fusedev.Mount) {
	if mount.Unmount() != nil {
		_ = mount.Detach()
	}
}
