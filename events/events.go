package events

import (
	"bytes"
	"encoding/hex"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/server"
)

// Times that the guest may keep names and attributes for, unless what FS is around says less.
const (
	Lease = 10 * time.Minute // all changes are told
	Short = time.Second      // there is no helper
)

// Limits of what is kept for a guest.
const (
	maxQueue  = 1 << 16 // changes that wait
	maxBatch  = 512     // announced records
	maxGhosts = 4096
	maxDepth  = 256 // of a path
	// parkFor is how long a READ of the control file waits: less than what counts as a request that hangs.
	parkFor = 3 * time.Second
)

// Watched is a file system of files that can be watched on this machine: package passthrough has it.
type Watched interface {
	Share
	// UseFD calls f with a descriptor of the node, which is borrowed.
	UseFD(r *server.Request, id uint64, f func(fd int) error) error
}

// Share is a file system that FS can be around: packages passthrough and relay have it.
type Share interface {
	server.FileSystem
	// Known reports whether the guest has the node.
	Known(id uint64) bool
	// Nodes yields the nodes that the guest has.
	Nodes(yield func(id uint64, dir bool) bool)
	// Child is the node that the guest has for a name, and its type (S_IFMT); 0 is none.
	Child(parent uint64, name fp.Name) (id uint64, kind uint32)
	// Place is the name that the guest has a node by.
	Place(id uint64) (parent uint64, name fp.Name, ok bool)
	// Look is what a name is on the host, and whether it is the node id. It may wait, until r.Canceled is closed.
	Look(r *server.Request, parent uint64, name fp.Name, id uint64) (st unix.Statx_t, same bool, errno unix.Errno)
	// Grant is a LOOKUP that finds a node that the guest has.
	Grant(r *server.Request, id uint64, out *fp.EntryOut) unix.Errno
	// Vanished and Relocated say what the guest was told of a name.
	Vanished(parent uint64, name fp.Name)
	Relocated(parent uint64, name fp.Name, newParent uint64, newName fp.Name)
}

// Options are those of FS.
type Options struct {
	ReadOnly       bool           // only what the guest keeps is corrected
	MaxDirectories int            // that are watched; 0 is hostwatch.DefaultMax
	Inotify        bool           // inotify is to be used, also where there is fanotify
	Ledger         *ledger.Ledger // where the helper's thread is noted for a successor; nil is nowhere
	Log            *slog.Logger   // nil is slog.Default()
	// Patience is how long the helper may take for what it was told, and be silent; 0 is 10 seconds.
	Patience time.Duration
}

// FS is a file system whose guest is notified of changes on the host.
type FS struct {
	Share
	watched Watched // the same; nil if it tells of changes itself, see NewNotified
	opts    Options
	log     *slog.Logger
	area    *ledger.Area
	pace    *rate.Limiter // of what a share tells itself

	state   atomic.Int32 // see valid
	partial atomic.Int64 // since when there are directories that are not watched, see dirs.now; 0 is never
	lease   time.Duration
	helper  atomic.Uint32 // thread of the helper; 0 is none
	suspect atomic.Uint32 // thread of a helper that somebody else served; 0 is none

	dirs dirs
	own  own

	mu      sync.Mutex // guards the following
	session *session
	ghosts  map[uint64]*ghost
	ghostID uint32
	lostAt  time.Time // up to then all changes were told; zero is no matter
	warned  bool
	// watchErr is why the last helper could not be served, newWatcher makes a watcher of the host's directories.
	watchErr   error
	newWatcher func() (*hostwatch.Watcher, error)
}

// States: for how long the guest may keep things.
const (
	stateAlone    int32 = iota // there is no helper, or it is late
	stateCoherent              // all changes are told
	stateLost                  // changes were lost
)

// New returns a file system around s, whose files are watched on this machine.
func New(s Watched, o Options) (*FS, error) {
	fs, err := NewNotified(s, o)
	if err == nil {
		fs.watched, fs.dirs.all = s, false
	}
	return fs, err
}

// NewNotified returns a file system around s, which tells of changes itself: by FS.Notify.
func NewNotified(s Share, o Options) (*FS, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	area, err := o.Ledger.Area(ledger.AreaEvents)
	if err != nil {
		return nil, err
	}
	fs := &FS{Share: s, opts: o, log: o.Log, area: area, ghosts: map[uint64]*ghost{}, lease: Lease, pace: rate.NewLimiter(noticeRate, noticeBurst)}
	fs.dirs.all = true
	fs.dirs.epoch = time.Now()
	fs.newWatcher = func() (*hostwatch.Watcher, error) {
		return hostwatch.New(hostwatch.Options{Max: o.MaxDirectories, Inotify: o.Inotify})
	}
	fs.dirs.m = map[uint64]*dir{}
	return fs, nil
}

// Close implements server.FileSystem.
func (fs *FS) Close() {
	fs.endSession("")
	fs.Share.Close()
}

// Init implements server.Session.
func (fs *FS) Init(p *server.InitParams) unix.Errno {
	if !p.Resumed {
		fs.forgetGuest()
	}
	errno := fs.Share.Init(p)
	if fs.watched == nil {
		// The guest's kernel drops data if the time of modification has changed, and does not keep that time itself.
		p.Flags = p.Flags&^fp.InitWritebackCache | fp.InitAutoInvalData
	}
	return errno
}

// Destroy implements server.Session.
func (fs *FS) Destroy() {
	fs.forgetGuest()
	fs.Share.Destroy()
}

// forgetGuest ends all that is kept for a guest.
func (fs *FS) forgetGuest() {
	fs.endSession("")
	fs.suspect.Store(0)
	fs.mu.Lock()
	fs.lostAt = time.Time{}
	clear(fs.ghosts)
	fs.mu.Unlock()
	fs.remember()
}

// valid shortens a time that the guest may keep something of a directory for.
func (fs *FS) valid(dir uint64, sec *uint64, nsec *uint32) {
	limit := Short
	switch fs.state.Load() {
	case stateLost:
		limit = 0
	case stateCoherent:
		if fs.partial.Load() == 0 || fs.dirs.has(dir) {
			limit = fs.lease
		}
	}
	if *sec >= uint64(limit/time.Second) {
		if *sec > uint64(limit/time.Second) {
			*nsec = 0
		}
		*sec = uint64(limit / time.Second)
	}
	if limit == 0 {
		*nsec = 0
	}
}

// validEntry is valid for a name in a directory and what it stands for.
func (fs *FS) validEntry(dir uint64, out *fp.EntryOut) {
	fs.valid(dir, &out.EntryValid, &out.EntryValidNsec)
	fs.validAttr(out.NodeID, dir, &out.Attr, &out.AttrValid, &out.AttrValidNsec)
}

// validAttr is valid for the attributes of a node in a directory. Those of a directory change with the names
// in it. A change by another name of a file, in a directory that the guest does not know, is not seen.
func (fs *FS) validAttr(id, dir uint64, a *fp.Attr, sec *uint64, nsec *uint32) {
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		fs.valid(id, sec, nsec)
		return
	}
	fs.valid(dir, sec, nsec)
	if a.Nlink > 1 && *sec >= 1 {
		*sec, *nsec = 1, 0
	}
}

// SaveState implements server.State: before the state of the file system is who the helper is.
func (fs *FS) SaveState(t *server.Thread, w io.Writer) error {
	fs.mu.Lock()
	m := fs.memory()
	fs.mu.Unlock()
	if _, err := w.Write(m); err != nil {
		return err
	}
	return fs.Share.SaveState(t, w)
}

// LoadState implements server.State.
func (fs *FS) LoadState(t *server.Thread, r io.Reader) (string, error) {
	head := make([]byte, memorySize)
	n, err := io.ReadFull(r, head)
	if err != nil && n == 0 {
		return "", err
	}
	if fs.recall(head[:n]) {
		return fs.Share.LoadState(t, r)
	}
	return fs.Share.LoadState(t, io.MultiReader(bytes.NewReader(head[:n]), r))
}

// Resume implements server.State.
func (fs *FS) Resume(t *server.Thread, session bool) (string, error) {
	if session {
		fs.recall(fs.area.Load())
	}
	return fs.Share.Resume(t, session)
}

// newName is a name that nobody guesses.
func newName() string {
	var b [16]byte
	_, _ = unix.Getrandom(b[:], 0) // never fails for so few bytes
	return hex.EncodeToString(b[:])
}

// isControl reports whether a name in the root is the one of the control directory.
func isControl(parent uint64, name fp.Name) bool {
	return parent == fp.RootID && len(name) == len(wire.Dir)+1 && string(name.Bytes()) == wire.Dir
}
