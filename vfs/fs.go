package vfs

import (
	"context"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// Options are for New. All may be left out.
type Options struct {
	// EntryTimeout, AttrTimeout and NegativeTimeout are how long the client may use names,
	// attributes and names that do not exist without asking. 0 has it ask each time.
	EntryTimeout, AttrTimeout, NegativeTimeout time.Duration
	// Immutable says that nothing changes while the file system is served: the client keeps all
	// for as long as it likes.
	Immutable bool
	// ReadOnly refuses what changes something with EROFS.
	ReadOnly bool
	// NonBlocking says that no method waits for anything but short locks: methods run on the
	// thread of the queue.
	NonBlocking bool
	// MaxRunning is how many methods may run at the same time; 0 is 64. It means nothing with
	// NonBlocking.
	MaxRunning int
	// MaxNodes is how many nodes the client can know; 0 is 4 Mi. Each takes some 200 bytes beside
	// what is the file system's own. One more gets ENFILE.
	MaxNodes int
	// MaxOpen is how many files and directories the client can have open; 0 is 65536. One more gets
	// ENFILE.
	MaxOpen int
	// MaxListings is how many bytes the listings of open directories may take; 0 is 64 MiB. One more
	// gets ENOMEM.
	MaxListings int64
	// NoXattr says that no file has extended attributes: the client asks once, and not again before each write. It is so
	// anyway if the root is no Xattrer.
	NoXattr bool
	// Writeback has the client's kernel collect what programs write, and write it later and in larger pieces
	// (FUSE_WRITEBACK_CACHE). It is for files that only this client changes: the kernel takes its own size and time of change
	// for right while it has a file's data, and tells the time by a SetAttr. Opener and Creator do not get O_APPEND then, and
	// O_RDWR for O_WRONLY, because the kernel reads the rest of a page that is written in part. An error of a write is
	// that of a later fsync(2) or close(2). Without it each write(2) is at least one Write.
	Writeback bool
	// KillPriv has the client leave it to FS that who changes the data or the owner of a file ends its set-ID bits and
	// capabilities (FUSE_HANDLE_KILLPRIV_V2). FS does so by Attr and SetAttr of the node, and by Getxattr and
	// Removexattr of "security.capability" where the node has these. Without it the kernel of the client does it, and
	// asks for that attribute before a write, unless NoXattr says that there is none. Who may keep set-ID bits loses those of a
	// file with capabilities all the same: the client does not say which of both it means. A capability that is set
	// behind the back of FS can outlive a write.
	KillPriv bool
	// Locks has the client ask for the locks of fcntl(2) and flock(2), for open files that are a
	// Locker. A lock of another file is refused with EOPNOTSUPP. Without it the client's kernel keeps
	// locks itself, which is enough, and faster, for nodes that nobody else uses.
	Locks bool
	// MaxLocks is how many locks, and owners of locks, the client can have; 0 is 65536. Each takes some
	// 150 bytes. One more gets ENOLCK.
	MaxLocks int64
}

// immutableFor is for ever: the kernel adds it to its clock.
const immutableFor = 365 * 24 * time.Hour

// FS serves a tree of nodes. It is a server.FileSystem.
type FS struct {
	server.NotImplemented
	opts   Options
	root   Node
	nodes  *nodes.Table[Node, inode]
	open   *nodes.OpenFiles[openFile]
	xattrs bool
	slots  chan struct{} // methods that run
	known  atomic.Int64  // nodes
	opened atomic.Int64  // open files and directories
	listed atomic.Int64  // bytes of listings
	locked atomic.Int64  // locks, and owners of locks
	owners lockOwners    // of locks

	accesses bool // some nodes are Accessers

	writeback, killPriv atomic.Bool // what Options want and the client can

	notifier atomic.Pointer[fuse.Notifier]
}

var _ server.FileSystem = (*FS)(nil)

// inode is what the client knows of a node. Its key is the node.
type inode struct {
	nodes.Node[Node, inode]
	writers      atomic.Int32 // open files that were opened for writing
	noCapability atomic.Bool  // it had none when it was asked
}

// openFile is an open file or directory.
type openFile struct {
	nodes.OpenFile
	node   *inode // held
	handle Handle
	writes bool // it was opened for writing

	mu     sync.Mutex // guards the listing
	list   []DirEntry // of a directory; nil if it was not read
	listed int64      // bytes that it is counted with
	read   bool

	wakes wakes
}

// New makes a file system of a root directory. It panics if nodes of root's type can't be compared.
func New(root Node, o Options) *FS {
	if !comparable(root) {
		panic("vfs: the root node can't be compared: " + reflect.TypeOf(root).String())
	}
	if o.Immutable {
		o.EntryTimeout, o.AttrTimeout, o.NegativeTimeout = immutableFor, immutableFor, immutableFor
	}
	if o.MaxRunning == 0 {
		o.MaxRunning = 64
	}
	if o.MaxNodes == 0 {
		o.MaxNodes = 4 << 20
	}
	if o.MaxOpen == 0 {
		o.MaxOpen = 1 << 16
	}
	if o.MaxListings == 0 {
		o.MaxListings = 64 << 20
	}
	if o.MaxLocks == 0 {
		o.MaxLocks = 1 << 16
	}
	f := &FS{opts: o, root: root, slots: make(chan struct{}, o.MaxRunning)}
	f.owners.of = make(map[*inode]map[LockOwner]uint64)
	if _, ok := As[Xattrer](root); ok {
		f.xattrs = !o.NoXattr
	}
	_, f.accesses = As[Accesser](root)
	f.nodes = nodes.New(nodes.Config[Node, inode]{Gone: f.gone})
	f.open = nodes.NewOpenFiles(nodes.OpenConfig[openFile]{Gone: f.closed})
	f.known.Add(1)
	f.nodes.Intern(nil, root, nil, func() *inode { return new(inode) })
	return f
}

// comparable reports whether a node can be a key.
func comparable(n Node) bool { return n != nil && reflect.ValueOf(n).Comparable() }

// gone is told by the table that nothing refers to a node any more.
func (f *FS) gone(n *inode) {
	f.known.Add(-1)
	if n, ok := As[Forgetter](n.Key()); ok {
		n.Forget()
	}
}

// closed is told by the table that an open file has ended. RELEASE has closed its handle.
func (f *FS) closed(o *openFile) {
	f.opened.Add(-1)
	f.listed.Add(-o.listed)
	if o.writes {
		o.node.writers.Add(-1)
	}
	f.nodes.Unhold(o.node)
}

// Init implements server.FileSystem.
func (f *FS) Init(p *server.InitParams) unix.Errno {
	if p.Resumed {
		return unix.EINVAL // there is no state
	}
	// The client truncates by SETATTR: an Opener can't forget it.
	p.Flags &^= fp.InitAtomicOTrunc
	p.Flags |= fp.InitDoReaddirplus | fp.InitReaddirplusAuto
	if f.opts.Immutable {
		p.Flags |= fp.InitCacheSymlinks
	}
	if f.opts.Locks {
		p.Flags |= fp.InitPosixLocks | fp.InitFlockLocks
	}
	if f.opts.Writeback && !f.opts.ReadOnly {
		p.Flags |= fp.InitWritebackCache
	}
	if f.opts.KillPriv && !f.opts.ReadOnly {
		p.Flags |= fp.InitHandleKillprivV2
	}
	agreed := p.Flags & p.Offered
	f.writeback.Store(agreed&fp.InitWritebackCache != 0)
	f.killPriv.Store(agreed&fp.InitHandleKillprivV2 != 0)
	// More of the client's read-ahead and write-back at once would only queue up, and have
	// buffers.
	p.MaxBackground = uint16(min(max(2*f.opts.MaxRunning, 8), math.MaxUint16))
	p.CongestionThreshold = p.MaxBackground / 4 * 3
	return 0
}

// Destroy implements server.FileSystem.
func (f *FS) Destroy() {
	for o := range f.open.All {
		f.release(o)
	}
	for n := range f.nodes.All {
		f.nodes.Forget(nil, n, math.MaxUint64)
	}
}

// Forget implements server.FileSystem.
func (f *FS) Forget(by *fuse.Cell, nodeID, nlookup uint64) {
	if n := f.nodes.Acquire(nodeID); n != nil {
		f.nodes.Forget(by, n, nlookup)
		f.nodes.Release(n)
	}
}

// call runs a method of the file system's for r: at once, or, since it may block, on a goroutine of
// its own when there is a slot for it.
func (f *FS) call(r *server.Request, do func(ctx context.Context) error) unix.Errno {
	if f.opts.NonBlocking {
		return answerable(server.Errno(do(contextOf(r))))
	}
	if !r.MayWait {
		return server.WouldBlockInGo
	}
	if !f.enter(r) {
		return unix.EINTR
	}
	defer func() { <-f.slots }()
	return answerable(server.Errno(do(contextOf(r))))
}

// enter takes a slot; false if the client has interrupted a request that waits for one. If there is one the
// request is served: the client's kernel interrupts requests for every signal, also for those that
// restart what they interrupt.
func (f *FS) enter(r *server.Request) bool {
	select {
	case f.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case f.slots <- struct{}{}:
		return true
	case <-r.Canceled:
		return false
	}
}

// answerable is what a client can get: errors of a method are not to be taken for a wish to wait.
func answerable(errno unix.Errno) unix.Errno {
	if errno >= server.WouldBlock {
		return unix.EIO
	}
	return errno
}

// use is call with the request's node.
func (f *FS) use(r *server.Request, do func(ctx context.Context, n Node) error) unix.Errno {
	return f.call(r, func(ctx context.Context) error {
		n := f.nodes.Acquire(r.Header.NodeID)
		if n == nil {
			return unix.ESTALE // the client may send any number
		}
		defer f.nodes.Release(n)
		return do(ctx, n.Key())
	})
}

// change is use for what changes something.
func (f *FS) change(r *server.Request, do func(ctx context.Context, n Node) error) unix.Errno {
	if f.opts.ReadOnly {
		return unix.EROFS
	}
	return f.use(r, do)
}

// useOpen is call with an open file of the request's node.
func (f *FS) useOpen(r *server.Request, fh uint64, do func(ctx context.Context, o *openFile) error) unix.Errno {
	return f.call(r, func(ctx context.Context) error {
		o := f.acquireOpen(r, fh)
		if o == nil {
			return unix.EBADF
		}
		defer f.open.Release(o)
		return do(ctx, o)
	})
}

// acquireOpen is an open file of the request's node, or nil. The caller releases it.
func (f *FS) acquireOpen(r *server.Request, fh uint64) *openFile {
	o := f.open.Acquire(fh)
	if o != nil && o.node.ID() != r.Header.NodeID {
		f.open.Release(o)
		return nil
	}
	return o
}

// intern is the client's node of n, with one lookup more, to be released.
func (f *FS) intern(r *server.Request, n Node) (*inode, error) {
	if !comparable(n) {
		return nil, unix.EIO
	}
	if f.known.Load() >= int64(f.opts.MaxNodes) {
		return nil, unix.ENFILE
	}
	created := false
	i := f.nodes.Intern(r.Cell, n, nil, func() *inode {
		created = true
		f.known.Add(1)
		return new(inode)
	})
	switch {
	case i == nil && created:
		f.known.Add(-1)
		fallthrough
	case i == nil:
		return nil, unix.ENFILE
	case created:
		if n, ok := As[Rememberer](n); ok {
			n.Remember()
		}
	}
	return i, nil
}

// answer fills in an entry for n, and counts the lookup.
func (f *FS) answer(ctx context.Context, r *server.Request, n Node, out *fp.EntryOut) error {
	attr, err := n.Attr(ctx)
	if err != nil {
		return err
	}
	i, err := f.intern(r, n)
	if err != nil {
		return err
	}
	defer f.nodes.Release(i)
	f.fill(i, &attr, out)
	return nil
}

// fill fills in an entry.
func (f *FS) fill(i *inode, attr *Attr, out *fp.EntryOut) {
	out.NodeID = i.ID()
	out.EntryValid, out.EntryValidNsec = seconds(f.opts.EntryTimeout)
	out.AttrValid, out.AttrValidNsec = seconds(f.opts.AttrTimeout)
	attr.put(i.ID(), &out.Attr)
}

func seconds(d time.Duration) (sec uint64, nsec uint32) {
	d = max(d, 0)
	return uint64(d / time.Second), uint32(d % time.Second)
}

// Statfs implements server.FileSystem.
func (f *FS) Statfs(r *server.Request, out *fp.Kstatfs) unix.Errno {
	return f.call(r, func(ctx context.Context) error {
		var s StatFS
		if root, ok := As[StatFSer](f.root); ok {
			var err error
			if s, err = root.StatFS(ctx); err != nil {
				return err
			}
		}
		if s.BlockSize == 0 {
			s.BlockSize = 4096
		}
		if s.NameMax == 0 {
			s.NameMax = fp.NameMax
		}
		out.Bsize, out.Frsize, out.NameLen = s.BlockSize, s.BlockSize, s.NameMax
		out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.BlocksFree, s.BlocksUsable
		out.Files, out.Ffree = s.Files, s.FilesFree
		return nil
	})
}
