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
		if !n.touched.Load() {
			n.touched.Store(true)
		}
		return int(fd), 0
	}
	if depth > maxDepth {
		return -1, unix.ESTALE
	}
	fd, errno := fs.reopen(ts, n)
	if errno != 0 {
		fd, errno = fs.rewalk(ts, n, depth)
	}
	if errno != 0 {
		return -1, errno
	}
	if !n.fd.CompareAndSwap(-1, int32(fd)) {
		fs.closeFD(fd) // another request was faster
	}
	return int(n.fd.Load()), 0
}

// reopen makes an O_PATH descriptor from an open handle of the node, which works for
// files without a name too.
func (fs *FS) reopen(ts *threadState, n *inode) (int, unix.Errno) {
	n.mu.Lock()
	defer n.mu.Unlock() // the handle's descriptor is not closed meanwhile
	if n.handles == nil {
		return -1, unix.ESTALE
	}
	return fs.open(fs.cfg.ProcFD, procName(&ts.num, n.handles.fd), unix.O_PATH, 0)
}

// rewalk opens the node where it was last seen.
func (fs *FS) rewalk(ts *threadState, n *inode, depth int) (int, unix.Errno) {
	parent, name := fs.location(n)
	if parent == nil {
		return -1, unix.ESTALE
	}
	defer fs.release(parent)
	pfd, errno := fs.fdAt(ts, parent, depth+1)
	if errno != 0 {
		return -1, errno
	}
	fd, errno := fs.open(pfd, &name[0], unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno == unix.ENOENT || errno == unix.ENOTDIR {
		return -1, unix.ESTALE
	}
	if errno != 0 {
		return -1, errno
	}
	var st unix.Statx_t
	if errno = statxFD(fd, &st); errno == 0 && (keyOf(&st) != n.key || birthOf(&st) != n.birth) {
		errno = unix.ESTALE
	}
	if errno != 0 {
		fs.closeFD(fd)
		return -1, errno
	}
	return fd, 0
}

// location is where the node was last seen, with a reference on the parent for the
// caller. The name is not changed in place, so it stays valid.
func (fs *FS) location(n *inode) (parent *inode, name []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.parent == nil || !n.parent.acquire() {
		return nil, nil
	}
	return n.parent, n.name
}

// open is openat that counts descriptors and makes room when they run out. The
// client gets ENFILE: the limit is not its process's.
func (fs *FS) open(dirfd int, name *byte, flags int, mode uint32) (int, unix.Errno) {
	fd, errno := sysOpenat(dirfd, name, flags, mode)
	if errno == unix.EMFILE || errno == unix.ENFILE {
		if fs.evict(evictAtOnce) == 0 {
			return -1, unix.ENFILE
		}
		if fd, errno = sysOpenat(dirfd, name, flags, mode); errno == unix.EMFILE {
			errno = unix.ENFILE
		}
	}
	if errno != 0 {
		return -1, errno
	}
	if n := fs.fds.Add(1); n > int64(fs.cfg.MaxFDs) {
		fs.evict(evictAtOnce)
	}
	return fd, 0
}

// closeFD closes what open returned.
func (fs *FS) closeFD(fd int) {
	fs.fds.Add(-1)
	_ = sysClose(fd)
}

// evictAtOnce is how many descriptors are closed when there are too many.
const evictAtOnce = 32

// evict closes descriptors of nodes that nobody uses at the moment and that can be
// found again by name; it returns how many. Nodes that were used since the last
// round are spared in the first round.
func (fs *FS) evict(want int) (n int) {
	if !fs.evictMu.TryLock() {
		return 0
	}
	defer fs.evictMu.Unlock()
	end := fs.nodes.end()
	for looked := uint32(0); looked < 2*end && n < want; looked++ {
		fs.hand++
		if fs.hand >= end {
			fs.hand = 1
		}
		if in := fs.nodes.at(fs.hand); in != nil && fs.evictOne(in) {
			n++
		}
	}
	return n
}

// evictOne closes the node's descriptor if it may.
func (fs *FS) evictOne(n *inode) (closed bool) {
	if n.id == fp.RootID || n.fd.Load() < 0 || n.touched.Swap(false) {
		return false
	}
	v := n.refs.Load()
	if v == 0 || v&(refHold-1) != 0 || !n.refs.CompareAndSwap(v, v|refEvict) {
		return false
	}
	defer func() {
		if n.refs.Add(-refEvict) == 0 { // the last hold went meanwhile
			fs.bury(n)
		}
	}()
	// Whoever makes room may hold the lock, of this node or of one whose holder makes
	// room too.
	if !n.mu.TryLock() {
		return false
	}
	canFind := n.parent != nil || n.handles != nil
	n.mu.Unlock()
	if !canFind {
		return false
	}
	if fd := n.fd.Swap(-1); fd >= 0 {
		fs.closeFD(int(fd))
		return true
	}
	return false
}
