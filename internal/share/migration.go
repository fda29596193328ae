package share

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// Moves is about guests that move between hosts, see doc/migration.md.
type Moves struct {
	Moving passthrough.Migration
}

const migrationIntro = `A guest can move between two daemons, on one host or on two, while it has files open.
Both must have been started with the same features; if one is missing, the daemon that the guest moves
to says which.
Locks move, too: the old daemon releases them, and the new one takes them again.
Between these, another client of the file system may get a lock.`

func migrationOptions() []Option {
	return []Option{
		{
			Name: "migration-mode", Default: "find-paths",
			Value: oneOf(func(c *Config) *bool { return &c.Moving.FileHandles },
				word[bool]{text: "find-paths"}, word[bool]{text: "file-handles", is: true}),
			Help: "How the guest's files are found on the host that it moves to. find-paths: by their paths. file-handles: by file handles too, for a file system that both hosts mount. Give both daemons the same mode. Default {default}.",
			Manual: `How the guest's files are found on the host that it moves to.
Give both daemons the same mode.
.Cm find-paths ,
the default, finds them by their paths: the trees may be copies of each other.
.Cm file-handles
is for one file system that both hosts mount, and whose file handles mean the same on both, such as
NFS or CephFS.
The daemon that the guest leaves sends paths and file handles.
The other one takes a file only if it has the right file handle.
If it was started with
.Cm file-handles ,
too, it also finds a file that the host has moved within the share meanwhile, as long as the kernel
knows the new path; this needs
.Dv CAP_DAC_READ_SEARCH
and
.Fl -inode-file-handles
other than
.Cm never .
A file without a name in the share is not found.`,
		},
		{
			Name: "migration-on-error", Default: "abort",
			Value: oneOf(func(c *Config) *bool { return &c.Moving.GuestErrors },
				word[bool]{text: "abort"}, word[bool]{text: "guest-error", is: true}),
			Help: "What happens when a file is not found on this host. abort: the guest is refused and continues on the host where it was. guest-error: the guest gets an error when it uses the file. Default {default}.",
			Manual: `What happens when a file is not found on this host, or a lock of the guest is taken by somebody else.
With
.Cm abort ,
the default, the guest is refused, and continues on the host where it was.
With
.Cm guest-error
it moves to this host, and gets
.Er ESTALE
or
.Er EBADF
when it uses the file.`,
		},
		{
			Name:  "migration-verify-handles",
			Value: on(func(c *Config) *bool { return &c.Moving.VerifyHandles }),
			Help:  "With find-paths, let the other host check that each file it finds has the same file handle. On the host that the guest moves to, refuse a state without file handles.",
			Manual: `With
.Cm find-paths ,
send file handles along; a file that is found by its path is taken only if it has the same
file handle.
On the host that the guest comes to, refuse a state without file handles.`,
		},
		{
			Name:   "migration-confirm-paths",
			Value:  on(func(c *Config) *bool { return &c.confirmPaths }),
			Help:   "No effect: paths are always confirmed when they are sent.",
			Manual: `This only gives a warning: every path is confirmed when it is sent.`,
		},
	}
}

// checkMigration refuses options that exclude each other.
func (c *Config) checkMigration(set *pflag.FlagSet) error {
	for _, name := range []string{"migration-verify-handles", "migration-confirm-paths"} {
		if c.Moving.FileHandles && set.Changed(name) {
			return fmt.Errorf("--%s is for --migration-mode=find-paths: with file-handles, handles are compared anyway", name)
		}
	}
	return nil
}
