package relay

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// A request that needs one answer of the program, and nothing else, takes no goroutine of its own: the thread that has received it sends it
// to the program, and the goroutine that receives the reply answers the client (server.Parked). All else, and
// whatever finds no room or no program, waits on a goroutine.

// smallData is how much data of a READ is received with its header and copied. To look first where it belongs takes longer.
const smallData = 8 << 10

// parkable is what can be parked. It must be repeatable, or be so in ask.
func parkable(op fp.Opcode) bool {
	switch op {
	case fp.OpGetattr, fp.OpLookup, fp.OpRead, fp.OpWrite:
		return true
	}
	return false
}

// parks reports whether the request may be parked. Waits that end by themselves need a goroutine.
func (fs *FS) parks(r *server.Request) bool {
	return parkable(fp.Opcode(r.Header.Opcode)) && fs.opts.Timeout == 0
}

// waitsFirst reports whether the request has to be called again before it may ask the program.
func (fs *FS) waitsFirst(r *server.Request) bool { return !r.MayWait && !fs.parks(r) }

// resumedCall is the request's call that was parked; nil is none.
func resumedCall(r *server.Request) *call {
	c, _ := r.Parked().(*call)
	return c
}

// park leaves a call to be sent when the request is ready to wait.
func (fs *FS) park(r *server.Request, c *call) unix.Errno {
	l := fs.link.Load()
	known := c.node.epoch.Load() == l.epoch || c.node.ID() == fp.RootID
	if !known || c.file != nil && c.file.epoch.Load() != l.epoch || !l.alive() || len(c.dst) > maxIovecs || len(c.data) > maxIovecs {
		return server.WouldBlockInGo
	}
	c.header.NodeID, c.header.PID = c.node.id.Load(), l.process
	if c.file != nil {
		c.putWord(c.fileAt, c.file.fh.Load())
	}
	// The thread's memory is the next request's.
	c.kept.name = append(c.kept.name[:0], c.names[0]...)
	c.names[0] = c.kept.name
	c.kept.pieces = append(append(c.kept.pieces[:0], c.dst...), c.data...)
	c.dst, c.data = c.kept.pieces[:len(c.dst):len(c.dst)], c.kept.pieces[len(c.dst):]
	if !c.node.Acquire() {
		return server.WouldBlockInGo
	}
	if c.file != nil && !c.file.Acquire() {
		fs.nodes.Release(c.node)
		return server.WouldBlockInGo
	}
	fs.mu.Lock()
	session := fs.session
	fs.mu.Unlock()
	c.place = parkedCall{fs: fs, node: c.node, file: c.file, session: session}
	c.parked = &c.place
	c.link = l
	return r.Park(c)
}

// parkedCall is what a call has that is parked.
type parkedCall struct {
	fs      *FS
	node    *node // referred to until Drop
	file    *file
	session <-chan struct{} // of the client
	resumer server.Resumer
}

// Start implements server.Parked.
func (c *call) Start(r server.Resumer) bool {
	c.parked.resumer = r
	return c.link.launch(c)
}

// Interrupt implements server.Parked.
func (c *call) Interrupt() { c.link.interrupt(c.header.Unique) }

// Drop implements server.Parked.
func (c *call) Drop() {
	p := c.place
	if c.unseen { // its session has ended
		p.fs.undo(c.link, c)
	}
	c.parked = nil
	if p.file != nil {
		p.fs.files.Release(p.file)
	}
	p.fs.nodes.Release(p.node)
	c.letGo()
}

// resumed is the answer of a call that was parked.
func (fs *FS) resumed(c *call) unix.Errno {
	c.unseen = false
	switch {
	case c.gone && !repeatable(c):
		return unix.EIO
	case c.gone:
		return server.WouldBlockInGo // for the next program
	}
	return fs.asked(c.link, &patience{session: c.parked.session}, c, c.errno)
}

// launch sends a call that is parked, if there is room and nothing else is in its way.
func (l *link) launch(c *call) bool {
	if l.fits(c) != 0 {
		return false
	}
	l.mu.Lock()
	select {
	case <-c.parked.session: // from here on giveUp finds it
		l.mu.Unlock()
		return false
	default:
	}
	if l.err != nil || l.waiting() || len(l.orphans)-l.lost >= maxOrphans {
		l.mu.Unlock()
		return false
	}
	// The program can answer before it has the request, for it knows the numbers that come, and the session can end: c is then dropped while
	// this thread sends it.
	c.holders.Store(2)
	unique := l.register(c)
	l.mu.Unlock()
	started := l.send(&c.msg) == 0 || !l.takeBack(unique, c)
	c.letGo()
	return started
}

// takeBack undoes register for a call that could not be sent; false if it has, or gets, a result: the link or the session has ended, or
// the program has answered what it did not get.
func (l *link) takeBack(unique uint64, c *call) bool {
	l.mu.Lock()
	if l.calls[unique] == c {
		defer l.mu.Unlock()
		delete(l.calls, unique)
		l.settled(c)
		return true
	}
	o, orphaned := l.takeOrphan(unique) // no reply will come
	l.mu.Unlock()
	if orphaned {
		l.letGo(&o)
	}
	return false
}

// resumeAll finishes calls that were parked and get no reply.
func resumeAll(calls []*call) {
	if len(calls) == 0 {
		return
	}
	go func() {
		var f server.Finisher
		for _, c := range calls {
			c.parked.resumer.Resume(&f)
		}
	}()
}

// giveUp ends the waits of calls that are parked, because their session has ended.
func (l *link) giveUp() {
	var parked []*call
	l.mu.Lock()
	for _, c := range l.calls {
		if c.parked != nil {
			parked = append(parked, c)
			l.orphan(c)
			c.n, c.errno = 0, unix.ENOTCONN
		}
	}
	l.mu.Unlock()
	resumeAll(parked)
}
