package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// maxDepth bounds the way from a node to one with a descriptor. Locations may be
// out of date and, after renames on the host, even go round in a circle.
const maxDepth = 4096

// fdOf is the node's O_PATH descriptor, valid while the caller has its reference. A
// node without one is opened where it was last seen, and checked to be the same
// file: ESTALE tells the client to look the name up again.
func (fs *FS) fdOf(ts *threadState, n *inode) (int, unix.Errno) {
	return fs.fdAt(ts, n, 0)
}

func (fs *FS) fdAt(ts *threadState, n *inode, depth int) (int, unix.Errno) {
	if fd := n.fd.Load(); fd >= 0 {
		n.touch()
		return int(fd), 0
	}
	if depth > maxDepth {
		return -1, unix.ESTALE
	}
	fd, errno := fs.reopen(ts, n)
	byName := fs.cfg.Landlocked || n.ofLedger()
	if errno != 0 && !byName {
		fd, errno = fs.openHandle(ts, n, depth)
	}
	if errno != 0 {
		fd, errno = fs.rewalk(ts, n, depth)
	}
	if errno != 0 && byName {
		if byHandle, refused := fs.openHandle(ts, n, depth); refused == 0 || errno == unix.ESTALE {
			fd, errno = byHandle, refused
		}
	}
	if errno != 0 {
		return -1, errno
	}
	if !fs.setFD(n, fd) {
		fs.closeFD(fd) // another request was faster
	}
	return int(n.fd.Load()), 0
}

// reopen makes an O_PATH descriptor from an open file of the node, which works for
// files without a name too.
func (fs *FS) reopen(ts *threadState, n *inode) (int, unix.Errno) {
	n.Lock()
	defer n.Unlock() // the open file's descriptor is not closed meanwhile
	f := n.anyOpen()
	if f == nil {
		return -1, unix.ESTALE
	}
	return fs.open(fs.cfg.ProcFD, procName(&ts.num, f.fd), unix.O_PATH, 0)
}

// anyOpen is an open file of the node that has a descriptor, or nil. The node is locked.
func (n *inode) anyOpen() *openFile {
	for f := n.openFiles; f != nil; f = f.next {
		if !f.lazy.Load() {
			return f
		}
	}
	return nil
}

// anyLazy reports whether an open file has no descriptor yet: the node's leads to it, and if the file
// has no name nothing else does. The node is locked.
func (n *inode) anyLazy() bool {
	for f := n.openFiles; f != nil; f = f.next {
		if f.lazy.Load() {
			return true
		}
	}
	return false
}

// ofLedger reports whether the node's file handle is one that a predecessor has left.
func (n *inode) ofLedger() bool {
	n.Lock()
	defer n.Unlock()
	return n.fileHandle == handleOfLedger
}

// rewalk opens the node where it was last seen, or elsewhere in that directory.
func (fs *FS) rewalk(ts *threadState, n *inode, depth int) (int, unix.Errno) {
	parent, name := fs.nodes.Location(n)
	if parent == nil {
		return -1, unix.ESTALE
	}
	defer fs.release(parent)
	if errno := fs.allowName(parent, name, intentRebind); errno != 0 {
		return -1, errno
	}
	pfd, errno := fs.fdAt(ts, parent, depth+1)
	if errno != 0 {
		return -1, errno
	}
	fd, errno := fs.openAs(ts, n, pfd, name.CString())
	if errno == unix.ESTALE {
		n.Lock()
		byHandle := n.HasFileHandle() && n.fileHandle != handleOfLedger && !fs.cfg.Landlocked // which opens for I/O what has a name
		n.Unlock()
		if !byHandle {
			fd, errno = fs.search(ts, n, parent, pfd, name.CString())
		}
	}
	return fd, errno
}

// openNamed is openAgain for a node whose descriptor came from a file handle, which
// Landlock does not let open. Without a name the client is told to look it up, so that
// there is one.
func (fs *FS) openNamed(ts *threadState, n *inode, flags int, guest uint32) (int, unix.Errno) {
	fd, errno := fs.rewalk(ts, n, 0)
	if errno != 0 {
		return -1, unix.ESTALE
	}
	defer fs.closeFD(fd)
	return fs.openAgain(ts, fd, flags, guest)
}

// open is openat that counts descriptors and makes room when they run out. The
// client gets ENFILE: the limit is not its process's.
func (fs *FS) open(dirfd int, name *byte, flags int, mode uint32) (int, unix.Errno) {
	return fs.opened(func() (int, unix.Errno) { return sysOpenat(dirfd, name, flags, mode) })
}

// opened is open for a call that makes a descriptor.
func (fs *FS) opened(call func() (int, unix.Errno)) (int, unix.Errno) {
	if errno := fs.countFD(); errno != 0 {
		return -1, errno
	}
	fd, errno := call()
	if errno == unix.EMFILE || errno == unix.ENFILE {
		fs.evict(evictAtOnce)
		if fd, errno = call(); errno == unix.EMFILE {
			errno = unix.ENFILE
		}
	}
	if errno != 0 {
		fs.uncountFD()
		return -1, errno
	}
	return fd, 0
}

// countFD counts a descriptor before it is made. FS never has more than MaxFDs, and all
// shares together never have more than the process may have, whatever the client does on
// other queues at the same time. The remaining descriptors are the process's own. Room is
// made a little earlier, while a short search is enough.
func (fs *FS) countFD() unix.Errno {
	most := int64(fs.cfg.MaxFDs)
	n := fs.fds.Add(1)
	if n > most-most/32 {
		fs.evict(evictAtOnce)
	}
	inShare := func() bool { return fs.fds.Load() <= most }
	inHost := func() bool { return fs.part.Take(1) }
	if (n <= most || fs.makeRoom(inShare)) && (inHost() || fs.makeRoom(inHost)) {
		return 0
	}
	fs.fds.Add(-1)
	return unix.ENFILE
}

// uncountFD takes back what countFD has counted.
func (fs *FS) uncountFD() {
	fs.fds.Add(-1)
	fs.part.Put(1)
}

// closeFD closes what open returned.
func (fs *FS) closeFD(fd int) {
	fs.uncountFD()
	_ = sysClose(fd)
}

// setFD gives the node a descriptor, unless it has one. The caller has a reference, so
// that the evictor does not close it before it is in the table of owners.
func (fs *FS) setFD(n *inode, fd int) bool {
	if !n.fd.CompareAndSwap(-1, int32(fd)) {
		return false
	}
	n.touched.Store(true)
	fs.owners.set(uint32(fd), n)
	if n.ID() != fp.RootID {
		fs.armSweep()
	}
	return true
}

// dropFD closes the node's descriptor and reports whether it had one.
func (fs *FS) dropFD(n *inode) bool {
	fd := n.fd.Swap(-1)
	if fd < 0 {
		return false
	}
	fs.owners.set(uint32(fd), nil) // before the number is another file's
	fs.closeFD(int(fd))
	return true
}
