package passthrough

import "github.com/govirtiofs/govirtiofs/nodes"

// join tells the parts of fs of each other. What a part uses of others is what it gets here.
func (fs *FS) join() {
	fs.joinOwnership()
	fs.joinFiles()
	fs.joinView()
	fs.pins = pinner{cfg: &fs.cfg, nodes: &fs.nodes, find: &fs.find, openFiles: &fs.openFiles, opener: &fs.opener,
		who: fs.who, recovery: &fs.recovery}
	fs.again = decider{cfg: &fs.cfg, fds: &fs.fds, mounts: &fs.mounts, nodes: &fs.nodes, io: &fs.io, own: fs.own, recovery: &fs.recovery}
}

// joinOwnership makes what depends on where owners are kept.
func (fs *FS) joinOwnership() {
	if fs.cfg.Ownership == OwnershipXattr {
		fs.own = &xattrOwnership{cfg: &fs.cfg, fds: &fs.fds, nodes: &fs.nodes, find: &fs.find, opener: &fs.opener, attrs: &fs.attrs,
			entries: &fs.entries, who: fs.who, recovery: &fs.recovery, again: &fs.again, converted: &fs.converted}
		return
	}
	fs.own = &hostOwnership{cfg: &fs.cfg, fds: &fs.fds, mounts: &fs.mounts, who: fs.who, again: &fs.again}
}

// resumedParts are the parts that a resumer uses.
func (fs *FS) resumedParts() resumedParts {
	return resumedParts{cfg: &fs.cfg, recovery: &fs.recovery, fds: &fs.fds, mounts: &fs.mounts, nodes: &fs.nodes, find: &fs.find,
		openFiles: &fs.openFiles, openless: &fs.openless, locks: &fs.locks, own: fs.own, pins: &fs.pins}
}

// joinFiles joins what knows of files on the host.
func (fs *FS) joinFiles() {
	fs.access = access{nodes: &fs.nodes, find: &fs.find, openFiles: &fs.openFiles, openless: &fs.openless, own: fs.own}
	fs.fds.cfg, fs.fds.find = &fs.cfg, &fs.find
	fs.mounts.fds, fs.mounts.sweeper = &fs.fds, &fs.sweeper
	fs.nodes.fds, fs.nodes.mounts, fs.nodes.sweeper = &fs.fds, &fs.mounts, &fs.sweeper
	fs.nodes.Table = nodes.New(nodes.Config[key, inode]{
		Hash: key.hash, Gone: func(n *inode) { fs.nodes.dropFD(n) }, Recorder: fs.cfg.recordNodes,
	})
	fs.find = locator{cfg: &fs.cfg, allower: &fs.allower, fds: &fs.fds, mounts: &fs.mounts, nodes: &fs.nodes, io: &fs.io}
	fs.opener = opener{cfg: &fs.cfg, features: &fs.features, fds: &fs.fds, mounts: &fs.mounts, nodes: &fs.nodes,
		find: &fs.find, who: fs.who}

	o := &fs.openFiles
	o.cfg, o.features, o.fds, o.mounts, o.nodes = &fs.cfg, &fs.features, &fs.fds, &fs.mounts, &fs.nodes
	o.find, o.opener, o.io, o.locks, o.pins, o.limits = &fs.find, &fs.opener, &fs.io, &fs.locks, &fs.pins, &fs.limits
	o.own, o.privileges, o.cache = fs.own, &fs.privileges, &fs.cache
	o.OpenFiles = nodes.NewOpenFiles(nodes.OpenConfig[openFile]{Gone: o.gone, Recorder: fs.cfg.recordOpens})

	s := &fs.openless
	s.cfg, s.fds, s.nodes, s.find, s.opener = &fs.cfg, &fs.fds, &fs.nodes, &fs.find, &fs.opener
	s.openFiles, s.sweeper, s.recovery, s.cache = o, &fs.sweeper, &fs.recovery, &fs.cache

	l := &fs.locks
	l.cfg, l.features, l.fds, l.openFiles = &fs.cfg, &fs.features, &fs.fds, o
	l.pins, l.recovery = &fs.pins, &fs.recovery

	fs.sweeper.after = afterFunc
	fs.sweeper.rounds = []func() bool{fs.nodes.restoreAll, s.sweep, fs.fds.sweep, fs.mounts.sweep}
}

// joinView joins what knows how files look for the guest.
func (fs *FS) joinView() {
	fs.cache.nodes, fs.cache.dax = &fs.nodes, &fs.dax
	d := &fs.dax
	d.cfg, d.features, d.access, d.mounts, d.who = &fs.cfg, &fs.features, &fs.access, &fs.mounts, fs.who
	fs.attrs = attributes{access: &fs.access, cfg: &fs.cfg, fds: &fs.fds, own: fs.own, who: fs.who, dax: d}
	fs.entries = entries{access: &fs.access, features: &fs.features, cfg: &fs.cfg, fds: &fs.fds, own: fs.own,
		attrs: &fs.attrs, cache: &fs.cache, dax: d}
	fs.listing = listing{access: &fs.access, cfg: &fs.cfg, mounts: &fs.mounts, io: &fs.io, own: fs.own, entries: &fs.entries}
	fs.maker = maker{access: &fs.access, features: &fs.features, cfg: &fs.cfg, fds: &fs.fds, opener: &fs.opener, own: fs.own,
		attrs: &fs.attrs, entries: &fs.entries, xattrs: &fs.xattrs, cache: &fs.cache, pins: &fs.pins, again: &fs.again}
	fs.names = names{access: &fs.access, cfg: &fs.cfg, fds: &fs.fds, own: fs.own,
		recovery: &fs.recovery, pins: &fs.pins, again: &fs.again}
	fs.privileges = privileges{cfg: &fs.cfg, features: &fs.features, who: fs.who, own: fs.own, caps: &fs.caps}
	fs.xattrs = xattrs{cfg: &fs.cfg, features: &fs.features, fds: &fs.fds, who: fs.who, own: fs.own}
}
