package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// FS is the file system of a FUSE program, for clients that are not trusted. It is a server.FileSystem for one
// client at a time. The program continues when a session ends: the next one finds nothing open and nothing looked up.
type FS struct {
	server.NotImplemented
	source Source
	opts   Options
	oops   rate.Sometimes

	nodes *nodes.Table[uint64, node]
	files *nodes.OpenFiles[file]

	// most is what replies promise at most, a time.Duration; 0 is what the program says.
	most atomic.Int64
	// noOpen and noOpendir say that the program has answered ENOSYS: it needs no file handles.
	noOpen, noOpendir atomic.Bool
	offered           atomic.Uint64 // fp.InitFlags of the client
	nodeCount         atomic.Int64
	fileCount         atomic.Int64
	positions         atomic.Int64 // that open directories keep

	link atomic.Pointer[link] // nil only before New has returned

	mu      sync.Mutex // guards the following
	byID    map[uint64]*node
	keys    uint64          // the last key that a node got
	session chan struct{}   // closed when the client's session ends
	closing context.Context // ends with Close
	close   context.CancelFunc

	restart restarter
	teller  teller
}

// New starts the program of the source, and returns when it has answered INIT. The context is for that only.
func New(ctx context.Context, source Source, opts Options) (*FS, error) {
	opts.complete()
	fs := &FS{source: source, opts: opts, byID: make(map[uint64]*node), session: make(chan struct{}),
		oops: rate.Sometimes{Interval: time.Second}}
	fs.restart.init()
	fs.closing, fs.close = context.WithCancel(context.Background())
	fs.nodes = nodes.New(nodes.Config[uint64, node]{Gone: fs.nodeGone})
	fs.files = nodes.NewOpenFiles(nodes.OpenConfig[file]{Gone: fs.fileGone})
	l, err := fs.start(ctx, 1)
	if err != nil {
		return nil, err
	}
	fs.makeRoot(l)
	fs.link.Store(l)
	go fs.serve(l)
	return fs, nil
}

// makeRoot makes the only node that exists without a lookup.
func (fs *FS) makeRoot(l *link) {
	root := fs.nodes.Intern(nil, 0, nil, func() *node { return &node{kind: unix.S_IFDIR} })
	root.id.Store(fp.RootID)
	root.epoch.Store(math.MaxUint32) // every program has it
	fs.byID[fp.RootID] = root
	fs.nodes.Release(root)
}

// start has the source start a program, and speaks INIT with it.
func (fs *FS) start(ctx context.Context, epoch uint32) (*link, error) {
	m, err := fs.source.Mount(ctx)
	if err != nil {
		return nil, err
	}
	l, err := newLink(m, epoch, fs.opts.Log)
	if err != nil {
		return nil, err
	}
	l.notify, l.late, l.letGo = fs.notify, fs.late, fs.letGo
	l.process, l.why = m.Process, m.Err
	l.maxRead, l.maxForgets = maxReadOption(m.Options), fs.opts.MaxNodes
	if err := l.init(ctx, fs.opts.StartTimeout); err != nil {
		l.end(err)
		return nil, fs.startError(l, err)
	}
	return l, nil
}

// ErrProtocol is in the chain of errors about programs that do not speak the protocol, or another one.
var ErrProtocol = errors.New("this is not a FUSE program that can be relayed")

// Ended is closed when the program has ended and is not started again.
func (fs *FS) Ended() <-chan struct{} { return fs.restart.ended }

// Init implements server.FileSystem. The program's INIT was before: the client gets what both can.
func (fs *FS) Init(p *server.InitParams) unix.Errno {
	l := fs.link.Load()
	p.Flags = l.flags&passed | fp.InitMaxPages | fp.InitExt
	p.MaxWrite = min(p.MaxWrite, l.maxWrite, MaxData)
	fs.offered.Store(uint64(p.Offered))
	fs.mu.Lock()
	defer fs.mu.Unlock()
	select {
	case <-fs.session:
		fs.session = make(chan struct{})
	default:
	}
	return 0
}

// Destroy implements server.FileSystem. The program is told what the client does not need any more.
func (fs *FS) Destroy() {
	fs.mu.Lock()
	select {
	case <-fs.session:
	default:
		close(fs.session) // those who wait give up
	}
	fs.mu.Unlock()
	fs.link.Load().giveUp()
	for f := range fs.files.All {
		fs.files.Close(f)
	}
	for n := range fs.nodes.All {
		fs.nodes.Forget(nil, n, math.MaxUint64)
	}
}

// Close implements server.FileSystem: it ends the program.
func (fs *FS) Close() {
	fs.close()
	l := fs.link.Load()
	if l.alive() {
		fs.sayDestroy(l)
	}
	l.end(errors.New("the relay was closed"))
}

// sayDestroy lets the program know that it is unmounted, and waits a moment for its answer: it may have to write.
func (fs *FS) sayDestroy(l *link) {
	c := newCall()
	c.header.Opcode, c.header.NodeID = uint32(fp.OpDestroy), 0
	if errno := l.do(c); errno != 0 {
		return
	}
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		if !l.abandon(c) {
			<-c.done
		}
	}
	c.free()
}

// Forget implements server.FileSystem.
func (fs *FS) Forget(by *fuse.Cell, nodeID, nlookup uint64) {
	if n := fs.nodes.Acquire(nodeID); n != nil {
		fs.nodes.Forget(by, n, nlookup)
		fs.nodes.Release(n)
	}
}

// Path implements server.FileSystem.
func (fs *FS) Path(nodeID uint64) string { return fs.path(nodeID) }

// Statfs implements server.FileSystem.
func (fs *FS) Statfs(r *server.Request, out *fp.Kstatfs) unix.Errno {
	return fs.withNode(r, func(n *node) unix.Errno {
		c := fs.newCall(r, fp.OpStatfs, n)
		defer c.free()
		c.form, c.fixedSize = formFixed, fp.Size[fp.StatfsOut]()
		if errno := fs.ask(r, c); errno != 0 {
			return errno
		}
		*out = replyOf[fp.StatfsOut](c).St
		return 0
	})
}

// lie notes that the program does not keep to the protocol; the client gets EIO.
func (fs *FS) lie(format string, args ...any) unix.Errno {
	fs.oops.Do(func() { fs.opts.Log.Warn("the program has sent " + fmt.Sprintf(format, args...)) })
	return unix.EIO
}
