package share

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
)

// Features is what else the file system can do, in addition to the basic
// requests.
type Features struct {
	Xattr                   bool
	XattrRules, XattrPreset string
	PosixACL, SecurityLabel passthrough.Negotiation
	KillprivV2              bool
	FileHandles             passthrough.FileHandles
	PreserveNoatime         bool
	ShortPositions          bool
	Locks                   LockPlace // see PosixLocks and Flocks

	Names *xattrmap.Map // settled: rules for names of attributes on the host; nil means no rules
}

// LockPlace is where locks of files are kept.
type LockPlace string

// The places.
const (
	LocksGuest LockPlace = "guest"
	LocksHost  LockPlace = "host"
)

// PosixLocks reports whether locks of fcntl are kept on the host.
func (c *Config) PosixLocks() bool { return c.lockedOnHost(c.posixLocks) }

// Flocks reports whether locks of flock are kept on the host.
func (c *Config) Flocks() bool { return c.lockedOnHost(c.flocks) }

// lockedOnHost reports whether a kind of locks is kept on the host. word is the -o
// option of virtiofsd in C for this kind.
func (c *Config) lockedOnHost(word *bool) bool {
	if word != nil {
		return *word
	}
	return c.Locks == LocksHost
}

func negotiated(field func(*Config) *passthrough.Negotiation) bind {
	return oneOf(field,
		word[passthrough.Negotiation]{text: "never", is: passthrough.Never},
		word[passthrough.Negotiation]{text: "auto", is: passthrough.Auto},
		word[passthrough.Negotiation]{text: "always", is: passthrough.Always})
}

func featureOptions() []Option {
	return append([]Option{
		{
			Name: "xattr", Doctor: true,
			Value: on(func(c *Config) *bool { return &c.Xattr }),
			Help:  "Serve extended attributes.",
		},
		{
			Name: "xattrmap", Arg: "RULES", Doctor: true,
			Value:  text(func(c *Config) *string { return &c.XattrRules }),
			Help:   "Serve extended attributes under other names on the host. RULES is a list of :TYPE:SCOPE:KEY:PREPEND:, and may end with :map:KEY:PREPEND:. See govirtiofsd(1).",
			Manual: xattrmapManual,
		},
		{
			Name: "xattrmap-preset", Arg: "LIST", Doctor: true,
			Value:   text(func(c *Config) *string { return &c.XattrPreset }),
			Suggest: xattrmap.Presets(),
			Help:    "Prepared rules of --xattrmap for a purpose, separated by commas: " + strings.Join(xattrmap.Presets(), ", ") + ".",
			Manual:  presetManual,
		},
		{
			Name: "posix-acl", Default: "never", Bare: "always", Doctor: true,
			Value: negotiated(func(c *Config) *passthrough.Negotiation { return &c.PosixACL }),
			Help:  "Serve access control lists, and extended attributes with them. auto: if the guest can use them. always: refuse a guest that can't. Default {default}. Without a value: {bare}.",
			Manual: `Serve POSIX access control lists: never (the default), if the guest can, or refuse a guest that
can't.
Without a value:
.Cm always .
Turns on
.Fl -xattr .`,
		},
		{
			Name: "security-label", Default: "never", Bare: "always", Doctor: true,
			Value:  negotiated(func(c *Config) *passthrough.Negotiation { return &c.SecurityLabel }),
			Help:   "Give a new file the security label that the guest sends with it. Values as above.",
			Manual: `Give a new file the security label that the guest sends with it, in the same way.`,
		},
	}, accessOptions()...)
}

func accessOptions() []Option {
	return []Option{
		{
			Name: "killpriv-v2", Off: "no-killpriv-v2",
			Value: on(func(c *Config) *bool { return &c.KillprivV2 }),
			Help:  "Clear set-user-ID bits in the daemon when a file is written. This saves the guest a request for each write.",
			Manual: `Whether the daemon clears set-user-ID bits, set-group-ID bits and file capabilities when a file is
written, is truncated or changes its owner.
This saves requests of the guest.
Default: the guest clears them.`,
		},
		{
			Name: "inode-file-handles", Default: "prefer",
			Value: oneOf(func(c *Config) *passthrough.FileHandles { return &c.FileHandles },
				word[passthrough.FileHandles]{text: "never", is: passthrough.HandlesNever},
				word[passthrough.FileHandles]{text: "prefer", is: passthrough.HandlesPrefer},
				word[passthrough.FileHandles]{text: "fallback", is: passthrough.HandlesPrefer, old: "use prefer, which means the same"},
				word[passthrough.FileHandles]{text: "mandatory", is: passthrough.HandlesMandatory}),
			Help: "How the daemon finds a file again when it keeps no descriptor of it. never: by name. prefer: by file handle where that is possible, else by name. mandatory: by file handle, or the daemon does not start. Handles find files that the host has renamed. They need CAP_DAC_READ_SEARCH. Default {default}.",
			Manual: `How the daemon finds a file again of which it keeps no descriptor, because the guest has only seen
its name or because too many files are open.
.Cm never :
by name.
.Cm prefer
(the default): by file handle
.Pq Xr name_to_handle_at 2
where the file system has file handles and the daemon has
.Dv CAP_DAC_READ_SEARCH ;
otherwise by name.
A file handle also finds a file that the host has renamed meanwhile.
.Cm mandatory :
by file handle only.
A file system without file handles is refused; if the shared directory is on it, the daemon does not
start.
With
.Cm prefer
and
.Cm mandatory
the daemon keeps that capability.
An attacker who controls the daemon could then open every file on the file systems of the share;
.Cm never
avoids that.`,
		},
		{
			Name:  "preserve-noatime",
			Value: on(func(c *Config) *bool { return &c.PreserveNoatime }),
			Help:  "Pass O_NOATIME on to the host.",
			Manual: `Pass
.Dv O_NOATIME
on to the host.`,
		},
		{
			Name:  "short-dir-positions",
			Value: on(func(c *Config) *bool { return &c.ShortPositions }),
			Help:  "Use directory positions of 31 bits where the host's are hashes of 64 bits (ext4). For 32-bit programs in the guest: without this option they get EOVERFLOW from readdir.",
			Manual: `Use directory positions of 31 bits where the host's positions are hashes of 64 bits
.Pq ext4 .
Without this option, 32-bit programs in the guest that have no large file support get
.Er EOVERFLOW
from
.Xr readdir 3 .
With it, a program that returns with
.Xr seekdir 3
to a name may see a name twice if another name has the same hash.`,
		},
		{
			Name: "locks", Default: "guest", Doctor: true,
			Value: oneOf(func(c *Config) *LockPlace { return &c.Locks }, literally(LocksGuest, LocksHost)...),
			Help:  "Where fcntl and flock locks are kept. guest: in the guest's kernel; other guests and the host do not see them. host: on the host's files, for shares that several guests or the host write to. With host, a program in a virtio-fs guest can't be interrupted or killed while it waits for a lock: the guest's driver has no request for that. Default {default}.",
			Manual: `Where
.Xr fcntl 2
and
.Xr flock 2
locks are kept.
.Cm guest
(the default): by the guest's kernel; other guests and the host do not see them.
.Cm host :
on the host's files, for shares that several guests or the host write to.
A program in a virtio-fs guest that waits for such a lock can't be interrupted or killed, and a
timeout such as that of
.Ql flock -w
has no effect: the guest's driver has no request to interrupt a waiting one.
With
.Pa /dev/fuse
.Pq Nm govirtiofs Cm mount
the wait can be interrupted.
On a share with
.Fl -readonly
only shared locks are possible.
With
.Fl -immutable
locks stay in the guest, even with
.Cm host .
At most half of a queue's entries may wait for locks at the same time; a further request fails with
.Er ENOLCK .`,
		},
	}
}

func (c *Config) checkFeatures(set *pflag.FlagSet) error {
	if err := c.SettleNames(set); err != nil {
		return err
	}
	if c.PosixACL != passthrough.Never || c.SecurityLabel != passthrough.Never {
		c.Xattr = true
	}
	if c.Immutable && (c.PosixLocks() || c.Flocks()) {
		c.Warn("--immutable: locks stay in the guest, which opens files of such a share without the daemon; --locks=host has no effect")
	}
	c.settleOld()
	return nil
}
