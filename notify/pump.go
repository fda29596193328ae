package notify

import (
	"runtime"
	"sync/atomic"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// pump makes notifications of the host's events.
type pump struct {
	fs      *FS
	session *session
	wake    chan struct{} // changes were lost
	losses  atomic.Uint64
}

// onThread runs f on a thread of its own, as requests have.
func (p *pump) onThread(f func(t *server.Thread)) {
	runtime.LockOSThread() // for good: the thread has credentials and a directory of its own
	var t server.Thread
	if err := p.fs.Share.StartThread(&t); err != nil {
		p.fs.fail(p.session, err)
		return
	}
	defer p.fs.Share.StopThread(&t)
	f(&t)
}

// request is one of our own.
func request(t *server.Thread, node uint64) *server.Request {
	return &server.Request{Header: fp.InHeader{NodeID: node}, Thread: t, MayWait: true}
}

// read tells the client of each event, until the session ends.
func (p *pump) read(t *server.Thread) {
	var list []hostwatch.Event
	for {
		var err error
		if list, err = p.session.watcher.Read(list[:0]); err != nil {
			p.fs.fail(p.session, err) // which does nothing if the session has ended
			return
		}
		for i := range list {
			if e := &list[i]; e.Op == hostwatch.Overflow || p.tell(t, e) != nil {
				p.lose()
			}
		}
	}
}

// lose notes that the client was not told of something.
func (p *pump) lose() {
	p.losses.Add(1)
	p.fs.lost.Store(true)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// tell tells the client of one event.
func (p *pump) tell(t *server.Thread, e *hostwatch.Event) error {
	if e.Name == "" && e.NewName == "" { // the directory itself
		return p.inode(e.Dir, attributes)
	}
	if e.Op&hostwatch.Moved != 0 {
		err := p.name(e.Dir, e.Name)
		if err == nil {
			err = p.name(e.NewDir, e.NewName)
		}
		return err
	}
	if e.Op&(hostwatch.Created|hostwatch.Removed) != 0 {
		if err := p.name(e.Dir, e.Name); err != nil {
			return err
		}
	}
	what := int64(attributes)
	if e.Op&(hostwatch.Modified|hostwatch.Written) != 0 {
		what = data
	} else if e.Op&hostwatch.Attributes == 0 {
		return nil
	}
	if id := p.node(t, e.Dir, e.Name); id != 0 {
		return p.inode(id, what)
	}
	return nil
}

// node is the client's number of the file that has a name now; 0 is none. One that the client does not know has
// a number of its own for the moment.
func (p *pump) node(t *server.Thread, dir uint64, name string) uint64 {
	var e fp.EntryOut
	if errno := p.fs.Share.Lookup(request(t, dir), append([]byte(name), 0), &e); errno != 0 || e.NodeID == 0 {
		return 0
	}
	p.fs.Share.Forget(nil, e.NodeID, 1)
	return e.NodeID
}

// What the client drops of a file, as NotifyInvalInodeOut.Off.
const (
	attributes = -1
	data       = 0 // and attributes
)

func (p *pump) inode(id uint64, what int64) error {
	return p.fs.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: id, Off: what}))
}

// name has the client drop a name, and what it knows of the directory: its list, which it may have kept without
// the name, and its times.
func (p *pump) name(dir uint64, name string) error {
	if dir == 0 {
		return nil
	}
	if err := p.inode(dir, data); err != nil {
		return err
	}
	return p.fs.notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: dir, NameLen: uint32(len(name))}), append([]byte(name), 0))
}

// tellAll has the client drop everything when changes were lost, until the session ends. In a session in which nothing
// is watched it tries again from time to time; t is nil there.
func (p *pump) tellAll(t *server.Thread) {
	for {
		for p.fs.lost.Load() {
			n := p.losses.Load()
			if !p.dropAll(t) {
				return
			}
			p.fs.lost.Store(false)
			if p.losses.Load() != n {
				p.fs.lost.Store(true)
			}
		}
		select {
		case <-p.wake:
		case <-p.session.retry:
			p.fs.renew(p.session)
			return
		case <-p.session.done:
			return
		}
	}
}

// dropAll has the client drop all that it knows, and watches all directories of that. It returns false
// when the session has ended.
func (p *pump) dropAll(t *server.Thread) bool {
	for id, dir := range p.fs.Share.Nodes {
		if dir && t != nil {
			p.fs.watch(request(t, id), id)
		}
		if !p.insist(func() error { return p.inode(id, data) }) {
			return false
		}
		parent, name, ok := p.fs.Share.Place(id)
		if ok && !p.insist(func() error { return p.name(parent, name.String()) }) {
			return false
		}
	}
	// All names, also those that do not exist; before Linux 6.16 they become old by themselves.
	return p.insist(func() error { return p.fs.notify(fp.NotifyIncEpoch) })
}

// retry is how long insist waits when a notification finds no way.
const retry = 20 * time.Millisecond

// insist repeats what has failed, because the client takes nothing for now.
func (p *pump) insist(f func() error) bool {
	for f() != nil {
		select {
		case <-p.session.done:
			return false
		case <-time.After(retry):
		}
	}
	return true
}
