package gofuse

import (
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// Options are for New. All may be left out.
type Options struct {
	// Mount are options that the file system would be mounted with. Those that are for a mount
	// on this machine mean nothing.
	Mount gofuse.MountOptions
	// MaxRunning is how many requests the file system gets at the same time; 0 is 64.
	MaxRunning int
	// MaxNodes and MaxOpen are how many nodes the client can know, and how many files it can have open; 0
	// are 4 Mi and 65536. One more gets ENFILE.
	MaxNodes, MaxOpen int
}

// FS is a go-fuse file system. It is a server.FileSystem.
type FS struct {
	server.NotImplemented
	raw    gofuse.RawFileSystem
	opts   Options
	slots  chan struct{}
	proto  atomic.Pointer[gofuse.ProtocolServer] // of the session
	unique atomic.Uint64
	nodes  *nodes.Table[uint64, node]
	open   *nodes.OpenFiles[openFile]
	known  atomic.Int64
	opened atomic.Int64
}

var _ server.FileSystem = (*FS)(nil)

// node is what the client knows of a node. Its key is go-fuse's number for it.
type node struct {
	nodes.Node[uint64, node]
	lookups atomic.Uint64 // that go-fuse has counted, to be forgotten
}

// openFile is an open file or directory.
type openFile struct {
	nodes.OpenFile
	node  *node // held
	fh    uint64
	flags uint32
	dir   bool
}

// New makes a file system of one of go-fuse's. raw is used by nobody else.
func New(raw gofuse.RawFileSystem, o Options) *FS {
	if o.MaxRunning == 0 {
		o.MaxRunning = 64
	}
	if o.MaxNodes == 0 {
		o.MaxNodes = 4 << 20
	}
	if o.MaxOpen == 0 {
		o.MaxOpen = 1 << 16
	}
	if o.Mount.Logger == nil {
		o.Mount.Logger = slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)
	}
	// What these need is not here: see the package's documentation.
	o.Mount.EnableLocks, o.Mount.ExplicitDataCacheControl, o.Mount.RememberInodes = false, false, false
	f := &FS{raw: raw, opts: o, slots: make(chan struct{}, o.MaxRunning)}
	f.nodes = nodes.New(nodes.Config[uint64, node]{Gone: f.gone})
	f.open = nodes.NewOpenFiles(nodes.OpenConfig[openFile]{Gone: f.closed})
	f.nodes.Intern(nil, fp.RootID, nil, f.newNode)
	f.proto.Store(gofuse.NewProtocolServer(raw, &f.opts.Mount))
	return f
}

func (f *FS) newNode() *node {
	f.known.Add(1)
	return new(node)
}

// gone is told by the table that nothing refers to a node any more.
func (f *FS) gone(n *node) {
	f.known.Add(-1)
	if lookups := n.lookups.Load(); lookups > 0 {
		f.forget(n.Key(), lookups)
	}
}

// forget tells go-fuse. FORGET has no answer.
func (f *FS) forget(id, lookups uint64) {
	body := fp.ForgetIn{NLookup: lookups}
	f.send(fp.InHeader{Opcode: uint32(fp.OpForget), NodeID: id}, [][]byte{fp.Bytes(&body)}, nil)
}

// closed is told by the table that an open file has ended.
func (f *FS) closed(o *openFile) {
	f.opened.Add(-1)
	f.nodes.Unhold(o.node)
}

// allowed are the features that need nothing from the client or the transport that is not here.
const allowed = fp.InitAsyncRead | fp.InitBigWrites | fp.InitDoReaddirplus | fp.InitReaddirplusAuto |
	fp.InitParallelDirops | fp.InitMaxPages | fp.InitAutoInvalData | fp.InitCacheSymlinks | fp.InitPosixACL |
	fp.InitNoOpenSupport | fp.InitAsyncDIO | fp.InitExt

// Init implements server.FileSystem.
func (f *FS) Init(p *server.InitParams) unix.Errno {
	if p.Resumed {
		return unix.EINVAL // there is no state
	}
	proto := gofuse.NewProtocolServer(f.raw, &f.opts.Mount)
	f.proto.Store(proto)
	offered := p.Offered & allowed
	in := fp.InitIn{Major: fp.KernelVersion, Minor: p.Minor, MaxReadahead: p.MaxReadahead, Flags: uint32(offered), Flags2: uint32(offered >> 32)}
	var out fp.InitOut
	if _, errno := f.send(fp.InHeader{Opcode: uint32(fp.OpInit)}, [][]byte{fp.Bytes(&in)}, [][]byte{fp.Bytes(&out)}); errno != 0 {
		return errno
	}
	agreed := (fp.InitFlags(out.Flags) | fp.InitFlags(out.Flags2)<<32) & allowed &^ fp.InitExt
	// The file system may expect that the client truncates by SETATTR.
	p.Flags = p.Flags&^(fp.InitAtomicOTrunc|fp.InitAutoInvalData) | agreed
	p.MaxWrite = min(p.MaxWrite, out.MaxWrite)
	p.MaxReadahead = min(p.MaxReadahead, out.MaxReadahead)
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
	if root := f.nodes.Acquire(fp.RootID); root != nil {
		if lookups := root.lookups.Swap(0); lookups > 0 {
			f.forget(fp.RootID, lookups)
		}
		f.nodes.Release(root)
	}
}

// Unmount implements server.FileSystem.
func (f *FS) Unmount(*server.Request) unix.Errno { return 0 }

// Close implements server.FileSystem.
func (f *FS) Close() { f.raw.OnUnmount() }

// Forget implements server.FileSystem.
func (f *FS) Forget(by *fuse.Cell, nodeID, nlookup uint64) {
	if n := f.nodes.Acquire(nodeID); n != nil {
		f.nodes.Forget(by, n, nlookup)
		f.nodes.Release(n)
	}
}

// send hands a message over. in is what follows the header, out is where the answer behind its header
// goes; the last of out is data, of any length. It returns how much there is in out.
func (f *FS) send(h fp.InHeader, in, out [][]byte) (n int, _ unix.Errno) {
	h.Len = uint32(headerSize)
	for _, b := range in {
		h.Len += uint32(len(b))
	}
	if h.Unique == 0 {
		h.Unique = f.unique.Add(1)
	}
	var reply fp.OutHeader
	iovIn := append([][]byte{fp.Bytes(&h)}, in...)
	var iovOut [][]byte
	if out != nil {
		iovOut = append([][]byte{fp.Bytes(&reply)}, out...)
	}
	n, status := f.proto.Load().HandleRequest(iovIn, iovOut)
	switch {
	case !status.Ok():
		return 0, unix.EIO
	case out == nil:
		return 0, 0
	case n < replySize || reply.Error > 0 || reply.Error < -4095:
		return 0, unix.EIO
	case reply.Error != 0:
		return 0, unix.Errno(-reply.Error)
	}
	return n - replySize, 0
}

var (
	headerSize = fp.Size[fp.InHeader]()
	replySize  = fp.Size[fp.OutHeader]()
)

// call runs do, which may block, on a goroutine of its own when there is a slot.
func (f *FS) call(r *server.Request, do func(c *call) unix.Errno) unix.Errno {
	if !r.MayWait {
		return server.WouldBlockInGo
	}
	if !f.enter(r) {
		return unix.EINTR
	}
	defer func() { <-f.slots }()
	n := f.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return unix.ESTALE // the client may send any number
	}
	defer f.nodes.Release(n)
	return do(&call{fs: f, r: r, node: n})
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

// call is a request that is being served.
type call struct {
	fs   *FS
	r    *server.Request
	node *node
}

// send is FS.send for a request of the client's, about its node, that ends when the client interrupts it.
func (c *call) send(op fp.Opcode, in, out [][]byte) (int, unix.Errno) {
	h := c.r.Header
	h.Opcode, h.NodeID, h.Unique, h.TotalExtLen = uint32(op), c.node.Key(), c.fs.unique.Add(1), 0
	done := make(chan struct{})
	defer close(done)
	go c.fs.interrupt(h.Unique, c.r.Canceled, done)
	return c.fs.send(h, in, out)
}

// interrupt tells go-fuse when a request is interrupted, until it is done. It may be too early: then go-fuse
// does not know the request yet, and says EAGAIN.
func (f *FS) interrupt(unique uint64, canceled, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-canceled:
	}
	in := fp.InterruptIn{Unique: unique}
	for {
		_, errno := f.send(fp.InHeader{Opcode: uint32(fp.OpInterrupt)}, [][]byte{fp.Bytes(&in)}, [][]byte{})
		if errno != unix.EAGAIN {
			return
		}
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// intern makes a node of what go-fuse has answered with, on which it has counted a lookup, and puts the
// client's number for it in out.
func (c *call) intern(out *fp.EntryOut) unix.Errno {
	if out.NodeID == 0 {
		return 0 // a name that does not exist, for a while
	}
	f, id := c.fs, out.NodeID
	var n *node
	if f.known.Load() < int64(f.opts.MaxNodes) {
		created := false
		n = f.nodes.Intern(c.r.Cell, id, nil, func() *node {
			created = true
			return f.newNode()
		})
		if n == nil && created {
			f.known.Add(-1)
		}
	}
	if n == nil {
		f.forget(id, 1)
		return unix.ENFILE
	}
	n.lookups.Add(1)
	out.NodeID = n.ID()
	f.nodes.Release(n)
	return 0
}

// opening makes an open file of the node with the client's number nodeID.
func (c *call) opening(nodeID uint64, out *fp.OpenOut, flags uint32, dir bool) unix.Errno {
	f := c.fs
	n := f.nodes.Acquire(nodeID)
	if n == nil {
		return unix.ESTALE
	}
	defer f.nodes.Release(n)
	n.Hold()
	f.opened.Add(1)
	o := &openFile{node: n, fh: out.Fh, flags: flags, dir: dir}
	var fh uint64
	if f.opened.Load() <= int64(f.opts.MaxOpen) {
		fh = f.open.Add(c.r.Cell, o)
	}
	if fh == 0 {
		f.sendRelease(o)
		f.closed(o)
		return unix.ENFILE
	}
	out.Fh = fh
	out.OpenFlags &^= fp.FopenPassthrough // it needs a descriptor of the client's
	return 0
}

// acquire is an open file of a node, or nil.
func (c *call) acquire(n *node, fh uint64) *openFile {
	o := c.fs.open.Acquire(fh)
	if o != nil && o.node != n {
		c.fs.open.Release(o)
		return nil
	}
	return o
}

// useOpen is call with an open file.
func (f *FS) useOpen(r *server.Request, fh uint64, do func(c *call, o *openFile) unix.Errno) unix.Errno {
	return f.call(r, func(c *call) unix.Errno {
		o := c.acquire(c.node, fh)
		if o == nil {
			return unix.EBADF
		}
		defer f.open.Release(o)
		return do(c, o)
	})
}

// release ends an open file, on which the caller has a reference.
func (f *FS) release(o *openFile) {
	if f.open.Close(o) {
		f.sendRelease(o)
	}
}

func (f *FS) sendRelease(o *openFile) {
	op := fp.OpRelease
	if o.dir {
		op = fp.OpReleasedir
	}
	in := fp.ReleaseIn{Fh: o.fh, Flags: o.flags}
	f.send(fp.InHeader{Opcode: uint32(op), NodeID: o.node.Key()}, [][]byte{fp.Bytes(&in)}, [][]byte{})
}
