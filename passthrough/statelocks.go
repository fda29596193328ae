package passthrough

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Locks move with the guest. Two daemons on one file system exclude each other, so the old
// one lets go of its locks when the state is written (Leave) and the new one takes them as
// it loads: it reads the end of the state after that. Should the guest go on at the old
// one, it takes them again (Return). In between the guest stands still and somebody else
// may come first; no file system hands locks over. Then the guest would believe in a lock
// that it does not have, which must be said, and prevented if the migration can be.

// locks writes the locks of a file that has handles: those of owners, which are the
// node's, with its first handle, and the handle's own.
func (s *saver) locks(h *handle) {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	if h.flocked != flockNone {
		s.w.Uint(stateFlock, h.id, uint64(h.flocked))
	}
	if h.locks == nil {
		return
	}
	for _, o := range h.locks.owners {
		for _, r := range o.held {
			exclusive := uint64(0)
			if r.exclusive {
				exclusive = 1
			}
			s.w.Uint(stateLock, s.index[h.node], o.owner, exclusive, uint64(r.start), uint64(r.end))
		}
	}
}

// lostLock is a lock that can't be taken again.
type lostLock struct {
	node   *inode
	handle uint64 // of a flock lock; 0: the owner's
	errno  unix.Errno
}

// lock reads a lock of an owner and takes it.
func (l *loader) lock() error {
	n, owner, exclusive := l.nodes[l.r.Max(uint64(len(l.nodes)-1))], l.r.Uint(), l.r.Max(1) == 1
	start, end := l.r.Max(math.MaxInt64), l.r.Max(math.MaxInt64)
	switch {
	case l.r.Err() != nil:
		return l.r.Err()
	case end < start || !l.fs.cfg.PosixLocks:
		return errors.New("an impossible lock")
	}
	r := lockRange{int64(start), int64(end), exclusive}
	n.mu.Lock()
	h := n.handles
	for o := h; o != nil && exclusive; o = o.next { // one that is open for writing, if there is one
		if o.flags&unix.O_ACCMODE != unix.O_RDONLY {
			h = o
		}
	}
	errno := unix.EBADF
	if h != nil && h.dir == nil {
		errno = l.fs.posixLockLocked(l.ts, h, owner, r.flock())
	}
	n.mu.Unlock()
	if errno != 0 {
		l.lost = append(l.lost, lostLock{node: n, errno: errno})
	}
	return nil
}

// flock reads a handle's lock and takes it.
func (l *loader) flock() error {
	number, kind := l.r.Uint(), uint8(l.r.Max(flockExclusive))
	h := l.fs.handles.get(number)
	switch {
	case l.r.Err() != nil:
		return l.r.Err()
	case kind == flockNone || !l.fs.cfg.Flocks || h != nil && (h.id != number || h.dir != nil):
		return errors.New("an impossible lock")
	case h == nil:
		return nil // its file is not here
	}
	h.node.mu.Lock()
	errno := h.flockLocked(kind)
	h.node.mu.Unlock()
	if errno != 0 {
		l.lost = append(l.lost, lostLock{h.node, number, errno})
	}
	return nil
}

// settleLost decides on locks that could not be taken. A guest that is let in without them
// loses the files: it must not write where it believes to be alone.
func (l *loader) settleLost() error {
	if len(l.lost) == 0 {
		return nil
	}
	names := l.fs.lostNames(l.ts, l.lost)
	if !l.fs.cfg.Migration.GuestErrors {
		return fmt.Errorf("locks of the guest can't be taken here: %s; "+
			"with --migration-on-error=guest-error the guest gets an error when it uses these open files", names)
	}
	for _, lost := range l.lost {
		l.fs.closeLost(lost)
	}
	l.warning = "locks of the guest can't be taken here, and it gets an error when it uses these open files: " + names
	return nil
}

// closeLost closes the open files that a lost lock was to protect. No request runs.
func (fs *FS) closeLost(lost lostLock) {
	for h := lost.node.handles; h != nil; {
		next := h.next
		if lost.handle == 0 || lost.handle == h.id {
			fs.closeHandle(h)
		}
		h = next
	}
}

// maxLostNames is how many files a message names.
const maxLostNames = 8

// lostNames are the files of locks for a message.
func (fs *FS) lostNames(ts *threadState, list []lostLock) string {
	var names []string
	for i, lost := range list {
		if i == maxLostNames {
			names = append(names, fmt.Sprintf("%d more", len(list)-i))
			break
		}
		kind, why := "fcntl", lost.errno.Error()
		if lost.handle != 0 {
			kind = "flock"
		}
		switch lost.errno {
		case unix.EAGAIN:
			why = "somebody else holds it"
		case unix.EBADF:
			why = "the file is not open for it"
		}
		names = append(names, fmt.Sprintf("%s on %s (%s)", kind, fs.describe(ts, lost.node), why))
	}
	return strings.Join(names, ", ")
}

// describe names a file for the log: by its path, which may be anything, as the kernel has it.
func (fs *FS) describe(ts *threadState, n *inode) string {
	if fd, errno := fs.fdOf(ts, n); errno == 0 {
		root, path := fs.readlink(ts, fs.cfg.RootFD), fs.readlink(ts, fd)
		if below, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")+"/"); ok && root != "" {
			return fmt.Sprintf("%q", below)
		}
	}
	return fmt.Sprintf("node %d", n.id)
}

// eachLocked calls f with all handles that hold locks, or whose nodes have owners of some,
// and with the node's mu held. No request runs.
func (fs *FS) eachLocked(f func(h *handle)) {
	if !fs.agreed(fp.InitPosixLocks) && !fs.agreed(fp.InitFlockLocks) {
		return
	}
	for h := range fs.handles.all {
		h.node.mu.Lock()
		if h.flocked != flockNone || h.locks != nil {
			f(h)
		}
		h.node.mu.Unlock()
	}
}

// Leave implements server.StateKeeper.
func (fs *FS) Leave(*server.Thread) {
	all := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET}
	fs.eachLocked(func(h *handle) {
		if h.flocked != flockNone {
			_ = sysFlock(h.fd, unix.LOCK_UN)
		}
		if h.locks != nil {
			for _, o := range h.locks.owners {
				_ = sysFcntlLock(o.fd, unix.F_OFD_SETLK, &all)
			}
		}
	})
}

// returnGrace is how long Return waits for locks: the daemon that the guest did not come to
// may be about to end.
const returnGrace = time.Second

// Return implements server.StateKeeper.
func (fs *FS) Return(t *server.Thread) (warning string) {
	var lost []lostLock
	end := time.Now().Add(returnGrace)
	fs.eachLocked(func(h *handle) {
		if kind := h.flocked; kind != flockNone {
			if errno := insist(end, func() unix.Errno { return h.flockLocked(kind) }); errno != 0 {
				h.flocked = flockNone
				lost = append(lost, lostLock{h.node, h.id, errno})
			}
		}
		if h.locks == nil {
			return
		}
		for i := range h.locks.owners {
			if errno := h.locks.owners[i].again(end); errno != 0 {
				lost = append(lost, lostLock{node: h.node, errno: errno})
			}
		}
	})
	if len(lost) == 0 {
		return ""
	}
	// The guest may be in the middle of anything: it keeps the files.
	return "the guest goes on here, and locks that it believes to hold are lost: " + fs.lostNames(t.Local.(*threadState), lost)
}

// again takes an owner's locks again. What can't be taken is forgotten.
func (o *lockOwner) again(end time.Time) (failed unix.Errno) {
	had := o.held
	o.held = nil
	for _, r := range had {
		errno := insist(end, func() unix.Errno { return sysFcntlLock(o.fd, unix.F_OFD_SETLK, r.flock()) })
		if errno != 0 {
			failed = errno
			continue
		}
		o.held = o.held.set(r.flock())
	}
	return failed
}

// insist tries to get a lock until somebody has dropped it, or until end.
func insist(end time.Time, try func() unix.Errno) unix.Errno {
	for {
		errno := try()
		if errno != unix.EAGAIN && errno != unix.EACCES || time.Now().After(end) {
			return errno
		}
		time.Sleep(lockPollMin)
	}
}
