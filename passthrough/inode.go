package passthrough

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/nodes"
)

// key is the identity of a file on the host. The mount is part of it: the same file
// seen through two mounts is two nodes, as it is in two file systems of the guest.
type key struct {
	mount uint64
	dev   uint64
	ino   uint64
}

// hash spreads keys, whose numbers mostly follow one another.
func (k key) hash() uint64 {
	h := (k.ino ^ k.dev<<7 ^ k.mount<<13) * 0x9e3779b97f4a7c15
	return h ^ h>>32
}

func (k key) onMount() mountKey { return mountKey{k.mount, k.dev} }

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
// need is elsewhere, as locks are with the open files.
type inode struct {
	nodes.Node[key, inode] // its lock guards the open files, too

	fd      atomic.Int32 // O_PATH descriptor, or -1; set with setFD
	touched atomic.Bool  // used since the evictor came by; without fd: asked about since then

	bornSec  int64 // birth, see there
	bornNsec uint32
	kind     uint8 // S_IFMT bits, see kindShift

	local      bool       // on a mount that is known to be local
	fileHandle handleFrom // where the node's file handle is from, if it has one; guarded by the lock
	marks      nodeMarks  // guarded by the lock

	openFiles *openFile // open files and directories, a list; guarded by the lock
}

const kindShift = 12 // of S_IFMT

// nodeMarks are things that have happened to a node.
type nodeMarks uint8

const (
	markOpened nodeMarks = 1 << iota // for I/O, at least once
	markDAX                          // the guest was told to map it when it first heard of it
	markNoDAX                        // the guest was told not to
	markPinned                       // the keeper has a descriptor of it, see pin.go
	markLinked                       // its file had several names when it was last looked up
)

func (n *inode) birth() birth { return birth{sec: n.bornSec, nsec: n.bornNsec, kind: n.mode()} }

// mode has the S_IFMT bits of the kind that the node has had from the start.
func (n *inode) mode() uint16 { return uint16(n.kind) << kindShift }

// touch notes that the node's descriptor was used.
func (n *inode) touch() {
	if !n.touched.Load() {
		n.touched.Store(true)
	}
}

// same reports whether n is the file of st, and not one that had its number
// before. A descriptor pins the number, so only nodes without one are compared.
func (n *inode) same(st *unix.Statx_t) bool {
	return n.fd.Load() >= 0 || n.birth() == birthOf(st)
}

// is reports whether a file's attributes are those of the node's file, and not of one that
// has its number now.
func (n *inode) is(st *unix.Statx_t) bool { return keyOf(st) == n.Key() && birthOf(st) == n.birth() }

// isDir, isReg and isLink tell the kind that the node has had from the start.
func (n *inode) isDir() bool  { return n.mode() == unix.S_IFDIR }
func (n *inode) isReg() bool  { return n.mode() == unix.S_IFREG }
func (n *inode) isLink() bool { return n.mode() == unix.S_IFLNK }

// mayHaveNames reports whether the node's file may have several names.
func (n *inode) mayHaveNames() bool {
	n.Lock()
	defer n.Unlock()
	return n.marks&markLinked != 0
}
