package events

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// The control file, and the helper's session.

// Numbers of our own nodes and open files: with a generation that the tables of package nodes never
// get to.
const (
	ownBase     uint64 = 0xffffffff << 32
	controlDir         = ownBase | 1
	controlFile        = ownBase | 2
	phantomFh          = ownBase | 3 // of a file that the helper opens for writing
	ghostBase          = 16
)

func isOwn(id uint64) bool { return id >= ownBase }

// session is a helper's. Its fields are guarded by FS.mu.
type session struct {
	fh     uint64
	secret string
	pid    uint32 // of the thread; 0 before it is known
	// readOnly says that the guest can't make phantoms: only what it keeps is corrected.
	readOnly bool
	pump     *pump // once the thread is known
	done     chan struct{}
	wake     chan struct{} // something is in the queue
	room     chan struct{} // something was taken out of the queue

	queue []change // that wait
	batch []change // that were announced, in their order
	next  int      // of batch: those before were performed
	seq   uint64   // of the last one that was announced

	pending   int       // events that are not in the queue yet
	pendingAt time.Time // when the first of them was read
	current   time.Time // up to then all changes were told
	heard     time.Time // when the helper has last done what only a helper does
	watchdog  *time.Timer
	armed     bool // the watchdog is
	wasLate   bool // and the log says so
}

// controlEntry fills in the entry of a node of ours.
func controlEntry(id uint64, out *fp.EntryOut) {
	out.NodeID = id
	out.Attr = controlAttr(id)
}

func controlAttr(id uint64) fp.Attr {
	a := fp.Attr{Ino: id, Nlink: 1, Blksize: 4096, Mode: unix.S_IFREG | 0o600}
	if id == controlDir {
		a.Mode, a.Nlink = unix.S_IFDIR|0o700, 2
	}
	return a
}

// ownAttr fills in the attributes of a node of ours.
func (fs *FS) ownAttr(id uint64, a *fp.Attr) unix.Errno {
	if id == controlDir || id == controlFile {
		*a = controlAttr(id)
		return 0
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	g := fs.ghosts[id]
	if g == nil {
		return unix.ESTALE
	}
	*a = g.attr(id)
	return 0
}

// lookupControl is a LOOKUP in the control directory, which only root of the guest may enter.
func (fs *FS) lookupControl(r *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	s := name.String()
	switch {
	case s == wire.File:
		controlEntry(controlFile, out)
		return 0
	case fs.introduce(r.Header.PID, s):
		return unix.ENOENT
	case fs.isHelper(r):
		return fs.lookupPhantom(r, name, out)
	}
	return unix.ENOENT
}

// introduce makes the helper's thread known, if it looks up the session's secret.
func (fs *FS) introduce(pid uint32, name string) bool {
	fs.mu.Lock()
	s := fs.session
	if s == nil || s.pid != 0 || pid == 0 || name != s.secret && name != s.secret+wire.ReadOnly {
		fs.mu.Unlock()
		return false
	}
	s.pid = pid
	s.heard = time.Now()
	s.readOnly = fs.opts.ReadOnly || name != s.secret
	since := fs.lostAt
	fs.lostAt = time.Time{}
	s.current = time.Now()
	if !since.IsZero() {
		s.current = since
	}
	var w *hostwatch.Watcher
	if fs.watched != nil {
		var err error
		if w, err = fs.newWatcher(); err != nil {
			fs.mu.Unlock()
			fs.blind(s, err)
			return true
		}
	}
	fs.watchErr = nil
	p := &pump{fs: fs, session: s, wake: make(chan struct{}, 1)}
	s.pump = p
	fs.dirs.start(w)
	fs.own.use(w == nil || w.TellsOwn())
	fs.partial.Store(0)
	fs.warned = false
	fs.state.Store(stateLost)
	fs.helper.Store(pid)
	fs.suspect.Store(0)
	fs.mu.Unlock()
	fs.remember()
	fs.log.Info("The guest's helper for changes on the host has connected", "by", watchedBy(w))
	if w != nil {
		go p.read(w)
	}
	go p.run(since)
	return true
}

// watchedBy is what watches the host.
func watchedBy(w *hostwatch.Watcher) string {
	if w == nil {
		return "notifications of the program"
	}
	if w.TellsOwn() {
		return "inotify: fanotify is not permitted here, or does not exist"
	}
	return "fanotify"
}

// blind ends a session because the host can't be watched. The log says so once until that works again.
func (fs *FS) blind(s *session, err error) {
	fs.mu.Lock()
	first := fs.watchErr == nil && fs.session == s
	if fs.session == s {
		fs.watchErr = err
	}
	fs.mu.Unlock()
	if first {
		fs.log.Error("Changes on the host can't be watched: the guest is not told of them, and caches names and attributes for a second only", "error", err)
	}
	fs.end(s, "")
}

// endSession ends the helper's session. why, if not empty, is for the log.
func (fs *FS) endSession(why string) {
	fs.mu.Lock()
	s := fs.session
	fs.mu.Unlock()
	if s != nil {
		fs.end(s, why)
	}
}

// end ends a session, unless that was done already.
func (fs *FS) end(s *session, why string) {
	fs.mu.Lock()
	if fs.session != s {
		fs.mu.Unlock()
		return
	}
	fs.session = nil
	s.watchdog.Stop()
	if s.pid != 0 {
		fs.lostAt = s.current
	}
	fs.helper.Store(0)
	fs.state.Store(stateAlone)
	w := fs.dirs.stop()
	fs.own.use(false)
	close(s.done)
	fs.mu.Unlock()
	if w != nil {
		_ = w.Close()
	}
	fs.remember()
	if why != "" {
		fs.log.Info(why)
	}
}

// Open implements server.Files.
func (fs *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	id := r.Header.NodeID
	if id == controlFile {
		return fs.openControl(in, out)
	}
	if fs.isHelper(r) && in.Flags&unix.O_ACCMODE == unix.O_WRONLY && fs.performClose(id) {
		// Without FOPEN_KEEP_CACHE the guest drops the data: two writes in one tick of the host's clock
		// may leave size and time as they were.
		out.Fh = phantomFh
		return 0
	}
	if isOwn(id) {
		return unix.ESTALE
	}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || in.Flags&unix.O_TRUNC != 0 {
		fs.own.node(id)
	}
	return fs.Share.Open(r, in, out)
}

// openControl begins a session. There is one helper at a time: one that was not heard of for long makes
// room for another. Else any process of root that opens the file would keep the helper out.
func (fs *FS) openControl(in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		return unix.EACCES
	}
	fs.mu.Lock()
	if errors.Is(fs.watchErr, hostwatch.ErrUnsupported) {
		fs.mu.Unlock()
		return unix.EOPNOTSUPP // the helper need not try again
	}
	old := fs.session
	busy := old != nil && time.Since(old.heard) <= fs.opts.Patience
	fs.mu.Unlock()
	if busy {
		return unix.EBUSY
	}
	if old != nil {
		fs.end(old, "The guest's helper was silent for too long: another one takes its place")
	}
	// A number that a helper of another process, whose RELEASE may still come, does not have.
	s := &session{fh: ownBase | uint64(rand.Uint32())<<8&0xffffff00 | 0xff, secret: newName(), done: make(chan struct{}),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), heard: time.Now()}
	s.watchdog = time.AfterFunc(time.Hour, func() { fs.late(s) })
	s.watchdog.Stop()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.session != nil {
		return unix.EBUSY
	}
	fs.session = s
	out.Fh, out.OpenFlags = s.fh, fp.FopenDirectIO
	return 0
}

// Release implements server.Files.
func (fs *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	switch {
	case in.Fh == phantomFh:
		return 0
	case r.Header.NodeID != controlFile:
		if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			fs.own.node(r.Header.NodeID)
		}
		return fs.Share.Release(r, in)
	}
	fs.mu.Lock()
	ours := fs.session != nil && fs.session.fh == in.Fh
	fs.mu.Unlock()
	if ours {
		fs.endSession("The guest's helper has gone: the guest caches names and attributes for a second only")
	} else if fs.suspect.Swap(0) != 0 { // its helper was another process's, and is gone
		fs.remember()
	}
	return 0
}

// Flush implements server.Files.
func (fs *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	if in.Fh == phantomFh || r.Header.NodeID == controlFile {
		return 0
	}
	return fs.Share.Flush(r, in)
}

// Read implements server.Files.
func (fs *FS) Read(r *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	if r.Header.NodeID != controlFile {
		return fs.Share.Read(r, in, dst)
	}
	b, s, errno := fs.take(in, dst.Len())
	if errno != 0 || len(b) > 0 || s == nil {
		return dst.CopyFrom(b, 0), errno
	}
	if !r.MayWait {
		return 0, server.WouldBlockInGo
	}
	timer := time.NewTimer(parkFor)
	defer timer.Stop()
	select {
	case <-s.wake:
	case <-s.done:
		return 0, unix.EBADF
	case <-r.Canceled:
		return 0, unix.EINTR
	case <-timer.C:
		return 0, 0
	}
	b, _, errno = fs.take(in, dst.Len())
	return dst.CopyFrom(b, 0), errno
}

// take is the answer to a READ of the control file, as long as size at most: the records
// that follow the one with the number in.Offset.
func (fs *FS) take(in *fp.ReadIn, size uint64) ([]byte, *session, unix.Errno) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.session
	if s == nil || s.fh != in.Fh {
		return nil, nil, unix.EBADF
	}
	if size < wire.MaxRecord || in.Offset > s.seq {
		return nil, nil, unix.EINVAL
	}
	if s.pid == 0 {
		hello := wire.Record{Op: wire.Hello, Path: s.secret}
		return hello.Append(nil), s, 0
	}
	s.heard = time.Now()
	done := s.next // what was performed is not honoured again, reported or not
	for done < len(s.batch) && s.batch[done].seq <= in.Offset {
		done++
	}
	s.batch, s.next = s.batch[done:], 0
	b := fs.announce(s, min(size, 64<<10))
	fs.progress(s)
	if fs.area != nil {
		_ = fs.area.Store(fs.memory())
	}
	select {
	case s.room <- struct{}{}:
	default:
	}
	return b, s, 0
}

// announce encodes the records that are to be performed next. A change that can't be told is left out for good: the
// helper would never report it, and the batch would not get empty. fs.mu is held.
func (fs *FS) announce(s *session, size uint64) []byte {
	var b []byte
	add := func(c *change) (told, fits bool) {
		rec, ok := fs.record(c)
		if !ok {
			return false, true // the guest has forgotten the directory, or its path is too long
		}
		if uint64(len(b)+rec.Size()) > size {
			return true, false
		}
		b = rec.Append(b)
		return true, true
	}
	batch := s.batch
	s.batch = batch[:0]
	for i := range batch {
		told, fits := add(&batch[i])
		if !fits {
			s.batch = append(s.batch, batch[i:]...)
			return b
		}
		if told {
			s.batch = append(s.batch, batch[i])
		}
	}
	for len(s.queue) > 0 && len(s.batch) < maxBatch {
		c := s.queue[0]
		c.seq = s.seq + 1
		told, fits := add(&c)
		if !fits {
			break
		}
		s.queue = s.queue[1:]
		if !told {
			continue
		}
		s.seq++
		s.batch = append(s.batch, c)
		if c.op == wire.Move && c.kind == unix.S_IFDIR {
			break // paths are others then
		}
	}
	if len(s.queue) == 0 {
		s.queue = nil
	}
	return b
}

// record is what the helper gets of a change; false if the guest does not know the directory.
func (fs *FS) record(c *change) (wire.Record, bool) {
	rec := wire.Record{Op: c.op, Type: uint8(c.kind >> 12), Seq: c.seq, Nonce: c.nonce}
	if c.op == wire.Lost || c.op == wire.Found {
		return rec, true
	}
	var ok bool
	if rec.Path, ok = fs.path(c.dir, c.name); !ok {
		return rec, false
	}
	if c.op == wire.Move {
		rec.NewPath, ok = fs.path(c.newDir, c.newName)
	}
	return rec, ok
}

// path is a name as the guest has it now.
func (fs *FS) path(dir uint64, name string) (string, bool) {
	if dir == controlDir {
		return wire.Dir + "/" + name, true
	}
	var parts []string
	if name != "" {
		parts = append(parts, name)
	}
	size := len(name)
	for dir != fp.RootID {
		parent, n, ok := fs.Share.Place(dir)
		if !ok || len(parts) > maxDepth {
			return "", false
		}
		parts = append(parts, n.String())
		if size += len(n); size > wire.MaxPath {
			return "", false
		}
		dir = parent
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), true
}
