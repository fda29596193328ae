package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// entries are the replies that tell the client of a node, and with them its lookup count.
type entries struct {
	*access
	*features
	cfg   *Config
	fds   *descriptors
	own   ownership
	attrs *attributes
	cache *cacheRules
	dax   *daxChoice
}

// Lookup implements server.Names. It takes one system call; two more for a directory
// that is new.
func (fs *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	ts, parent, fd, errno := fs.enterName(r, name, intentLookup)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(parent)
	if errno = fs.entries.lookup(ts, parent, fd, name, out); errno == 0 {
		return fs.entries.allowFound(ts.cell, out)
	}
	if errno == unix.ENOENT && fs.cache.setMissing(out) {
		return 0
	}
	return errno
}

// lookup finds name in the directory behind fd and fills out. It opens a new
// directory, because every next request for it needs a descriptor. It does not open
// other files: they are opened, and checked, when they are used. Most names are only
// checked.
func (e *entries) lookup(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	if !parent.isDir() {
		return unix.ENOTDIR
	}
	if e.own.needsFile() {
		return e.lookupOpen(ts, parent, fd, name, out)
	}
	e.dax.meetMount(parent, fd)
	if errno := sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
		return errno
	}
	if ts.st.Mode&unix.S_IFMT != unix.S_IFDIR && ts.st.Mask&unix.STATX_BTIME != 0 {
		return e.entryLazy(ts, parent, fd, name, out)
	}
	if n := e.nodes.known(ts, &ts.st); n != nil {
		e.nodes.locate(n, parent, name)
		return e.entryOf(ts, parent, n, name, out)
	}
	return e.lookupNew(ts, parent, fd, name, out)
}

// lookupOpen is lookup of a file of any kind that will be used at once.
func (e *entries) lookupOpen(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	if !parent.isDir() {
		return unix.ENOTDIR
	}
	e.dax.meetMount(parent, fd)
	if e.nodes.Hinted(parent, name) != nil {
		if errno := sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
			return errno
		}
		if n := e.nodes.known(ts, &ts.st); n != nil {
			e.nodes.locate(n, parent, name)
			return e.entryOf(ts, parent, n, name, out)
		}
	}
	return e.lookupNew(ts, parent, fd, name, out)
}

// lookupNew opens the file first, so that what it is told of is that very file.
func (e *entries) lookupNew(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	child, errno := e.fds.open(fd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno == unix.ENFILE && !e.own.needsFile() {
		// No descriptor to be had: the node can be known without one.
		return e.lookupLazy(ts, parent, fd, name, out)
	}
	if errno != 0 {
		return errno
	}
	if errno := statxFD(child, &ts.st); errno != 0 {
		e.fds.close(child)
		return errno
	}
	n, errno := e.nodes.intern(ts.cell, &ts.st, child, parent, name)
	if errno != 0 {
		return errno
	}
	if errno := e.find.keepHandle(ts, n, fd, name.CString()); errno != 0 {
		return e.unknown(ts, n, errno)
	}
	return e.entryOf(ts, parent, n, name, out)
}

// lookupLazy is lookup without opening the file, of whatever kind: one system call, no
// descriptor.
func (e *entries) lookupLazy(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	if e.own.needsFile() {
		return e.lookupOpen(ts, parent, fd, name, out)
	}
	e.dax.meetMount(parent, fd)
	if errno := sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
		return errno
	}
	return e.entryLazy(ts, parent, fd, name, out)
}

// entryLazy is the end of a lookup that does not open the file, whose attributes are in
// ts.st.
func (e *entries) entryLazy(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	n, errno := e.nodes.intern(ts.cell, &ts.st, -1, parent, name)
	if errno != 0 {
		return errno
	}
	if errno := e.find.keepHandle(ts, n, fd, name.CString()); errno != 0 {
		return e.unknown(ts, n, errno)
	}
	e.fill(ts, parent, n, name, out)
	return 0
}

// entryOf fills the reply about n, whose attributes on the host are in ts.st, and gives
// up the caller's reference.
func (e *entries) entryOf(ts *threadState, parent, n *inode, name fp.Name, out *fp.EntryOut) unix.Errno {
	if e.own.needsFile() {
		fd, errno := e.find.fdOf(ts, n)
		if errno == 0 {
			errno = e.own.show(ts, fd)
		}
		if errno != 0 {
			return e.unknown(ts, n, errno)
		}
	}
	e.fill(ts, parent, n, name, out)
	return 0
}

// unknown takes back what intern gave: the client is not told of n, but errno.
func (e *entries) unknown(ts *threadState, n *inode, errno unix.Errno) unix.Errno {
	e.forget(ts.cell, n, 1)
	e.nodes.release(n)
	return errno
}

// fill fills the reply about n, whose attributes for the guest are in ts.st, and gives up the
// caller's reference.
func (e *entries) fill(ts *threadState, parent, n *inode, name fp.Name, out *fp.EntryOut) {
	if parent != nil {
		e.nodes.SetHint(parent, name, n)
	}
	if ts.st.Nlink > 1 && !n.isDir() {
		n.Lock()
		n.marks |= markLinked
		n.Unlock()
	}
	out.NodeID = n.ID()
	e.cache.setEntry(out)
	e.attrs.fill(n.ID(), &ts.st, &out.Attr)
	e.dax.note(n, &out.Attr)
	if parent != nil && n.Key().mount != parent.Key().mount && n.isDir() && e.cfg.AnnounceSubmounts && e.agreed(fp.InitSubmounts) {
		out.Attr.Flags |= fp.AttrSubmount
	}
	e.nodes.release(n)
}

// allowFound asks about the node that a lookup has found, which may be known by other names
// too. If it is refused the client is not told of it.
func (e *entries) allowFound(by *fuse.Cell, out *fp.EntryOut) unix.Errno {
	if e.policy == nil {
		return 0
	}
	n, errno := e.enterNode(out.NodeID, intentLookup)
	if errno != 0 {
		e.forgetID(by, out.NodeID, 1)
		*out = fp.EntryOut{}
		return errno
	}
	e.nodes.release(n)
	return 0
}

// Forget implements server.Names. Counts that were never given out do no harm.
func (fs *FS) Forget(by *fuse.Cell, nodeID, lookups uint64) { fs.entries.forgetID(by, nodeID, lookups) }

// forgetID is forget for the node with a number, if there is one.
func (e *entries) forgetID(by *fuse.Cell, id, lookups uint64) {
	n := e.nodes.Acquire(id)
	if n == nil {
		return
	}
	defer e.nodes.release(n)
	e.forget(by, n, lookups)
}

// forget takes lookups off the count. The caller has a reference.
func (e *entries) forget(by *fuse.Cell, n *inode, lookups uint64) {
	if !e.nodes.Forget(by, n, lookups) {
		return
	}
	if e.openless.agreed.Load() {
		e.openless.closeOf(n)
	}
	if n.isLink() {
		e.own.forgotten(n)
	}
}
