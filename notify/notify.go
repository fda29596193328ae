package notify

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// Share is a file system that FS can be around: package passthrough has it.
type Share interface {
	server.FileSystem
	// UseFD calls f with a descriptor of the node, which is borrowed.
	UseFD(r *server.Request, id uint64, f func(fd int) error) error
	// Known reports whether the client has the node.
	Known(id uint64) bool
	// Nodes yields the nodes that the client has.
	Nodes(yield func(id uint64, dir bool) bool)
	// Place is the name that the client has a node by.
	Place(id uint64) (parent uint64, name fp.Name, ok bool)
}

// For how long the client may keep things, in seconds, unless Share says less.
const (
	unwatched = 1
	negative  = 10
)

// FS is a file system whose client is told of changes on the host.
type FS struct {
	Share
	Inotify bool // see hostwatch.Options; it is set before the first request

	log *slog.Logger
	to  atomic.Pointer[fuse.Notifier]
	max int // directories that are watched; 0 is hostwatch.DefaultMax

	// newWatcher makes a watcher of the host's directories, retry is when that is tried again after it has failed.
	newWatcher func() (*hostwatch.Watcher, error)
	retry      time.Duration

	lost atomic.Bool // the client may remember what is not so any more

	turn  sync.Mutex // held while a session begins or ends; mu is taken with it
	blind bool       // the log says that nothing can be watched; guarded by turn

	mu      sync.RWMutex // guards the following; a leaf
	session *session     // nil if there is none
	dirs    map[uint64]bool
	partial bool // there are directories that are not watched
}

// session is from INIT to DESTROY, or shorter if there has to be another watcher.
type session struct {
	watcher *hostwatch.Watcher // nil if nothing can be watched
	done    chan struct{}
	retry   <-chan time.Time // when to try again; nil is never
}

// New returns a file system around s. Messages go to log; nil is slog.Default().
func New(s Share, log *slog.Logger) *FS {
	if log == nil {
		log = slog.Default()
	}
	fs := &FS{Share: s, log: log, retry: time.Minute}
	fs.newWatcher = func() (*hostwatch.Watcher, error) {
		return hostwatch.New(hostwatch.Options{Max: fs.max, Inotify: fs.Inotify})
	}
	return fs
}

// Connect says where notifications go; nil is nowhere, and then the client keeps nothing. It may be called at any time.
func (fs *FS) Connect(to fuse.Notifier) {
	if to == nil {
		fs.to.Store(nil)
		return
	}
	fs.to.Store(&to)
}

// errNowhere says that there is no fuse.Notifier.
var errNowhere = errors.New("notify: there is nobody to tell")

// notify sends a notification. An error says that it does not arrive.
func (fs *FS) notify(code fp.NotifyCode, body ...[]byte) error {
	to := fs.to.Load()
	if to == nil {
		return errNowhere
	}
	return (*to).Notify(code, body...)
}

// Close implements server.FileSystem.
func (fs *FS) Close() {
	fs.change(nil)
	fs.Share.Close()
}

// Init implements server.Session.
func (fs *FS) Init(p *server.InitParams) unix.Errno {
	fs.change(nil)
	errno := fs.Share.Init(p)
	if errno == 0 {
		fs.change(func() { fs.begin(p.Resumed) })
	}
	return errno
}

// Resume implements server.Session. Only now the file system knows again what the client has.
func (fs *FS) Resume(t *server.Thread, session bool) (warning string, err error) {
	fs.change(nil)
	if warning, err = fs.Share.Resume(t, session); err == nil && session {
		fs.change(func() { fs.begin(true) })
	}
	return warning, err
}

// Destroy implements server.Session.
func (fs *FS) Destroy() {
	fs.change(nil)
	fs.Share.Destroy()
}

// change ends the session, if there is one, and then calls begin, which may be nil.
func (fs *FS) change(begin func()) {
	fs.turn.Lock()
	defer fs.turn.Unlock()
	fs.end(fs.current())
	if begin != nil {
		begin()
	}
}

// renew begins a session in the place of s, unless another request has done so, or the session has ended.
func (fs *FS) renew(s *session) {
	fs.turn.Lock()
	defer fs.turn.Unlock()
	if fs.current() == s {
		fs.end(s)
		fs.begin(true)
	}
}

func (fs *FS) current() *session {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.session
}

// begin begins to watch; fs.turn is held, and there is no session. The client of a session that continues may remember what has changed meanwhile.
func (fs *FS) begin(resumed bool) {
	w, err := fs.newWatcher()
	if err != nil {
		fs.beginBlind(resumed, err)
		return
	}
	if fs.blind {
		fs.blind = false
		fs.log.Info("Changes on the host are watched again")
	}
	p := fs.beginSession(&session{watcher: w, done: make(chan struct{})}, resumed)
	go p.onThread(p.read)
	go p.onThread(p.tellAll)
}

// beginBlind begins a session in which nothing is watched. What the client of a session that continues has been told was
// good for longer than it is now: it drops that.
func (fs *FS) beginBlind(resumed bool, err error) {
	resumed = resumed && !fs.blind
	if !fs.blind {
		fs.blind = true
		fs.log.Warn("Changes on the host can't be watched: the guest caches names and attributes for a second only", "error", err)
	}
	s := &session{done: make(chan struct{})}
	if !errors.Is(err, hostwatch.ErrUnsupported) {
		s.retry = time.After(fs.retry)
	}
	p := fs.beginSession(s, resumed)
	go p.tellAll(nil)
}

// beginSession makes s the session.
func (fs *FS) beginSession(s *session, resumed bool) *pump {
	fs.lost.Store(resumed)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.session, fs.dirs, fs.partial = s, map[uint64]bool{}, false
	return &pump{fs: fs, session: s, wake: make(chan struct{}, 1)}
}

// fail puts a session in which nothing is watched in the place of s.
func (fs *FS) fail(s *session, err error) {
	fs.turn.Lock()
	defer fs.turn.Unlock()
	if fs.current() == s {
		fs.end(s)
		fs.beginBlind(true, err)
	}
}

// end ends s, unless it is nil or not the session any more.
func (fs *FS) end(s *session) {
	fs.mu.Lock()
	ours := s != nil && fs.session == s
	if ours {
		fs.session, fs.dirs = nil, nil
	}
	fs.mu.Unlock()
	if ours {
		close(s.done)
		if s.watcher != nil {
			_ = s.watcher.Close()
		}
	}
}

// state reports whether a directory is watched, and whether that was tried.
func (fs *FS) state(dir uint64) (watched, tried bool) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	watched, tried = fs.dirs[dir]
	return watched, tried
}

// watch watches a directory before the client is told anything in it. Only the first request pays for that.
func (fs *FS) watch(r *server.Request, id uint64) {
	if _, tried := fs.state(id); tried {
		return
	}
	s := fs.current()
	if s == nil || s.watcher == nil {
		return
	}
	err := fs.Share.UseFD(r, id, func(fd int) error { return s.watcher.Add(fd, id) })
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return // there is nothing to watch, and the number may be any
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.session != s {
		return
	}
	fs.dirs[id] = err == nil
	if err != nil && !fs.partial {
		fs.partial = true
		fs.log.Warn("Not all directories of the share are watched: the guest caches the contents of the others for a second only", "error", err)
	}
}

// Forget implements server.Names.
func (fs *FS) Forget(by *fuse.Cell, id, lookups uint64) {
	fs.Share.Forget(by, id, lookups)
	if _, tried := fs.state(id); !tried || fs.Share.Known(id) {
		return
	}
	fs.mu.Lock()
	delete(fs.dirs, id)
	s, stale := fs.session, false
	if s != nil && s.watcher != nil {
		s.watcher.Remove(-1, id)
		stale = s.watcher.Stale()
	}
	fs.mu.Unlock()
	if stale {
		fs.renew(s)
	}
}

// valid shortens a time that the client may keep something of a directory for.
func (fs *FS) valid(dir uint64, sec *uint64, nsec *uint32) {
	if fs.lost.Load() {
		*sec, *nsec = 0, 0
	} else if watched, _ := fs.state(dir); !watched {
		atMost(unwatched, sec, nsec)
	}
}

func atMost(limit uint64, sec *uint64, nsec *uint32) {
	if *sec >= limit {
		*sec, *nsec = limit, 0
	}
}

// entry is called with what the client is told of a name.
func (fs *FS) entry(r *server.Request, dir uint64, e *fp.EntryOut) {
	if e.NodeID != 0 && e.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
		fs.watch(r, e.NodeID)
	}
	fs.valid(dir, &e.EntryValid, &e.EntryValidNsec)
	if e.NodeID == 0 {
		atMost(negative, &e.EntryValid, &e.EntryValidNsec)
	}
	fs.attributes(e.NodeID, dir, &e.Attr, &e.AttrValid, &e.AttrValidNsec)
}

// attributes shortens the time of the attributes of a node in a directory. Those of a directory change with the
// names in it. A change of a file by a name in another directory is not seen.
func (fs *FS) attributes(id, dir uint64, a *fp.Attr, sec *uint64, nsec *uint32) {
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		fs.valid(id, sec, nsec)
		return
	}
	fs.valid(dir, sec, nsec)
	if a.Nlink > 1 {
		atMost(unwatched, sec, nsec)
	}
}

// parent is the directory that a node is in.
func (fs *FS) parent(id uint64) uint64 {
	if id == fp.RootID {
		return id
	}
	dir, _, _ := fs.Share.Place(id)
	return dir
}

// Lookup implements server.Names.
func (fs *FS) Lookup(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.made(r, out, func() unix.Errno { return fs.Share.Lookup(r, name, out) })
}

// made is a request that tells the client of a name.
func (fs *FS) made(r *server.Request, out *fp.EntryOut, request func() unix.Errno) unix.Errno {
	dir := r.Header.NodeID
	fs.watch(r, dir)
	errno := request()
	if errno == 0 {
		fs.entry(r, dir, out)
	}
	return errno
}

// Mknod implements server.Names.
func (fs *FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.made(r, out, func() unix.Errno { return fs.Share.Mknod(r, in, name, out) })
}

// Mkdir implements server.Names.
func (fs *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.made(r, out, func() unix.Errno { return fs.Share.Mkdir(r, in, name, out) })
}

// Symlink implements server.Names.
func (fs *FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.made(r, out, func() unix.Errno { return fs.Share.Symlink(r, name, target, out) })
}

// Link implements server.Names.
func (fs *FS) Link(r *server.Request, in *fp.LinkIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	return fs.made(r, out, func() unix.Errno { return fs.Share.Link(r, in, name, out) })
}

// Create implements server.Files.
func (fs *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	return fs.made(r, &out.Entry, func() unix.Errno { return fs.Share.Create(r, in, name, out) })
}

// Getattr implements server.Attributes.
func (fs *FS) Getattr(r *server.Request, in *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	errno := fs.Share.Getattr(r, in, out)
	if errno == 0 {
		fs.attributes(r.Header.NodeID, fs.parent(r.Header.NodeID), &out.Attr, &out.AttrValid, &out.AttrValidNsec)
	}
	return errno
}

// Setattr implements server.Attributes.
func (fs *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	errno := fs.Share.Setattr(r, in, out)
	if errno == 0 {
		fs.attributes(r.Header.NodeID, fs.parent(r.Header.NodeID), &out.Attr, &out.AttrValid, &out.AttrValidNsec)
	}
	return errno
}

// Statx implements server.Attributes.
func (fs *FS) Statx(r *server.Request, in *fp.StatxIn, out *fp.StatxOut) unix.Errno {
	errno := fs.Share.Statx(r, in, out)
	if errno == 0 {
		a := fp.Attr{Nlink: out.Stat.Nlink, Mode: uint32(out.Stat.Mode)}
		fs.attributes(r.Header.NodeID, fs.parent(r.Header.NodeID), &a, &out.AttrValid, &out.AttrValidNsec)
	}
	return errno
}

// Open implements server.Files.
func (fs *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	errno := fs.Share.Open(r, in, out)
	if watched, _ := fs.state(fs.parent(r.Header.NodeID)); errno == 0 && (!watched || fs.lost.Load()) {
		out.OpenFlags &^= fp.FopenKeepCache // nobody would say that the data is others
	}
	return errno
}

// Opendir implements server.Directories.
func (fs *FS) Opendir(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	fs.watch(r, r.Header.NodeID)
	errno := fs.Share.Opendir(r, in, out)
	if watched, _ := fs.state(r.Header.NodeID); errno == 0 && (!watched || fs.lost.Load()) {
		out.OpenFlags &^= fp.FopenKeepCache | fp.FopenCacheDir
	}
	return errno
}

// Readdirplus implements server.Directories.
func (fs *FS) Readdirplus(r *server.Request, in *fp.ReadIn, out *server.DirWriter) unix.Errno {
	fs.watch(r, r.Header.NodeID)
	errno := fs.Share.Readdirplus(r, in, out)
	if errno != 0 {
		return errno
	}
	const head = int(unsafe.Sizeof(fp.Direntplus{}))
	for b := out.Bytes(); len(b) >= head; {
		e := (*fp.EntryOut)(unsafe.Pointer(unsafe.SliceData(b)))
		d := (*fp.Dirent)(unsafe.Pointer(&b[unsafe.Sizeof(*e)]))
		size := fp.DirentAlign(head + int(d.NameLen))
		if size > len(b) {
			break
		}
		if e.NodeID != 0 { // the client takes the entry
			fs.entry(r, r.Header.NodeID, e)
		}
		b = b[size:]
	}
	return 0
}
