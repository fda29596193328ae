package events

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
)

// Changes that the share tells of itself, in the words of FUSE notifications: a FUSE program behind a relay does. Nothing is
// watched on this machine then.

// Limits of what such a share can make the helper do. A program that tells of more is not believed to be more precise: when there
// is no room, the guest's memory is corrected by checking all that it knows.
const (
	maxNotices  = 4096 // nodes and names that wait, each once
	noticeRate  = 1000 // a second
	noticeBurst = 4096 // before noticeRate holds
	// minRest is how long at least nothing is done after all was checked; at most a fifth of the time is spent on that.
	minRest = 5 * time.Second
)

// noticed is a node, or a name in a directory.
type noticed struct {
	node, dir uint64
	name      string
}

// ErrBadNotification says that a notification is not what its code promises.
var ErrBadNotification = errors.New("events: a malformed notification")

// Notify implements fuse.Notifier. It takes FUSE_NOTIFY_INVAL_INODE, INVAL_ENTRY, DELETE and INC_EPOCH with the guest's numbers of
// nodes, and ignores other codes. Without a helper nothing happens. It never waits.
func (fs *FS) Notify(code fp.NotifyCode, parts ...[]byte) error {
	var body []byte
	for _, b := range parts {
		body = append(body, b...)
	}
	e := event{at: time.Now()}
	switch code {
	case fp.NotifyInvalInode:
		var in fp.NotifyInvalInodeOut
		if len(body) != fp.Size[fp.NotifyInvalInodeOut]() {
			return ErrBadNotification
		}
		copy(fp.Bytes(&in), body)
		e.node, e.Op = in.Ino, hostwatch.Attributes
		if in.Off >= 0 {
			e.Op = hostwatch.Modified
		}
	case fp.NotifyInvalEntry:
		var in fp.NotifyInvalEntryOut
		name, ok := nameBehind(fp.Bytes(&in), body)
		if !ok || len(name) != int(in.NameLen) {
			return ErrBadNotification
		}
		e.Dir, e.Name = in.Parent, name
	case fp.NotifyDelete:
		var in fp.NotifyDeleteOut
		name, ok := nameBehind(fp.Bytes(&in), body)
		if !ok || len(name) != int(in.NameLen) {
			return ErrBadNotification
		}
		e.Dir, e.Name = in.Parent, name // what is there now is looked for: the program may have made it anew
	case fp.NotifyIncEpoch:
		e.Op = hostwatch.Overflow
	default:
		return nil
	}
	if e.Name != "" && isControl(e.Dir, nameOf(e.Name)) {
		return nil
	}
	if p := fs.currentPump(); p != nil {
		p.take(e)
	}
	return nil
}

// nameBehind fills in a fixed part, and returns the name that follows.
func nameBehind(fixed, body []byte) (string, bool) {
	n := copy(fixed, body)
	if n < len(fixed) || len(body) < n+2 || body[len(body)-1] != 0 {
		return "", false
	}
	return string(body[n : len(body)-1]), true
}

// take notes what the share tells: each node and each name once, until its turn comes.
func (p *pump) take(e event) {
	p.mu.Lock()
	key := noticed{e.node, e.Dir, e.Name}
	i, waits := p.noticed[key]
	switch {
	case p.lost:
	case e.Op == hostwatch.Overflow, !waits && len(p.list) >= maxNotices:
		p.lost, p.list, p.noticed = true, nil, nil
	case waits:
		p.list[i].Op |= e.Op
	default:
		if p.noticed == nil {
			p.noticed = make(map[noticed]int)
		}
		p.noticed[key] = len(p.list)
		p.list = append(p.list, e)
	}
	p.note()
	p.mu.Unlock()
	p.poke()
}

// notice queues what the guest is to be told of a notice. It returns false when the session has ended.
func (p *pump) notice(e *event) bool {
	if !p.wait(p.fs.pace.Reserve().Delay()) {
		return false
	}
	if e.node == 0 {
		return p.aboutName(e)
	}
	p.quiet = p.session.readOnly
	if e.node == fp.RootID {
		return p.aboutNode(change{kind: unix.S_IFDIR, dir: fp.RootID}, e.Op)
	}
	parent, name, ok := p.fs.Share.Place(e.node)
	if !ok {
		return true // the guest has no name for it, and the helper only knows names
	}
	e.Dir, e.Name = parent, name.String()
	id, kind := p.fs.Share.Child(parent, name)
	if id != e.node {
		st, same, errno := p.fs.Share.Look(p.request(parent), parent, name, e.node)
		if kind = uint32(st.Mode) & unix.S_IFMT; errno != 0 || !same {
			return p.aboutName(e)
		}
	}
	p.quiet = p.quiet || p.byGuest(&e.Event)
	return p.aboutNode(change{kind: kind, dir: parent, name: e.Name}, e.Op)
}

// aboutNode queues a change of what a name stands for.
func (p *pump) aboutNode(c change, op hostwatch.Op) bool {
	var list []change
	add := func(op wire.Op) { c.op = op; list = append(list, c) }
	switch {
	case p.quiet:
		add(wire.Refresh)
	case op&hostwatch.Modified != 0 && c.kind == unix.S_IFREG:
		add(wire.Modify)
		add(wire.Close) // by this the guest's kernel drops the data
	default:
		add(wire.Attributes)
	}
	return p.push(list...)
}

// aboutName queues a change of what a name stands for now, which may be nothing.
func (p *pump) aboutName(e *event) bool {
	p.quiet = p.session.readOnly || p.byGuest(&e.Event)
	id, _ := p.fs.Share.Child(e.Dir, nameOf(e.Name))
	return p.nowIs(e.Dir, e.Name, id, time.Time{})
}

// nowIs looks what a name stands for, and queues what happened to it if the guest knows it as the node id; 0 is none. If it is
// the same, and not older than a time that is not zero, it is told as changed.
func (p *pump) nowIs(dir uint64, name string, id uint64, since time.Time) bool {
	st, same, errno := p.fs.Share.Look(p.request(dir), dir, nameOf(name), id)
	c := change{kind: uint32(st.Mode) & unix.S_IFMT, dir: dir, name: name}
	exists := errno == 0
	switch {
	case exists && same && c.kind == unix.S_IFREG && !since.IsZero() && !p.quiet && !before(st.Ctime, since):
		return p.aboutNode(c, hostwatch.Modified)
	case exists && same, !exists && (id == 0 || errno != unix.ENOENT):
		return p.asksAnew(c, exists)
	case p.quiet:
		return p.asksAnew(c, exists) && p.refreshDir(dir)
	}
	return p.push(p.replaced(c, id, exists)...)
}

// asksAnew has the guest's kernel ask for a name, and for the attributes of what it stands for. No watcher is notified of that.
func (p *pump) asksAnew(c change, exists bool) bool {
	c.op = wire.Check
	list := []change{c}
	if exists {
		c.op = wire.Refresh
		list = append(list, c)
	}
	return p.push(list...)
}

// refreshDir has it ask for the attributes of a directory, by which it also drops its list of names.
func (p *pump) refreshDir(id uint64) bool {
	c, ok := p.directoryChange(wire.Refresh, id)
	return !ok || p.push(c)
}

// replaced is what the helper does where a name stands for something else than before, or for nothing.
func (p *pump) replaced(c change, id uint64, exists bool) (list []change) {
	if id != 0 {
		old := c
		_, old.kind = p.fs.Share.Child(c.dir, nameOf(c.name))
		old.op = wire.Remove
		if old.kind == unix.S_IFDIR && exists {
			// The guest's kernel would make nothing in a directory any more that it takes for removed. This one may be
			// somewhere else now.
			old.op, old.newDir, old.newName = wire.Move, controlDir, "moved-"+newName()
		}
		list = append(list, old)
	}
	if exists {
		c.op = wire.Make
		list = append(list, c)
	}
	return list
}

// lookAtAll tells what has changed in all that the guest knows, and since a time if the program's clock can be believed. It returns false
// when the session has ended.
func (p *pump) lookAtAll(since time.Time) bool {
	if !p.refreshDir(fp.RootID) {
		return false
	}
	for id := range p.fs.Share.Nodes {
		parent, name, ok := p.fs.Share.Place(id)
		if !ok {
			continue
		}
		p.quiet = p.session.readOnly
		if !p.nowIs(parent, name.String(), id, since) {
			return false
		}
	}
	return true
}

// rest waits until all may be checked again. It returns false when the session has ended.
func (p *pump) rest() bool { return p.wait(time.Until(p.tired)) }

// wait waits for a time. It returns false when the session has ended.
func (p *pump) wait(d time.Duration) bool {
	select {
	case <-p.session.done:
		return false
	default:
	}
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.session.done:
		return false
	}
}
