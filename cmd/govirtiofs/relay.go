package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/share"
	fuseprogram "github.com/govirtiofs/govirtiofs/relay/program"
)

// relayOptions are the options of the subcommand relay.
type relayOptions struct {
	daemon share.Config // those of the daemon, as they were given
	set    *pflag.FlagSet

	mount        string
	restart      bool
	timeout      int // seconds
	sandbox      string
	network      bool
	capabilities string
	pid          string
	grace        int // seconds
	args         []string
}

// relayDaemonOptions are the daemon's options that the subcommand has, too.
var relayDaemonOptions = []string{
	"socket-path", "socket-group", "fd", "keep-listening", "num-request-queues", "busy-poll", "vsock", "vsock-uds", "vsock-token",
	"tag", "readonly", "sandbox", "seccomp", "landlock", "rlimit-nofile", "events", "log-level", "syslog", "translate-uid", "translate-gid",
}

// relayMountOptions are those of them that --mount knows.
var relayMountOptions = []string{"readonly", "log-level", "syslog", "translate-uid", "translate-gid"}

func newRelay() *cobra.Command {
	o := &relayOptions{}
	c := &cobra.Command{
		Use:   "relay [options] [--] PROGRAM [ARG]... {mount}",
		Short: "Serve the file system of a FUSE program to a guest",
		Long: `Starts an unmodified FUSE program (sshfs, squashfuse, mergerfs, rclone, gocryptfs, ntfs-3g, ...) and
serves its file system to a guest over virtio-fs or vsock. Nothing is mounted on this machine, and no privilege
is needed: the relay answers the program's mount(2) and gives it a socket in place of /dev/fuse.

Options of the relay come before PROGRAM; all words after it are the program's own arguments. In these, {mount}
stands for the mount point, an empty directory that the relay makes. Programs with libfuse 3.3 or later can have
/dev/fd/{fd} instead. The program may stay in the foreground or go into the background; it does not need -f. Its
output goes to the log.

With --mount the file system is mounted on this machine, through /dev/fuse. This is a way to try a program.

The relay ends when the VMM disconnects, when the program ends, and at SIGTERM. It then ends all processes of the
program. govirtiofsd serves the guest; it must be installed beside this program or in PATH.`,
		Example: `  govirtiofs relay --socket-path /run/s.sock -- sshfs user@host:/data {mount}
  govirtiofs relay --socket-path /run/s.sock --restart -- squashfuse_ll image.sqfs {mount}`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give the PROGRAM and its arguments after the options")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args, o.set = args, cmd.Flags()
			return runRelay(o)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // the program's options are its own
	f.SortFlags = false
	f.StringVar(&o.mount, "mount", "", "instead of serving a guest: mount on this `directory` of this machine")
	f.BoolVar(&o.restart, "restart", false, "when the program ends, start it again; the guest's files stay open where that is possible")
	f.IntVar(&o.timeout, "request-timeout", 0, "a request that the program does not answer within so many `seconds` fails with ETIMEDOUT; 0 is no limit")
	f.StringVar(&o.sandbox, "program-sandbox", string(fuseprogram.SandboxAuto), "whether the program has namespaces of its own: `auto|namespace|none`; auto: if the system allows them")
	f.BoolVar(&o.network, "program-network", true, "let the program use the network")
	f.StringVar(&o.capabilities, "program-capabilities", defaultCapabilities, "comma-separated `list` of capabilities that the program keeps if root starts it, or none")
	f.StringVar(&o.pid, "program-pid", pidNone, "process id that the program gets with each request: `none|self`; self: its own")
	f.IntVar(&o.grace, "stop-timeout", 10, "how many `seconds` the program may take to end before it is killed")
	for _, g := range share.Groups() {
		for _, row := range g.Options {
			if slices.Contains(relayDaemonOptions, row.Name) {
				declareRelayed(f, &row, &o.daemon)
			}
		}
	}
	_ = share.AddCompletion(c)                                                                                 // the options are there
	_ = c.RegisterFlagCompletionFunc("program-sandbox", completeList("auto", "namespace", "none"))             // the same
	_ = c.RegisterFlagCompletionFunc("program-pid", completeList(pidNone, pidSelf))                            // the same
	_ = c.RegisterFlagCompletionFunc("mount", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)) // the same
	return c
}

func completeList(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// declareRelayed declares an option of the daemon.
func declareRelayed(f *pflag.FlagSet, row *share.Option, c *share.Config) {
	row.Declare(f, c)
	if arg := row.ArgWord(); arg != "" {
		flag := f.Lookup(row.Name)
		flag.Value = &named{flag.Value, arg}
	}
}

// named is a value with a name in help.
type named struct {
	pflag.Value
	name string
}

// Type implements pflag.Value: help shows it.
func (n *named) Type() string { return n.name }

// defaultCapabilities are what programs need that show a directory of this machine to more than one user.
const defaultCapabilities = "chown,dac_override,fowner,fsetid,setgid,setuid,mknod"

// Values of --program-pid.
const (
	pidNone = "none"
	pidSelf = "self"
)

// check tells what is wrong with the options that the daemon does not have, and makes those of the program.
func (o *relayOptions) check() (p fuseprogram.Options, err error) {
	if o.mount != "" {
		if err := checkTarget(o.mount); err != nil {
			return p, fmt.Errorf("--mount: %w", err)
		}
	}
	if o.timeout < 0 || o.timeout > 86400 {
		return p, usagef("--request-timeout=%d: 1 to 86400 seconds are possible, or 0 for no limit", o.timeout)
	}
	if o.grace < 1 || o.grace > 3600 {
		return p, usagef("--stop-timeout=%d: 1 to 3600 seconds are possible", o.grace)
	}
	if !slices.ContainsFunc(o.args[1:], func(a string) bool { return strings.Contains(a, "{mount}") || strings.Contains(a, "{fd}") }) {
		return p, usagef("the program's arguments do not have {mount}: put it where the mount point belongs")
	}
	p = fuseprogram.Options{Args: o.args, Stdin: os.Stdin, Sandbox: fuseprogram.Sandbox(o.sandbox), NoNetwork: !o.network,
		Grace: o.graceTime(), Self: o.pid == pidSelf}
	if o.pid != pidNone && o.pid != pidSelf {
		return p, usagef("--program-pid=%s: none or self are possible", o.pid)
	}
	if p.Self && slices.ContainsFunc(o.args[1:], func(a string) bool { return strings.Contains(a, "{fd}") }) {
		return p, usagef("--program-pid=self needs a program that mounts by itself: write {mount} instead of {fd}")
	}
	switch p.Sandbox {
	case fuseprogram.SandboxAuto, fuseprogram.SandboxNamespace, fuseprogram.SandboxNone:
	default:
		return p, usagef("--program-sandbox=%s: auto, namespace or none are possible", o.sandbox)
	}
	if p.Sandbox == fuseprogram.SandboxNone && p.NoNetwork {
		return p, usagef("--program-network=false needs a sandbox: leave --program-sandbox=none out")
	}
	if p.Capabilities, err = capabilities(o.capabilities); err != nil {
		return p, err
	}
	return p, nil
}

func (o *relayOptions) graceTime() time.Duration { return time.Duration(o.grace) * time.Second }

// capabilities are the numbers of a list of names.
func capabilities(list string) (numbers []uintptr, err error) {
	if list == "none" || list == "" {
		return nil, nil
	}
	for _, name := range strings.Split(list, ",") {
		v, err := cap.FromName("cap_" + strings.TrimPrefix(strings.ToLower(name), "cap_"))
		if err != nil {
			return nil, usagef("--program-capabilities: %q is no capability; see capabilities(7)", name)
		}
		numbers = append(numbers, uintptr(v))
	}
	return numbers, nil
}

// daemonArgs is the daemon's command line for a share that is empty.
func (o *relayOptions) daemonArgs(empty string) []string {
	args := []string{"--shared-dir=" + empty, "--recovery=never"}
	o.set.Visit(func(f *pflag.Flag) {
		if !slices.Contains(relayDaemonOptions, f.Name) {
			return
		}
		value := f.Value
		if n, ok := value.(*named); ok {
			value = n.Value
		}
		values := []string{value.String()}
		if list, ok := value.(pflag.SliceValue); ok { // an option that may be repeated
			values = list.GetSlice()
		}
		for _, v := range values {
			args = append(args, "--"+f.Name+"="+v)
		}
	})
	return args
}

// checkDaemon has the daemon's own checks tell what is wrong. passed says that a service manager has opened a socket.
func (o *relayOptions) checkDaemon(passed bool) error {
	args := o.daemonArgs("/")
	if o.mount != "" {
		for _, name := range relayDaemonOptions {
			if o.set.Changed(name) && !slices.Contains(relayMountOptions, name) {
				return usagef("--mount and --%s exclude each other: there is no guest, and govirtiofsd does not run", name)
			}
		}
		args = append(args, "--socket-path=/")
	}
	c, err := share.Parse(args, passed)
	if err != nil {
		return usageError{err}
	}
	o.daemon = *c
	return nil
}

// findDaemon is the path of govirtiofsd: beside this program, or in PATH.
func findDaemon() (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), "govirtiofsd")
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/libexec") {
		path := filepath.Join(dir, "govirtiofsd")
		if filepath.IsAbs(path) && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", errors.New("govirtiofsd is neither beside this program nor in PATH: install it, it serves the guest")
}

// runRelay starts the program, and serves its file system until one of all ends.
func runRelay(o *relayOptions) error {
	options, err := o.check()
	if err != nil {
		return err
	}
	passed := os.Getenv("LISTEN_PID") == fmt.Sprint(os.Getpid()) && os.Getenv("LISTEN_FDS") == "1"
	if err := o.checkDaemon(passed); err != nil {
		return err
	}
	daemon := ""
	if o.mount == "" {
		if daemon, err = findDaemon(); err != nil {
			return err
		}
	}
	if options.Log, err = o.openLog(); err != nil {
		return err
	}
	p, err := fuseprogram.New(options)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	ctx, stop := untilSignal()
	defer stop()
	first, err := p.Mount(ctx)
	if err == nil && o.mount != "" {
		err = o.serveHere(ctx, p, first, options.Log)
	} else if err == nil {
		err = o.serveGuest(ctx, p, first, daemon, passed)
	}
	var sig signalled
	if errors.As(err, &sig) || errors.As(context.Cause(ctx), &sig) {
		return nil // as a daemon ends
	}
	return err
}
