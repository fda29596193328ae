package share

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

const (
	defaultWindow = 1 << 30
	// maxWindow bounds the number of mappings. There is one for 2 MiB, and the front-end
	// maps each here, too. It stays well below what a process may have
	// (vm.max_map_count).
	maxWindow = 64 << 30
	// defaultMinSize is the file size from which a mapping is worth its cost: it costs
	// more than a READ and takes 2 MiB of the window.
	defaultMinSize = 64 << 10
)

// Window is the window into the host's page cache (DAX).
type Window struct {
	DAX         DAXMode
	DAXWindow   uint64   // bytes
	DAXMinSize  uint64   // bytes; with DAXInode
	DAXInclude  []string // patterns; empty is all files
	DAXExclude  []string
	DAXProtocol vhostuser.FSMap // zero is the specification's
}

// DAXMode says which files the guest maps.
type DAXMode string

// The modes.
const (
	DAXNever  DAXMode = "never"
	DAXInode  DAXMode = "inode" // files that are large enough
	DAXAlways DAXMode = "always"
)

// HasWindow reports whether there is a window.
func (w *Window) HasWindow() bool { return w.DAX == DAXInode || w.DAX == DAXAlways }

const windowIntro = `The VMM can give the guest a window into which files are mapped.
The guest then uses the host's page cache directly, and shares it with the host and other guests.
QEMU 11.1 has a window only with its generic vhost-user device.
That device reads the configuration space, so
.Fl -tag
is needed.
Guests use the window unless they mount with
.Ql -o dax=never .`

func windowOptions() []Option {
	return []Option{
		{
			Name: "dax", Default: "never", Doctor: true,
			Value: oneOf(func(c *Config) *DAXMode { return &c.DAX }, literally(DAXNever, DAXInode, DAXAlways)...),
			Help:  "Which files the guest may map into a window instead of reading them. inode: those for which a mapping is worth its cost. always: all. The VMM must have shared memory regions, as QEMU's generic vhost-user device has. Default {default}.",
			Manual: `Which regular files the guest may map into the window.
.Cm never
(the default): there is no window.
.Cm inode :
those for which a mapping is worth its cost.
.Cm always :
all.
Every other file is read as usual.
A guest that mounts with
.Ql -o dax=always
maps all files; this option does not change that.`,
		},
		{
			Name: "dax-window-size", Arg: "SIZE", Default: formatSize(defaultWindow),
			Value: size(func(c *Config) *uint64 { return &c.DAXWindow }),
			Check: (*Config).checkWindowSize,
			Help: fmt.Sprintf("Size of the window, with a unit (64M, 8G), a multiple of 2M, at most %s. Default {default}.",
				formatSize(maxWindow)),
			Manual: `Size of the window, a multiple of 2M, at most 64G, with a unit: K, M, G or T.
Default 1G.`,
		},
		{
			Name: "dax-min-size", Arg: "SIZE", Default: formatSize(defaultMinSize),
			Value: size(func(c *Config) *uint64 { return &c.DAXMinSize }),
			Help:  "With --dax=inode, files shorter than this are read. Default {default}.",
			Manual: `With
.Fl -dax Ns = Ns Cm inode ,
files shorter than this are not mapped.
A mapping takes 2 MiB of the window, whatever the size of the file.
Default 64K.`,
		},
		{
			Name: "dax-include", Arg: "PATTERN",
			Value: lines(func(c *Config) *[]string { return &c.DAXInclude }),
			Check: func(c *Config) error { return checkPatterns("dax-include", c.DAXInclude) },
			Help:  "Let the guest map only files whose name (*.db) or path in the share (vm/**/*.img) matches. ** is any number of directories. May be repeated.",
			Manual: `Map no files that match
.Fl -dax-exclude .
If
.Fl -dax-include
is given, map only files that match it.
The patterns are like those of
.Fl -direct-io .
Both options may be repeated.`,
		},
		{
			Name: "dax-exclude", Arg: "PATTERN", Joined: true,
			Value: lines(func(c *Config) *[]string { return &c.DAXExclude }),
			Check: func(c *Config) error { return checkPatterns("dax-exclude", c.DAXExclude) },
			Help:  "Let the guest map no files whose name or path matches. May be repeated.",
		},
		{
			Name: "dax-protocol", Default: "shmem",
			Value: oneOf(func(c *Config) *vhostuser.FSMap { return &c.DAXProtocol },
				word[vhostuser.FSMap]{text: "shmem"},
				word[vhostuser.FSMap]{text: "fs-map", is: vhostuser.FSMapLate},
				word[vhostuser.FSMap]{text: "fs-map-6", is: vhostuser.FSMapEarly}),
			Help: "Which messages ask the VMM for mappings. shmem: those of the vhost-user specification. fs-map, fs-map-6: also those of old VMMs, with the numbers 1002 and 1003, or 6 and 7. The window of such a VMM must be as large as --dax-window-size. Default {default}.",
			Manual: `Which messages ask the VMM for mappings.
.Cm shmem
(the default): those of the vhost-user specification.
.Cm fs-map
and
.Cm fs-map-6 :
if the VMM does not know these, messages that older VMMs have, with the numbers 1002 and 1003, or 6 and 7.
Such a VMM sets the size of the window itself;
.Fl -dax-window-size
must have the same value.`,
		},
	}
}

func (c *Config) checkWindowSize() error {
	if c.DAXWindow == 0 || c.DAXWindow%passthrough.DAXUnit != 0 || c.DAXWindow > maxWindow {
		return fmt.Errorf("--dax-window-size %s: want a multiple of %s, at most %s",
			formatSize(c.DAXWindow), formatSize(passthrough.DAXUnit), formatSize(maxWindow))
	}
	return nil
}

// checkWindow warns of options that have no effect.
func (c *Config) checkWindow(set *pflag.FlagSet) error {
	if c.HasWindow() {
		if c.Tag == "" {
			c.Warn("--dax without --tag: VMMs with a window ask for the configuration space, which is only there with --tag")
		}
		return nil
	}
	for _, name := range []string{"dax-window-size", "dax-min-size", "dax-include", "dax-exclude"} {
		if set.Changed(name) {
			c.Warn("--%s has no effect without --dax", name)
		}
	}
	return nil
}
