package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// errHelp asks for the help text.
var errHelp = errors.New("help requested")

// defaultRequestQueues is how many request queues a front-end may set up. It is a
// limit: the front-end chooses how many it uses, mostly one.
const defaultRequestQueues = 64

// options are the command line, checked.
type options struct {
	sharedDir, tag                string
	socketPath, socketGroup       string
	fd                            int
	requestQueues                 int
	keepListening                 bool
	fs                            passthrough.Config
	sandbox                       sandbox.Mode
	seccomp                       sandbox.SeccompAction
	modcaps                       []sandbox.CapChange
	logLevel                      string
	syslog                        bool
	rlimitNofile                  int64 // -1: choose
	showVersion                   bool
	printCapabilities             bool
	warnings                      []string
	cache, posixACL, label        string
	sandboxName, seccompName      string
	modcapsText, socketDeprecated string
	fileHandles                   string
	compat                        []string
	entry, attr, negative         time.Duration
	threadPoolSize                int
}

// newFlags declares every option, in groups as --help shows them.
func newFlags(o *options) *pflag.FlagSet {
	f := pflag.NewFlagSet("govirtiofsd", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	f.StringVar(&o.sharedDir, "shared-dir", "", "`DIR`ectory, or single file, to share (required)")
	f.StringVar(&o.tag, "tag", "", "name of the share for the guest, 1 to 36 bytes; QEMU sets its own, crosvm and others need this")
	f.BoolVar(&o.fs.ReadOnly, "readonly", false, "refuse every change, whatever the guest's mount options are")
	f.StringVar(&o.socketPath, "socket-path", "", "listen on this unix socket (`PATH`); PATH.pid holds the process number")
	f.StringVar(&o.socketDeprecated, "socket", "", "old name of --socket-path")
	f.StringVar(&o.socketGroup, "socket-group", "", "let this `GROUP` use the socket too")
	f.IntVar(&o.fd, "fd", -1, "use this descriptor, a listening or connected unix socket (`N`)")
	f.BoolVar(&o.keepListening, "keep-listening", false, "serve the next front-end when one has disconnected, instead of exiting")
	f.IntVar(&o.requestQueues, "num-request-queues", defaultRequestQueues, "most request queues that the front-end may set up (`N`); it chooses how many it uses")

	f.StringVar(&o.cache, "cache", "auto", "what the guest may cache: never, metadata, auto or always (`POLICY`)")
	f.DurationVar(&o.entry, "entry-timeout", 0, "how long the guest may trust a name, e.g. 5s; default by --cache (`TIME`)")
	f.DurationVar(&o.attr, "attr-timeout", 0, "how long the guest may trust attributes; default by --cache (`TIME`)")
	f.DurationVar(&o.negative, "negative-timeout", 0, "how long the guest may trust that a name is missing; default 0 (`TIME`)")
	f.BoolVar(&o.fs.Writeback, "writeback", false, "let the guest collect writes before it sends them")
	f.BoolVar(&o.fs.AllowDirectIO, "allow-direct-io", false, "pass O_DIRECT on to the host's files")
	f.BoolVar(&o.fs.AllowMmap, "allow-mmap", false, "allow shared mappings of files that are not cached")
	f.BoolVar(&o.fs.NoReaddirplus, "no-readdirplus", false, "list directories without attributes")

	f.BoolVar(&o.fs.Xattr, "xattr", false, "extended attributes")
	f.StringVar(&o.posixACL, "posix-acl", "never", "POSIX ACLs: never, auto or always (`WHEN`); alone: always; implies --xattr")
	f.Lookup("posix-acl").NoOptDefVal = "always"
	f.StringVar(&o.label, "security-label", "never", "label new files as the guest says: never, auto or always (`WHEN`); alone: always; implies --xattr")
	f.Lookup("security-label").NoOptDefVal = "always"
	f.Bool("posix-lock", true, "take the guest's fcntl locks on the host, where other guests see them")
	f.Bool("no-posix-lock", false, "keep fcntl locks in the guest")
	f.Bool("flock", true, "take the guest's flock locks on the host")
	f.Bool("no-flock", false, "keep flock locks in the guest")
	f.Bool("killpriv-v2", true, "clear setuid, setgid and capabilities of written files here")
	f.Bool("no-killpriv-v2", false, "leave that to the guest")
	f.Bool("announce-submounts", true, "show mounts within the share as mounts to the guest")
	f.Bool("no-announce-submounts", false, "show them as plain directories")
	f.BoolVar(&o.fs.PreserveNoatime, "preserve-noatime", false, "pass O_NOATIME on to the host's files")

	f.StringVar(&o.sandboxName, "sandbox", "namespace", "shut the daemon in: namespace, chroot or none (`MODE`)")
	f.StringVar(&o.seccompName, "seccomp", "kill", "on a forbidden system call: kill, log, trap or none (`ACTION`)")
	f.StringVar(&o.modcapsText, "modcaps", "", "capabilities to keep or drop, like +sys_admin:-mknod (`LIST`)")
	f.Int64Var(&o.rlimitNofile, "rlimit-nofile", -1, "most open descriptors; 0 leaves the limit as it is (`N`)")

	f.StringVar(&o.logLevel, "log-level", "info", "error, warn, info, debug, trace or off (`LEVEL`)")
	f.BoolVar(&o.syslog, "syslog", false, "log to the system's log instead of stderr")
	f.BoolVar(&o.printCapabilities, "print-capabilities", false, "print what this daemon can do, as JSON, and exit")
	f.BoolP("help", "h", false, "print this help and exit")
	f.BoolVarP(&o.showVersion, "version", "V", false, "print the version and exit")

	f.IntVar(&o.threadPoolSize, "thread-pool-size", 0, "accepted for compatibility: what would wait gets a thread by itself (`N`)")
	f.StringVar(&o.fileHandles, "inode-file-handles", "prefer", "accepted for compatibility: never, prefer or fallback (`MODE`)")
	f.StringArrayVarP(&o.compat, "option", "o", nil, "old form of options (`OPT`[,OPT])")
	f.BoolP("debug", "d", false, "old form of --log-level=debug")
	f.BoolP("foreground", "f", false, "accepted for compatibility: the daemon stays in the foreground")
	return f
}

// usage is the help text.
func usage() string {
	return `govirtiofsd ` + version + `: share a host directory with a virtual machine (virtio-fs)

Usage: govirtiofsd --shared-dir DIR --socket-path PATH [OPTION]...

Start it, then the VMM with the same socket and shared memory, for QEMU:
  -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem
  -chardev socket,id=c0,path=PATH -device vhost-user-fs-pci,chardev=c0,tag=TAG
and in the guest: mount -t virtiofs TAG /mnt

Options:
` + newFlags(&options{}).FlagUsages() + `
Exit status: 0 after the front-end has disconnected or on SIGTERM, 2 for a wrong
command line, 1 for any other failure.
`
}

// parseArgs reads and checks the command line.
func parseArgs(args []string) (*options, error) {
	o := &options{fd: -1, rlimitNofile: -1}
	f := newFlags(o)
	if len(args) == 0 {
		return nil, errors.New("nothing to do: --shared-dir and --socket-path or --fd are required")
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if help, _ := f.GetBool("help"); help {
		return nil, errHelp
	}
	if o.showVersion || o.printCapabilities {
		return o, nil
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err := o.applyCompat(f); err != nil {
		return nil, err
	}
	return o, o.check(f, args)
}

// check turns texts into values and finds what does not fit together.
func (o *options) check(f *pflag.FlagSet, args []string) (err error) {
	o.fs.KillprivV2 = lastOf(f, args, "killpriv-v2")
	o.fs.AnnounceSubmounts = lastOf(f, args, "announce-submounts")
	o.fs.PosixLocks = lastOf(f, args, "posix-lock")
	o.fs.Flocks = lastOf(f, args, "flock")
	o.checkTimeouts(f)
	steps := []func() error{
		func() (err error) {
			o.fs.Cache, err = passthrough.ParseCachePolicy(o.cache)
			return wrap("--cache", err)
		},
		func() (err error) {
			o.fs.PosixACL, err = passthrough.ParseNegotiation(o.posixACL)
			return wrap("--posix-acl", err)
		},
		func() (err error) {
			o.fs.SecurityLabel, err = passthrough.ParseNegotiation(o.label)
			return wrap("--security-label", err)
		},
		func() (err error) { o.sandbox, err = sandbox.ParseMode(o.sandboxName); return wrap("--sandbox", err) },
		func() (err error) {
			o.seccomp, err = sandbox.ParseSeccomp(o.seccompName)
			return wrap("--seccomp", err)
		},
		func() (err error) {
			o.modcaps, err = sandbox.ParseModcaps(o.modcapsText)
			return wrap("--modcaps", err)
		},
		o.checkSocket, o.checkShare, o.checkNumbers,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	if o.fs.PosixACL != passthrough.Never || o.fs.SecurityLabel != passthrough.Never {
		o.fs.Xattr = true
	}
	return nil
}

func wrap(option string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	return nil
}

// lastOf decides between --NAME and --no-NAME: the last one given wins.
func lastOf(f *pflag.FlagSet, args []string, name string) bool {
	yes, _ := f.GetBool(name)
	for i := len(args) - 1; i >= 0; i-- {
		switch {
		case args[i] == "--no-"+name:
			return false
		case args[i] == "--"+name, strings.HasPrefix(args[i], "--"+name+"="):
			return yes
		}
	}
	return yes
}

func (o *options) checkTimeouts(f *pflag.FlagSet) {
	for name, t := range map[string]struct {
		value *time.Duration
		to    **time.Duration
	}{
		"entry-timeout":    {&o.entry, &o.fs.EntryTimeout},
		"attr-timeout":     {&o.attr, &o.fs.AttrTimeout},
		"negative-timeout": {&o.negative, &o.fs.NegativeTimeout},
	} {
		if f.Changed(name) {
			*t.to = t.value
		}
	}
}

func (o *options) checkSocket() error {
	if o.socketDeprecated != "" {
		o.warnings = append(o.warnings, "--socket is deprecated, use --socket-path")
		if o.socketPath == "" {
			o.socketPath = o.socketDeprecated
		}
	}
	switch {
	case o.fd >= 0 && o.socketPath != "":
		return errors.New("--fd and --socket-path exclude each other")
	case o.fd < 0 && o.socketPath == "":
		return errors.New("no socket: give --socket-path PATH or --fd N")
	case o.fd >= 0 && o.socketGroup != "":
		return errors.New("--socket-group needs --socket-path")
	}
	return nil
}

func (o *options) checkShare() error {
	if o.sharedDir == "" {
		return errors.New("no shared directory: give --shared-dir DIR")
	}
	if sandbox.InChild() {
		return nil // checked by the parent, and not visible from here
	}
	st, err := os.Stat(o.sharedDir)
	if err != nil {
		return fmt.Errorf("--shared-dir: %w", err)
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return fmt.Errorf("--shared-dir: %s is neither a directory nor a regular file", o.sharedDir)
	}
	return nil
}

func (o *options) checkNumbers() error {
	switch {
	case len(o.tag) > virtiofs.TagSize:
		return fmt.Errorf("--tag: %d bytes, at most %d", len(o.tag), virtiofs.TagSize)
	case o.requestQueues < 1 || o.requestQueues > virtiofs.MaxRequestQueues:
		return fmt.Errorf("--num-request-queues: %d, want 1 to %d", o.requestQueues, virtiofs.MaxRequestQueues)
	case o.threadPoolSize < 0:
		return fmt.Errorf("--thread-pool-size: %d is negative", o.threadPoolSize)
	}
	switch strings.ToLower(o.fileHandles) {
	case "never", "prefer", "fallback":
	case "mandatory":
		return errors.New("--inode-file-handles=mandatory: file handles are not implemented; nodes are found again by name and checked")
	default:
		return fmt.Errorf("--inode-file-handles: unknown value %q", o.fileHandles)
	}
	switch strings.ToLower(o.logLevel) {
	case "error", "warn", "info", "debug", "trace", "off":
	default:
		return fmt.Errorf("--log-level: unknown level %q: want error, warn, info, debug, trace or off", o.logLevel)
	}
	return nil
}
