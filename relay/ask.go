package relay

import (
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// lockGrace is how long a lock waits on after the client has given it up. The program has had INTERRUPT then.
const lockGrace = time.Second

// patience is how long a request waits, and for what else.
type patience struct {
	timer    *time.Timer // nil is for ever
	expired  <-chan time.Time
	late     bool // expired had a value
	canceled <-chan struct{}
	session  <-chan struct{}
}

func (fs *FS) patience(r *server.Request) patience {
	fs.mu.Lock()
	p := patience{canceled: r.Canceled, session: fs.session}
	fs.mu.Unlock()
	if fs.opts.Timeout > 0 {
		p.timer = time.NewTimer(fs.opts.Timeout)
		p.expired = p.timer.C
	}
	return p
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// newCall is a call for a request of the client's. The caller frees it.
func (fs *FS) newCall(r *server.Request, op fp.Opcode, n *node) *call {
	if c := resumedCall(r); c != nil {
		return c
	}
	c := newCall()
	c.header = fp.InHeader{Opcode: uint32(op)}
	c.refused = !fs.asker(&c.header, &r.Header) && makes(op)
	c.node = n
	return c
}

// ask has the program answer a call. If the program ends meanwhile and is started again, the call is repeated, or
// answered by what is found then. On error nothing is left of the call in the program, as far as it told.
func (fs *FS) ask(r *server.Request, c *call) unix.Errno {
	if c.refused {
		return unix.EPERM
	}
	if c.parked != nil {
		return fs.resumed(c)
	}
	if !r.MayWait {
		return fs.park(r, c)
	}
	p := fs.patience(r)
	defer p.stop()
	died := false
	for {
		l, errno := fs.current(&p)
		if errno != 0 {
			return errno
		}
		c.link, c.sent = l, false
		if died {
			if answered, errno := fs.look(l, &p, c); answered {
				return errno
			}
		}
		if errno = fs.fill(l, &p, c); errno == 0 {
			c.sent = true
			errno = fs.exchange(l, &p, c)
		}
		if !c.gone {
			return fs.asked(l, &p, c, errno)
		}
		c.gone = false
		if c.sent && !repeatable(c) {
			return unix.EIO
		}
		died = died || c.sent
	}
}

// asked looks whether the client is still there to get the result.
func (fs *FS) asked(l *link, p *patience, c *call, errno unix.Errno) unix.Errno {
	if errno != 0 {
		return errno
	}
	select {
	case <-p.session:
		fs.undo(l, c)
		return unix.ENOTCONN
	default:
		return 0
	}
}

// fill puts the program's numbers in.
func (fs *FS) fill(l *link, p *patience, c *call) (errno unix.Errno) {
	if c.node != nil {
		if c.header.NodeID, errno = fs.number(l, p, c, c.node); errno != 0 {
			return errno
		}
	}
	if c.other != nil {
		id, errno := fs.number(l, p, c, c.other)
		if errno != 0 {
			return errno
		}
		c.putWord(c.otherAt, id)
	}
	if c.file != nil {
		fh, errno := fs.fh(l, p, c, c.file)
		if errno != 0 {
			return errno
		}
		c.putWord(c.fileAt, fh)
	}
	if c.otherFile != nil {
		fh, errno := fs.fh(l, p, c, c.otherFile)
		if errno != 0 {
			return errno
		}
		c.putWord(c.otherFileAt, fh)
	}
	return 0
}

// number is the program's number of a node; c.gone is set if the program ends while it is asked for it.
func (fs *FS) number(l *link, p *patience, c *call, n *node) (uint64, unix.Errno) {
	if n.epoch.Load() == l.epoch || n.ID() == fp.RootID {
		return n.id.Load(), 0
	}
	return fs.revive(l, p, c, n)
}

// fh is the program's number of an open file.
func (fs *FS) fh(l *link, p *patience, c *call, f *file) (uint64, unix.Errno) {
	if f.epoch.Load() == l.epoch {
		return f.fh.Load(), 0
	}
	return fs.reopen(l, p, c, f)
}

// exchange sends a call whose numbers are filled in, and waits for its reply.
func (fs *FS) exchange(l *link, p *patience, c *call) unix.Errno {
	if p.late {
		return unix.ETIMEDOUT
	}
	c.header.PID = l.process
	if errno := l.do(c); errno != 0 {
		return errno
	}
	lock := fp.Opcode(c.header.Opcode) == fp.OpSetlkw
	var grace <-chan time.Time
	for {
		var give unix.Errno
		select {
		case <-c.done:
			return c.errno
		case <-p.expired:
			p.late = true
			if lock { // it waits for another client, and not for the program
				p.expired = nil
				continue
			}
			give = unix.ETIMEDOUT
		case <-p.session:
			give = unix.ENOTCONN
		case <-grace:
			give = unix.EINTR
		case <-p.canceled:
			p.canceled = nil
			l.interrupt(c.header.Unique)
			if lock {
				t := time.NewTimer(lockGrace)
				defer t.Stop()
				grace = t.C
			}
			continue
		}
		if l.abandon(c) {
			return give
		}
		<-c.done
		return c.errno
	}
}

// undo takes back what a successful reply has given to a client that is gone.
func (fs *FS) undo(l *link, c *call) {
	body := c.fixedBytes()
	if c.form == formBytes {
		body = c.out[:c.n]
	}
	o := orphan{opcode: fp.Opcode(c.header.Opcode), form: c.form, node: c.header.NodeID}
	if o.opcode == fp.OpSetlk || o.opcode == fp.OpSetlkw {
		o.lock = *(*fp.LkIn)(pointer(c.bodyBytes()))
	}
	fs.takeBack(l, &o, body)
}

// late is undo for a reply that nobody waits for. It runs on the receiving goroutine.
func (fs *FS) late(l *link, o *orphan, body []byte) {
	c := newCall()
	defer c.free()
	c.form = o.form
	if o.form == formEntry || o.form == formMake || o.form == formOpen {
		if n, _ := c.replySize(l.minor); len(body) != n {
			l.lie("a reply of the wrong length")
			return
		}
		copy(c.fixedBytes(), body)
		c.widen(l.minor)
		body = c.fixedBytes()
	}
	fs.takeBack(l, o, body)
}

func (fs *FS) takeBack(l *link, o *orphan, body []byte) {
	release := fp.OpRelease
	switch o.opcode {
	case fp.OpOpendir:
		release = fp.OpReleasedir
	case fp.OpReaddirplus:
		forEntries(body, true, func(e *fp.EntryOut, _ *fp.Dirent, name []byte) bool {
			if !isDot(name) {
				l.forget(e.NodeID, 1)
			}
			return true
		})
		return
	case fp.OpSetlk, fp.OpSetlkw:
		o.lock.Lk.Type = unix.F_UNLCK
		l.tell(fp.OpSetlk, o.node, fp.Bytes(&o.lock))
		return
	}
	switch o.form {
	case formEntry:
		if e := (*fp.EntryOut)(pointer(body)); e.NodeID != 0 {
			l.forget(e.NodeID, 1)
		}
	case formOpen:
		in := fp.ReleaseIn{Fh: (*fp.OpenOut)(pointer(body)).Fh}
		l.tell(release, o.node, fp.Bytes(&in))
	case formMake:
		made := (*fp.CreateOut)(pointer(body))
		in := fp.ReleaseIn{Fh: made.Open.Fh}
		l.tell(release, made.Entry.NodeID, fp.Bytes(&in))
		l.forget(made.Entry.NodeID, 1)
	}
}

// letGo ends what an orphan keeps.
func (fs *FS) letGo(o *orphan) {
	for _, f := range o.files {
		if f != nil {
			fs.files.Release(f)
		}
	}
	for _, n := range o.nodes {
		if n != nil {
			fs.nodes.Unhold(n)
		}
	}
}
