package passthrough

import (
	"fmt"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/server"
)

// A process that takes over from one that has died makes open files from the ledger, without a system call for each, and
// nodes when they are used, see resumenodes.go. It finds their files when they are used: nodes as always, see
// descriptor.go, open files in reopen.go. What could not be found again the keeper has kept (pin.go).
//
// The ledger may be forged, by a client that had taken over the process which wrote it. Files are
// found by names below the share, as those of a migration are; a file handle of the ledger's
// only leads to a path that is then walked, see proven.

// Resume implements server.State.
func (fs *FS) Resume(t *server.Thread, session bool) (warning string, err error) {
	s := fs.recovery.store
	if s == nil {
		return "", nil
	}
	if err := s.Unfinished(fs.again.turns.left); err != nil {
		return "", err
	}
	if _, err := s.GiveBackAll(); err != nil {
		return "", fmt.Errorf("passthrough: %w", err)
	}
	if !session {
		fs.recovery.forgetRecords()
		fs.pins.drop(func(keeper.Key) bool { return false })
		if fs.cfg.DAX != nil {
			fs.cfg.DAX.Table.Reset()
		}
		return "", nil
	}
	r := &resumer{fs: fs.resumedParts(), ts: t.Local.(*threadState), store: s, mounts: map[uint64]uint64{rootMount: fs.nodes.root.Key().mount}}
	r.findMounts()
	r.nodes()
	r.openFiles()
	r.findOwners()
	r.mappings()
	r.pins()
	r.locks()
	fs.sweeper.arm() // the nodes that are not used till then are made
	return r.warning(), nil
}

// forgetRecords takes all nodes but the root and all open files out of the ledger.
func (r *recovery) forgetRecords() {
	s := r.store
	for i := range s.Locks {
		s.RemoveLock(i)
	}
	for i := range s.LockOwners {
		s.RemoveLockOwner(i)
	}
	for o := range s.Opens {
		s.RemoveOpen(o.ID)
	}
	for n := range s.Nodes {
		if n.ID != fp.RootID {
			s.RemoveNode(n.ID)
		}
	}
}

// resumedParts are what a successor fills.
type resumedParts struct {
	cfg       *Config
	recovery  *recovery
	fds       *descriptors
	mounts    *mountTable
	nodes     *nodeTable
	find      *locator
	openFiles *openTable
	openless  *openless
	locks     *shareLocks
	own       ownership
	pins      *pinner
}

// resumer makes the nodes and open files of a predecessor.
type resumer struct {
	fs     resumedParts
	ts     *threadState
	store  *ledger.Store
	mounts map[uint64]uint64         // ids here of mounts by their numbers in the ledger
	owners map[keeper.Key]*leftOwner // of fcntl locks
	lost   missing
}

func (r *resumer) warning() string {
	if r.lost.count == 0 {
		return ""
	}
	return "files that the guest has open are lost, and it gets an error when it uses them: " + r.lost.String()
}

// Limits of the search for mounts.
const (
	triesForMount = 16 // nodes
	maxMounts     = 1 << 12
)

// findMounts finds out which mounts there are of the ledger's, beside the share's own: a node of
// each is looked for by its names from the root on. It is one whose parent is on another mount. With
// one that is deeper, file servers would be asked, which may not answer.
func (r *resumer) findMounts() {
	if r.store.OneMount(rootMount) {
		return
	}
	tries := map[uint64][]ledger.Node{}
	for n := range r.store.Nodes {
		if list := tries[n.Mount]; n.Mount != rootMount && n.Parent != 0 && r.store.MountOf(n.Parent) != n.Mount &&
			len(list) < triesForMount && len(tries) < maxMounts {
			tries[n.Mount] = append(list, *n)
		}
	}
	if len(tries) == 0 {
		return
	}
	for mount, list := range tries {
		for i := range list {
			if r.findMount(&list[i]) {
				r.fs.recovery.mounts.set(r.mounts[mount], mount)
				break
			}
		}
	}
}

// findMount looks for a node by its names, and takes down the id of its mount.
func (r *resumer) findMount(n *ledger.Node) bool {
	names, ok := r.store.Names(uint32(n.ID), maxDepth)
	if !ok {
		return false
	}
	fd, errno := r.fs.find.walkNames(names)
	if errno != 0 {
		return false
	}
	defer r.fs.fds.close(fd)
	if statxCached(fd, &r.ts.found) != 0 {
		return false
	}
	k := keyOf(&r.ts.found)
	if k.dev != n.Dev || k.ino != n.Ino || birthOf(&r.ts.found) != birthIn(n) {
		return false
	}
	if r.ts.found.Dev_major != 0 { // a disk, which is no file server that would have to answer
		r.fs.mounts.of(k, fd)
	}
	r.mounts[n.Mount] = k.mount
	return true
}

// walkNames opens what is below the share by these names, which are checked and have their NULs,
// and follows no link.
func (l *locator) walkNames(names []fp.Name) (int, unix.Errno) {
	at, owned := l.cfg.RootFD, false
	for _, name := range names {
		fd, errno := l.fds.open(at, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
		if owned {
			l.fds.close(at)
		}
		if errno != 0 {
			return -1, errno
		}
		at, owned = fd, true
	}
	if !owned {
		return -1, unix.ENOENT
	}
	return at, 0
}

func birthIn(n *ledger.Node) birth {
	return birth{sec: n.BirthSec, nsec: n.BirthNsec, kind: uint16(n.Kind) << kindShift}
}

// nodes has the nodes made when they are used. The guest waits, and may know a million of them: each is looked at once,
// for the index.
func (r *resumer) nodes() {
	t := r.fs.nodes
	left := &leftNodes{here: r.fs.mounts, store: r.store, mounts: r.mounts, read: r.store.Reader(), open: map[uint32]bool{}}
	left.root = t.root.Key().onMount()
	left.local = r.fs.mounts.get(left.root).local
	for rec := range r.store.Opens {
		left.open[rec.Node] = true
	}
	t.Restore(left, r.store.NumNodes(), r.store.NodeEnd(), r.store.NodeGenerations())
	for link, id := range r.store.StandIns {
		r.standIn(link, id)
	}
}

// standIn has the node with this id stand in for the link in a slot, as before.
func (r *resumer) standIn(link uint32, id uint64) {
	n, m := r.fs.nodes.Restored(link), r.fs.nodes.Restored(uint32(id))
	if n != nil && m != nil && m.ID() == id && n.isLink() && m.isReg() && !r.fs.nodes.isForgotten(n) {
		r.fs.own.restoreStandIn(n, m)
	}
}

// openFiles makes the open files, whose descriptors come with their first use. Those that the client
// has no number for are closed.
func (r *resumer) openFiles() {
	fs := &r.fs
	for rec := range r.store.Opens {
		n := fs.nodes.Restored(rec.Node)
		if n == nil || rec.Bits&openShared != 0 || fs.openless.agreed.Load() || !n.isDir() && !n.isReg() ||
			fs.cfg.ReadOnly && !n.isDir() && rec.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			r.store.RemoveOpen(rec.ID)
			continue
		}
		if !fs.openFiles.restore(n, rec) {
			r.store.RemoveOpen(rec.ID)
		}
	}
	fs.openFiles.EndRestore(r.store.OpenEnd(), r.store.OpenGenerations())
}
