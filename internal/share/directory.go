package share

import (
	"errors"

	"github.com/spf13/pflag"
)

// Directory is what is shared.
type Directory struct {
	SharedDir         string // or a regular file
	ReadOnly          bool
	Tag               string // in the configuration space; "" is no configuration space
	AnnounceSubmounts bool
}

func directoryOptions() []Option {
	return []Option{
		{
			Name: "shared-dir", Arg: "DIR", Complete: CompleteDirectory, Doctor: true,
			Value: text(func(c *Config) *string { return &c.SharedDir }),
			Help:  "Share this directory. A regular file can be shared, too.",
			Manual: `Share this directory.
A regular file can be shared, too, but not with
.Fl -sandbox Ns = Ns Cm chroot .`,
		},
		{
			Name: "readonly", Doctor: true,
			Value: on(func(c *Config) *bool { return &c.ReadOnly }),
			Help:  "Refuse every request that changes something, also if the guest mounts the share read-write.",
			Manual: `Refuse every request that would change something.
With the namespace sandbox the mount is read-only as well, so that access times do not change.
In other sandboxes some of them change.
Those of other users' files and directories change if the daemon does not have CAP_FOWNER.
Those of symbolic links change, unless root starts the daemon, the links are on the share's own file
system, and this file system has file handles.
A mount with
.Cm ro
or
.Cm noatime
prevents that.`,
		},
		{
			Name: "tag", Arg: "NAME",
			Value: text(func(c *Config) *string { return &c.Tag }),
			Check: (*Config).checkTag,
			Help:  "Name of the share in the device's configuration space, 1 to 36 bytes, for VMMs that have no option for it (crosvm, User-Mode Linux).",
			Manual: `Name of the share in the device's configuration space, 1 to 36 bytes.
QEMU and cloud-hypervisor have an option of their own for the name.
crosvm and User-Mode Linux get it from the daemon.`,
		},
		{
			Name: "announce-submounts", Off: "no-announce-submounts", Default: "true",
			Value: on(func(c *Config) *bool { return &c.AnnounceSubmounts }),
			Help:  "Do not show other file systems in the share as separate mounts in the guest.",
			Manual: `Whether the guest sees other file systems in the share as separate mounts.
Default: it does.`,
		},
	}
}

func (c *Config) checkDirectory(*pflag.FlagSet) error {
	if c.SharedDir == "" && len(c.VsockShares) == 0 {
		return errors.New("nothing to share: give --shared-dir DIR, or --vsock-share NAME=DIR with --vsock or --vsock-uds")
	}
	return nil
}
