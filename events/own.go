package events

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// What the guest has changed itself, for a watcher that does not leave it out (inotify). An event of such a
// name or file is no event for the guest: its own kernel has told of it. What the guest keeps is made right all
// the same, since somebody on the host may have changed the file, too.

const (
	// ownFor is how long after a change of the guest an event counts as one of it.
	ownFor = 2 * time.Second
	maxOwn = 8192 // names, and files
	// tempPrefix is that of names which daemons make for a moment.
	tempPrefix = ".govirtiofs-"
)

type place struct {
	dir  uint64
	name string
}

// own are the guest's latest changes. It is in use only with such a watcher.
type own struct {
	on atomic.Bool

	mu    sync.Mutex // guards the following; a leaf
	names map[place]time.Time
	nodes map[uint64]time.Time
}

// use begins or ends it.
func (o *own) use(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.names, o.nodes = nil, nil
	if on {
		o.names, o.nodes = map[place]time.Time{}, map[uint64]time.Time{}
	}
	o.on.Store(on)
}

// note notes a time in m, which has no more than maxOwn; what is old makes room. If there is none, the guest may be
// told of a change of its own.
func note[K comparable](m map[K]time.Time, k K) {
	now := time.Now()
	if _, ok := m[k]; !ok && len(m) >= maxOwn {
		for i, at := range m {
			if now.Sub(at) > ownFor {
				delete(m, i)
			}
		}
	}
	if _, ok := m[k]; m != nil && (ok || len(m) < maxOwn) {
		m[k] = now
	}
}

// name notes that the guest changes what a name stands for.
func (o *own) name(dir uint64, name fp.Name) {
	if o.on.Load() {
		o.mu.Lock()
		defer o.mu.Unlock()
		note(o.names, place{dir, name.String()})
	}
}

// node notes that the guest changes a file.
func (o *own) node(id uint64) {
	if o.on.Load() {
		o.mu.Lock()
		defer o.mu.Unlock()
		note(o.nodes, id)
	}
}

// byGuest reports whether an event is one of what the guest has done itself.
func (p *pump) byGuest(e *hostwatch.Event) bool {
	o := &p.fs.own
	if !o.on.Load() {
		return false
	}
	id := e.Dir
	if e.Name != "" {
		id, _ = p.fs.Share.Child(e.Dir, nameOf(e.Name))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return recent(p.at, o.nodes, id) || recent(p.at, o.names, place{e.Dir, e.Name}) || recent(p.at, o.names, place{e.NewDir, e.NewName})
}

// recent reports whether something was changed shortly before a time.
func recent[K comparable](now time.Time, m map[K]time.Time, k K) bool {
	at, ok := m[k]
	return ok && now.Sub(at) < ownFor
}

// temporary reports whether an event is about a name that a daemon has made for a moment.
func (p *pump) temporary(e *hostwatch.Event) bool {
	return p.fs.own.on.Load() && (strings.HasPrefix(e.Name, tempPrefix) && e.NewName == "" || strings.HasPrefix(e.NewName, tempPrefix))
}

// Write implements server.Files.
func (fs *FS) Write(r *server.Request, in *fp.WriteIn, src fuse.Buffers) (int, unix.Errno) {
	fs.own.node(r.Header.NodeID)
	return fs.Share.Write(r, in, src)
}

// Fallocate implements server.Files.
func (fs *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	fs.own.node(r.Header.NodeID)
	defer fs.own.node(r.Header.NodeID) // it may take long
	return fs.Share.Fallocate(r, in)
}

// CopyFileRange implements server.Files.
func (fs *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (uint64, unix.Errno) {
	fs.own.node(in.NodeIDOut)
	defer fs.own.node(in.NodeIDOut)
	return fs.Share.CopyFileRange(r, in)
}

// Setxattr implements server.Xattrs.
func (fs *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	fs.own.node(r.Header.NodeID)
	return fs.Share.Setxattr(r, in, name, value)
}

// Removexattr implements server.Xattrs.
func (fs *FS) Removexattr(r *server.Request, name fp.Name) unix.Errno {
	fs.own.node(r.Header.NodeID)
	return fs.Share.Removexattr(r, name)
}
