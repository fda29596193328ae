package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/keeper"
)

// Keeper holds descriptors for a successor of this process; keeper.Client is one. Its methods may be
// called from all threads.
type Keeper interface {
	// Keep stores a copy of fd under a key, and replaces an older one. When it has returned
	// nil, a successor gets the descriptor, even if this process dies.
	Keep(k keeper.Key, fd int) error
	// Drop ends that. Without a descriptor nothing happens.
	Drop(k keeper.Key)
	// Kept are the keys of descriptors that a predecessor has left and that were not taken.
	Kept() []keeper.Key
	// Take takes one of them; the caller owns it. The keeper continues to hold its
	// copy.
	Take(k keeper.Key) (fd int, ok bool)
}

// Pins are descriptors that the keeper holds because the file could not be found again:
//
//	of a node        an open file that has lost its last name, or had none
//	of an open file  it was opened with rights that are not to be had again; or it has a
//	                 flock lock, which lives as long as a copy of the descriptor
//	of a lock owner  its open-file-description locks
//
// A pin is made before the client can know of what makes it necessary, and dropped with the open
// file or the lock. One too many does no harm.

// pinner decides what the keeper has to hold.
type pinner struct {
	cfg       *Config
	nodes     *nodeTable
	find      *locator
	openFiles *openTable
	opener    *opener
	who       *credentials
	recovery  *recovery
}

// unnaming makes sure that a successor of this process finds a node that is about to lose a name; nil is none. An error is
// the request's: a file that is lost with this process is worse than one that keeps its name.
func (p *pinner) unnaming(ts *threadState, n *inode) (errno unix.Errno) {
	if n == nil {
		return 0
	}
	n.Lock()
	open, linked := n.openFiles != nil && n.marks&markPinned == 0, n.marks&markLinked != 0
	n.Unlock()
	if open {
		errno = p.node(ts, n)
	}
	if linked && errno == 0 {
		p.keepLinked(ts, n)
	}
	return errno
}

// node has the keeper hold a descriptor of a node that is open.
func (p *pinner) node(ts *threadState, n *inode) unix.Errno {
	if p.cfg.Keeper == nil {
		return 0
	}
	fd, errno := p.find.fdOf(ts, n)
	if errno != 0 {
		return 0 // it is lost already
	}
	n.Lock()
	n.marks |= markPinned // before: whoever closes the last open file drops it
	n.Unlock()
	if err := p.cfg.Keeper.Keep(keeper.Node(n.ID()), fd); err != nil {
		return unix.ENFILE
	}
	return 0
}

// unpinned ends a node's pin, if it has one and nothing of it is open. n is locked.
func (p *pinner) unpinned(n *inode) {
	if n.marks&markPinned != 0 && n.openFiles == nil {
		n.marks &^= markPinned
		p.cfg.Keeper.Drop(keeper.Node(n.ID()))
	}
}

// file has the keeper hold an open file's descriptor, unless it does.
func (p *pinner) file(f *openFile) unix.Errno {
	if p.cfg.Keeper == nil || f.pinned.Load() {
		return 0
	}
	if err := p.cfg.Keeper.Keep(keeper.Open(f.ID()), f.fd); err != nil {
		return unix.ENFILE
	}
	f.pinned.Store(true)
	return 0
}

// nameless pins a new node without a name, of which fd is about to become an open file.
func (p *pinner) nameless(n *inode, fd int) unix.Errno {
	if p.cfg.Keeper == nil {
		return 0
	}
	n.Lock()
	n.marks |= markPinned
	n.Unlock()
	if err := p.cfg.Keeper.Keep(keeper.Node(n.ID()), fd); err != nil {
		return unix.ENFILE
	}
	return 0
}

// created pins the open file of a CREATE whose file, with the attributes in ts.st, could not be
// opened like that once more. On error it is closed.
func (p *pinner) created(ts *threadState, fh uint64, flags uint32) unix.Errno {
	if p.cfg.Keeper == nil || p.opensAgain(&ts.st, flags) {
		return 0
	}
	f := p.openFiles.Acquire(fh)
	if f == nil {
		return 0
	}
	defer p.openFiles.release(f)
	errno := p.file(f)
	if errno != 0 {
		p.openFiles.close(f)
	}
	return errno
}

// opensAgain reports whether this process can certainly open a file with these attributes.
func (p *pinner) opensAgain(st *unix.Statx_t, flags uint32) bool {
	if p.who.caps.has(unix.CAP_DAC_OVERRIDE) {
		return true
	}
	want := uint16(0)
	if flags&unix.O_ACCMODE != unix.O_WRONLY {
		want |= unix.R_OK
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY || p.opener.hostFlags(flags)&unix.O_ACCMODE != unix.O_RDONLY {
		want |= unix.W_OK
	}
	if st.Uid == p.who.uid {
		return st.Mode>>6&want == want
	}
	return st.Mode>>3&st.Mode&want == want // in the group or not
}

// files pins all open files of a node that is about to change so that it might not be opened
// again as they were.
func (p *pinner) files(ts *threadState, n *inode) (errno unix.Errno) {
	if p.cfg.Keeper == nil {
		return 0
	}
	var list []*openFile
	n.Lock()
	for f := n.openFiles; f != nil; f = f.next {
		if f.dir == nil && !f.pinned.Load() && f.Acquire() {
			list = append(list, f)
		}
	}
	n.Unlock()
	for _, f := range list {
		if errno == 0 && f.lazy.Load() {
			errno = p.openFiles.reopen(ts, f)
		}
		if errno == 0 {
			errno = p.file(f)
		}
		p.openFiles.release(f)
	}
	return errno
}

// pins takes over what the keeper has held. What nothing needs any more is dropped.
func (r *resumer) pins() {
	r.fs.pins.drop(func(k keeper.Key) bool {
		switch k { // a predecessor may have made more keys of one thing
		case keeper.Node(k.ID):
			return r.pinnedNode(k)
		case keeper.Open(k.ID):
			return r.pinnedFile(k)
		case keeper.Lock(k.ID, k.Sub):
			return r.pinnedOwner(k)
		}
		return false
	})
}

// drop drops the pins of a predecessor that were not taken.
func (p *pinner) drop(take func(keeper.Key) bool) {
	if p.cfg.Keeper == nil {
		return
	}
	for _, k := range p.cfg.Keeper.Kept() {
		switch k.Kind {
		case keeper.KindNode, keeper.KindOpen, keeper.KindLock:
		default:
			continue // somebody else's
		}
		if take(k) {
			continue
		}
		if fd, ok := p.cfg.Keeper.Take(k); ok {
			switch k.Kind { // now, not when the keeper has read that it is dropped
			case keeper.KindOpen:
				_ = sysFlock(fd, unix.LOCK_UN)
			case keeper.KindLock:
				_ = sysFcntlLock(fd, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET})
			}
			_ = unix.Close(fd)
		}
		p.cfg.Keeper.Drop(k)
	}
}

// takePin is a descriptor that the keeper held, counted as one of fs, if it is of the node's
// file. It is checked because the client may have controlled the process that handed it to the
// keeper.
func (r *resumer) takePin(k keeper.Key, n *inode) (fd int, ok bool) {
	fs := &r.fs
	fd, ok = fs.cfg.Keeper.Take(k)
	if !ok {
		return -1, false
	}
	if fs.fds.count() != 0 {
		_ = unix.Close(fd)
		return -1, false
	}
	if statxCached(fd, &r.ts.found) != 0 || !n.is(&r.ts.found) && !n.isElsewhere(r.ts) {
		fs.fds.close(fd)
		return -1, false
	}
	return fd, true
}

// isElsewhere reports whether the file of ts.found is the node's, seen through a mount of another
// process: the descriptor brings that along.
func (n *inode) isElsewhere(ts *threadState) bool {
	k := keyOf(&ts.found)
	return k.dev == n.Key().dev && k.ino == n.Key().ino && birthOf(&ts.found) == n.birth()
}

func (r *resumer) pinnedNode(k keeper.Key) bool {
	n := r.fs.nodes.Restored(uint32(k.ID))
	if n == nil || n.ID() != k.ID || n.openFiles == nil {
		return false
	}
	fd, ok := r.takePin(k, n)
	if !ok {
		return false
	}
	n.marks |= markPinned
	if !n.is(&r.ts.found) {
		fd = r.here(n, fd)
	}
	if !r.fs.nodes.setFD(n, fd) {
		r.fs.fds.close(fd)
	}
	return true
}

// here exchanges a node's descriptor that belongs to a mount of the predecessor's for one of this
// process's, if the file is still at its place: files are linked and renamed within one mount only, and
// what is found through a directory belongs to the directory's.
func (r *resumer) here(n *inode, fd int) int {
	own, errno := r.fs.find.rewalk(r.ts, n, 0)
	if errno != 0 {
		return fd
	}
	r.fs.fds.close(fd)
	return own
}

func (r *resumer) pinnedFile(k keeper.Key) bool {
	f := r.fs.openFiles.Acquire(k.ID)
	if f == nil {
		return false
	}
	defer r.fs.openFiles.release(f)
	fd, ok := r.takePin(k, f.node)
	if !ok {
		return false
	}
	f.fd = fd
	f.pinned.Store(true)
	f.lazy.Store(false)
	return true
}

// keepLinked gives a node that is about to lose a name a file handle. Its file has others, of which none may be known, and a
// successor of this process has no descriptor of it.
func (p *pinner) keepLinked(ts *threadState, n *inode) {
	if p.recovery.store == nil || p.cfg.FileHandles == HandlesNever {
		return
	}
	if fd, errno := p.find.fdOf(ts, n); errno == 0 {
		n.Lock()
		defer n.Unlock()
		_ = p.find.takeHandle(n, fd, &emptyName[0], &ts.handle)
	}
}
