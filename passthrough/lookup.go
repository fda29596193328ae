package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Lookup implements server.Names. It takes one system call; two more for a directory
// that is new.
func (fs *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	ts, parent, fd, errno := fs.enterName(r, name, intentLookup)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(parent)
	if errno = fs.lookup(ts, parent, fd, name, out); errno == 0 {
		return fs.allowFound(ts.cell, out)
	}
	if errno == unix.ENOENT && fs.cache.setMissing(out) {
		return 0
	}
	return errno
}

// lookup finds name in the directory behind fd and fills out. It opens a new
// directory, because every next request for it needs a descriptor. It does not open
// other files: they are opened, and checked, when they are used. Most names are only
// looked at.
func (fs *FS) lookup(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	if !parent.isDir() {
		return unix.ENOTDIR
	}
	if fs.own.needsFile() {
		return fs.lookupOpen(ts, parent, fd, name, out)
	}
	fs.meetMount(parent, fd)
	if errno := sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
		return errno
	}
	if ts.st.Mode&unix.S_IFMT != unix.S_IFDIR && ts.st.Mask&unix.STATX_BTIME != 0 {
		return fs.entryLazy(ts, parent, fd, name, out)
	}
	if n := fs.nodes.known(ts, &ts.st); n != nil {
		fs.nodes.locate(n, parent, name)
		return fs.entryOf(ts, parent, n, name, out)
	}
	return fs.lookupNew(ts, parent, fd, name, out)
}

// lookupOpen is lookup of a file of any kind that will be used at once.
func (fs *FS) lookupOpen(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	if !parent.isDir() {
		return unix.ENOTDIR
	}
	fs.meetMount(parent, fd)
	if fs.nodes.Hinted(parent, name) != nil {
		if errno := sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
			return errno
		}
		if n := fs.nodes.known(ts, &ts.st); n != nil {
			fs.nodes.locate(n, parent, name)
			return fs.entryOf(ts, parent, n, name, out)
		}
	}
	return fs.lookupNew(ts, parent, fd, name, out)
}

// lookupNew opens the file first, so that what it is told of is that very file.
func (fs *FS) lookupNew(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	child, errno := fs.fds.open(fd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno == unix.ENFILE && !fs.own.needsFile() {
		// No descriptor to be had: the node can be known without one.
		return fs.lookupLazy(ts, parent, fd, name, out)
	}
	if errno != 0 {
		return errno
	}
	if errno := statxFD(child, &ts.st); errno != 0 {
		fs.fds.close(child)
		return errno
	}
	n, errno := fs.nodes.intern(ts.cell, &ts.st, child, parent, name)
	if errno != 0 {
		return errno
	}
	if errno := fs.find.keepHandle(ts, n, fd, name.CString()); errno != 0 {
		return fs.unknown(ts, n, errno)
	}
	return fs.entryOf(ts, parent, n, name, out)
}

// lookupLazy is lookup without opening the file, of whatever kind: one system call, no
// descriptor.
func (fs *FS) lookupLazy(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	if fs.own.needsFile() {
		return fs.lookupOpen(ts, parent, fd, name, out)
	}
	fs.meetMount(parent, fd)
	if errno := sysStatx(fd, name.CString(), 0, &ts.st); errno != 0 {
		return errno
	}
	return fs.entryLazy(ts, parent, fd, name, out)
}

// entryLazy is the end of a lookup that does not open the file, whose attributes are in
// ts.st.
func (fs *FS) entryLazy(ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno {
	n, errno := fs.nodes.intern(ts.cell, &ts.st, -1, parent, name)
	if errno != 0 {
		return errno
	}
	if errno := fs.find.keepHandle(ts, n, fd, name.CString()); errno != 0 {
		return fs.unknown(ts, n, errno)
	}
	fs.entryOut(ts, parent, n, name, out)
	return 0
}

// entryOf fills the reply about n, whose attributes on the host are in ts.st, and gives
// up the caller's reference.
func (fs *FS) entryOf(ts *threadState, parent, n *inode, name fp.Name, out *fp.EntryOut) unix.Errno {
	if fs.own.needsFile() {
		fd, errno := fs.find.fdOf(ts, n)
		if errno == 0 {
			errno = fs.own.show(ts, fd)
		}
		if errno != 0 {
			return fs.unknown(ts, n, errno)
		}
	}
	fs.entryOut(ts, parent, n, name, out)
	return 0
}

// unknown takes back what intern gave: the client is not told of n, but errno.
func (fs *FS) unknown(ts *threadState, n *inode, errno unix.Errno) unix.Errno {
	fs.forget(ts.cell, n, 1)
	fs.nodes.release(n)
	return errno
}

// entryOut fills the reply about n, whose attributes for the guest are in ts.st, and gives up the
// caller's reference.
func (fs *FS) entryOut(ts *threadState, parent, n *inode, name fp.Name, out *fp.EntryOut) {
	if parent != nil {
		fs.nodes.SetHint(parent, name, n)
	}
	if ts.st.Nlink > 1 && !n.isDir() {
		n.Lock()
		n.marks |= markLinked
		n.Unlock()
	}
	out.NodeID = n.ID()
	fs.cache.setEntry(out)
	fs.fillAttr(n.ID(), &ts.st, &out.Attr)
	fs.noteDAX(n, &out.Attr)
	if parent != nil && n.Key().mount != parent.Key().mount && n.isDir() && fs.cfg.AnnounceSubmounts && fs.agreed(fp.InitSubmounts) {
		out.Attr.Flags |= fp.AttrSubmount
	}
	fs.nodes.release(n)
}
