package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A client that gets ENOSYS for OPEN or OPENDIR opens nothing from then on (fs/fuse/file.c:
// fuse_file_open). It reads with fh 0, keeps data as with FOPEN_KEEP_CACHE, and does not say when
// it has done with a file. This saves two requests a file. It is for immutable shares only:
// otherwise a truncation at open would be lost, and locks of several open files could not be
// distinguished.
//
// Such a file gets an open file with the first request that needs one, which all requests
// share. It stays open for those to come, until the client forgets the node or until
// there are too many.

const openlessFlags = fp.InitNoOpenSupport | fp.InitNoOpendirSupport

// can reports whether a client with these features can do without opening.
func (o *openless) can(offered fp.InitFlags) bool {
	if o.cfg.BackingFiles && offered&fp.InitPassthrough != 0 {
		return false // only an OPEN gets a backing file
	}
	return o.cfg.Immutable && offered&openlessFlags == openlessFlags && len(o.cache.direct) == 0 && o.cache.directSize == 0
}

// openless has the open files of a client that opens nothing.
type openless struct {
	cfg       *Config
	fds       *descriptors
	nodes     *nodeTable
	find      *locator
	opener    *opener
	openFiles *openTable
	sweeper   *sweeper
	recovery  *recovery
	cache     *cacheRules

	agreed atomic.Bool
	mu     sync.Mutex
	// queue has the numbers of shared open files in the order in which they were opened. Those
	// that were used since they came to the front are spared once. mu guards it.
	queue []uint64
}

// get finds or makes the open file of a node.
func (o *openless) get(ts *threadState, n *inode) (*openFile, unix.Errno) {
	if f := n.sharedOpenFile(); f != nil {
		return f, 0
	}
	if !n.isDir() && !n.isReg() {
		return nil, unix.ENXIO
	}
	o.limit()
	if errno := o.fds.keep(); errno != 0 {
		return nil, errno
	}
	fh, errno := o.open(ts, n)
	if o.fds.unkeepOn(errno) != 0 {
		return nil, errno
	}
	f, errno := o.openFiles.of(n.ID(), fh)
	if errno != 0 {
		return nil, errno // the client is gone
	}
	o.share(n, f)
	return f, 0
}

// open opens the node and makes an open file, which nobody shares yet.
func (o *openless) open(ts *threadState, n *inode) (uint64, unix.Errno) {
	fd, errno := o.find.fdOf(ts, n)
	if errno != 0 {
		return 0, errno
	}
	opened, errno := o.opener.openAgain(ts, fd, unix.O_RDONLY|unix.O_NONBLOCK, unix.O_RDONLY)
	if errno != 0 {
		return 0, errno
	}
	fh, errno := o.openFiles.add(nil, n, opened, unix.O_RDONLY)
	if errno != 0 {
		o.fds.close(opened)
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

// share lets others use f, which was just opened. Two threads may both have made one;
// then both are used, and closed in the end.
func (o *openless) share(n *inode, f *openFile) {
	n.Lock()
	f.shared = true
	o.recovery.setBits(f, openShared, openShared)
	f.touched.Store(true)
	n.Unlock()
	o.mu.Lock()
	o.queue = append(o.queue, f.ID())
	o.mu.Unlock()
	o.sweeper.arm()
	if o.nodes.Get(n.ID()) == nil { // forgotten meanwhile: nobody closes it later
		o.openFiles.close(f)
	}
}

// limit closes shared open files if they take more than half of the descriptors.
func (o *openless) limit() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for spared := 0; len(o.queue) >= max(o.cfg.MaxFDs/2, 1); {
		if o.closeFirst(spared < len(o.queue)-1) {
			spared++
		}
	}
}

// sweep closes shared open files that were not used since the last time, and reports
// whether some are left.
func (o *openless) sweep() (more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for range len(o.queue) {
		more = o.closeFirst(true) || more
	}
	return more
}

// closeFirst takes the first open file off the queue and closes it. It spares one that was
// used, if it may, and puts it at the end. fs.openleso.mu is held.
func (o *openless) closeFirst(maySpare bool) (spared bool) {
	fh := o.queue[0]
	o.queue = o.queue[1:]
	f := o.openFiles.Acquire(fh)
	if f == nil {
		return false // closed before
	}
	defer o.openFiles.release(f)
	if f.touched.Swap(false) && maySpare {
		o.queue = append(o.queue, fh)
		return true
	}
	f.node.unshare(f)
	o.openFiles.close(f)
	return false
}

// unshare keeps later requests from using f.
func (n *inode) unshare(f *openFile) {
	n.Lock()
	defer n.Unlock()
	f.shared = false
}

// closeOf closes the shared open files of a node that the client has forgotten.
func (o *openless) closeOf(n *inode) {
	for f := n.sharedOpenFile(); f != nil; f = n.sharedOpenFile() {
		n.unshare(f)
		o.openFiles.close(f)
		o.openFiles.release(f)
	}
}
