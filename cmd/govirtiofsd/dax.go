package main

import (
	"os"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

const (
	defaultDAXWindow = 1 << 30
	// maxDAXWindow keeps the number of mappings (one for 2 MiB), each of which the
	// front-end maps here too, well below what a process may have (vm.max_map_count).
	maxDAXWindow = 64 << 30
	// defaultDAXMinSize is where a mapping, which costs more than a READ and takes
	// 2 MiB of the window, begins to pay.
	defaultDAXMinSize = 64 << 10
)

// checkDAX checks what only matters with a window.
func (o *options) checkDAX(set *pflag.FlagSet) error {
	if o.daxWindow == 0 || o.daxWindow%passthrough.DAXUnit != 0 || o.daxWindow > maxDAXWindow {
		return usagef("--dax-window-size %s: want a multiple of %s, at most %s",
			formatSize(o.daxWindow), formatSize(passthrough.DAXUnit), formatSize(maxDAXWindow))
	}
	for name, list := range map[string][]string{"dax-include": o.daxOnly, "dax-exclude": o.daxNot} {
		for _, p := range list {
			if err := passthrough.CheckPattern(p); err != nil {
				return usagef("--%s: %v", name, err)
			}
		}
	}
	if o.dax == "never" {
		for _, name := range []string{"dax-window-size", "dax-min-size", "dax-include", "dax-exclude"} {
			if set.Changed(name) {
				o.warn("--%s has no effect without --dax", name)
			}
		}
		return nil
	}
	if o.tag == "" {
		o.warn("--dax without --tag: VMMs with a window ask for the configuration space, which is only there with --tag")
	}
	return nil
}

// fsMaps are the requests by --dax-protocol.
var fsMaps = map[string]vhostuser.FSMap{"fs-map": vhostuser.FSMapLate, "fs-map-6": vhostuser.FSMapEarly}

// daxConfig is the window, or nil; long is the connection of the helper that stretches
// files, or nil.
func (o *options) daxConfig(long *os.File) *passthrough.DAX {
	if o.dax == "never" {
		return nil
	}
	d := &passthrough.DAX{
		Table:   dax.NewTable(o.daxWindow, passthrough.DAXUnit),
		Every:   o.dax == "always",
		MinSize: o.daxMinSize,
		Include: o.daxOnly,
		Exclude: o.daxNot,
	}
	if c := stretcher(long); c != nil {
		d.Stretch = c
	}
	return d
}
