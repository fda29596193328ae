package main

import (
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// checkFileHandles adds the capability that file handles take to those that the daemon
// keeps. Who takes it away with --modcaps and does not ask for handles does without.
func (o *options) checkFileHandles(set *pflag.FlagSet) error {
	if o.fileHandles == "fallback" {
		o.warn("--inode-file-handles=fallback is deprecated: use prefer, which means the same")
		o.fileHandles = "prefer"
	}
	if o.fileHandles == "never" || slices.Contains(o.capabilities, cap.DAC_READ_SEARCH) {
		return nil
	}
	if !modcapsRemoves(o.modcaps, "dac_read_search") {
		o.capabilities = append(o.capabilities, cap.DAC_READ_SEARCH)
		return nil
	}
	if set.Changed("inode-file-handles") {
		return usagef("--inode-file-handles=%s needs the capability that --modcaps takes away: leave -dac_read_search out, or give --inode-file-handles=never", o.fileHandles)
	}
	o.fileHandles = "never"
	return nil
}

// modcapsRemoves reports whether a list as that of --modcaps takes a capability away.
func modcapsRemoves(list, name string) (removed bool) {
	for word := range strings.SplitSeq(strings.ToLower(list), ":") {
		if len(word) > 0 && word[1:] == name {
			removed = word[0] == '-'
		}
	}
	return removed
}

// reportFileHandles tells somebody who asked for file handles that there are none.
func (o *options) reportFileHandles(fs *passthrough.FS, log *logrus.Logger) {
	if o.migration.mode == "file-handles" && !fs.UsesFileHandles() {
		log.Warn("--migration-mode=file-handles: file handles can't be opened here, so a guest that comes does not find files that were moved within the share meanwhile. That takes root, and --inode-file-handles other than never.")
	}
	if o.fileHandles != "never" && !fs.UsesFileHandles() {
		log.Debug("No file handles: the file system has none, or CAP_DAC_READ_SEARCH is missing. What the host renames is looked up again.")
	}
}
