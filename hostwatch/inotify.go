package hostwatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// inotify is what a Watcher uses where fanotify is not permitted. It wants a path of each directory: a thread with a
// working directory of its own goes there. An event names the watch, and does not say which process it is by.
type inotify struct {
	mu    sync.Mutex // held by addInotify and forgetInotify, before Watcher.mu: the kernel has one watch for a directory
	calls chan call
	done  chan struct{}
}

// call is a directory to watch, and where the number of the watch goes.
type call struct {
	dir   int
	reply chan reply
}

type reply struct {
	watch int
	err   error
}

const inotifyMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR

// newInotify makes w one that uses inotify.
func (w *Watcher) newInotify() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: inotify_init1: %w", ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("hostwatch: inotify_init1: %w", err)
	}
	if err := w.open(fd, "inotify"); err != nil {
		return err
	}
	in := &inotify{calls: make(chan call), done: make(chan struct{})}
	ready := make(chan error, 1)
	go in.run(w, ready)
	if err := <-ready; err != nil {
		_ = w.file.Close()
		return fmt.Errorf("%w: a working directory of a thread: %w", ErrUnsupported, err)
	}
	w.inotify = in
	return nil
}

// run watches directories, until the end.
func (in *inotify) run(w *Watcher, ready chan<- error) {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	home, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer func() { _ = unix.Close(home) }()
		err = unix.Unshare(unix.CLONE_FS)
	}
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case c := <-in.calls:
			var r reply
			if r.err = unix.Fchdir(c.dir); r.err == nil {
				err := w.conn.Control(func(fd uintptr) {
					r.watch, r.err = unix.InotifyAddWatch(int(fd), ".", inotifyMask)
				})
				if err != nil {
					r.err = unix.EBADF // closed
				}
			}
			_ = unix.Fchdir(home) // the directory would stay in use
			c.reply <- r
		case <-in.done:
			return
		}
	}
}

// add watches a directory, and returns how events name it.
func (in *inotify) add(dir int) (key string, err error) {
	c := call{dir, make(chan reply, 1)}
	select {
	case in.calls <- c:
	case <-in.done:
		return "", fmt.Errorf("hostwatch: %w", os.ErrClosed)
	}
	r := <-c.reply
	switch {
	case r.err == nil:
		return watchKey(int32(r.watch)), nil
	case errors.Is(r.err, unix.ENOSPC), errors.Is(r.err, unix.ENOMEM):
		return "", fmt.Errorf("%w: inotify_add_watch: %w", ErrFull, r.err)
	case errors.Is(r.err, unix.EPERM), errors.Is(r.err, unix.ENOSYS):
		return "", fmt.Errorf("%w: inotify_add_watch: %w", ErrUnsupported, r.err)
	}
	return "", fmt.Errorf("hostwatch: inotify_add_watch: %w", r.err)
}

// addInotify is Add.
func (w *Watcher) addInotify(fd int, id uint64) error {
	w.inotify.mu.Lock()
	defer w.inotify.mu.Unlock()
	key, err := w.inotify.add(fd)
	if err != nil {
		return err
	}
	w.mu.Lock()
	old, known := w.byFH[key]
	if !known && len(w.byID) >= w.max {
		w.mu.Unlock()
		w.removeInotify(key)
		return ErrFull
	}
	was, other := w.byID[id]
	w.forget(id)
	if known {
		delete(w.byID, old)
	}
	w.byID[id], w.byFH[key] = key, id
	w.mu.Unlock()
	if other && was != key {
		w.removeInotify(was)
	}
	return nil
}

// forgetInotify is Remove. An Add of the same directory under another number comes before or after it: between the two
// halves it would be given the watch that the second half removes.
func (w *Watcher) forgetInotify(id uint64) {
	w.inotify.mu.Lock()
	defer w.inotify.mu.Unlock()
	w.mu.Lock()
	key, ok := w.byID[id]
	w.forget(id)
	w.mu.Unlock()
	if ok {
		w.removeInotify(key)
	}
}

func (w *Watcher) removeInotify(key string) {
	watch := binary.NativeEndian.Uint32([]byte(key))
	_ = w.conn.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), watch) }) // an error: the directory is gone
}

// watchKey is how events name a directory: by the number of its watch.
func watchKey(watch int32) string {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(watch))
	return string(b[:])
}

// raw is one event of inotify's.
type raw struct {
	watch        int32
	mask, cookie uint32
	name         string
}

// parseRaw appends the events in b, which come from the kernel.
func parseRaw(b []byte, list []raw) []raw {
	for len(b) >= unix.SizeofInotifyEvent {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size < unix.SizeofInotifyEvent || size > len(b) {
			break
		}
		name, _, _ := strings.Cut(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		list = append(list, raw{int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:]), name})
		b = b[size:]
	}
	return list
}

// otherHalf is how long the second half of a rename may come after the first. The kernel queues one after the other.
const otherHalf = 20 * time.Millisecond

// maxBatch is from how many events on the other half of a rename is not waited for: if nothing but first halves
// comes, a batch would have no end, and to look through it for second halves takes the square of its length.
const maxBatch = 4 * bufferSize / (unix.SizeofInotifyEvent + 16) // four full reads

// readInotify is Read. The half of a rename at the end of what was read waits for the other one.
func (w *Watcher) readInotify(list []Event) ([]Event, error) {
	var batch []raw
	for had := len(list); len(list) == had; {
		n, err := w.file.Read(w.buf)
		if err != nil {
			return list, fmt.Errorf("hostwatch: %w", err)
		}
		batch = parseRaw(w.buf[:n], batch[:0])
		for half(batch) && len(batch) < maxBatch {
			_ = w.file.SetReadDeadline(time.Now().Add(otherHalf))
			n, err := w.file.Read(w.buf)
			_ = w.file.SetReadDeadline(time.Time{})
			if err != nil { // there is none: it has moved to where nobody watches
				break
			}
			batch = parseRaw(w.buf[:n], batch)
		}
		list = w.events(batch, list)
	}
	return list, nil
}

// half reports whether a batch ends with the first half of a rename.
func half(batch []raw) bool {
	return len(batch) > 0 && batch[len(batch)-1].mask&unix.IN_MOVED_FROM != 0
}

// events appends what the events of a batch say.
func (w *Watcher) events(batch []raw, list []Event) []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range batch {
		r := &batch[i]
		switch {
		case r.mask&unix.IN_Q_OVERFLOW != 0:
			list = append(list, Event{Op: Overflow})
			continue
		case r.mask&unix.IN_IGNORED != 0: // the directory is gone
			if id, ok := w.byFH[watchKey(r.watch)]; ok {
				w.forget(id)
			}
			continue
		case r.cookie != 0 && r.mask&unix.IN_MOVED_TO != 0 && i > 0 && paired(batch[:i], r.cookie):
			continue
		}
		e := Event{Op: opOf(r.mask), Dir: w.byFH[watchKey(r.watch)], Name: r.name, IsDir: r.mask&unix.IN_ISDIR != 0}
		switch {
		case r.mask&unix.IN_MOVED_FROM != 0:
			e.NewDir, e.NewName = w.movedTo(batch[i+1:], r.cookie)
		case r.mask&unix.IN_MOVED_TO != 0:
			e.Dir, e.Name, e.NewDir, e.NewName = 0, "", e.Dir, e.Name
		}
		if e.Op != 0 && (e.Dir != 0 || e.NewDir != 0) {
			list = append(list, e)
		}
	}
	return list
}

// paired reports whether the first half of a rename is in a batch.
func paired(batch []raw, cookie uint32) bool {
	for i := len(batch) - 1; i >= 0; i-- {
		if batch[i].cookie == cookie && batch[i].mask&unix.IN_MOVED_FROM != 0 {
			return true
		}
	}
	return false
}

// movedTo is the second half of a rename; nothing if it is not watched. w.mu is held.
func (w *Watcher) movedTo(batch []raw, cookie uint32) (dir uint64, name string) {
	for i := range batch {
		if batch[i].cookie == cookie && batch[i].mask&unix.IN_MOVED_TO != 0 {
			if dir = w.byFH[watchKey(batch[i].watch)]; dir != 0 {
				return dir, batch[i].name
			}
		}
	}
	return 0, ""
}

func opOf(mask uint32) (op Op) {
	for _, m := range [...]struct {
		bits uint32
		op   Op
	}{{unix.IN_CREATE, Created}, {unix.IN_DELETE, Removed}, {unix.IN_MOVED_FROM | unix.IN_MOVED_TO, Moved}, {unix.IN_MODIFY, Modified},
		{unix.IN_CLOSE_WRITE, Written}, {unix.IN_ATTRIB, Attributes}} {
		if mask&m.bits != 0 {
			op |= m.op
		}
	}
	return op
}
