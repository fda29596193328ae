package passthrough

import (
	"maps"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/nodes"
)

// handle is an open file or directory of the client. Its last reference closes the
// descriptor: RELEASE may come on another queue than a READ. Handles are used again.
type handle struct {
	nodes.OpenFile

	fd     int
	node   *inode     // held
	mount  *mountInfo // of a file; nil for a directory
	dir    *dirStream // of a directory: &stream
	flags  uint32     // as the client asked for
	direct bool       // open with O_DIRECT

	shared  bool        // see openless; guarded by node.mu
	touched atomic.Bool // a shared one was used since it was looked at

	cached atomic.Int32 // descriptor for the page cache if fd is direct, or 0: see cachedFD
	// For writers who may not keep set-ID bits the host's kernel clears the right ones: see
	// killSetID. It is forgotten when the guest changes the mode.
	kernelKills atomic.Bool

	noCaps   atomic.Int64 // until then the file has no capabilities, see capState.kill
	unsynced atomic.Int64 // bytes written since the last fsync of this handle

	next, prev *handle    // of the node's open handles; guarded by node.mu
	locks      *fileLocks // of the node, with the first of its handles; guarded by node.mu
	lockOwners int        // owners of POSIX locks that came by this handle alone; guarded by node.mu

	stream dirStream
}

// ioState is what FS keeps about open files.
type ioState struct {
	opens      atomic.Int64 // descriptors that the client keeps, see keepFD
	dirBuffers atomic.Int64 // buffers that listings keep between requests

	// What is not in use. Whoever was late to look a handle up may still read its number and
	// references: it is never another share's.
	handlePool, bufferPool sync.Pool
	// editDirents, if not nil, changes what the host returns: a test has other cookies with it.
	editDirents func(entries []byte)
}

// getBuffer returns memory for a listing.
func (s *ioState) getBuffer() *dirBuffer {
	if b, ok := s.bufferPool.Get().(*dirBuffer); ok {
		return b
	}
	return new(dirBuffer)
}

func (s *ioState) putBuffer(b *dirBuffer) { s.bufferPool.Put(b) }

// keepFD counts a descriptor that the client can keep for as long as it likes. These may
// be no more than 15 of 16 that FS may have: what remains serves requests. Descriptors
// of nodes are closed to make room, these can't be. It is called before anything is done,
// so that a request which is refused has changed nothing.
func (fs *FS) keepFD() unix.Errno { return fs.keepFDs(1) }

func (fs *FS) keepFDs(n int64) unix.Errno {
	if fs.io.opens.Add(n) > int64(fs.cfg.MaxFDs-fs.cfg.MaxFDs/16) || !fs.part.Keep(n) {
		fs.io.opens.Add(-n)
		return unix.ENFILE
	}
	return 0
}

// unkeepFDs takes back what keepFDs has counted.
func (fs *FS) unkeepFDs(n int64) {
	fs.io.opens.Add(-n)
	fs.part.Unkeep(n)
}

// unkeepFD takes back what keepFD has counted, if a request failed after it.
func (fs *FS) unkeepFD(errno unix.Errno) unix.Errno {
	if errno != 0 {
		fs.unkeepFDs(1)
	}
	return errno
}

// releaseHandle drops a reference.
func (fs *FS) releaseHandle(h *handle) { fs.handles.Release(h) }

// handleGone frees what a handle has that nobody refers to any more.
func (fs *FS) handleGone(h *handle) {
	n := h.node
	owners, nameless := fs.removeHandle(n, h)
	fs.closeCached(h)
	fs.closeFD(h.fd)
	fs.unkeepFDs(1)
	fs.closeOwners(owners)
	if h.dir != nil {
		fs.dropBuffer(h.dir)
	}
	h.reset()
	fs.io.handlePool.Put(h)
	if nameless {
		fs.letGo(n)
	}
	fs.nodes.Unhold(n)
}

// reset clears a handle that nobody has a reference on, for the next open.
func (h *handle) reset() {
	h.fd, h.node, h.mount, h.dir = -1, nil, nil, nil
	h.flags, h.direct, h.shared = 0, false, false
	h.kernelKills.Store(false)
	h.noCaps.Store(0)
	h.unsynced.Store(0)
	h.next, h.prev, h.locks, h.lockOwners = nil, nil, nil, 0
	h.stream = dirStream{}
}

// addHandle puts an open descriptor, which keepFD has counted, in the table; on error it
// stays the caller's.
func (fs *FS) addHandle(n *inode, fd int, flags uint32) (fh uint64, errno unix.Errno) {
	errno = fs.newHandle(n, fd, flags, func(h *handle) unix.Errno {
		if fh = fs.handles.Add(h); fh == 0 {
			return unix.ENFILE
		}
		return 0
	})
	return fh, errno
}

// addHandleAs is keepFD and addHandle under a number that was given out elsewhere; EEXIST
// when it is taken or impossible.
func (fs *FS) addHandleAs(n *inode, fd int, flags uint32, fh uint64) unix.Errno {
	if errno := fs.keepFD(); errno != 0 {
		return errno
	}
	return fs.unkeepFD(fs.newHandle(n, fd, flags, func(h *handle) unix.Errno {
		if !fs.handles.Adopt(h, fh, uint32(fs.limits.handles)) {
			return unix.EEXIST
		}
		return 0
	}))
}

// newHandle makes a handle and calls add to put it in the table.
func (fs *FS) newHandle(n *inode, fd int, flags uint32, add func(*handle) unix.Errno) unix.Errno {
	h, ok := fs.io.handlePool.Get().(*handle)
	if !ok {
		h = new(handle)
	}
	h.fd, h.node, h.flags = fd, n, flags
	if n.isDir() {
		h.dir = &h.stream
	} else {
		h.mount = fs.mountOf(n.Key(), fd)
		h.direct = fs.cfg.AllowDirectIO && flags&unix.O_DIRECT != 0
	}
	n.Hold()
	n.addHandle(h)
	errno := add(h)
	if errno != 0 {
		fs.removeHandle(n, h)
		h.reset()
		fs.io.handlePool.Put(h)
		fs.nodes.Unhold(n)
	}
	return errno
}

func (n *inode) addHandle(h *handle) {
	n.Lock()
	defer n.Unlock()
	if h.next = n.handles; h.next != nil {
		h.next.prev = h
		h.locks, h.next.locks = h.next.locks, nil
	}
	n.handles = h
}

// removeHandle takes h off the node's list. Its locks end, and with the last one all of the
// node; the owners that are gone are the caller's to close. nameless says that nothing is
// left that a file is known by. A directory may be somebody's working directory, in which
// files are looked for again and again; it takes no space.
func (fs *FS) removeHandle(n *inode, h *handle) (gone []*lockOwner, nameless bool) {
	n.Lock()
	defer n.Unlock()
	gone = fs.dropHandleLocks(n, h)
	if h.next != nil {
		h.next.prev = h.prev
	}
	if h.prev != nil {
		h.prev.next = h.next
		return gone, false
	}
	if h.locks != nil && h.next == nil {
		for _, o := range h.locks.posix.owners {
			gone = fs.unlockAll(n, &h.locks.posix, o, gone)
		}
	} else if h.next != nil {
		h.next.locks = h.locks
	}
	n.handles = h.next
	return gone, n.handles == nil && n.Parent() == nil && !n.isDir()
}

// handleOf finds an open handle of a node and takes a reference.
func (fs *FS) handleOf(nodeID, fh uint64) (*handle, unix.Errno) {
	h := fs.handles.Acquire(fh)
	if h == nil {
		return nil, unix.EBADF
	}
	if h.node.ID() != nodeID {
		fs.releaseHandle(h)
		return nil, unix.EBADF
	}
	return h, 0
}

// closeHandle ends the handle's number; requests that use it go on. The caller has a
// reference.
func (fs *FS) closeHandle(h *handle) unix.Errno {
	if !fs.handles.Close(h) {
		return unix.EBADF // released twice
	}
	if fs.agreed(hostLocks) { // requests that wait keep the handle: it is told to them
		h.node.Lock()
		gone := fs.dropHandleLocks(h.node, h)
		h.node.Unlock()
		fs.closeOwners(gone)
	}
	return 0
}

// mountInfo is what FS learnt about a mount by using it. It is never forgotten: there
// are few mounts.
type mountInfo struct {
	local     bool        // on the host's own disks or memory
	readOnly  bool        // when it was first used
	noNowait  atomic.Bool // reads with RWF_NOWAIT do not work
	noHandles atomic.Bool // its files have no file handles
	noOpens   atomic.Bool // its files can't be opened for I/O by file handles
	reads     diskTime    // of waits for single reads and writes
	syncs     diskTime    // of fsync

	// For open_by_handle_at, see mountfd.go.
	mu      sync.Mutex   // one change of fd at a time
	keep    bool         // the share's own: fd is open from the start, and always
	fd      atomic.Int32 // -1 while it is not open
	using   atomic.Int32 // who has borrowed it
	touched atomic.Bool  // it was used since the last sweep
}

// mountKey names a mount. Numbers of mounts are used again, so the device is looked at
// too.
type mountKey struct{ mount, dev uint64 }

// localFS are file systems of the host's own disks and memory (statfs(2)). To close a
// file there reports nothing, and to ask for the attributes of an open one waits for
// nobody.
var localFS = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true,
	unix.EROFS_SUPER_MAGIC_V1: true, unix.SQUASHFS_MAGIC: true, unix.RAMFS_MAGIC: true,
	unix.BCACHEFS_SUPER_MAGIC: true, zfsMagic: true,
}

const zfsMagic = 0x2fc12fc1

// mountTable is what is known about mounts. It is replaced when one is added, so that
// looking takes neither a lock nor memory.
type mountTable struct {
	mu    sync.Mutex // one addition at a time
	known atomic.Pointer[map[mountKey]*mountInfo]
}

func (m *mountTable) get(k mountKey) *mountInfo {
	if known := m.known.Load(); known != nil {
		return (*known)[k]
	}
	return nil
}

// add returns what is known by now, if another thread was faster.
func (m *mountTable) add(k mountKey, info *mountInfo) *mountInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.get(k); known != nil {
		return known
	}
	table := map[mountKey]*mountInfo{k: info}
	if known := m.known.Load(); known != nil {
		maps.Copy(table, *known)
	}
	m.known.Store(&table)
	return info
}

// mountOf is what is known about the mount of file, which fd has open, O_PATH or not. The
// file system is asked once a mount.
func (fs *FS) mountOf(file key, fd int) *mountInfo {
	k := file.onMount()
	if m := fs.mounts.get(k); m != nil {
		return m
	}
	st := new(unix.Statfs_t)
	m := &mountInfo{}
	m.fd.Store(-1)
	if sysFstatfs(fd, st) == 0 {
		m.local = localFS[int64(st.Type)]
		m.readOnly = st.Flags&unix.ST_RDONLY != 0
	}
	return fs.mounts.add(k, m)
}
