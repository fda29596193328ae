package main

import (
	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

func (o *options) cacheFlags(f *pflag.FlagSet) {
	choice(f, &o.cache, "auto", "cache", "", []string{"never", "metadata", "auto", "always"},
		"`never|metadata|auto|always` How long the guest may trust what it knows: not at all; names and attributes for a day; for a second; for a day, data included. Default auto.")
	timeout(f, &o.entryTimeout, "entry-timeout", "`TIME` How long the guest may keep names, instead of what --cache says: seconds, or with a unit (500ms, 2h).")
	timeout(f, &o.attrTimeout, "attr-timeout", "`TIME` The same for attributes.")
	timeout(f, &o.negativeTimeout, "negative-timeout", "`TIME` How long the guest may remember that a name does not exist. Default 0.")
	f.BoolVar(&o.immutable, "immutable", false, "For a share that never changes: read-only, the guest keeps all it has seen for a year, missing names too, and opens files without asking.")
	enable(f, &o.symlinks, false, "cache-symlinks", "no-cache-symlinks",
		"Let the guest keep targets of symbolic links; with --cache=metadata or always it does unless --no-cache-symlinks is given.")
	repeated(f, &o.directIOs, "direct-io", "", "`PATTERN` Let the guest keep no data of files with such a name (*.db), or with such a path in the share (vm/**/*.img, where ** is any number of directories); may be repeated.")
	size(f, &o.directIOSize, 0, "direct-io-size", "`SIZE` The same for files of this size or more, in bytes or with K, M, G or T.")
	f.BoolVar(&o.writeback, "writeback", false, "Let the guest collect writes in its page cache. Only if nobody else writes to the share.")
	f.BoolVar(&o.directIO, "allow-direct-io", false, "Pass O_DIRECT on to the host.")
	f.BoolVar(&o.allowMmap, "allow-mmap", false, "Let the guest map files shared although --cache=never or metadata bypasses its page cache.")
	enable(f, &o.readdirplus, true, "readdirplus", "no-readdirplus", "Answer listings without attributes.")
}

// checkCaching settles what the guest may keep, before anything depends on whether the
// share can be changed.
func (o *options) checkCaching(set *pflag.FlagSet) error {
	for _, p := range o.directIOs {
		if err := passthrough.CheckPattern(p); err != nil {
			return usagef("--direct-io: %v", err)
		}
	}
	if set.Changed("cache-symlinks") || set.Changed("no-cache-symlinks") {
		o.cacheSymlinks = &o.symlinks
	}
	if !o.immutable {
		return nil
	}
	switch {
	case set.Changed("cache") && o.cache != "always":
		return usagef("--immutable and --cache=%s exclude each other: leave --cache out", o.cache)
	case o.writeback:
		return usagef("--immutable and --writeback exclude each other: nothing is written")
	}
	o.cache, o.readOnly = "always", true
	return nil
}
