package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A client that gets ENOSYS for OPEN or OPENDIR opens nothing from then on
// (fs/fuse/file.c: fuse_file_open). It reads with fh 0, keeps data as with
// FOPEN_KEEP_CACHE, and does not say when it has done with a file. It saves two
// requests a file, and is for immutable shares only: a client that truncates a file as
// it opens it would not be heard, and locks could not be told apart.
//
// Such a file gets an open file with the first request that needs one, which all requests
// share. It stays open for those to come, until the client forgets the node or until
// there are too many.

const openlessFlags = fp.InitNoOpenSupport | fp.InitNoOpendirSupport

// canOpenless reports whether a client with these features can do without opening.
func (fs *FS) canOpenless(offered fp.InitFlags) bool {
	if fs.cfg.BackingFiles && offered&fp.InitPassthrough != 0 {
		return false // only an OPEN gets a backing file
	}
	return fs.cfg.Immutable && offered&openlessFlags == openlessFlags && len(fs.cache.direct) == 0 && fs.cache.directSize == 0
}

// openless is what FS knows of a client that opens nothing.
type openless struct {
	agreed atomic.Bool
	mu     sync.Mutex
	// queue has the numbers of shared open files in the order in which they were opened. Those
	// that were used since they came to the front are spared once. mu guards it.
	queue []uint64
}

// sharedOpenFile finds or makes the open file of a node.
func (fs *FS) sharedOpenFile(ts *threadState, n *inode) (*openFile, unix.Errno) {
	if f := n.sharedOpenFile(); f != nil {
		return f, 0
	}
	if !n.isDir() && !n.isReg() {
		return nil, unix.ENXIO
	}
	fs.limitShared()
	if errno := fs.fds.keep(); errno != 0 {
		return nil, errno
	}
	fh, errno := fs.openShared(ts, n)
	if fs.fds.unkeepOn(errno) != 0 {
		return nil, errno
	}
	f, errno := fs.openFileOf(n.ID(), fh)
	if errno != 0 {
		return nil, errno // the client is gone
	}
	fs.share(n, f)
	return f, 0
}

// openShared opens the node and makes an open file, which nobody shares yet.
func (fs *FS) openShared(ts *threadState, n *inode) (uint64, unix.Errno) {
	fd, errno := fs.find.fdOf(ts, n)
	if errno != 0 {
		return 0, errno
	}
	opened, errno := fs.opener.openAgain(ts, fd, unix.O_RDONLY|unix.O_NONBLOCK, unix.O_RDONLY)
	if errno != 0 {
		return 0, errno
	}
	fh, errno := fs.addOpenFile(nil, n, opened, unix.O_RDONLY)
	if errno != 0 {
		fs.fds.close(opened)
	}
	return fh, errno
}

// sharedOpenFile is the node's shared open file, with a reference, or nil.
func (n *inode) sharedOpenFile() *openFile {
	n.Lock()
	defer n.Unlock()
	for f := n.openFiles; f != nil; f = f.next {
		if f.shared && f.Acquire() {
			f.touched.Store(true)
			return f
		}
	}
	return nil
}

func (f *openFile) isShared() bool {
	f.node.Lock()
	defer f.node.Unlock()
	return f.shared
}

// share lets others use h, which was just opened. Two threads may both have made one;
// then both are used, and closed in the end.
func (fs *FS) share(n *inode, f *openFile) {
	n.Lock()
	f.shared = true
	fs.setBits(f, openShared, openShared)
	f.touched.Store(true)
	n.Unlock()
	fs.openless.mu.Lock()
	fs.openless.queue = append(fs.openless.queue, f.ID())
	fs.openless.mu.Unlock()
	fs.sweeper.arm()
	if fs.nodes.Get(n.ID()) == nil { // forgotten meanwhile: nobody closes it later
		fs.closeOpenFile(f)
	}
}

// limitShared closes shared open files if they take more than half of the descriptors.
func (fs *FS) limitShared() {
	s := &fs.openless
	s.mu.Lock()
	defer s.mu.Unlock()
	for spared := 0; len(s.queue) >= max(fs.cfg.MaxFDs/2, 1); {
		if fs.closeFirst(spared < len(s.queue)-1) {
			spared++
		}
	}
}

// sweepShared closes shared open files that were not used since the last time, and reports
// whether some are left.
func (fs *FS) sweepShared() (more bool) {
	s := &fs.openless
	s.mu.Lock()
	defer s.mu.Unlock()
	for range len(s.queue) {
		more = fs.closeFirst(true) || more
	}
	return more
}

// closeFirst takes the first open file off the queue and closes it. It spares one that was
// used, if it may, and puts it at the end. fs.openless.mu is held.
func (fs *FS) closeFirst(maySpare bool) (spared bool) {
	s := &fs.openless
	fh := s.queue[0]
	s.queue = s.queue[1:]
	f := fs.openFiles.Acquire(fh)
	if f == nil {
		return false // closed before
	}
	defer fs.releaseOpenFile(f)
	if f.touched.Swap(false) && maySpare {
		s.queue = append(s.queue, fh)
		return true
	}
	f.node.unshare(f)
	fs.closeOpenFile(f)
	return false
}

// unshare keeps requests to come from using h.
func (n *inode) unshare(f *openFile) {
	n.Lock()
	defer n.Unlock()
	f.shared = false
}

// closeShared closes the shared open files of a node that the client has forgotten.
func (fs *FS) closeShared(n *inode) {
	for f := n.sharedOpenFile(); f != nil; f = n.sharedOpenFile() {
		n.unshare(f)
		fs.closeOpenFile(f)
		fs.releaseOpenFile(f)
	}
}
