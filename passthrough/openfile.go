package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// openFile is an open file or directory of the client. Its last reference closes the
// descriptor: RELEASE may come on another queue than a READ. Open files are used again.
type openFile struct {
	nodes.OpenFile

	fd     int
	node   *inode     // held
	mount  *mountInfo // of a file; nil for a directory
	dir    *dirStream // of a directory: &stream
	flags  uint32     // as the client asked for
	direct bool       // open with O_DIRECT

	shared  bool        // see openless; guarded by node.mu
	touched atomic.Bool // a shared one was used since it was checked

	// lazy says that it is a predecessor's, and has no descriptor yet, see reopen.go; lost that
	// its file was not found. pinned says that the keeper has its descriptor, see pin.go.
	lazy, lost, pinned atomic.Bool
	bits               uint32 // in the ledger; guarded by the node's lock
	counted            bool   // in the host's budget, if it is a predecessor's

	cached atomic.Int32 // descriptor for the page cache if fd is direct, or 0: see cachedFD
	// For writers who may not keep set-ID bits the host's kernel clears the right ones: see
	// killSetID. It is forgotten when the guest changes the mode.
	kernelKills atomic.Bool

	noCaps   atomic.Int64 // until then the file has no capabilities, see capState.kill
	unsynced atomic.Int64 // bytes written since the last fsync of this open file

	next, prev *openFile  // of the node's open files; guarded by node.mu
	locks      *fileLocks // of the node, with the first of its open files; guarded by node.mu
	lockOwners int        // owners of POSIX locks that came by this open file alone; guarded by node.mu

	stream dirStream
}

// openTable has the open files by number. It closes their descriptors after the last reference.
type openTable struct {
	*nodes.OpenFiles[openFile]
	cfg *Config
	*features
	fds    *descriptors
	mounts *mountTable
	nodes  *nodeTable
	find   *locator
	opener *opener
	io     *ioState
	locks  *shareLocks
	pins   *pinner
	limits *stateLimits

	// For those that are opened for the client.
	own        ownership
	privileges *privileges
	cache      *cacheRules

	// pool has those that are not in use. A request that looks up an open file too late may still read
	// its number and references, so it is never used for another share.
	pool sync.Pool
}

// ioState are the buffers of listings.
type ioState struct {
	dirBuffers atomic.Int64 // buffers that listings keep between requests

	bufferPool sync.Pool
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

// release drops a reference.
func (t *openTable) release(f *openFile) { t.Release(f) }

// gone frees the resources of an open file after its last reference.
func (t *openTable) gone(f *openFile) {
	n := f.node
	owners, nameless := t.remove(n, f)
	if nameless && !f.lazy.Load() {
		t.disown(n, f.fd)
	}
	t.opener.closeCached(f)
	if !f.lazy.Load() {
		t.fds.close(f.fd)
	}
	t.fds.kept.Add(-1)
	if f.counted {
		t.fds.part.Unkeep(1)
	}
	t.locks.closeOwners(owners)
	if f.dir != nil {
		t.io.dropBuffer(f.dir)
	}
	f.reset()
	t.pool.Put(f)
	if nameless {
		t.fds.letGo(n)
	}
	t.nodes.Unhold(n)
}

// disown takes a node that has lost all names out of the table by file, before the last descriptor
// of its file is closed: the next file with the inode number may be born in the same tick of the
// clock.
func (t *openTable) disown(n *inode, fd int) {
	var st unix.Statx_t
	if statxFD(fd, &st) == 0 && st.Nlink == 0 {
		t.nodes.Unkey(n)
	}
}

// reset clears an open file without references, for the next open.
func (f *openFile) reset() {
	f.fd, f.node, f.mount, f.dir = -1, nil, nil, nil
	f.flags, f.direct, f.shared, f.counted = 0, false, false, false
	f.bits = 0
	f.lazy.Store(false)
	f.lost.Store(false)
	f.pinned.Store(false)
	f.kernelKills.Store(false)
	f.noCaps.Store(0)
	f.unsynced.Store(0)
	f.next, f.prev, f.locks, f.lockOwners = nil, nil, nil, 0
	f.stream = dirStream{}
}

// add puts an open descriptor, which descriptors.keep has counted, in the table. On an error
// the caller still owns it. by is the request whose reply tells the client of it, or nil.
func (t *openTable) add(by *fuse.Cell, n *inode, fd int, flags uint32) (fh uint64, errno unix.Errno) {
	errno = t.make(n, fd, flags, func(f *openFile) unix.Errno {
		if fh = t.Add(by, f); fh == 0 {
			return unix.ENFILE
		}
		return 0
	})
	return fh, errno
}

// addAs is descriptors.keep and add under a number that was given out elsewhere; EEXIST
// when it is taken or impossible.
func (t *openTable) addAs(n *inode, fd int, flags uint32, fh uint64) unix.Errno {
	if errno := t.fds.keep(); errno != 0 {
		return errno
	}
	return t.fds.unkeepOn(t.make(n, fd, flags, func(f *openFile) unix.Errno {
		if !t.Adopt(f, fh, uint32(t.limits.openFiles)) {
			return unix.EEXIST
		}
		return 0
	}))
}

// make makes an open file and calls add to put it in the table.
func (t *openTable) make(n *inode, fd int, flags uint32, add func(*openFile) unix.Errno) unix.Errno {
	f, ok := t.pool.Get().(*openFile)
	if !ok {
		f = new(openFile)
	}
	f.fd, f.node, f.flags, f.counted = fd, n, flags, true
	if n.isDir() {
		f.dir = &f.stream
	} else {
		f.mount = t.mounts.of(n.Key(), fd)
		f.direct = t.cfg.AllowDirectIO && flags&unix.O_DIRECT != 0
	}
	n.Hold()
	n.addOpenFile(f)
	errno := add(f)
	if errno != 0 {
		t.remove(n, f)
		f.reset()
		t.pool.Put(f)
		t.nodes.Unhold(n)
	}
	return errno
}

func (n *inode) addOpenFile(f *openFile) {
	n.Lock()
	defer n.Unlock()
	if f.next = n.openFiles; f.next != nil {
		f.next.prev = f
		f.locks, f.next.locks = f.next.locks, nil
	}
	n.openFiles = f
}

// remove takes f off the node's list. Its locks end, and with the last one all of the node; the
// owners that are gone are the caller's to close. nameless says that the file was known by this
// open file only. A directory may be somebody's working directory, in which files are looked for
// again and again; it takes no space.
func (t *openTable) remove(n *inode, f *openFile) (gone []*lockOwner, nameless bool) {
	n.Lock()
	defer n.Unlock()
	gone = t.locks.dropOpenFileLocks(n, f)
	if f.next != nil {
		f.next.prev = f.prev
	}
	if f.prev != nil {
		f.prev.next = f.next
		return gone, false
	}
	if f.locks != nil && f.next == nil {
		for _, o := range f.locks.posix.owners {
			gone = t.locks.unlockAll(n, &f.locks.posix, o, gone)
		}
	} else if f.next != nil {
		f.next.locks = f.locks
	}
	n.openFiles = f.next
	t.pins.unpinned(n)
	return gone, n.openFiles == nil && n.Parent() == nil && !n.isDir()
}

// usable gives an open file of a predecessor's its descriptor. On error it drops the reference.
func (t *openTable) usable(r *server.Request, f *openFile) unix.Errno {
	if !f.lazy.Load() {
		return 0
	}
	errno := t.reopen(threadOf(r), f)
	if errno != 0 {
		t.release(f)
	}
	return errno
}

// of finds an open file of a node and takes a reference. It may have no descriptor yet, see
// usable.
func (t *openTable) of(nodeID, fh uint64) (*openFile, unix.Errno) {
	f := t.Acquire(fh)
	if f == nil {
		return nil, unix.EBADF
	}
	if f.node.ID() != nodeID {
		t.release(f)
		return nil, unix.EBADF
	}
	return f, 0
}

// close ends the open file's number; requests that use it continue. The caller has a
// reference.
func (t *openTable) close(f *openFile) unix.Errno {
	id := f.ID()
	if !t.Close(f) {
		return unix.EBADF // released twice
	}
	if f.pinned.Swap(false) {
		t.cfg.Keeper.Drop(keeper.Open(id))
	}
	if t.agreed(hostLocks) { // requests that wait keep the open file: it is told to them
		f.node.Lock()
		gone := t.locks.dropOpenFileLocks(f.node, f)
		f.node.Unlock()
		t.locks.closeOwners(gone)
	}
	return 0
}
