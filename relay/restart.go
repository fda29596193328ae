package relay

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// restarter starts programs again.
type restarter struct {
	mu      sync.Mutex    // guards the following; a leaf
	changed chan struct{} // closed when there is another program, or none can be started
	failing bool          // the last try has failed
	ended   chan struct{} // closed when there will be none any more
	once    sync.Once
}

// Times between two tries to start a program that does not start.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

func (s *restarter) init() {
	s.changed, s.ended = make(chan struct{}), make(chan struct{})
}

// serve receives from a program, and then from its successors.
func (fs *FS) serve(l *link) {
	defer fs.restart.once.Do(func() { close(fs.restart.ended) })
	for {
		l.run()
		if fs.closing.Err() != nil {
			return
		}
		if !fs.opts.Restart {
			fs.opts.Log.Debug("the program has ended", "error", l.err) // who waits for Ended tells it
			return
		}
		fs.opts.Log.Warn(fmt.Sprintf("%v; it is started again", fs.reason(l)))
		if l = fs.startAgain(l.epoch + 1); l == nil {
			return
		}
	}
}

// reasonPatience is how long a program may take to end that has closed its socket.
const reasonPatience = time.Second

// reason is why a program has ended that was served over l, or else why l has.
func (fs *FS) reason(l *link) error {
	if l.why != nil {
		select {
		case <-l.done:
			if err := l.why(); err != nil {
				return err
			}
		case <-time.After(reasonPatience):
		case <-fs.closing.Done():
		}
	}
	return fmt.Errorf("the program has closed its connection (%w)", l.err)
}

// startError is why a program does not answer INIT: a better reason than err if it has ended, or is being ended.
func (fs *FS) startError(l *link, err error) error {
	if l.why == nil || !errors.Is(err, errEnded) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	select {
	case <-l.done:
		if why := l.why(); why != nil {
			return why
		}
	case <-time.After(reasonPatience):
	}
	return err
}

// startAgain tries until there is a program; nil if Close was called.
func (fs *FS) startAgain(epoch uint32) *link {
	pause := firstPause
	for {
		l, err := fs.start(fs.closing, epoch)
		if err == nil && fs.closing.Err() != nil {
			l.end(fs.closing.Err())
		}
		if fs.closing.Err() != nil {
			return nil
		}
		if err == nil {
			fs.mu.Lock()
			clear(fs.byID) // the numbers were the other program's
			if root := fs.nodes.Get(fp.RootID); root != nil {
				fs.byID[fp.RootID] = root
			}
			fs.noOpen.Store(false)
			fs.noOpendir.Store(false)
			fs.link.Store(l)
			fs.mu.Unlock()
			fs.restart.tell(false)
			fs.tellLost()
			return l
		}
		fs.opts.Log.Error("the program can't be started again", "error", err, "next try", pause)
		fs.restart.tell(true)
		select {
		case <-time.After(pause):
		case <-fs.closing.Done():
			return nil
		}
		pause = min(2*pause, longestPause)
	}
}

func (s *restarter) tell(failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = failing
	close(s.changed)
	s.changed = make(chan struct{})
}

// current is the program's link. It waits for a program that is being started again.
func (fs *FS) current(p *patience) (*link, unix.Errno) {
	for {
		s := &fs.restart
		s.mu.Lock()
		changed, failing := s.changed, s.failing
		s.mu.Unlock()
		l := fs.link.Load()
		if l.alive() {
			return l, 0
		}
		if !fs.opts.Restart || failing || fs.closing.Err() != nil {
			return nil, unix.EIO
		}
		if p.late {
			return nil, unix.ETIMEDOUT
		}
		select {
		case <-changed:
		case <-s.ended:
			return nil, unix.EIO
		case <-p.expired:
			p.late = true
			return nil, unix.ETIMEDOUT
		case <-p.session:
			return nil, unix.ENOTCONN
		case <-p.canceled:
			return nil, unix.EINTR
		}
	}
}

// revive finds a node again, by the names that lead to it from the root.
func (fs *FS) revive(l *link, p *patience, c *call, n *node) (uint64, unix.Errno) {
	chain := []*node{n}
	n.Hold()
	defer func() {
		for _, n := range chain {
			fs.nodes.Unhold(n)
		}
	}()
	var names []fp.Name
	for at := n; at.ID() != fp.RootID && at.epoch.Load() != l.epoch; {
		parent, name := fs.nodes.Location(at)
		if parent == nil || len(names) == maxDepth {
			return 0, unix.ESTALE // nobody knows where it is
		}
		parent.Hold()
		fs.nodes.Release(parent)
		chain, names = append(chain, parent), append(names, name)
		at = parent
	}
	for i := len(names) - 1; i >= 0; i-- {
		if errno := fs.reviveOne(l, p, c, chain[i], chain[i+1], names[i]); errno != 0 {
			return 0, errno
		}
	}
	return n.id.Load(), 0
}

// maxDepth bounds how many names lead to a node that is found again.
const maxDepth = 4096

// reviveOne looks n up as name in dir, whose number is known.
func (fs *FS) reviveOne(l *link, p *patience, c *call, n, dir *node, name fp.Name) unix.Errno {
	look, errno := fs.lookAt(l, p, dir, name)
	defer look.free()
	if errno != 0 {
		c.gone = look.gone
		if errno == unix.ENOENT {
			errno = unix.ESTALE
		}
		return errno
	}
	e := replyOf[fp.EntryOut](look)
	if e.Attr.Mode&unix.S_IFMT != n.kind || e.NodeID == fp.RootID {
		l.forget(e.NodeID, 1)
		return unix.ESTALE
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n.epoch.Load() == l.epoch { // somebody else was faster
		if n.id.Load() == e.NodeID {
			n.counts++
		} else {
			l.forget(e.NodeID, 1)
		}
		return 0
	}
	n.counts = 1
	n.id.Store(e.NodeID)
	n.epoch.Store(l.epoch)
	if other := fs.byID[e.NodeID]; other == nil || other.epoch.Load() != l.epoch {
		fs.byID[e.NodeID] = n
	}
	return 0
}

// lookAt is a LOOKUP of the relay's own; a negative entry is ENOENT. The caller frees the call.
func (fs *FS) lookAt(l *link, p *patience, dir *node, name fp.Name) (*call, unix.Errno) {
	c := newCall()
	c.header.Opcode, c.header.NodeID = uint32(fp.OpLookup), dir.id.Load()
	c.names[0], c.form = name, formEntry
	errno := fs.exchange(l, p, c)
	if errno == 0 && replyOf[fp.EntryOut](c).NodeID == 0 {
		errno = unix.ENOENT
	}
	return c, errno
}

// reopen opens a file again that another program had open.
func (fs *FS) reopen(l *link, p *patience, c *call, f *file) (uint64, unix.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.epoch.Load() == l.epoch {
		return f.fh.Load(), 0
	}
	if f.locked {
		return 0, unix.EIO // its locks are lost
	}
	id, errno := fs.number(l, p, c, f.node)
	if errno != 0 {
		return 0, errno
	}
	open := newCall()
	defer open.free()
	op := fp.OpOpen
	if f.dir {
		op = fp.OpOpendir
	}
	open.header.Opcode, open.header.NodeID, open.form = uint32(op), id, formOpen
	open.header.UID, open.header.GID = c.header.UID, c.header.GID
	bodyOf[fp.OpenIn](open).Flags = f.flags &^ (unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC)
	errno = fs.exchange(l, p, open)
	switch {
	case open.gone:
		c.gone = true
		return 0, errno
	case errno == unix.ENOSYS && fs.opensNothing(f.dir):
		f.fh.Store(0)
	case errno != 0:
		return 0, errno
	default:
		f.fh.Store(replyOf[fp.OpenOut](open).Fh)
	}
	f.lost = f.lost || f.written.Load() != f.synced.Load()
	f.synced.Store(f.written.Load())
	f.epoch.Store(l.epoch)
	if f.listing != nil {
		f.listing.clear(fs) // the positions were the other program's
	}
	return f.fh.Load(), 0
}

// repeatable reports whether a call that may have happened can be made again, or decided by looking.
func repeatable(c *call) bool {
	switch fp.Opcode(c.header.Opcode) {
	case fp.OpLookup, fp.OpGetattr, fp.OpReadlink, fp.OpRead, fp.OpStatfs, fp.OpGetxattr, fp.OpListxattr, fp.OpOpendir,
		fp.OpReaddir, fp.OpReaddirplus, fp.OpAccess, fp.OpLseek, fp.OpGetlk, fp.OpStatx, fp.OpSetattr, fp.OpRemovexattr,
		fp.OpMknod, fp.OpMkdir, fp.OpSymlink, fp.OpLink, fp.OpUnlink, fp.OpRmdir, fp.OpRename, fp.OpRename2, fp.OpCreate:
		return true
	case fp.OpOpen:
		return true // O_TRUNC twice is O_TRUNC
	case fp.OpWrite:
		return c.file == nil || c.file.flags&unix.O_APPEND == 0
	case fp.OpSetxattr:
		return (*fp.SetxattrIn)(pointer(c.bodyBytes())).Flags == 0
	}
	// FSYNC and FLUSH: what the program had not written is lost. Locks are lost. COPY_FILE_RANGE, FALLOCATE and
	// IOCTL can do anything.
	return false
}

// look answers a call that changes a directory, and that was under way when the program ended, by what is there.
// answered is false if it has not happened.
func (fs *FS) look(l *link, p *patience, c *call) (answered bool, errno unix.Errno) {
	switch fp.Opcode(c.header.Opcode) {
	case fp.OpMknod, fp.OpMkdir, fp.OpSymlink, fp.OpLink, fp.OpCreate:
		return fs.lookMade(l, p, c)
	case fp.OpUnlink, fp.OpRmdir:
		there, errno := fs.isThere(l, p, c, c.node, c.names[0])
		return errno == 0 && !there, 0
	case fp.OpRename, fp.OpRename2:
		if op := fp.Opcode(c.header.Opcode); op == fp.OpRename2 && (*fp.Rename2In)(pointer(c.bodyBytes())).Flags&unix.RENAME_EXCHANGE != 0 {
			return true, unix.EIO // both are there in either case
		}
		old, errno := fs.isThere(l, p, c, c.node, c.names[0])
		if errno != 0 || old {
			return false, 0
		}
		there, errno := fs.isThere(l, p, c, c.other, c.names[1])
		return errno == 0 && there, 0
	}
	return false, 0
}

// isThere looks for a name. With an errno nobody knows.
func (fs *FS) isThere(l *link, p *patience, c *call, dir *node, name fp.Name) (bool, unix.Errno) {
	if _, errno := fs.number(l, p, c, dir); errno != 0 {
		return false, errno
	}
	look, errno := fs.lookAt(l, p, dir, name)
	defer look.free()
	if errno == unix.ENOENT {
		return false, 0
	}
	if errno == 0 {
		l.forget(replyOf[fp.EntryOut](look).NodeID, 1)
	}
	return errno == 0, errno
}

// lookMade answers with the entry that is there, and opens it for CREATE.
func (fs *FS) lookMade(l *link, p *patience, c *call) (answered bool, errno unix.Errno) {
	if _, errno := fs.number(l, p, c, c.node); errno != 0 {
		return false, 0 // fill finds the same
	}
	look, errno := fs.lookAt(l, p, c.node, c.names[0])
	defer look.free()
	if errno != 0 {
		return false, 0
	}
	e := replyOf[fp.EntryOut](look)
	if fp.Opcode(c.header.Opcode) != fp.OpCreate {
		*replyOf[fp.EntryOut](c) = *e
		return true, 0
	}
	in := (*fp.CreateIn)(pointer(c.bodyBytes()))
	open := newCall()
	defer open.free()
	open.header = fp.InHeader{Opcode: uint32(fp.OpOpen), NodeID: e.NodeID, UID: c.header.UID, GID: c.header.GID}
	open.form = formOpen
	bodyOf[fp.OpenIn](open).Flags = in.Flags &^ (unix.O_CREAT | unix.O_EXCL)
	errno = fs.exchange(l, p, open)
	if errno != 0 && errno != unix.ENOSYS {
		l.forget(e.NodeID, 1)
		return true, unix.EIO
	}
	made := replyOf[fp.CreateOut](c)
	*made = fp.CreateOut{Entry: *e, Open: *replyOf[fp.OpenOut](open)}
	return true, 0
}
