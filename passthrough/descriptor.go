package passthrough

import (
	"sync/atomic"

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
	if errno != 0 && !fs.cfg.Landlocked {
		fd, errno = fs.openHandle(ts, n)
	}
	if errno != 0 {
		fd, errno = fs.rewalk(ts, n, depth)
	}
	if errno != 0 && fs.cfg.Landlocked {
		fd, errno = fs.openHandle(ts, n)
	}
	if errno != 0 {
		return -1, errno
	}
	if !fs.setFD(n, fd) {
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
	fd, errno := fs.open(pfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno == unix.ENOENT || errno == unix.ENOTDIR {
		return -1, unix.ESTALE
	}
	if errno != 0 {
		return -1, errno
	}
	return fs.checked(ts, n, fd)
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

// location is where the node was last seen, with a reference on the parent for the
// caller. The name is not changed in place, so it stays valid.
func (fs *FS) location(n *inode) (parent *inode, name *byte) {
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
	return fs.opened(func() (int, unix.Errno) { return sysOpenat(dirfd, name, flags, mode) })
}

// opened is open for a call that makes a descriptor.
func (fs *FS) opened(call func() (int, unix.Errno)) (int, unix.Errno) {
	fd, errno := call()
	if errno == unix.EMFILE || errno == unix.ENFILE {
		fs.evict(evictAtOnce)
		if fd, errno = call(); errno == unix.EMFILE {
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

// Descriptors are closed in the order of their numbers, round and round, as the hand of
// a clock goes.
const (
	evictAtOnce = 32  // how many are closed when there are too many
	evictLook   = 256 // how many are looked at for it, at most twice
)

// evict closes up to want descriptors of nodes that nobody uses at the moment and that
// can be found again; it returns how many. Nodes that were used since the hand came by
// are spared, unless that leaves none to close.
func (fs *FS) evict(want int) (n int) {
	if !fs.evictMu.TryLock() {
		return 0
	}
	defer fs.evictMu.Unlock()
	from := fs.hand
	n = fs.evictFrom(from, want)
	if n == 0 { // nobody's turn: what was spared was used, and has been told so
		n = fs.evictFrom(from, want)
	}
	return n
}

// evictFrom looks at evictLook descriptors and leaves the hand behind the last.
func (fs *FS) evictFrom(hand uint32, want int) (n int) {
	for range evictLook {
		if hand++; hand >= fs.owners.end() {
			hand = 0
		}
		if in := fs.nodes.at(fs.owners.at(hand)); in != nil && in.fd.Load() == int32(hand) && fs.evictOne(in) {
			if n++; n == want {
				break
			}
		}
	}
	fs.hand = hand
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
	canFind := fs.findable(n, int(n.fd.Load()))
	n.mu.Unlock()
	if !canFind {
		return false
	}
	return fs.dropFD(n)
}

// setFD gives the node a descriptor, unless it has one. The caller has a reference, so
// that nobody takes it away before it is in the table of owners.
func (fs *FS) setFD(n *inode, fd int) bool {
	if !n.fd.CompareAndSwap(-1, int32(fd)) {
		return false
	}
	fs.owners.set(uint32(fd), uint32(n.id))
	return true
}

// dropFD closes the node's descriptor and reports whether it had one.
func (fs *FS) dropFD(n *inode) bool {
	fd := n.fd.Swap(-1)
	if fd < 0 {
		return false
	}
	fs.owners.set(uint32(fd), 0) // before the number is another file's
	fs.closeFD(int(fd))
	return true
}

// owners tells which node has a descriptor: slots by number of descriptor. It makes the
// evictor's work independent of how many nodes there are without one.
type owners struct {
	pages [ownerPages]atomic.Pointer[[ownerPage]atomic.Uint32]
	past  atomic.Uint32 // one more than the largest number that was set
}

const (
	ownerPage  = 1 << 14
	ownerPages = 1 << 12 // descriptors beyond 64 million are never closed to make room
)

func (o *owners) set(fd, slot uint32) {
	if fd >= ownerPage*ownerPages {
		return
	}
	page := &o.pages[fd/ownerPage]
	if page.Load() == nil {
		page.CompareAndSwap(nil, new([ownerPage]atomic.Uint32))
	}
	page.Load()[fd%ownerPage].Store(slot)
	for past := o.past.Load(); past <= fd && !o.past.CompareAndSwap(past, fd+1); past = o.past.Load() {
	}
}

// at is the slot of the node that has a descriptor; 0, which is no node's, for none.
func (o *owners) at(fd uint32) uint32 {
	if page := o.pages[fd/ownerPage].Load(); page != nil {
		return page[fd%ownerPage].Load()
	}
	return 0
}

func (o *owners) end() uint32 { return o.past.Load() }
