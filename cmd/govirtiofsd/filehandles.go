package main

import (
	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// reportFileHandles logs that there are no file handles, if the user asked for
// them.
func (o *options) reportFileHandles(fs *passthrough.FS, log *logrus.Logger) {
	if o.Moving.FileHandles && !fs.UsesFileHandles() {
		log.Warn("--migration-mode=file-handles: file handles can't be opened here, so a guest that moves to this host does not find files that were moved within the share meanwhile. It needs root, and --inode-file-handles other than never.")
	}
	if o.FileHandles != passthrough.HandlesNever && !fs.UsesFileHandles() {
		log.Debug("No file handles: the file system has none, or CAP_DAC_READ_SEARCH is missing. Files that the host renames are looked up again.")
	}
}
