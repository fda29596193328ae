package passthrough

import "golang.org/x/sys/unix"

// maxDepth bounds the way from a node to one with a descriptor. Locations may be
// out of date and, after renames on the host, even go round in a circle.
const maxDepth = 4096

// locator finds the files of nodes again: by an open file, by a file handle (filehandle.go), by the name
// where the node was last seen (rewalk), or elsewhere in that directory (search.go).
type locator struct {
	cfg *Config
	*allower
	fds    *descriptors
	mounts *mountTable
	nodes  *nodeTable
	io     *ioState // buffers of listings
}

// fdOf is the node's O_PATH descriptor, valid while the caller has its reference. A
// node without one is opened where it was last seen, and checked to be the same
// file: ESTALE tells the client to look the name up again.
func (l *locator) fdOf(ts *threadState, n *inode) (int, unix.Errno) {
	return l.fdAt(ts, n, 0)
}

func (l *locator) fdAt(ts *threadState, n *inode, depth int) (int, unix.Errno) {
	if fd := n.fd.Load(); fd >= 0 {
		n.touch()
		return int(fd), 0
	}
	if depth > maxDepth {
		return -1, unix.ESTALE
	}
	fd, errno := l.reopen(ts, n)
	byName := l.cfg.Landlocked || n.ofLedger()
	if errno != 0 && !byName {
		fd, errno = l.openHandle(ts, n, depth)
	}
	if errno != 0 {
		fd, errno = l.rewalk(ts, n, depth)
	}
	if errno != 0 && byName {
		if byHandle, refused := l.openHandle(ts, n, depth); refused == 0 || errno == unix.ESTALE {
			fd, errno = byHandle, refused
		}
	}
	if errno != 0 {
		return -1, errno
	}
	if !l.nodes.setFD(n, fd) {
		l.fds.close(fd) // another request was faster
	}
	return int(n.fd.Load()), 0
}

// reopen makes an O_PATH descriptor from an open file of the node, which works for
// files without a name too.
func (l *locator) reopen(ts *threadState, n *inode) (int, unix.Errno) {
	n.Lock()
	defer n.Unlock() // the open file's descriptor is not closed meanwhile
	f := n.anyOpen()
	if f == nil {
		return -1, unix.ESTALE
	}
	return l.fds.open(l.cfg.ProcFD, procName(&ts.num, f.fd), unix.O_PATH, 0)
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

// anyLazy reports whether an open file has no descriptor yet. It is opened through the node's
// descriptor, which is the only way if the file has no name. The node is locked.
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
func (l *locator) rewalk(ts *threadState, n *inode, depth int) (int, unix.Errno) {
	parent, name := l.nodes.Location(n)
	if parent == nil {
		return -1, unix.ESTALE
	}
	defer l.nodes.release(parent)
	if errno := l.allowName(parent, name, intentRebind); errno != 0 {
		return -1, errno
	}
	pfd, errno := l.fdAt(ts, parent, depth+1)
	if errno != 0 {
		return -1, errno
	}
	fd, errno := l.openAs(ts, n, pfd, name.CString())
	if errno == unix.ESTALE {
		n.Lock()
		byHandle := n.HasFileHandle() && n.fileHandle != handleOfLedger && !l.cfg.Landlocked // Landlock lets a file be opened for I/O only by a name
		n.Unlock()
		if !byHandle {
			fd, errno = l.search(ts, n, parent, pfd, name.CString())
		}
	}
	return fd, errno
}
