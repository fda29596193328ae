package passthrough

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// key is the identity of a file on the host. The mount is part of it: the same file
// seen through two mounts is two nodes, as it is in two file systems of the guest.
type key struct {
	mount uint64
	dev   uint64
	ino   uint64
}

func keyOf(st *unix.Statx_t) key {
	return key{mount: st.Mnt_id, dev: uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), ino: st.Ino}
}

// birth tells two files apart that had the same inode number one after the other.
type birth struct {
	sec  int64
	nsec uint32
	kind uint16 // S_IFMT bits
}

func birthOf(st *unix.Statx_t) birth {
	b := birth{kind: st.Mode & unix.S_IFMT}
	if st.Mask&unix.STATX_BTIME != 0 {
		b.sec, b.nsec = st.Btime.Sec, st.Btime.Nsec
	}
	return b
}

// inode is a node that the client knows. See the package comment for its life. A client
// may know millions: its size is a class of the allocator, 112 bytes, and what few nodes
// need is elsewhere, as locks are with the handles.
type inode struct {
	id    uint64
	key   key
	birth birth

	// refs counts requests that use the node, in its lower half, and what holds it
	// (the table, children, handles), in units of refHold. At 0 it is dead.
	refs    atomic.Int64
	fd      atomic.Int32 // O_PATH descriptor, or -1; set with setFD
	touched atomic.Bool  // used since the evictor came by; without fd: asked about since then

	next  uint32 // slot of the next node in the shard's list; guarded by the shard of key
	stale bool   // not in the key table any more; guarded by the shard

	local bool // on a mount that is known to be local

	fileHandle handleFrom // whether one is kept behind the name; guarded by mu
	opened     bool       // for I/O, at least once; guarded by mu

	nlookup uint64 // guarded by the shard

	mu      sync.Mutex // guards the following
	parent  *inode     // held; nil for the root and for files without a name
	name    *byte      // ends with NUL, see setName; its bytes are never changed
	handles *handle    // open files and directories, a list
}

const (
	refHold  = 1 << 32
	refEvict = 1 << 31 // the descriptor is being closed
)

// acquire takes a reference for a request; false when the node is dead.
func (n *inode) acquire() bool {
	for {
		v := n.refs.Load()
		switch {
		case v == 0:
			return false
		case v&refEvict != 0:
			runtime.Gosched()
		case n.refs.CompareAndSwap(v, v+1):
			return true
		}
	}
}

// touch notes that the node's descriptor was used.
func (n *inode) touch() {
	if !n.touched.Load() {
		n.touched.Store(true)
	}
}

// release drops what acquire took.
func (fs *FS) release(n *inode) {
	if n.refs.Add(-1) == 0 {
		fs.bury(n)
	}
}

// hold keeps the node alive; the caller has a reference or a hold.
func (n *inode) hold() { n.refs.Add(refHold) }

func (fs *FS) unhold(n *inode) {
	if n.refs.Add(-refHold) == 0 {
		fs.bury(n)
	}
}

// bury frees what a dead node has. Chains of parents are freed in a loop: they may
// be as long as a hostile tree is deep.
func (fs *FS) bury(n *inode) {
	for n != nil {
		fs.dropFD(n)
		parent := n.parent
		n.parent = nil
		if parent == nil || parent.refs.Add(-refHold) != 0 {
			return
		}
		n = parent
	}
}

// get finds the node of a request and takes a reference. A node that the client
// does not have, or no more, is ESTALE, as with a network file system.
func (fs *FS) get(id uint64) (*inode, unix.Errno) {
	n := fs.nodes.get(id)
	if n == nil || !n.acquire() {
		return nil, unix.ESTALE
	}
	if n.isLink() {
		if m := fs.own.standIn(n); m != nil {
			fs.release(n)
			return m, 0
		}
	}
	return n, 0
}

// locate notes where a node was last seen, to find it again when it has no
// descriptor.
func (fs *FS) locate(n, parent *inode, name []byte) {
	n.mu.Lock()
	if n.parent == parent && sameName(n.name, name) || n.id == fp.RootID {
		n.mu.Unlock()
		return
	}
	old := n.parent
	parent.hold()
	n.parent = parent
	n.rename(name)
	n.mu.Unlock()
	if old == nil && n.fd.Load() >= 0 {
		fs.armSweep() // a pin no more
	}
	if old != nil {
		fs.unhold(old)
	}
}

// sameName compares a kept name, which may be nil, with one that has its NUL.
func sameName(kept *byte, name []byte) bool {
	if kept == nil {
		return false
	}
	for i, c := range name {
		// It has no byte after its NUL, which is the last of name's too.
		if b := *addBytes(kept, i); b != c || b == 0 {
			return b == c
		}
	}
	return false
}

// known finds a node by its identity and adds one to its lookup count. The caller
// gets a reference.
func (fs *FS) known(st *unix.Statx_t) *inode { return fs.seen(st, 1) }

// seen is known that adds nlookup to the lookup count.
func (fs *FS) seen(st *unix.Statx_t, nlookup uint64) *inode {
	k := keyOf(st)
	s := fs.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := fs.find(s, k)
	if n == nil || !s.same(n, st) || !n.acquire() {
		return nil
	}
	n.nlookup += nlookup
	return n
}

// same reports whether n is the file of st, and not one that had its number
// before. A descriptor pins the number, so only nodes without one are compared.
func (s *shard) same(n *inode, st *unix.Statx_t) bool {
	return n.fd.Load() >= 0 || n.birth == birthOf(st)
}

// intern returns the node of st with its lookup count raised and a reference taken,
// making it when it is new. fd, if not -1, becomes the node's descriptor or is
// closed.
func (fs *FS) intern(st *unix.Statx_t, fd int, parent *inode, name []byte) (*inode, unix.Errno) {
	k := keyOf(st)
	s := fs.shard(k)
	s.mu.Lock()
	n := fs.find(s, k)
	if n != nil && s.same(n, st) && n.acquire() {
		n.nlookup++
		s.mu.Unlock()
	} else {
		if n != nil {
			fs.unlink(s, n) // its file is gone, and its number is another's
		}
		mount := fs.mounts.get(mountKey{k.mount, k.dev})
		n = &inode{key: k, birth: birthOf(st), nlookup: 1, local: mount != nil && mount.local}
		n.fd.Store(-1)
		n.refs.Store(refHold + 1)
		if fs.nodes.add(n, func(id uint64) { n.id = id }) == 0 {
			s.mu.Unlock()
			if fd >= 0 {
				fs.closeFD(fd)
			}
			return nil, unix.ENOMEM
		}
		fs.link(s, n)
		s.mu.Unlock()
		fs.growHints(uint32(n.id))
	}
	if fd >= 0 && !fs.setFD(n, fd) {
		fs.closeFD(fd)
	}
	if parent != nil {
		fs.locate(n, parent, name)
	}
	return n, 0
}

// Forget implements server.Names. Counts that were never given out do no harm.
func (fs *FS) Forget(nodeID, nlookup uint64) {
	if nodeID == fp.RootID {
		return
	}
	n := fs.nodes.get(nodeID)
	if n == nil || !n.acquire() {
		return
	}
	defer fs.release(n)
	fs.forget(n, nlookup)
}

// forget takes nlookup off the count; at 0 the table lets go of the node.
func (fs *FS) forget(n *inode, nlookup uint64) {
	s := fs.shard(n.key)
	s.mu.Lock()
	if n.nlookup == 0 {
		s.mu.Unlock()
		return
	}
	n.nlookup -= min(nlookup, n.nlookup)
	dead := n.nlookup == 0
	if dead {
		if !n.stale {
			fs.unlink(s, n)
		}
		fs.nodes.remove(n.id)
	}
	s.mu.Unlock()
	if !dead {
		return
	}
	if fs.openless.agreed.Load() {
		fs.closeShared(n)
	}
	if n.isLink() {
		fs.own.forgotten(n)
	}
	fs.unhold(n)
}

// is reports whether a file's attributes are those of the node's file, and not of one that
// has its number now.
func (n *inode) is(st *unix.Statx_t) bool { return keyOf(st) == n.key && birthOf(st) == n.birth }

// isDir, isReg and isLink tell the kind that the node has had from the start.
func (n *inode) isDir() bool  { return n.birth.kind == unix.S_IFDIR }
func (n *inode) isReg() bool  { return n.birth.kind == unix.S_IFREG }
func (n *inode) isLink() bool { return n.birth.kind == unix.S_IFLNK }
