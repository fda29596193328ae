// Package helper is the guest's side of package events: it makes the system calls by which the
// guest's kernel is notified of the host's changes. See wire for what it reads.
package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
)

// ErrNoEvents says that a mount is not a share that tells of changes.
var ErrNoEvents = errors.New("the share does not report changes: start govirtiofsd or govirtiofs relay with --events=auto (and mount a virtio-fs share)")

// Options are those of Watch.
type Options struct {
	// Ready is called when the host's changes are told from now on, also after an interruption. nil
	// is nothing.
	Ready func()
	// Trace is called for each record that was performed, with the error that the kernel gave. nil
	// is nothing.
	Trace func(wire.Record, error)
	Log   *slog.Logger // nil is slog.Default()
}

// readSize is room for records.
const readSize = 64 << 10

// busyTries is how often a helper tries to be the only one. The share gives up one that is silent for 10
// seconds: it may be a process that has just opened the file.
const busyTries = 15

// retry is how long to wait until the share is asked again, which did not answer as it should.
const retry = time.Second

// Watch tells the kernel of this machine of the host's changes in the share that is mounted on dir,
// until ctx ends. It takes up to 5 seconds to end: a request to the host can't be interrupted.
func Watch(ctx context.Context, dir string, o Options) error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	done := make(chan error, 1)
	go func() {
		// For good: the share knows this thread. It ends with the goroutine.
		runtime.LockOSThread()
		done <- watch(ctx, dir, &o)
	}()
	return <-done
}

func watch(ctx context.Context, dir string, o *Options) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w: give the directory on which the share is mounted", dir, err)
	}
	defer func() { _ = unix.Close(root) }()
	h := &helper{Options: o, root: root, buf: make([]byte, readSize), parent: -1}
	defer h.closeParent()
	last := ""
	for tries := 1; ; tries++ {
		err := h.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if fatal := h.fatal(err, tries); fatal != nil {
			return fmt.Errorf("%s: %w", dir, fatal)
		}
		if text := fmt.Sprint(err); text != last || !errors.Is(err, unix.EBUSY) { // each second would be too often
			last = text
			o.Log.Warn("The share does not report changes; asking again each second", "dir", dir, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// fatal is why a session that has failed is not tried again; nil if it is.
func (h *helper) fatal(err error, tries int) error {
	switch {
	case errors.Is(err, unix.ENOENT) && !h.served, errors.Is(err, unix.ENOTDIR) && !h.served:
		return ErrNoEvents
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("only root receives changes: %w", err)
	case errors.Is(err, unix.EBUSY) && !h.served && tries >= busyTries:
		return fmt.Errorf("another helper runs already for this share: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return errors.New("the host can't watch the share: its kernel has no fanotify or does not permit it; the log of govirtiofsd says more")
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return fmt.Errorf("the share is gone: %w", err)
	}
	return nil
}

// helper is what the thread has.
type helper struct {
	*Options
	root int
	buf  []byte

	parent     int // descriptor of the directory of the last record, or -1
	parentPath string
	readOnly   bool
	served     bool // the share has answered
}

// session opens the control file, and does what it says until that fails.
func (h *helper) session(ctx context.Context) error {
	fd, err := unix.Openat(h.root, wire.Dir+"/"+wire.File, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var fs unix.Statfs_t
	if unix.Fstatfs(h.root, &fs) == nil {
		h.readOnly = fs.Flags&unix.ST_RDONLY != 0
	}
	for done := uint64(0); ctx.Err() == nil; {
		n, err := unix.Pread(fd, h.buf, int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		h.served = true
		for b := h.buf[:n]; len(b) > 0; {
			var r wire.Record
			if r, b, err = wire.Parse(b); err != nil {
				return err
			}
			err := h.perform(&r)
			if h.Trace != nil {
				h.Trace(r, err)
			}
			done = max(done, r.Seq)
		}
		h.closeParent() // it would keep a directory in use
	}
	return nil
}

// perform makes the system calls of a record. The error is the kernel's: what a record is about may
// be gone by now.
func (h *helper) perform(r *wire.Record) error {
	switch r.Op {
	case wire.Hello:
		name := r.Path
		if h.readOnly {
			name += wire.ReadOnly
		}
		var st unix.Stat_t
		if err := unix.Fstatat(h.root, wire.Dir+"/"+name, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("introduction: %w", err)
		}
		return nil
	case wire.Lost:
		h.Log.Warn("Changes on the host were missed: reporting the present state of the files")
		return nil
	case wire.Found:
		if h.Ready != nil {
			h.Ready()
		}
		return nil
	}
	dir, name, err := h.find(r.Path)
	if err != nil {
		return err
	}
	if r.Op == wire.Move {
		return h.move(dir, name, r.NewPath)
	}
	err = act(r, dir, name)
	if r.Type == unix.DT_DIR {
		h.closeParent() // it may be another one now
	}
	return err
}

// act performs a record about one name.
func act(r *wire.Record, dir int, name string) error {
	switch r.Op {
	case wire.Make:
		return create(r.Type, dir, name)
	case wire.Remove:
		if r.Type == unix.DT_DIR {
			return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		return unix.Unlinkat(dir, name, 0)
	case wire.Modify:
		if err := refresh(dir, name); err != nil {
			return err
		}
		return setTimes(dir, name, unix.Timespec{Nsec: unix.UTIME_OMIT}, r.Nonce)
	case wire.Attributes:
		return setTimes(dir, name, unix.NsecToTimespec(0), r.Nonce)
	case wire.Close:
		return openAndClose(dir, name)
	case wire.Check:
		return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
	case wire.Refresh:
		return refresh(dir, name)
	}
	return wire.ErrBad
}

func setTimes(dir int, name string, access unix.Timespec, modified uint64) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{access, {Sec: int64(modified)}}, unix.AT_SYMLINK_NOFOLLOW)
}

// create makes a name of a type. The host has it already: neither mode nor contents matter.
func create(kind uint8, dir int, name string) error {
	switch kind {
	case unix.DT_DIR:
		return unix.Mkdirat(dir, name, 0o700)
	case unix.DT_LNK:
		return unix.Symlinkat("-", dir, name)
	case unix.DT_FIFO, unix.DT_SOCK, unix.DT_CHR, unix.DT_BLK:
		return unix.Mknodat(dir, name, uint32(kind)<<12|0o600, 0)
	}
	return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
}

// refresh has the kernel ask for attributes, and drop what it knows of the contents if they differ.
func refresh(dir int, name string) error {
	var st unix.Statx_t
	return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
}

// openAndClose opens a regular file for writing. Anything else would not be safe to open: the guest
// may have put another file there.
func openAndClose(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EINVAL
	}
	w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(w)
}

// move renames what find has found to another path.
func (h *helper) move(dir int, name, to string) error {
	from, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // find may close it
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(from) }()
	newDir, newName, err := h.find(to)
	if err != nil {
		return err
	}
	err = unix.Renameat(from, name, newDir, newName)
	h.closeParent() // its path may be another one now
	return err
}

// find opens the directory of a path, and returns it with the last name. No link is followed and no
// other file system is entered, also if a user has put them there. The descriptor is h's.
func (h *helper) find(path string) (dir int, name string, err error) {
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	if name == "" {
		name = "." // the root
	}
	if parent == "" {
		return h.root, name, nil
	}
	if h.parent >= 0 && h.parentPath == parent {
		return h.parent, name, nil
	}
	h.closeParent()
	fd, err := unix.Openat2(h.root, parent, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return -1, "", err
	}
	h.parent, h.parentPath = fd, parent
	return fd, name, nil
}

func (h *helper) closeParent() {
	if h.parent >= 0 {
		_ = unix.Close(h.parent)
	}
	h.parent = -1
}
