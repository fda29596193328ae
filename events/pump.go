package events

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// pump makes changes of the host's events. One goroutine reads them, so that the kernel's
// queue does not overflow; the other looks what happened to the files.
type pump struct {
	fs      *FS
	session *session
	thread  server.Thread

	mu   sync.Mutex // guards the following; FS.mu is taken with it
	list []event
	lost bool // events were
	// stale is a watcher that has too many directories in the kernel that nobody wants any more.
	stale *hostwatch.Watcher
	wake  chan struct{}
	// noticed is where in list the share itself has told of a node or a name; nil is nowhere.
	noticed map[noticed]int

	// The goroutine that tells has the following.
	at    time.Time // of what is told
	quiet bool      // only what the guest keeps is corrected
	tired time.Time // until when it does not check everything again
}

// event is one of the host's, and when it was read.
type event struct {
	hostwatch.Event
	at   time.Time
	node uint64 // what the share itself has told of; 0 is the name
}

// read reads events until the watcher is closed.
func (p *pump) read(w *hostwatch.Watcher) {
	var list []hostwatch.Event
	for {
		var err error
		if list, err = w.Read(list[:0]); err != nil {
			if p.fs.dirs.current() == w { // it was not closed because another took its place, or the session has ended
				p.fs.blind(p.session, err)
			}
			return
		}
		now := time.Now()
		p.mu.Lock()
		for _, e := range list {
			switch {
			case e.Op == hostwatch.Overflow, len(p.list) >= maxQueue:
				p.lost = true
			case !p.lost:
				p.list = append(p.list, event{Event: e, at: now})
			}
		}
		if p.lost {
			p.list = nil
		}
		p.note()
		p.mu.Unlock()
		p.poke()
	}
}

// poke wakes up the goroutine that tells.
func (p *pump) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// note tells the session that there is something on the way. p.mu is held.
func (p *pump) note() {
	p.fs.mu.Lock()
	defer p.fs.mu.Unlock()
	if p.fs.session != p.session {
		return
	}
	if p.lost {
		p.fs.state.Store(stateLost)
	}
	if p.session.pending == 0 && len(p.list) > 0 {
		p.session.pendingAt = p.list[0].at
	}
	p.session.pending = max(p.session.pending, len(p.list))
	p.fs.arm(p.session)
}

// request is a request of our own.
func (p *pump) request(node uint64) *server.Request {
	return &server.Request{Header: fp.InHeader{NodeID: node}, Thread: &p.thread, MayWait: true, Canceled: p.session.done}
}

// run watches what the guest knows, then tells what has changed since, if that is not zero, and
// then what changes.
func (p *pump) run(since time.Time) {
	fs := p.fs
	if fs.watched != nil { // else it waits in Go only
		runtime.LockOSThread() // for good: the thread has credentials and a directory of its own
		if err := fs.Share.StartThread(&p.thread); err != nil {
			fs.blind(p.session, err)
			return
		}
		defer fs.Share.StopThread(&p.thread)
	}
	p.watchAll()
	if !p.catchUp(since) {
		return
	}
	for {
		p.mu.Lock()
		list, lost, stale := p.list, p.lost, p.stale
		p.list, p.lost, p.stale, p.noticed = nil, false, nil, nil
		p.mu.Unlock()
		if lost || stale != nil {
			if !p.again(stale) {
				return
			}
			continue
		}
		for i := range list {
			p.at = list[i].at
			if !p.tellOne(&list[i], list[i+1:]) {
				return
			}
			p.settled(list[i+1:])
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-p.wake:
		case <-p.session.done:
			return
		}
	}
}

// tellOne queues what the guest is to be told of an event. more are the events behind it.
func (p *pump) tellOne(e *event, more []event) bool {
	if p.fs.watched == nil {
		return p.notice(e)
	}
	return p.tell(&e.Event, more)
}

// settled notes which events of those that were read are still to be told.
func (p *pump) settled(rest []event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fs.mu.Lock()
	defer p.fs.mu.Unlock()
	p.session.pending = len(rest) + len(p.list)
	switch {
	case len(rest) > 0:
		p.session.pendingAt = rest[0].at
	case len(p.list) > 0:
		p.session.pendingAt = p.list[0].at
	}
}

// queued is how many changes may wait in the session's queue; the others are events still.
const queued = 4096

// push queues changes, and waits for room. It returns false when the session has ended.
func (p *pump) push(list ...change) bool {
	fs, s := p.fs, p.session
	for {
		fs.mu.Lock()
		if fs.session != s {
			fs.mu.Unlock()
			return false
		}
		full := len(s.queue) >= queued
		if !full {
			for _, c := range list {
				c.at = p.at
				c.nonce = 1<<33 | uint64(rand.Uint32())
				s.queue = append(s.queue, c)
			}
		}
		fs.arm(s)
		fs.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
		if !full {
			return true
		}
		select {
		case <-s.room:
		case <-s.done:
			return false
		}
	}
}

// look is what a name is on the host now: its type, 0 if it is gone, and whether it is the file
// that the guest has for the name. known reports whether it has one.
func (p *pump) look(dir uint64, name string) (kind uint32, same, known bool) {
	n := nameOf(name)
	id, _ := p.fs.Share.Child(dir, n)
	st, same, errno := p.fs.Share.Look(p.request(dir), dir, n, id)
	if errno != 0 {
		return 0, false, id != 0
	}
	return uint32(st.Mode) & unix.S_IFMT, same, id != 0
}

// tell is tellOne for an event of a watcher. more are the events behind it.
func (p *pump) tell(e *hostwatch.Event, more []event) bool {
	p.quiet = p.session.readOnly || p.temporary(e) || p.byGuest(e)
	if e.Name == "" && e.NewName == "" {
		return e.Op&hostwatch.Attributes == 0 || p.directory(e.Dir)
	}
	if e.Op&hostwatch.Moved != 0 {
		return p.moved(e)
	}
	kind, same, known := p.look(e.Dir, e.Name)
	if was := uint32(unix.S_IFREG); kind == 0 {
		if e.IsDir {
			was = unix.S_IFDIR
		}
		if _, k := p.fs.Share.Child(e.Dir, nameOf(e.Name)); k != 0 && (k == unix.S_IFDIR) == e.IsDir {
			was = k
		}
		return p.changed(e, was, false, known)
	}
	if (kind == unix.S_IFDIR) != e.IsDir { // it is another file by now, of which more is told
		k := uint32(unix.S_IFREG)
		if e.IsDir {
			k = unix.S_IFDIR
		}
		return p.changed(e, k, false, known)
	}
	if e.Op&(hostwatch.Created|hostwatch.Removed) == hostwatch.Removed && same && !made(e, more) {
		return true // the guest has made it anew meanwhile
	}
	return p.changed(e, kind, true, known)
}

// made reports whether the name of e is made again later.
func made(e *hostwatch.Event, more []event) bool {
	for i := range more {
		m := &more[i]
		if m.Op&hostwatch.Created != 0 && m.Dir == e.Dir && m.Name == e.Name || m.NewDir == e.Dir && m.NewName == e.Name {
			return true
		}
	}
	return false
}

// changed queues the changes of one name. The kernel may have put several together, whose order
// follows from what the guest has had before and what is there now.
func (p *pump) changed(e *hostwatch.Event, kind uint32, exists, known bool) bool {
	c := change{kind: kind, dir: e.Dir, name: e.Name}
	if p.quiet {
		return p.refresh(c, e.Op)
	}
	var list []change
	add := func(op wire.Op) { c.op = op; list = append(list, c) }
	created, removed := e.Op&hostwatch.Created != 0, e.Op&hostwatch.Removed != 0
	if removed && (!created || known) {
		add(wire.Remove)
	}
	if created && (!known || exists || !removed) {
		add(wire.Make)
	}
	if !removed || created {
		if e.Op&hostwatch.Modified != 0 {
			add(wire.Modify)
		}
		if e.Op&hostwatch.Attributes != 0 {
			add(wire.Attributes)
		}
		if e.Op&hostwatch.Written != 0 {
			add(wire.Close)
		}
	}
	if created && removed && !exists && !known {
		add(wire.Remove)
	}
	return p.push(list...)
}

// moved queues a rename.
func (p *pump) moved(e *hostwatch.Event) bool {
	c := change{op: wire.Move, kind: unix.S_IFREG, dir: e.Dir, name: e.Name, newDir: e.NewDir, newName: e.NewName}
	if e.IsDir {
		c.kind = unix.S_IFDIR
	}
	if p.quiet {
		return (c.dir == 0 || p.refresh(change{kind: c.kind, dir: c.dir, name: c.name}, hostwatch.Removed)) &&
			(c.newDir == 0 || p.refresh(change{kind: c.kind, dir: c.newDir, name: c.newName}, hostwatch.Created))
	}
	other := "moved-" + newName()
	switch {
	case c.dir == 0:
		c.dir, c.name = controlDir, other
	case c.newDir == 0:
		c.newDir, c.newName = controlDir, other
	}
	list := []change{c}
	if e.NewDir != 0 {
		list = append(list, change{op: wire.Check, kind: c.kind, dir: e.NewDir, name: e.NewName})
	}
	return p.push(list...)
}

// directory queues a change of a directory's own attributes.
func (p *pump) directory(id uint64) bool {
	c, ok := p.directoryChange(wire.Attributes, id)
	if !ok || id != fp.RootID && p.fs.own.on.Load() && p.fs.dirs.has(c.dir) {
		return true // the directory has no place, or inotify tells of it in its parent, too
	}
	if p.quiet {
		c.op = wire.Refresh
	}
	return p.push(c)
}

// directoryChange is a change of a directory itself; false if the directory has no place. The root is named by its id alone.
func (p *pump) directoryChange(op wire.Op, id uint64) (c change, ok bool) {
	c = change{op: op, kind: unix.S_IFDIR, dir: id}
	if id == fp.RootID {
		return c, true
	}
	parent, name, ok := p.fs.Share.Place(id)
	if ok {
		c.dir, c.name = parent, name.String()
	}
	return c, ok
}

// refresh queues what makes a read-only guest's memory right.
func (p *pump) refresh(c change, op hostwatch.Op) bool {
	var list []change
	if op&(hostwatch.Created|hostwatch.Removed) != 0 {
		c.op = wire.Check
		list = append(list, c)
	}
	if op&hostwatch.Removed == 0 {
		c.op = wire.Refresh
		list = append(list, c)
	}
	return p.push(list...)
}
