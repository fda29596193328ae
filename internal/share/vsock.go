package share

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/sandbox"
)

// DefaultVsockPort is the port of --vsock-uds if none is given.
const DefaultVsockPort = 1024

// NoToken is the value of --vsock-token for no token.
const NoToken = "none"

// Vsock says how guests without a virtio-fs device reach the share: over vsock. The zero value
// means that they can't.
type Vsock struct {
	VsockPort  uint32 // an AF_VSOCK port of this host; 0 is none
	VsockGuest uint32 // the CID of the guest that may connect; 0 is any
	VsockUDS   string // the Unix socket of the VMM's vsock device, and _PORT; "" is none
	VsockToken string // a file, NoToken or ""
	VsockState string // a file, or ""

	// VsockShares are several shares, instead of Directory.SharedDir. See Config.Shares.
	VsockShares []Shared

	vsockShares     []string // as given
	vsock, vsockUDS string   // the same
}

// Shared is one directory, or regular file, that a process shares.
type Shared struct {
	Name     string // that guests ask for; "" if they need not
	Dir      string
	ReadOnly bool
}

// Limits of --vsock-share.
const (
	maxShares    = 256
	maxShareName = 100
)

// Shares are what the process shares, at least one.
func (c *Config) Shares() []Shared {
	if len(c.VsockShares) > 0 {
		return c.VsockShares
	}
	return []Shared{{c.Tag, c.SharedDir, c.ReadOnly}}
}

// Streams reports whether guests come over vsock.
func (v *Vsock) Streams() bool { return v.VsockPort != 0 || v.VsockUDS != "" }

func vsockOptions() []Option {
	return []Option{
		{
			Name: "vsock", Arg: "[CID:]PORT", Doctor: true,
			Value: text(func(c *Config) *string { return &c.vsock }),
			Check: (*Config).checkVsock,
			Help:  "Listen on this vsock port of the host instead of a vhost-user socket, for guests that mount with govirtiofs-guest. With a CID only that guest may connect.",
			Manual: `Instead of a vhost-user socket, listen on the vsock port
.Ar port
of this host.
The guest mounts with
.Xr govirtiofs-guest 8 ,
and needs a vsock device of QEMU or of another VMM that uses the host's
.Pa /dev/vhost-vsock .
With a
.Ar cid
only the guest that has it may connect.
Without
.Fl -vsock-token
the guest has to connect from a port below 1024, which only its root can.
The daemon continues to run when a guest has unmounted.`,
		},
		{
			Name: "vsock-uds", Arg: "PATH[:PORT]", Complete: CompleteFile, Doctor: true,
			Value: text(func(c *Config) *string { return &c.vsockUDS }),
			Check: (*Config).checkVsockUDS,
			Help: fmt.Sprintf("Like --vsock, for VMMs that have Unix sockets in place of the host's vsock (Firecracker, cloud-hypervisor, vhost-device-vsock). PATH is the socket that the VMM was given. PORT is the port that the guest connects to, %d by default. The daemon listens on PATH_PORT.",
				DefaultVsockPort),
			Manual: `Like
.Fl -vsock ,
for VMMs that have Unix sockets in place of the host's vsock: Firecracker, cloud-hypervisor,
vhost-device-vsock,
.Ic govirtiofs vsock-device .
.Ar path
is the socket that the VMM was given.
.Ar port
is the port that the guest connects to; the default is 1024.
The daemon listens on
.Ar path Ns Li _ Ns Ar port ,
because such a VMM connects there, and makes
.Ar path Ns Li _ Ns Ar port Ns Pa .pid
as for
.Fl -socket-path .
This option needs
.Fl -vsock-token .`,
		},
		{
			Name: "vsock-share", Arg: "NAME[:ro]=DIR", Complete: CompleteDirectory, Doctor: true,
			Value: lines(func(c *Config) *[]string { return &c.vsockShares }),
			Check: (*Config).checkVsockShares,
			Help:  "Instead of --shared-dir: share DIR under this name. The guest mounts it as vsock:CID:PORT/NAME. May be repeated; the guest mounts each share separately. With :ro the guest can change nothing in this share.",
			Manual: `Share the directory or regular file
.Ar dir
under this name, instead of
.Fl -shared-dir .
May be repeated, for up to 256 shares behind one port; the guest mounts
.Li vsock: Ns Ar cid Ns Li \&: Ns Ar port Ns Li / Ns Ar name
for each of them.
With
.Li \&:ro
the guest can change nothing in this share.
All other options apply to every share.
All shares are in one sandbox: for guests that do not trust each other, start a daemon for each guest.
Not possible with
.Fl -sandbox Ns = Ns Cm chroot ,
which has one directory.`,
		},
		{
			Name: "vsock-token", Arg: "FILE", Complete: CompleteFile, Suggest: []string{NoToken}, Doctor: true,
			Value: text(func(c *Config) *string { return &c.VsockToken }),
			Help:  "Accept only a guest that knows the contents of FILE. Only the daemon's user may be able to read FILE. none: any process in the guest may connect and act as its root.",
			Manual: `Accept only a guest that knows the contents of
.Ar file :
16 to 1024 bytes; white space at the end does not count.
Only the daemon's user and root may be able to read or change the file.
In the guest only root may be able to read the copy; see
.Xr govirtiofs-guest 8 .
With
.Cm none
any process in the guest may connect and then act as the guest's root.
Use this only for guests without unprivileged processes.`,
		},
		{
			Name: "vsock-state", Arg: "FILE", Complete: CompleteFile,
			Value: text(func(c *Config) *string { return &c.VsockState }),
			Help:  "Save the guest's session in FILE when a signal ends the daemon, and continue it at the next start: the guest only waits meanwhile. Without this option the guest's open files are stale after a restart.",
			Manual: `Save the guest's session in
.Ar file
when a signal ends the daemon, and continue with the saved session at the next start.
The guest then only waits while the daemon is restarted.
Without this option, or if the whole daemon dies, the guest's mount continues with a new session: open
files and working directories are stale
.Pq Er ESTALE .
If only the serving process dies,
.Fl -recovery
keeps the session; under systemd it also keeps it when the daemon is restarted.
With
.Fl -vsock-share
each share has a file of its own:
.Ar file Ns Li \&. Ns Ar name .
The daemon makes the file if it does not exist.
Only the daemon's user may be able to read or change it.
A request that waits for a lock when the daemon ends is refused.`,
		},
	}
}

// SettleVsock reads the options for vsock, for who takes them without Parse.
func (c *Config) SettleVsock() error {
	for _, o := range []struct {
		given bool
		check func() error
	}{{c.vsock != "", c.checkVsock}, {c.vsockUDS != "", c.checkVsockUDS}, {len(c.vsockShares) > 0, c.checkVsockShares}} {
		if o.given {
			if err := o.check(); err != nil {
				return err
			}
		}
	}
	if c.VsockPort != 0 && c.VsockUDS != "" {
		return errBothVsock
	}
	return nil
}

var errBothVsock = errors.New("--vsock and --vsock-uds exclude each other: start a daemon for each")

// checkVsockShares reads --vsock-share.
func (c *Config) checkVsockShares() error {
	c.VsockShares = nil
	names := make(map[string]bool)
	for _, given := range c.vsockShares {
		name, dir, found := strings.Cut(given, "=")
		name, word, hasWord := strings.Cut(name, ":")
		switch {
		case !found || dir == "":
			return fmt.Errorf("--vsock-share %q: want NAME=DIR or NAME:ro=DIR", given)
		case hasWord && word != "ro":
			return fmt.Errorf("--vsock-share %q: %q is not ro, the only word that a name can have behind it", given, word)
		case name == "" || name == "." || name == ".." || len(name) > maxShareName || strings.Trim(name, shareNameBytes) != "":
			return fmt.Errorf("--vsock-share %q: the name can have 1 to %d letters, digits, dots, dashes and underscores", given, maxShareName)
		case names[name]:
			return fmt.Errorf("--vsock-share %q: two shares have this name", given)
		}
		names[name] = true
		c.VsockShares = append(c.VsockShares, Shared{name, dir, hasWord})
	}
	if len(c.VsockShares) > maxShares {
		return fmt.Errorf("--vsock-share: %d shares: at most %d are possible", len(c.VsockShares), maxShares)
	}
	return nil
}

// shareNameBytes is what the name of one of several shares is made of: it is part of a guest's fstab, and of
// the name of a file.
const shareNameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// settleShares checks --vsock-share together with others.
func (c *Config) settleShares(set *pflag.FlagSet) error {
	if len(c.VsockShares) == 0 {
		return nil
	}
	for _, other := range []string{"shared-dir", "tag"} {
		if set.Changed(other) {
			return fmt.Errorf("--vsock-share and --%s exclude each other: --vsock-share has name and directory", other)
		}
	}
	if len(c.VsockShares) > 1 && c.Sandbox == sandbox.ModeChroot {
		return errors.New("--sandbox=chroot has one directory: with several shares use --sandbox=namespace or none")
	}
	for i := range c.VsockShares {
		c.VsockShares[i].ReadOnly = c.VsockShares[i].ReadOnly || c.ReadOnly
	}
	return nil
}

// checkVsock reads --vsock.
func (c *Config) checkVsock() error {
	port := c.vsock
	if cid, rest, found := strings.Cut(c.vsock, ":"); found {
		n, err := strconv.ParseUint(cid, 10, 32)
		if err != nil || n == 0 || n == 2 || n == math.MaxUint32 {
			return fmt.Errorf("--vsock %q: %q is not a guest's CID: want 3 or more, or 1 for this host's own programs", c.vsock, cid)
		}
		c.VsockGuest, port = uint32(n), rest
	}
	n, err := readPort(port)
	if err != nil {
		return fmt.Errorf("--vsock %q: %w", c.vsock, err)
	}
	c.VsockPort = n
	return nil
}

func readPort(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == math.MaxUint32 {
		return 0, fmt.Errorf("%q is not a port: want a number from 1 to %d", s, uint32(math.MaxUint32-1))
	}
	return uint32(n), nil
}

// checkVsockUDS reads --vsock-uds. If the part after the last colon is not a number, it
// belongs to the path.
func (c *Config) checkVsockUDS() error {
	path, port := c.vsockUDS, uint32(DefaultVsockPort)
	if i := strings.LastIndexByte(path, ':'); i >= 0 && strings.Trim(path[i+1:], "0123456789") == "" {
		n, err := readPort(path[i+1:])
		if err != nil {
			return fmt.Errorf("--vsock-uds %q: %w", c.vsockUDS, err)
		}
		path, port = path[:i], n
	}
	if base := filepath.Base(path); path == "" || base == "." || base == "/" {
		return fmt.Errorf("--vsock-uds %q: want the path of the VMM's vsock socket", c.vsockUDS)
	}
	c.VsockUDS = fmt.Sprintf("%s_%d", path, port)
	return nil
}

// checkStreams checks vsock's options together with others.
func (c *Config) checkStreams(set *pflag.FlagSet) error {
	if !c.Streams() {
		if c.VsockToken != "" {
			return errors.New("--vsock-token is for --vsock and --vsock-uds")
		}
		if c.VsockState != "" {
			return errors.New("--vsock-state is for --vsock and --vsock-uds")
		}
		if len(c.VsockShares) > 0 {
			return errors.New("--vsock-share is for --vsock and --vsock-uds")
		}
		return nil
	}
	if err := c.settleShares(set); err != nil {
		return err
	}
	if c.VsockPort != 0 && c.VsockUDS != "" {
		return errBothVsock
	}
	for _, other := range []string{"socket-path", "socket", "fd", "num-request-queues", "busy-poll"} {
		if set.Changed(other) {
			return fmt.Errorf("--%s is for a vhost-user device: not with --vsock or --vsock-uds", other)
		}
	}
	switch {
	case c.HasWindow():
		return errors.New("DAX needs a vhost-user device: not with --vsock or --vsock-uds")
	case c.VsockPort != 0 && c.SocketGroup != "":
		return errors.New("--socket-group is for the sockets of --socket-path and --vsock-uds")
	case c.VsockUDS != "" && c.VsockToken == "":
		return errors.New("--vsock-uds needs --vsock-token FILE: without it any process in the guest could connect and act as root (--vsock-token=none allows that)")
	}
	return nil
}
