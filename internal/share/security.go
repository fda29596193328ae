package share

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// Security is what confines the process.
type Security struct {
	Sandbox  sandbox.Mode
	Seccomp  sandbox.FilterAction
	Landlock LandlockMode
	ModCaps  string
	NoFile   *uint64 // nil is sandbox.DefaultNoFile, 0 leaves the limit as it is

	Capabilities []cap.Value       // settled: those that the daemon keeps
	Namespace    sandbox.Namespace // settled: for ModeNamespace
}

// LandlockMode says whether Landlock confines the process.
type LandlockMode string

// The modes: use it if the kernel can, do not use it, or do not start without
// it.
const (
	LandlockAuto   LandlockMode = "auto"
	LandlockNever  LandlockMode = "never"
	LandlockAlways LandlockMode = "always"
)

const securityOutro = `.Pp
A system call filter that is in force when the daemon starts, such as
.Ql SystemCallFilter=@system-service
of a systemd unit, may end processes at system calls that the daemon makes.
The daemon then works without Landlock and without file handles, and logs this.
With the namespace sandbox and the chroot sandbox it does not start.
In a unit that filters,
.Bd -literal -offset indent
SystemCallFilter=@system-service @mount seccomp open_by_handle_at
SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self
.Ed
.Pp
allow all of it.`

func sandboxWords() []word[sandbox.Mode] {
	return []word[sandbox.Mode]{
		{text: "namespace", is: sandbox.ModeNamespace}, {text: "chroot", is: sandbox.ModeChroot}, {text: "none", is: sandbox.ModeNone},
	}
}

func securityOptions() []Option {
	return []Option{
		{
			Name: "sandbox", Default: "namespace", Doctor: true,
			Value: oneOf(func(c *Config) *sandbox.Mode { return &c.Sandbox }, sandboxWords()...),
			Help:  "What the daemon can see. namespace: the share, no other file, process or network. chroot: the share is its root directory. none: everything. Default {default}.",
			Manual: `What the daemon can see.
.Cm namespace
(the default): nothing but the share, no other process, no network.
Users other than root get a user namespace for that.
.Cm chroot :
the share is the root directory; needs root.
.Cm none :
all files; requests still can't leave the share.
A sandbox that can't be made is an error.`,
		},
		{
			Name: "seccomp", Default: "kill", Doctor: true,
			Value: oneOf(func(c *Config) *sandbox.FilterAction { return &c.Seccomp },
				word[sandbox.FilterAction]{text: "none", is: sandbox.FilterNone},
				word[sandbox.FilterAction]{text: "kill", is: sandbox.FilterKill},
				word[sandbox.FilterAction]{text: "log", is: sandbox.FilterLog},
				word[sandbox.FilterAction]{text: "trap", is: sandbox.FilterTrap}),
			Help: "What happens at a system call that is not on the daemon's list. none: nothing. kill: the daemon is killed. log: the kernel logs it. trap: the daemon prints its stacks and ends. Default {default}.",
			Manual: `What happens at a system call that is not on the daemon's list.
.Cm none :
nothing.
.Cm kill
(the default): the process is killed.
.Cm log :
the kernel logs it.
.Cm trap :
the process prints its stacks on standard error, and ends.`,
		},
		{
			Name: "landlock", Default: "auto",
			Value: oneOf(func(c *Config) *LandlockMode { return &c.Landlock }, literally(LandlockAuto, LandlockNever, LandlockAlways)...),
			Help:  "Let the kernel refuse the daemon all files outside of the share, in addition to the sandbox. auto: if the kernel can. always: if it can't, the daemon does not start. Default {default}.",
			Manual: `Let the kernel refuse the daemon everything outside of the share: opening, making, moving
and removing files, running programs, changing mounts, TCP.
This protection does not depend on the sandbox: it is also there with
.Fl -sandbox Ns = Ns Cm none ,
and it also covers descriptors that lead out of the share.
If the host has renamed a file and the daemon has found it again by its file handle, the file can be opened
as soon as the guest has looked up the new name.
.Cm auto
(the default): if the kernel can (Linux 5.19, with landlock among its security modules).
.Cm always :
do not start if it can't.`,
		},
		{
			Name: "modcaps", Arg: "LIST", Doctor: true,
			Value: text(func(c *Config) *string { return &c.ModCaps }),
			Help:  "Change which capabilities the daemon keeps, for example +sys_admin:-mknod.",
			Manual: `Change the set of capabilities that the daemon keeps, for example
.Ql -mknod:+sys_admin .
If it has them, it keeps CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP, SETGID and SETUID, and
DAC_READ_SEARCH for
.Fl -inode-file-handles .
The guest's
.Ql chattr +i
and
.Ql +a
fail with EPERM unless LINUX_IMMUTABLE is kept too:
.Fl -modcaps Ns = Ns Cm +linux_immutable .`,
		},
		{
			Name: "rlimit-nofile", Arg: "N",
			Value: maybe(func(c *Config) **uint64 { return &c.NoFile }, "uint64", readCount,
				func(n uint64) string { return strconv.FormatUint(n, 10) }),
			Help: "Limit of open files. 0 leaves the hard limit as it is. Default 1000000, or fs.nr_open if that is less.",
			Manual: `Limit of open files; 0 leaves the hard limit.
Default: 1000000, or fs.nr_open if that is less, or the hard limit if it can't be raised.`,
		},
	}
}

func (c *Config) checkSecurity(set *pflag.FlagSet) error {
	if err := c.SettleCapabilities(); err != nil {
		return err
	}
	if err := c.settleFileHandles(set); err != nil {
		return err
	}
	if len(c.UIDMaps)+len(c.GIDMaps) > 0 && c.Sandbox != sandbox.ModeNamespace {
		return errors.New("--uid-map and --gid-map are for --sandbox=namespace")
	}
	c.Namespace.ReadOnly = c.ReadOnly
	c.warnNames()
	return nil
}

// SettleCapabilities sets the capabilities that the daemon keeps, without those that
// other options need.
func (c *Config) SettleCapabilities() error {
	c.Capabilities = sandbox.DefaultCapabilities()
	if c.ModCaps == "" {
		return nil
	}
	all, err := sandbox.ModifyCapabilities(c.Capabilities, c.ModCaps)
	if err != nil {
		return fmt.Errorf("--modcaps: %w", err)
	}
	c.Capabilities = all
	return nil
}

// settleFileHandles adds the capability for file handles to those that the daemon keeps.
// There are no file handles if --modcaps removes the capability, or without
// --inode-file-handles.
func (c *Config) settleFileHandles(set *pflag.FlagSet) error {
	if c.FileHandles == passthrough.HandlesNever || slices.Contains(c.Capabilities, cap.DAC_READ_SEARCH) {
		return nil
	}
	if !modcapsRemoves(c.ModCaps, "dac_read_search") {
		c.Capabilities = append(c.Capabilities, cap.DAC_READ_SEARCH)
		return nil
	}
	if set.Changed("inode-file-handles") {
		return fmt.Errorf("--inode-file-handles=%s needs the capability that --modcaps takes away: leave -dac_read_search out, or give --inode-file-handles=never",
			set.Lookup("inode-file-handles").Value)
	}
	c.FileHandles = passthrough.HandlesNever
	return nil
}

// modcapsRemoves reports whether a list of --modcaps removes a capability.
func modcapsRemoves(list, name string) (removed bool) {
	for word := range strings.SplitSeq(strings.ToLower(list), ":") {
		if len(word) > 0 && word[1:] == name {
			removed = word[0] == '-'
		}
	}
	return removed
}
