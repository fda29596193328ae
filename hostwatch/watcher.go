package hostwatch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DefaultMax is how many directories a Watcher has at most, if nobody says otherwise.
const DefaultMax = 32768

// ErrFull is returned by Add when there are as many directories as there may be: the Watcher's
// own limit, or the kernel's for this user (/proc/sys/fs/fanotify/max_user_marks).
var ErrFull = errors.New("hostwatch: too many directories")

// ErrUnsupported says that directories can't be watched: by this kernel, or on this file system.
var ErrUnsupported = errors.New("hostwatch: not supported")

// Options are those of a Watcher.
type Options struct {
	Max     int  // directories; 0 is DefaultMax
	Inotify bool // inotify is to be used, also where there is fanotify
}

// Watcher watches directories. All methods may be called from any goroutine, Read from one at a time.
type Watcher struct {
	max     int
	own     int32       // number of this process
	renames atomic.Bool // the kernel has FAN_RENAME
	file    *os.File
	conn    syscall.RawConn // of file: it is not closed meanwhile
	buf     []byte          // of Read
	inotify *inotify        // nil is fanotify
	once    sync.Once       // of Close

	mu   sync.Mutex // guards the following; a leaf
	byID map[uint64]string
	byFH map[string]uint64
	// stale is how many marks the kernel may have of directories that were removed without a descriptor.
	stale int
	full  bool // the kernel has said so
}

const (
	baseMask = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_ATTRIB |
		unix.FAN_EVENT_ON_CHILD | unix.FAN_ONDIR
	moveMask = unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO // where there is no FAN_RENAME

	bufferSize = 64 << 10
)

// New returns a Watcher without directories. Where fanotify does not exist (a kernel before 5.13) or is not
// permitted (a container's filter), it uses inotify; see [Watcher.TellsOwn]. ErrUnsupported is where there is neither.
func New(o Options) (*Watcher, error) {
	if o.Max == 0 {
		o.Max = DefaultMax
	}
	w := &Watcher{max: o.Max, own: int32(os.Getpid()), buf: make([]byte, bufferSize), byID: map[uint64]string{}, byFH: map[string]uint64{}}
	w.renames.Store(true)
	var err error
	if !o.Inotify {
		if err = w.newFanotify(); err == nil {
			return w, nil
		} else if !errors.Is(err, ErrUnsupported) {
			return nil, err
		}
	}
	if in := w.newInotify(); in != nil {
		return nil, errors.Join(err, in)
	}
	return w, nil
}

// newFanotify makes w one that uses fanotify.
func (w *Watcher) newFanotify() error {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_REPORT_DFID_NAME,
		unix.O_RDONLY|unix.O_CLOEXEC)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: fanotify_init: %w", ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("hostwatch: fanotify_init: %w", err)
	}
	return w.open(fd, "fanotify")
}

// open makes fd what events are read from.
func (w *Watcher) open(fd int, name string) error {
	w.file = os.NewFile(uintptr(fd), name)
	conn, err := w.file.SyscallConn()
	if err != nil {
		_ = w.file.Close()
		return fmt.Errorf("hostwatch: %w", err)
	}
	w.conn = conn
	return nil
}

// TellsOwn reports whether events of changes that this process makes itself are among the others: inotify
// does not tell them apart.
func (w *Watcher) TellsOwn() bool { return w.inotify != nil }

// Close ends the Watcher, and a Read that waits.
func (w *Watcher) Close() error {
	if w.inotify != nil {
		w.once.Do(func() { close(w.inotify.done) })
	}
	return w.file.Close()
}

// Len is the number of directories.
func (w *Watcher) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.byID)
}

// Add watches the directory behind fd, an O_PATH descriptor or any other, under the number id, which is
// not 0. When it returns, each later change is reported. A directory that is watched already
// gets the new number. fd stays the caller's and is not needed any more.
func (w *Watcher) Add(fd int, id uint64) error {
	if w.inotify != nil {
		return w.addInotify(fd, id)
	}
	key, err := keyOf(fd)
	if err != nil {
		return err
	}
	w.mu.Lock()
	if w.byID[id] == key {
		w.mu.Unlock()
		return nil
	}
	_, known := w.byFH[key]
	if !known && len(w.byID) >= w.max {
		w.mu.Unlock()
		return ErrFull
	}
	w.forget(id)
	if old, ok := w.byFH[key]; ok {
		delete(w.byID, old)
	}
	w.byID[id], w.byFH[key] = key, id // before the mark: its first event may come at once
	w.mu.Unlock()
	if known {
		return nil
	}
	if err := w.mark(unix.FAN_MARK_ADD, fd); err != nil {
		w.mu.Lock()
		w.full = w.full || errors.Is(err, ErrFull)
		w.forget(id)
		w.mu.Unlock()
		return err
	}
	return nil
}

// forget removes a number. w.mu is held.
func (w *Watcher) forget(id uint64) {
	if key, ok := w.byID[id]; ok {
		delete(w.byID, id)
		delete(w.byFH, key)
	}
}

// Stale reports whether the kernel keeps too much for this Watcher of directories that were removed: more than
// there may be, or a part of what it is willing to keep in all. Only Close ends that: it is time for
// a new Watcher.
func (w *Watcher) Stale() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stale > w.max || w.full && w.stale > len(w.byID)/8
}

// Remove ends the watch of the directory with the number id. fd is a descriptor of it; with -1
// the kernel keeps its part until Close, and what it says is left out. See Stale.
func (w *Watcher) Remove(fd int, id uint64) {
	if w.inotify != nil {
		w.forgetInotify(id)
		return
	}
	w.mu.Lock()
	if _, ok := w.byID[id]; ok && fd < 0 {
		w.stale++
	}
	w.forget(id)
	w.mu.Unlock()
	if fd >= 0 {
		_ = w.mark(unix.FAN_MARK_REMOVE, fd)
	}
}

// mark changes a mark of the kernel's.
func (w *Watcher) mark(how uint, fd int) error {
	err := unix.EINVAL
	if w.renames.Load() {
		err = w.markOnce(how, baseMask|unix.FAN_RENAME, fd)
	}
	if err == unix.EINVAL { // Linux before 5.17
		if err = w.markOnce(how, baseMask|moveMask, fd); err == 0 {
			w.renames.Store(false)
		}
	}
	switch err {
	case 0:
		return nil
	case unix.ENOSPC, unix.ENOMEM:
		return fmt.Errorf("%w: fanotify_mark: %w", ErrFull, err)
	case unix.EOPNOTSUPP, unix.ENODEV, unix.EXDEV, unix.EINVAL, unix.EPERM, unix.ENOSYS:
		return fmt.Errorf("%w: fanotify_mark: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("hostwatch: fanotify_mark: %w", err)
}

func (w *Watcher) markOnce(how uint, mask uint64, dir int) (e unix.Errno) {
	err := w.conn.Control(func(fd uintptr) {
		e = errno(unix.FanotifyMark(int(fd), how|unix.FAN_MARK_ONLYDIR, mask, dir, "."))
	})
	if err != nil {
		return unix.EBADF // closed
	}
	return e
}

func errno(err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return 0
}

// atHandleFID asks for a handle that need not lead to the file again: the kind that fanotify
// reports (Linux 6.5).
const atHandleFID = 0x200

// maxHandle is the largest handle that the kernel makes (MAX_HANDLE_SZ).
const maxHandle = 128

// keyOf is how events name the directory behind fd: file system, type and bytes of its handle.
func keyOf(fd int) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", fmt.Errorf("hostwatch: fstatfs: %w", err)
	}
	h, err := handleOf(fd, unix.AT_EMPTY_PATH|atHandleFID)
	if errors.Is(err, unix.EINVAL) {
		h, err = handleOf(fd, unix.AT_EMPTY_PATH)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return "", fmt.Errorf("%w: name_to_handle_at: %w", ErrUnsupported, err)
	case err != nil:
		return "", fmt.Errorf("hostwatch: name_to_handle_at: %w", err)
	}
	id := fs.Fsid.Val
	return string(unsafe.Slice((*byte)(unsafe.Pointer(&id[0])), 8)) + string(h), nil
}

// handleOf is the type and the bytes of a file handle, as they are in struct file_handle.
func handleOf(fd, flags int) ([]byte, error) {
	h, _, err := unix.NameToHandleAt(fd, "", flags)
	if err != nil {
		return nil, err
	}
	t := h.Type()
	b := make([]byte, 0, 4+maxHandle)
	b = append(b, unsafe.Slice((*byte)(unsafe.Pointer(&t)), 4)...)
	return append(b, h.Bytes()...), nil
}
