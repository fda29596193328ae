package share

import "github.com/govirtiofs/govirtiofs/passthrough"

// FileSystem is the configuration of the file system. The caller fills in what only
// the running process knows: descriptors, their limit, the window, and whether
// Landlock is in force.
func (c *Config) FileSystem() passthrough.Config {
	return passthrough.Config{
		Cache:             c.Cache,
		EntryTimeout:      c.EntryTimeout,
		AttrTimeout:       c.AttrTimeout,
		NegativeTimeout:   c.NegativeTimeout,
		Immutable:         c.Immutable,
		CacheSymlinks:     c.CacheSymlinks,
		DirectIO:          c.DirectIO,
		DirectIOSize:      c.DirectIOSize,
		Xattr:             c.Xattr,
		XattrMap:          c.Names,
		PosixACL:          c.PosixACL,
		SecurityLabel:     c.SecurityLabel,
		FileHandles:       c.FileHandles,
		Writeback:         c.Writeback,
		AllowDirectIO:     c.AllowDirectIO,
		AllowMmap:         c.AllowMmap,
		AnnounceSubmounts: c.AnnounceSubmounts,
		Ownership:         c.Ownership,
		AllowIdmap:        true,
		UIDs:              c.UIDs,
		GIDs:              c.GIDs,
		ReadOnly:          c.ReadOnly,
		KillprivV2:        c.KillprivV2,
		NoReaddirplus:     !c.Readdirplus,
		PreserveNoatime:   c.PreserveNoatime,
		ShortPositions:    c.ShortPositions,
		PosixLocks:        c.PosixLocks(),
		Flocks:            c.Flocks(),
		Migration:         c.Moving,
	}
}
