package events

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// dirs are the directories that are watched.
type dirs struct {
	epoch time.Time
	all   bool // the share tells of all itself; does not change

	mu      sync.RWMutex // guards the following
	m       map[uint64]*dir
	watcher *hostwatch.Watcher // nil if there is no helper
}

// dir is a directory that was to be watched.
type dir struct {
	// used is when the guest was last told something in it, or when it was tried to watch it: nanoseconds
	// since the epoch.
	used    atomic.Int64
	watched bool
}

func (d *dirs) now() int64 { return int64(time.Since(d.epoch)) }

// has reports whether a directory is watched, and notes that it is used.
func (d *dirs) has(id uint64) bool {
	if d.all {
		return true
	}
	d.mu.RLock()
	e := d.m[id]
	d.mu.RUnlock()
	if e == nil || !e.watched {
		return false
	}
	e.used.Store(d.now())
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

// tried reports whether a directory is watched, or was tried to be less than a time ago.
func (d *dirs) tried(id uint64, ago time.Duration) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.m[id]
	return e != nil && (e.watched || d.now()-e.used.Load() < int64(ago))
}

// noted reports whether there is something to drop for a directory.
func (d *dirs) noted(id uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.m[id] != nil
}

// set notes whether a directory is watched by w; false if another one has taken its place.
func (d *dirs) set(w *hostwatch.Watcher, id uint64, watched bool) bool {
	e := &dir{watched: watched}
	e.used.Store(d.now())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watcher == w {
		d.m[id] = e
	}
	return d.watcher == w
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

// oldest is a directory that was not used for long, and when it was; 0 is none.
func (d *dirs) oldest() (id uint64, used int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, least := 0, int64(math.MaxInt64)
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
	return id, least
}

// watch watches a directory before the guest is told anything in it. It costs the first request
// three system calls.
func (fs *FS) watch(r *server.Request, id uint64) {
	if fs.helper.Load() == 0 || isOwn(id) || fs.dirs.has(id) || fs.dirs.tried(id, fs.lease/10) {
		return
	}
	for w := fs.dirs.current(); w != nil; w = fs.dirs.current() {
		if fs.watchBy(r, w, id) {
			return
		}
	}
}

// watchBy is watch; false if w is not the watcher any more.
func (fs *FS) watchBy(r *server.Request, w *hostwatch.Watcher, id uint64) bool {
	add := func(fd int) error { return w.Add(fd, id) }
	err := fs.watched.UseFD(r, id, add)
	if errors.Is(err, hostwatch.ErrFull) && w.Stale() {
		fs.renew(w) // which has this directory watched, too
	}
	if errors.Is(err, hostwatch.ErrFull) && fs.evict(r, w) {
		err = fs.watched.UseFD(r, id, add)
	}
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return true // there is nothing to watch
	}
	if !fs.dirs.set(w, id, err == nil) {
		return false
	}
	if err != nil {
		fs.notAll(err)
	}
	return true
}

// evict stops watching a directory of which the guest keeps nothing any more. The times of what is told are
// noted only since there were too many.
func (fs *FS) evict(r *server.Request, w *hostwatch.Watcher) bool {
	fs.notAll(hostwatch.ErrFull)
	id, used := fs.dirs.oldest()
	if id == 0 || fs.dirs.now()-max(used, fs.partial.Load()) <= int64(fs.lease) {
		return false
	}
	fs.dirs.drop(id)
	if fs.watched.UseFD(r, id, func(fd int) error { w.Remove(fd, id); return nil }) != nil {
		w.Remove(-1, id)
	}
	return true
}

// notAll says once that there are directories that are not watched.
func (fs *FS) notAll(err error) {
	fs.partial.CompareAndSwap(0, max(fs.dirs.now(), 1))
	fs.mu.Lock()
	first := !fs.warned
	fs.warned = true
	fs.mu.Unlock()
	if first {
		fs.log.Warn("Not all directories of the share are watched: the guest caches the contents of the others for a second only", "error", err)
	}
}

// unwatch is called for a directory that the guest may have forgotten.
func (fs *FS) unwatch(id uint64) {
	if fs.helper.Load() == 0 || !fs.dirs.noted(id) || fs.Share.Known(id) {
		return
	}
	fs.dirs.drop(id)
	if w := fs.dirs.current(); w != nil {
		if w.Remove(-1, id); w.Stale() {
			fs.renew(w)
		}
	}
}
