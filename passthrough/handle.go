package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
)

// handle is an open file or directory of the client.
type handle struct {
	id    uint64
	fd    int
	node  *inode // held
	flags uint32 // as the client asked for
	dir   *dirStream

	// refs counts the table, while the handle is open, and requests that use it. The
	// last one closes the descriptor: RELEASE may come on another queue than a READ.
	refs   atomic.Int32
	noWait atomic.Bool // reads with RWF_NOWAIT do not work

	next, prev *handle // of the node's open handles; guarded by node.mu
}

func (h *handle) acquire() bool {
	for {
		v := h.refs.Load()
		if v == 0 {
			return false
		}
		if h.refs.CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// releaseHandle drops what acquire or handle took.
func (fs *FS) releaseHandle(h *handle) {
	if h.refs.Add(-1) != 0 {
		return
	}
	n := h.node
	owners := n.removeHandle(h)
	fs.closeFD(h.fd)
	fs.dropOwners(n, owners)
	if h.dir != nil {
		h.dir.free()
	}
	fs.unhold(n)
}

// addHandle puts an open descriptor in the table; on error it stays the caller's.
func (fs *FS) addHandle(n *inode, fd int, flags uint32) (fh uint64, errno unix.Errno) {
	h := &handle{fd: fd, node: n, flags: flags}
	if n.isDir() {
		h.dir = &dirStream{}
	}
	h.refs.Store(1)
	n.hold()
	n.addHandle(h)
	fh = fs.handles.add(h, func(id uint64) { h.id = id })
	if fh == 0 {
		n.removeHandle(h)
		fs.unhold(n)
		return 0, unix.ENFILE
	}
	return fh, 0
}

func (n *inode) addHandle(h *handle) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.next = n.handles; h.next != nil {
		h.next.prev = h
	}
	n.handles = h
}

// removeHandle takes h off the node's list. With the last one the node's locks end;
// their owners are returned.
func (n *inode) removeHandle(h *handle) (owners []lockOwner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		n.handles = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	}
	if n.handles == nil {
		owners, n.owners = n.owners, nil
	}
	return owners
}

// handle finds an open handle of the request's node and takes a reference.
func (fs *FS) handle(r *server.Request, fh uint64) (*handle, unix.Errno) {
	return fs.handleOf(r.Header.NodeID, fh)
}

func (fs *FS) handleOf(nodeID, fh uint64) (*handle, unix.Errno) {
	h := fs.handles.get(fh)
	if h == nil || h.node.id != nodeID || !h.acquire() {
		return nil, unix.EBADF
	}
	return h, 0
}

// fileHandle and dirHandle are handle for one kind only.
func (fs *FS) fileHandle(r *server.Request, fh uint64) (*handle, unix.Errno) {
	h, errno := fs.handle(r, fh)
	if errno == 0 && h.dir != nil {
		fs.releaseHandle(h)
		return nil, unix.EISDIR
	}
	return h, errno
}

func (fs *FS) dirHandle(r *server.Request, fh uint64) (*handle, unix.Errno) {
	h, errno := fs.handle(r, fh)
	if errno == 0 && h.dir == nil {
		fs.releaseHandle(h)
		return nil, unix.ENOTDIR
	}
	return h, errno
}

// closeHandle takes the handle out of the table; requests that use it go on.
func (fs *FS) closeHandle(h *handle) unix.Errno {
	if !fs.handles.remove(h.id) {
		return unix.EBADF // released twice
	}
	fs.releaseHandle(h)
	return 0
}

// dirStream is where a directory handle is in its directory.
type dirStream struct {
	mu      sync.Mutex // guards the rest
	buf     *dirBuffer // what was read and not delivered yet, from pos to end
	pos     int
	end     int
	next    uint64 // position after the last entry delivered
	started bool   // the descriptor was read from
}

// dirBuffer is memory for getdents64.
type dirBuffer [32 << 10]byte

var dirBuffers = sync.Pool{New: func() any { return new(dirBuffer) }}

func (d *dirStream) free() {
	if d.buf != nil {
		dirBuffers.Put(d.buf)
		d.buf = nil
	}
}
