package events

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
)

// watchAll watches all directories that the guest has.
func (p *pump) watchAll() {
	fs := p.fs
	if fs.watched == nil {
		return
	}
	fs.watch(p.request(fp.RootID), fp.RootID)
	for id, dir := range fs.Share.Nodes {
		if dir {
			fs.watch(p.request(id), id)
		}
	}
}

// again checks all that the guest knows: events were lost, or another watcher has to take the place of
// one that is stale, if it is not nil. It returns false when the session has ended.
func (p *pump) again(stale *hostwatch.Watcher) bool {
	fs := p.fs
	fs.mu.Lock()
	since := p.session.current
	fs.mu.Unlock()
	if stale == nil {
		if fs.watched == nil && !p.rest() {
			return false
		}
		fs.log.Warn("Changes on the host were missed: checking all files that the guest knows")
	} else if err := p.replace(stale); err != nil {
		fs.blind(p.session, err)
		return false
	}
	begun := time.Now()
	if !p.catchUp(since) {
		return false
	}
	p.tired = time.Now().Add(max(minRest, 4*time.Since(begun)))
	p.settled(nil)
	return true
}

// replace puts another watcher in the place of one.
func (p *pump) replace(stale *hostwatch.Watcher) error {
	fs := p.fs
	w, err := fs.newWatcher()
	if err != nil {
		return err
	}
	fs.mu.Lock()
	current := fs.session == p.session && fs.dirs.current() == stale
	if current {
		fs.state.Store(stateLost)
		fs.dirs.start(w)
		fs.own.use(w.TellsOwn())
		fs.partial.Store(0)
	}
	fs.mu.Unlock()
	if !current {
		return w.Close()
	}
	go p.read(w)
	_ = stale.Close()
	p.watchAll()
	return nil
}

// renew asks for another watcher in the place of one that is stale.
func (fs *FS) renew(stale *hostwatch.Watcher) {
	p := fs.currentPump()
	if p == nil {
		return
	}
	p.mu.Lock()
	p.stale = stale
	p.mu.Unlock()
	p.poke()
}

// currentPump is the session's pump, nil as long as no helper has introduced itself.
func (fs *FS) currentPump() *pump {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.session == nil {
		return nil
	}
	return fs.session.pump
}

// catchUp tells the guest what has changed since a time, as far as it can be found out: which names
// are gone, which files have a younger time of change. With the zero time it only says that all is
// told from now on. It returns false when the session has ended.
func (p *pump) catchUp(since time.Time) bool {
	fs := p.fs
	if p.at = since; since.IsZero() {
		p.at = time.Now()
	}
	if !since.IsZero() {
		if !p.push(change{op: wire.Lost}) {
			return false
		}
		since = since.Add(-20 * time.Millisecond) // the kernel's clock for files is a coarse one
		if !p.findOut(since) {
			return false
		}
	}
	p.mu.Lock()
	lost := p.lost
	p.mu.Unlock()
	if lost {
		return true // once more
	}
	fs.mu.Lock()
	if fs.session == p.session {
		fs.state.CompareAndSwap(stateLost, stateAlone) // till all is performed
	}
	fs.mu.Unlock()
	return p.push(change{op: wire.Found})
}

// findOut tells what has changed since a time. It returns false when the session has ended.
func (p *pump) findOut(since time.Time) bool {
	if p.fs.watched == nil {
		return p.lookAtAll(since)
	}
	if !p.gone() {
		return false
	}
	for _, id := range p.fs.dirs.list() {
		if !p.scan(id, since) {
			return false
		}
	}
	return true
}

// gone tells of names that the guest has, and that are gone or another file's.
func (p *pump) gone() bool {
	fs := p.fs
	for id, dir := range fs.Share.Nodes {
		parent, name, ok := fs.Share.Place(id)
		if !ok || !fs.dirs.has(parent) {
			continue
		}
		kind := uint32(unix.S_IFREG) // the helper only has to know whether it is a directory
		if dir {
			kind = unix.S_IFDIR
		}
		_, same, errno := fs.Share.Look(p.request(parent), parent, name, id)
		if errno == 0 && same || errno != 0 && errno != unix.ENOENT {
			continue
		}
		c := change{op: wire.Remove, kind: kind, dir: parent, name: name.String()}
		switch {
		case p.session.readOnly:
			c.op = wire.Check
		case kind == unix.S_IFDIR && p.alive(id):
			// It has moved. The guest's kernel would make nothing in a directory any more that
			// it takes for removed.
			c.op, c.newDir, c.newName = wire.Move, controlDir, "moved-"+newName()
		}
		if !p.push(c) {
			return false
		}
	}
	return true
}

// alive reports whether a directory is still somewhere.
func (p *pump) alive(id uint64) bool {
	var st unix.Stat_t
	err := p.fs.watched.UseFD(p.request(id), id, func(fd int) error { return unix.Fstat(fd, &st) })
	return err == nil && st.Nlink > 0
}

// scan tells of the names of a directory that have changed.
func (p *pump) scan(id uint64, since time.Time) bool {
	var list *os.File
	err := p.fs.watched.UseFD(p.request(id), id, func(fd int) error {
		fd, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == nil {
			list = os.NewFile(uintptr(fd), "directory")
		}
		return err
	})
	if err != nil {
		return true // it is gone, or nobody may read it
	}
	defer func() { _ = list.Close() }()
	for {
		names, err := list.Readdirnames(512)
		for _, name := range names {
			if !p.scanName(id, name, since) {
				return false
			}
		}
		if err == io.EOF || len(names) == 0 {
			return true
		}
	}
}

func (p *pump) scanName(dir uint64, name string, since time.Time) bool {
	n := nameOf(name)
	id, _ := p.fs.Share.Child(dir, n)
	st, same, errno := p.fs.Share.Look(p.request(dir), dir, n, id)
	if errno != 0 || before(st.Ctime, since) {
		return true
	}
	c := change{kind: uint32(st.Mode) & unix.S_IFMT, dir: dir, name: name}
	var list []change
	add := func(op wire.Op) { c.op = op; list = append(list, c) }
	born := st.Mask&unix.STATX_BTIME == 0 || !before(st.Btime, since)
	switch {
	case p.session.readOnly:
		add(wire.Check)
		add(wire.Refresh)
		return p.push(list...)
	case id != 0 && !same, id == 0 && born:
		add(wire.Make)
	case id == 0:
		add(wire.Check) // the guest may remember that there was none
	}
	if before(st.Mtime, since) || c.kind != unix.S_IFREG {
		if id != 0 && same && c.kind != unix.S_IFDIR || id == 0 && !born {
			add(wire.Attributes)
		}
	} else {
		add(wire.Modify)
		add(wire.Close)
	}
	return p.push(list...)
}

func before(t unix.StatxTimestamp, u time.Time) bool {
	return time.Unix(t.Sec, int64(t.Nsec)).Before(u)
}
