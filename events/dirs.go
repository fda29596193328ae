package events

import (
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// dirs are the directories that are watched.
type dirs struct {
	clock atomic.Uint64

	mu      sync.RWMutex // guards the following
	m       map[uint64]*dir
	watcher *hostwatch.Watcher // nil if there is no helper
}

// dir is a directory that was to be watched.
type dir struct {
	used    atomic.Uint64 // by the clock
	watched bool
}

// has reports whether a directory is watched, and notes that it is used.
func (d *dirs) has(id uint64) bool {
	d.mu.RLock()
	e := d.m[id]
	d.mu.RUnlock()
	if e == nil || !e.watched {
		return false
	}
	e.used.Store(d.clock.Add(1))
	return true
}

// start begins to watch.
func (d *dirs) start(w *hostwatch.Watcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watcher = w
	clear(d.m)
}

// stop ends it, and returns the watcher; nil if there is none.
func (d *dirs) stop() *hostwatch.Watcher {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.watcher
	d.watcher = nil
	clear(d.m)
	return w
}

// current is the watcher.
func (d *dirs) current() *hostwatch.Watcher {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.watcher
}

// tried reports whether a directory was to be watched before.
func (d *dirs) tried(id uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.m[id] != nil
}

func (d *dirs) set(id uint64, watched bool) {
	e := &dir{watched: watched}
	e.used.Store(d.clock.Add(1))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watcher != nil {
		d.m[id] = e
	}
}

func (d *dirs) drop(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.m, id)
}

// list is the directories that are watched.
func (d *dirs) list() (ids []uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id, e := range d.m {
		if e.watched {
			ids = append(ids, id)
		}
	}
	return ids
}

// sample is how many directories are compared to find one that was not used for long.
const sample = 64

// oldest is a directory that was not used for long; 0 is none.
func (d *dirs) oldest() (id uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, least := 0, ^uint64(0)
	for i, e := range d.m {
		if u := e.used.Load(); e.watched && i != fp.RootID {
			if u < least {
				id, least = i, u
			}
			if n++; n == sample {
				break
			}
		}
	}
	return id
}

// watch watches a directory before the guest is told anything in it. It costs the first request
// three system calls.
func (fs *FS) watch(r *server.Request, id uint64) {
	if fs.helper.Load() == 0 || isOwn(id) || fs.dirs.has(id) || fs.dirs.tried(id) {
		return
	}
	w := fs.dirs.current()
	if w == nil {
		return
	}
	add := func(fd int) error { return w.Add(fd, id) }
	err := fs.Share.UseFD(r, id, add)
	if errors.Is(err, hostwatch.ErrFull) && fs.evict(r, w) {
		err = fs.Share.UseFD(r, id, add)
	}
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return // there is nothing to watch
	}
	if err != nil {
		fs.notAll(err)
	}
	fs.dirs.set(id, err == nil)
}

// evict stops watching the directory that was not used for longest.
func (fs *FS) evict(r *server.Request, w *hostwatch.Watcher) bool {
	id := fs.dirs.oldest()
	if id == 0 {
		return false
	}
	fs.notAll(hostwatch.ErrFull)
	fs.dirs.drop(id)
	if fs.Share.UseFD(r, id, func(fd int) error { w.Remove(fd, id); return nil }) != nil {
		w.Remove(-1, id)
	}
	return true
}

// notAll says once that there are directories that are not watched.
func (fs *FS) notAll(err error) {
	fs.partial.Store(true)
	fs.mu.Lock()
	first := !fs.warned
	fs.warned = true
	fs.mu.Unlock()
	if first {
		fs.log.Warn("Not all directories of the share are watched: the guest keeps what is in the others for a second only", "error", err)
	}
}

// unwatch is called for a directory that the guest may have forgotten.
func (fs *FS) unwatch(id uint64) {
	if fs.helper.Load() == 0 || !fs.dirs.tried(id) || fs.Share.Known(id) {
		return
	}
	fs.dirs.drop(id)
	if w := fs.dirs.current(); w != nil {
		w.Remove(-1, id)
	}
}
