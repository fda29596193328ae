package passthrough

import (
	"fmt"
	"path"
	"strings"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// What a guest may keep, for how long. doc/caching.md is the user's view of it.

// immutableFor is how long a guest may keep what never changes.
const immutableFor = 365 * 24 * time.Hour

// cacheRules say what the guest may keep, and for how long.
type cacheRules struct {
	nodes *nodeTable
	dax   *daxChoice

	policy                CachePolicy
	entry, attr, negative timeout  // of names, attributes, and names that do not exist
	symlinks              bool     // targets of symbolic links
	direct                patterns // files that it keeps no data of
	directSize            uint64   // nor of those as large as this, if not 0
}

// timeout is a duration as the protocol has it.
type timeout struct {
	sec  uint64
	nsec uint32
}

func (t timeout) duration() time.Duration {
	return time.Duration(t.sec)*time.Second + time.Duration(t.nsec)
}

func newTimeout(d time.Duration) timeout {
	return timeout{sec: uint64(d / time.Second), nsec: uint32(d % time.Second)}
}

// forImmutable sets what follows from Immutable.
func (c *Config) forImmutable() {
	c.ReadOnly, c.Cache = true, CacheAlways
	c.PosixLocks, c.Flocks, c.Writeback = false, false, false
}

// newCacheRules works out the timeouts, of which each may be set apart from the policy.
func newCacheRules(cfg *Config) (c cacheRules, err error) {
	d, negative := cfg.Cache.timeout(), time.Duration(0)
	if cfg.Immutable {
		d, negative = immutableFor, immutableFor
	}
	pick := func(own *time.Duration, policy time.Duration) timeout {
		if own != nil {
			return newTimeout(*own)
		}
		return newTimeout(policy)
	}
	c = cacheRules{policy: cfg.Cache, symlinks: cfg.cacheSymlinks(), directSize: cfg.DirectIOSize,
		entry: pick(cfg.EntryTimeout, d), attr: pick(cfg.AttrTimeout, d), negative: pick(cfg.NegativeTimeout, negative)}
	c.direct, err = parsePatterns(cfg.DirectIO)
	return c, err
}

// setAttr says for how long the attributes in out are valid.
func (c *cacheRules) setAttr(out *fp.AttrOut) {
	out.AttrValid, out.AttrValidNsec = c.attr.sec, c.attr.nsec
}

// setEntry says for how long the name and the attributes in out are valid.
func (c *cacheRules) setEntry(out *fp.EntryOut) {
	out.EntryValid, out.EntryValidNsec = c.entry.sec, c.entry.nsec
	out.AttrValid, out.AttrValidNsec = c.attr.sec, c.attr.nsec
}

// setMissing says that the name does not exist, and for how long; false if the client is to
// ask each time.
func (c *cacheRules) setMissing(out *fp.EntryOut) bool {
	if c.negative == (timeout{}) {
		return false
	}
	*out = fp.EntryOut{EntryValid: c.negative.sec, EntryValidNsec: c.negative.nsec}
	return true
}

// cacheSymlinks reports whether the guest may cache the targets of symbolic links. On a file
// system on a disk they never change. Others generate them at each read (procfs), or report a
// wrong length for them (sysfs), where Linux before 6.14 cuts them off (fs/fuse/dir.c:
// fuse_get_link). So this is only for users who say that the share does not change.
func (c *Config) cacheSymlinks() bool {
	if c.CacheSymlinks != nil {
		return *c.CacheSymlinks
	}
	return c.Cache == CacheMetadata || c.Cache == CacheAlways
}

// openFlags are the FOPEN flags for a file that the guest opens, with fd open, or that
// it has made, when fd is -1.
func (c *cacheRules) openFlags(ts *threadState, n *inode, fd int) uint32 {
	flags := c.cacheFlags(ts, n, fd)
	if c.dax.uses(n) {
		// The guest has no copies of its data. Linux 7.2 would take the mapped
		// pages out of its tables while programs use them (fs/fuse/file.c: fuse_open,
		// mm/truncate.c: invalidate_inode_pages2_range), count them wrong, and some time
		// later loop for ever in dax_break_layout.
		flags |= fp.FopenKeepCache
	}
	return flags
}

// cacheFlags are the FOPEN flags that the cache policy says.
func (c *cacheRules) cacheFlags(ts *threadState, n *inode, fd int) uint32 {
	switch {
	case c.policy == CacheNever, c.policy == CacheMetadata, c.bypassesCache(ts, n, fd):
		// The host's file system orders writes; the guest need not.
		return fp.FopenDirectIO | fp.FopenParallelDirectWrites
	case c.policy == CacheAlways:
		return fp.FopenKeepCache
	}
	return 0
}

// bypassesCache reports whether a file is one of those that the guest shall not keep
// data of.
func (c *cacheRules) bypassesCache(ts *threadState, n *inode, fd int) bool {
	if size := c.directSize; size > 0 && fd >= 0 && statxFD(fd, &ts.st) == 0 && ts.st.Size >= size {
		return true
	}
	return c.direct.match(c.nodes, n)
}

// dirOpenFlags are the FOPEN flags for a directory.
func (c *cacheRules) dirOpenFlags() uint32 {
	switch c.policy {
	case CacheMetadata, CacheAlways:
		return fp.FopenKeepCache | fp.FopenCacheDir
	}
	return 0
}

// patterns choose files by name. Each is a list of components, of which the last is the
// file's name.
type patterns [][]string

// parsePatterns reads patterns as of path.Match. One without a slash is for the name of
// the file alone; one with a slash for its path in the share, where a component ** is
// any number of directories.
func parsePatterns(list []string) (p patterns, err error) {
	for _, s := range list {
		if err := CheckPattern(s); err != nil {
			return nil, err
		}
		if !strings.Contains(s, "/") {
			s = "**/" + s
		}
		p = append(p, strings.Split(strings.TrimPrefix(s, "/"), "/"))
	}
	return p, nil
}

// CheckPattern reports what is wrong with a pattern for names of files.
func CheckPattern(s string) error {
	for _, c := range strings.Split(strings.TrimPrefix(s, "/"), "/") {
		if _, err := path.Match(c, ""); err != nil || c == "" || c == "." || c == ".." {
			return fmt.Errorf("bad pattern %q: want a name such as *.img, or a path in the share such as vm/**/*.img", s)
		}
	}
	return nil
}

// match reports whether a pattern matches the place where the node was last seen.
func (p patterns) match(t *nodeTable, n *inode) bool {
	if len(p) == 0 {
		return false
	}
	names := t.path(n)
	for _, pattern := range p {
		if len(names) > 0 && matchPath(pattern, names) {
			return true
		}
	}
	return false
}

// matchPath compares a pattern with a path. When a name does not match, only the last ** takes one
// more name. What came before it has matched as early as possible, and a later match of that would
// not help. So the time is short for a guest that makes deep directories, too.
func matchPath(pattern, names []string) bool {
	p, n := 0, 0
	again, from := -1, 0 // behind the last **, and the name that it was tried with
	for n < len(names) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			if p++; p == len(pattern) {
				return true // all that is below
			}
			again, from = p, n
		case p < len(pattern) && matchName(pattern[p], names[n]):
			p, n = p+1, n+1
		case again < 0:
			return false
		default:
			from++
			p, n = again, from
		}
	}
	return p == len(pattern)
}

func matchName(pattern, name string) bool {
	ok, _ := path.Match(pattern, name)
	return ok
}
