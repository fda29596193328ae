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
// name or file is no event for the guest: its own kernel has told of it. What the guest keeps is corrected all
// the same, since somebody on the host may have changed the file, too.

const (
	// ownFor is how long after a change of the guest an event counts as one of it.
	ownFor = 2 * time.Second
	maxOwn = 4096 // names, and files: twice that is kept
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
	names latest[place]
	nodes latest[uint64]
}

// use begins or ends it.
func (o *own) use(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.names, o.nodes = latest[place]{}, latest[uint64]{}
	o.on.Store(on)
}

// latest is when things were changed: at least what was changed within ownFor, but the last maxOwn of that if it was more.
// Of the rest the guest may be told though it has changed it itself.
type latest[K comparable] struct {
	now, before map[K]time.Time
	since       time.Time // of now
}

func (l *latest[K]) note(k K, at time.Time) {
	if l.now == nil || len(l.now) >= maxOwn || at.Sub(l.since) > ownFor {
		l.before, l.now, l.since = l.now, map[K]time.Time{}, at
	}
	l.now[k] = at
}

// recent reports whether something was changed shortly before a time.
func (l *latest[K]) recent(k K, at time.Time) bool {
	t, ok := l.now[k]
	if !ok {
		t, ok = l.before[k]
	}
	return ok && at.Sub(t) < ownFor
}

// name notes that the guest changes what a name stands for.
func (o *own) name(dir uint64, name fp.Name) {
	if o.on.Load() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.names.note(place{dir, name.String()}, time.Now())
	}
}

// node notes that the guest changes a file.
func (o *own) node(id uint64) {
	if o.on.Load() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.nodes.note(id, time.Now())
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
	return o.nodes.recent(id, p.at) || o.names.recent(place{e.Dir, e.Name}, p.at) || o.names.recent(place{e.NewDir, e.NewName}, p.at)
}

// temporary reports whether an event is about a name as a daemon makes for a moment. Others can make such names, too: what
// the guest keeps is corrected all the same.
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
