package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/usage"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// maxRequestQueues is --num-request-queues when nothing in the configuration
// space depends on it: the front-end takes as many as it likes.
const maxRequestQueues = 64

// options are the command line.
type options struct {
	help, version, printCapabilities bool
	completion                       string // a shell

	sharedDir     string
	readOnly      bool
	socketPath    string
	oldSocket     string
	socketGroup   string
	fd            int
	keepListening bool
	tag           string
	requestQueues int
	configQueues  int // what the configuration space says; 0 is requestQueues
	busyPoll      virtiofs.BusyPoll
	threadPool    uint

	cache                          string
	entryTimeout, attrTimeout      *time.Duration
	negativeTimeout                *time.Duration
	writeback, directIO, allowMmap bool
	dax                            string
	daxWindow, daxMinSize          uint64
	daxOnly, daxNot                []string
	daxProtocol                    string
	readdirplus                    bool
	immutable, symlinks            bool
	directIOs                      []string
	directIOSize                   uint64

	xattr               bool
	xattrmap, preset    string
	hasXattrmap         bool // by -o
	posixACL, label     string
	killpriv, noatime   bool
	submounts           bool
	locks               string
	fileHandles         string
	sandbox, seccomp    string
	landlock            string
	modcaps             string
	uidMaps, gidMaps    []string
	userRules           []string // --translate-uid
	groupRules          []string
	ownership           string
	noFile              uint64
	logLevel            string
	syslog, debug, fore bool
	compat              []string
	migration           migrationOptions

	// What follows is worked out of the above.
	sandboxMode   sandbox.Mode
	filter        sandbox.FilterAction
	namespace     sandbox.Namespace
	names         *xattrmap.Map
	capabilities  []cap.Value
	users         *passthrough.IDMap
	groupIDs      *passthrough.IDMap
	cacheSymlinks *bool // nil is as the policy has it
	noFileSet     bool
	guestFiles    int  // how many descriptors the guest may use up
	landlocked    bool // Landlock is in force
	hostLocks     hostLocks

	usesFileHandles bool
	given           []string // the options of the command line, for the log
	warnings        []string // said once there is a log
	notes           []string // the same, for those who want to know all
}

// errUsage marks errors of the command line, which exit with 2.
var errUsage = errors.New("usage")

func usagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, args...)...)
}

// group is a part of the options with a heading in the help text.
type group struct {
	title   string
	declare func(*pflag.FlagSet)
}

// flags are the group's options in the order of their declaration.
func (g group) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet(g.title, pflag.ContinueOnError)
	f.SortFlags = false
	g.declare(f)
	return f
}

// parse reads the command line without the program's name. It says nothing itself.
func parse(args []string) (*options, error) {
	o := &options{}
	all := pflag.NewFlagSet("govirtiofsd", pflag.ContinueOnError)
	all.SetOutput(io.Discard)
	all.Usage = func() {}
	for _, g := range o.groups() {
		g.declare(all)
	}
	if err := all.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			o.help = true
			return o, nil
		}
		if errors.Is(err, errUsage) {
			return nil, err
		}
		return nil, usagef("%s", usage.Message(all, err))
	}
	if o.asks() {
		return o, o.checkAlone()
	}
	if all.NArg() > 0 {
		return nil, usagef("unexpected argument %q: every value belongs to an option", all.Arg(0))
	}
	if err := o.applyCompat(); err != nil {
		return nil, err
	}
	o.noFileSet = all.Changed("rlimit-nofile")
	o.given = givenOptions(all)
	return o, o.check(all)
}

// groups declares the options. Defaults are those of virtiofsd.
func (o *options) groups() []group {
	return []group{
		{"The share", o.shareFlags},
		{"The connection", o.connectionFlags},
		{"Caching", o.cacheFlags},
		{"The window into the host's page cache (DAX)", o.daxFlags},
		{"Features of the file system", o.featureFlags},
		{"Users and groups", o.identityFlags},
		{"Security", o.securityFlags},
		{"Moving to another host", o.migration.flags},
		{"Messages", o.messageFlags},
		{"Accepted for compatibility", o.compatFlags},
	}
}

func (o *options) shareFlags(f *pflag.FlagSet) {
	f.StringVar(&o.sharedDir, "shared-dir", "", "`DIR` Share this directory. A regular file can be shared, too.")
	f.BoolVar(&o.readOnly, "readonly", false, "Let the guest change nothing, whatever its mount says.")
	f.StringVar(&o.tag, "tag", "", "`NAME` Name of the share in the device's configuration space, 1 to 36 bytes, for VMMs that have no option for it (crosvm, User-Mode Linux).")
	enable(f, &o.submounts, true, "announce-submounts", "no-announce-submounts",
		"Do not tell the guest where other file systems are mounted in the share.")
}

func (o *options) connectionFlags(f *pflag.FlagSet) {
	f.StringVar(&o.socketPath, "socket-path", "", "`PATH` Make a vhost-user socket at PATH, and PATH.pid with the process id.")
	f.StringVar(&o.socketGroup, "socket-group", "", "`GROUP` Let this group connect to the socket.")
	f.IntVar(&o.fd, "fd", -1, "`N` Instead of a path: descriptor N, a listening or a connected socket. Without either, the socket that a systemd socket unit has opened.")
	f.BoolVar(&o.keepListening, "keep-listening", false, "When a front-end disconnects, wait for the next one instead of ending.")
	f.IntVar(&o.requestQueues, "num-request-queues", 0, fmt.Sprintf(
		"`N` How many request queues the front-end may use, 1 to %d. The front-end chooses how many of them it uses. Without this option it is %d. The configuration space that comes with --tag says N, or 1.",
		virtiofs.MaxRequestQueues, maxRequestQueues))
	busyPoll(f, &o.busyPoll, "busy-poll", "`TIME[,PERCENT]` Look for the next request for up to TIME (50us; microseconds without a unit) before a queue's thread sleeps, as long as requests come that fast, and spend at most PERCENT of one CPU on it, for each queue. Answers come sooner, and cost CPU time. Without this option a thread looks for a moment where it finds that a sleep takes longer; 0: it sleeps at once.")
}

func (o *options) daxFlags(f *pflag.FlagSet) {
	choice(f, &o.dax, "never", "dax", "", []string{"never", "inode", "always"},
		"`never|inode|always` Let the guest map files into a window instead of reading them: no; files for which it pays; all files. The VMM must have shared memory regions, as QEMU's generic vhost-user device. Default never.")
	size(f, &o.daxWindow, defaultDAXWindow, "dax-window-size", fmt.Sprintf(
		"`SIZE` Size of the window, with a unit (64M, 8G), a multiple of 2M, at most %s. Default %s.", formatSize(maxDAXWindow), formatSize(defaultDAXWindow)))
	size(f, &o.daxMinSize, defaultDAXMinSize, "dax-min-size", fmt.Sprintf(
		"`SIZE` With --dax=inode, files shorter than this are read. Default %s.", formatSize(defaultDAXMinSize)))
	repeated(f, &o.daxOnly, "dax-include", "", "`PATTERN` Let the guest map only files with such a name (*.db), or with such a path in the share (vm/**/*.img, where ** is any number of directories); may be repeated.")
	repeated(f, &o.daxNot, "dax-exclude", "", "`PATTERN` Let the guest map no files with such a name or path; may be repeated.")
	choice(f, &o.daxProtocol, "shmem", "dax-protocol", "", []string{"shmem", "fs-map", "fs-map-6"},
		"`shmem|fs-map|fs-map-6` How to ask the VMM for mappings: as the specification has it; also by what old VMMs had, with the numbers 1002 and 1003, or 6 and 7. Their window must be as large as --dax-window-size. Default shmem.")
}

func (o *options) featureFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.xattr, "xattr", false, "Serve extended attributes.")
	f.StringVar(&o.xattrmap, "xattrmap", "", "`RULES` Serve extended attributes under other names on the host. RULES are a row of :TYPE:SCOPE:KEY:PREPEND: and may end with :map:KEY:PREPEND:, see govirtiofsd(1).")
	f.StringVar(&o.preset, "xattrmap-preset", "", "`LIST` The same by purpose, with commas between: "+strings.Join(xattrmap.Presets(), ", ")+".")
	choice(f, &o.posixACL, "never", "posix-acl", "always", negotiation,
		"`never|auto|always` Serve access control lists, and extended attributes with them: never; if the guest can; or refuse a guest that can't. Default never; always without a value.")
	choice(f, &o.label, "never", "security-label", "always", negotiation,
		"`never|auto|always` Make files with the guest's security label, in the same way.")
	enable(f, &o.killpriv, false, "killpriv-v2", "no-killpriv-v2", "Clear set-user-ID bits here when a file is written, which saves the guest a request each time.")
	choice(f, &o.fileHandles, "prefer", "inode-file-handles", "", []string{"never", "prefer", "fallback", "mandatory"},
		"`never|prefer|mandatory` Find files again, of which no descriptor is kept, by name alone; by file handles, too, where that can be done; or refuse to start where it can't. Handles find what the host has renamed, and need CAP_DAC_READ_SEARCH. Default prefer.")
	f.BoolVar(&o.noatime, "preserve-noatime", false, "Pass O_NOATIME on to the host.")
	choice(f, &o.locks, "guest", "locks", "", []string{"guest", "host"},
		"`guest|host` Where fcntl and flock locks are kept: by the guest's kernel, so that other guests and the host do not see them; or on the host's files, for shares that several guests or the host write to. With host, a program in a virtio-fs guest that waits for a lock can't be interrupted or killed: the guest's driver has no request for that. Default guest.")
}

func (o *options) identityFlags(f *pflag.FlagSet) {
	repeated(f, &o.userRules, "translate-uid", "", "`KIND:FROM:TO:COUNT` Translate COUNT user ids from FROM on between guest and host; may be repeated. KIND is map (guest ids FROM, host ids TO, both ways), guest (guest to host only), host (host to guest only), squash-guest or squash-host (the same, all to the one id TO), or forbid-guest:FROM:COUNT (nothing may belong to these). Other ids stay what they are.")
	repeated(f, &o.groupRules, "translate-gid", "", "`KIND:FROM:TO:COUNT` The same for groups.")
	choice(f, &o.ownership, "host", "ownership", "", []string{"host", "xattr"},
		"`host|xattr` Where owners, modes and device numbers of files are kept: in the host's files; or in extended attributes, so that a daemon without privileges can serve a guest with users of its own. Default host.")
	repeated(f, &o.uidMaps, "uid-map", "", "`:INSIDE:OUTSIDE:COUNT:` Ids in the sandbox, for users other than root; may be repeated. Default one's own id.")
	repeated(f, &o.gidMaps, "gid-map", "", "`:INSIDE:OUTSIDE:COUNT:` The same for groups.")
}

func (o *options) securityFlags(f *pflag.FlagSet) {
	choice(f, &o.sandbox, "namespace", "sandbox", "", []string{"namespace", "chroot", "none"},
		"`namespace|chroot|none` What the daemon can see: the share and nothing else; the share as its root directory; all files. Default namespace.")
	choice(f, &o.seccomp, "kill", "seccomp", "", []string{"none", "kill", "log", "trap"},
		"`none|kill|log|trap` What happens at a system call that is not on the daemon's list. Default kill.")
	choice(f, &o.landlock, "auto", "landlock", "", []string{"auto", "never", "always"},
		"`auto|never|always` Have the kernel refuse the daemon all files but the share, whatever it can see: if it can; not; or else do not start. Default auto.")
	f.StringVar(&o.modcaps, "modcaps", "", "`LIST` Keep other capabilities than usual, for example +sys_admin:-mknod.")
	f.Uint64Var(&o.noFile, "rlimit-nofile", 0, "`N` Limit of open files; 0 leaves the hard limit as it is. Default 1000000, or fs.nr_open if less.")
}

func (o *options) messageFlags(f *pflag.FlagSet) {
	choice(f, &o.logLevel, "info", "log-level", "", logLevels,
		"`error|warn|info|debug|trace|off` How much to say; RUST_LOG in the environment goes before. Default info.")
	f.BoolVar(&o.syslog, "syslog", false, "Write messages to the system log instead of standard error.")
	f.BoolVar(&o.printCapabilities, "print-capabilities", false, "Print vhost-user capabilities as JSON.")
	choice(f, &o.completion, "", "completion", "", shells, "`bash|zsh|fish` Print what lets this shell complete the options.")
	f.BoolVarP(&o.version, "version", "V", false, "Print the version.")
	f.BoolVarP(&o.help, "help", "h", false, "Print this.")
}

func (o *options) compatFlags(f *pflag.FlagSet) {
	f.StringVar(&o.oldSocket, "socket", "", "`PATH` Old name of --socket-path.")
	repeated(f, &o.compat, "option", "o", "`LIST` Options of the first virtiofsd with commas between them: source=DIR, cache=WORD, xattr, no_xattr...")
	f.BoolVarP(&o.debug, "debug", "d", false, "The same as --log-level=debug.")
	f.BoolVarP(&o.fore, "foreground", "f", false, "No effect: the daemon never goes to the background.")
	f.UintVar(&o.threadPool, "thread-pool-size", 0, "`N` No effect: every queue has a thread, and slow requests get threads as they need them.")
}

var filterActions = map[string]sandbox.FilterAction{
	"none": sandbox.FilterNone, "kill": sandbox.FilterKill, "log": sandbox.FilterLog, "trap": sandbox.FilterTrap,
}

var (
	negotiation = []string{"never", "auto", "always"}
	logLevels   = []string{"error", "warn", "info", "debug", "trace", "off"}
)

// check settles what depends on more than one option.
func (o *options) check(set *pflag.FlagSet) error {
	for _, c := range []func(*pflag.FlagSet) error{
		o.migration.check,
		o.checkShare, o.checkCaching, o.checkSocket, o.checkDevice, o.checkDAX, o.checkFeatures, o.checkIdentity, o.checkSecurity,
	} {
		if err := c(set); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) checkShare(*pflag.FlagSet) error {
	if o.sharedDir == "" {
		return usagef("nothing to share: give --shared-dir DIR")
	}
	return nil
}

func (o *options) checkSocket(set *pflag.FlagSet) error {
	if set.Changed("socket") {
		o.warn("--socket is deprecated: use --socket-path")
		if o.socketPath == "" {
			o.socketPath = o.oldSocket
		}
	}
	byFD := set.Changed("fd")
	switch {
	case byFD && o.socketPath != "":
		return usagef("--fd and --socket-path exclude each other")
	case byFD && o.socketGroup != "":
		return usagef("--socket-group is for --socket-path: the socket of --fd exists already")
	case byFD && o.fd < 0:
		return usagef("--fd %d: want the number of an open socket", o.fd)
	case byFD || o.socketPath != "":
	case !socketsPassed() && !inChild():
		return usagef("no way to reach a front-end: give --socket-path PATH or --fd N, or start it with a systemd socket unit")
	case o.socketGroup != "":
		return usagef("--socket-group is for --socket-path: use SocketGroup= in the socket unit")
	}
	return nil
}

func (o *options) checkDevice(set *pflag.FlagSet) error {
	if set.Changed("tag") && (o.tag == "" || len(o.tag) > virtiofs.TagSize || strings.ContainsRune(o.tag, 0)) {
		return usagef("--tag %q has %d bytes: want 1 to %d", o.tag, len(o.tag), virtiofs.TagSize)
	}
	if set.Changed("num-request-queues") {
		if o.requestQueues < 1 || o.requestQueues > virtiofs.MaxRequestQueues {
			return usagef("--num-request-queues %d: want 1 to %d", o.requestQueues, virtiofs.MaxRequestQueues)
		}
		return nil
	}
	o.requestQueues, o.configQueues = maxRequestQueues, 1
	return nil
}

func (o *options) checkFeatures(set *pflag.FlagSet) error {
	if err := o.checkXattrmap(set); err != nil {
		return err
	}
	o.hostLocks.settle(o.locks == "host")
	if o.posixACL != "never" || o.label != "never" {
		o.xattr = true
	}
	if o.debug {
		o.warn("-d is deprecated: use --log-level=debug")
		o.logLevel = "debug"
	}
	o.warnIdle()
	return nil
}

func (o *options) checkSecurity(flags *pflag.FlagSet) error {
	o.sandboxMode = map[string]sandbox.Mode{
		"namespace": sandbox.ModeNamespace, "chroot": sandbox.ModeChroot, "none": sandbox.ModeNone,
	}[o.sandbox]
	o.filter = filterActions[o.seccomp]
	o.capabilities = sandbox.DefaultCapabilities()
	if o.modcaps != "" {
		set, err := sandbox.ModifyCapabilities(o.capabilities, o.modcaps)
		if err != nil {
			return usagef("--modcaps: %v", err)
		}
		o.capabilities = set
	}
	if err := o.checkFileHandles(flags); err != nil {
		return err
	}
	if len(o.uidMaps)+len(o.gidMaps) > 0 && o.sandboxMode != sandbox.ModeNamespace {
		return usagef("--uid-map and --gid-map are for --sandbox=namespace")
	}
	o.namespace.ReadOnly = o.readOnly
	o.checkNames()
	return nil
}

// checkAlone checks the options that only print something.
func (o *options) checkAlone() error {
	if o.printCapabilities && o.socketGroup != "" {
		return usagef("--print-capabilities and --socket-group exclude each other")
	}
	return nil
}

// warnIdle names the options that are there for compatibility and do nothing. A pool of no
// threads is what virtiofsd has without the option: nothing is asked for.
func (o *options) warnIdle() {
	if o.fore {
		o.warn("-f has no effect, and is deprecated: the daemon never goes to the background")
	}
	if o.threadPool > 0 { // libvirt, Kata and others always give it
		o.note("--thread-pool-size has no effect: every queue has a thread, and slow requests get threads as they need them")
	}
	if o.migration.confirm {
		o.warn("--migration-confirm-paths has no effect: paths are always confirmed when they are sent")
	}
}

// note is warn for what whoever starts the daemon can't change: only --log-level=debug
// shows it.
func (o *options) note(format string, args ...any) {
	o.notes = append(o.notes, fmt.Sprintf(format, args...))
}

func (o *options) warn(format string, args ...any) {
	o.warnings = append(o.warnings, fmt.Sprintf(format, args...))
}
