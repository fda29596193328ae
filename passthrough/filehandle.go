package passthrough

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A file handle (name_to_handle_at(2)) finds a file again whatever its name is by then, and tells
// it apart from one that has its inode number now. A node with a descriptor does not need one.
// These nodes get one: a node whose descriptor the evictor closes; a directory that a listing
// shows, because everything below is found through it; a file that is opened often, see openio.go.
// With HandlesMandatory every node gets one.
//
// Handles are kept behind the nodes' names, see package nodes. The client never sees them.

// FileHandles says whether nodes are found again by file handles, too.
type FileHandles int

// Not at all; where the host can; or refuse a file system that can't.
const (
	HandlesNever FileHandles = iota
	HandlesPrefer
	HandlesMandatory
)

// rawHandle is struct file_handle with room for the largest handle (MAX_HANDLE_SZ), and
// for the number of a mount, which comes with a handle.
type rawHandle struct {
	size  uint32
	kind  int32
	data  [maxHandle]byte
	mount int32
}

// bytes is the handle as it is kept: its kind and its bytes.
func (h *rawHandle) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&h.kind)), handleHeader+h.size)
}

const (
	maxHandle    = 128
	handleHeader = 4 // kept before a handle's bytes: the kind
)

// setHandles finds out whether the share's root has a handle that can be opened.
func (l *locator) setHandles(st *unix.Statx_t) error {
	if l.cfg.FileHandles == HandlesNever {
		return nil
	}
	errno := l.tryHandle(st)
	if errno == 0 {
		return nil
	}
	mandatory := l.cfg.FileHandles == HandlesMandatory
	l.cfg.FileHandles = HandlesNever
	switch {
	case !mandatory:
		return nil
	case errno == unix.EPERM:
		return errors.New("passthrough: file handles can't be opened: CAP_DAC_READ_SEARCH is needed, outside of user namespaces")
	case errno == unix.EOPNOTSUPP:
		return errors.New("passthrough: the file system of the shared directory has no file handles")
	}
	return fmt.Errorf("passthrough: file handle of the shared directory: %w", errno)
}

// tryHandle makes the root's handle and opens it.
func (l *locator) tryHandle(st *unix.Statx_t) unix.Errno {
	k := keyOf(st)
	h := &rawHandle{}
	if errno := sysNameToHandleAt(l.cfg.RootFD, &emptyName[0], h, unix.AT_EMPTY_PATH); errno != 0 {
		return errno
	}
	var num [16]byte
	mount, errno := sysOpenat(l.cfg.ProcFD, procName(&num, l.cfg.RootFD), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errno != 0 {
		return errno
	}
	fd, errno := sysOpenByHandleAt(mount, h, unix.O_PATH)
	if errno != 0 {
		_ = sysClose(mount)
		return errno
	}
	_ = sysClose(fd)
	m := l.mounts.of(k, l.cfg.RootFD)
	m.keep = true
	m.fd.Store(int32(mount))
	return 0
}

// UsesFileHandles reports whether nodes are found again by file handles.
func (fs *FS) UsesFileHandles() bool { return fs.cfg.FileHandles != HandlesNever }

// keepHandle gives a node that was just seen a handle if it should have one from the
// start. It is called name in the directory dirfd, or is dirfd with an empty name. The
// handle may be another file's by now: that shows when it is opened.
func (l *locator) keepHandle(ts *threadState, n *inode, dirfd int, name *byte) unix.Errno {
	switch l.cfg.FileHandles {
	case HandlesNever:
		return 0
	case HandlesPrefer:
		if !n.isDir() || n.fd.Load() >= 0 {
			return 0
		}
	}
	n.Lock()
	defer n.Unlock()
	errno := l.takeHandle(n, dirfd, name, &ts.handle)
	if l.cfg.FileHandles == HandlesMandatory {
		return errno
	}
	return 0
}

// handleFrom says where a node has its file handle from.
type handleFrom uint8

// In the order in which one may replace another.
const (
	handleNone     handleFrom = iota
	handleOfLedger            // of a predecessor of this process, which its client may have controlled
	handleByName              // of the file that had the name, which may be another one: it is compared when it is opened
	handleByFD                // of the file behind the node's descriptor
)

// takeHandle asks for the handle of a node and keeps it; h is scratch. One from its
// descriptor, which dirfd is if the name is empty, replaces one by name. n.mu is held.
func (l *locator) takeHandle(n *inode, dirfd int, name *byte, h *rawHandle) unix.Errno {
	from, flags := handleByName, 0
	if *name == 0 {
		from, flags = handleByFD, unix.AT_EMPTY_PATH
	}
	if n.fileHandle >= from {
		return 0
	}
	m := l.mounts.get(n.Key().onMount())
	if m != nil && m.noHandles.Load() {
		return unix.EOPNOTSUPP
	}
	if errno := sysNameToHandleAt(dirfd, name, h, flags); errno != 0 {
		if errno == unix.EOPNOTSUPP && m != nil {
			m.noHandles.Store(true)
		}
		return errno
	}
	// A handle is valid on its own file system only. A descriptor is one of the node's file, also
	// if it belongs to another mount.
	if from == handleByName && n.Key().mount != 0 && n.Key().mount != uint64(uint32(h.mount)) {
		return unix.ESTALE
	}
	l.setHandle(n, h, from)
	return 0
}

// setHandle keeps a handle, which is from where from says. n is locked.
func (l *locator) setHandle(n *inode, h *rawHandle, from handleFrom) {
	l.nodes.SetFileHandle(n, h.bytes())
	n.fileHandle = from
}

// handle copies the node's handle to h and reports whether it has one. n is locked.
func (n *inode) handle(h *rawHandle) bool {
	kept := n.FileHandle()
	if len(kept) < handleHeader {
		return false
	}
	h.size = uint32(len(kept) - handleHeader)
	copy(h.bytes(), kept)
	return true
}

// openHandle opens the node by its handle, and checks what it has got.
func (l *locator) openHandle(ts *threadState, n *inode, depth int) (int, unix.Errno) {
	n.Lock()
	has, from := n.HasFileHandle(), n.fileHandle
	n.Unlock()
	if !has {
		return -1, unix.ESTALE
	}
	if errno := l.allow(n, intentRebind); errno != 0 {
		return -1, errno
	}
	m, mfd, errno := l.borrowMount(ts, n, depth)
	if errno != 0 {
		return -1, errno
	}
	defer m.giveBack()
	n.Lock()
	n.handle(&ts.handle)
	n.Unlock()
	fd, errno := l.fds.opened(func() (int, unix.Errno) { return sysOpenByHandleAt(mfd, &ts.handle, unix.O_PATH) })
	if errno != 0 {
		return -1, errno
	}
	fd, errno = l.checked(ts, n, fd)
	if errno == 0 && from == handleOfLedger {
		fd, errno = l.proven(ts, n, fd)
	}
	return fd, errno
}

// proven replaces a descriptor that was opened by a file handle from outside with one that was
// opened by names below the share. The handle proves nothing: the kernel opens any file of the file
// system by its handle.
func (l *locator) proven(ts *threadState, n *inode, fd int) (int, unix.Errno) {
	path := l.pathOf(ts, fd)
	l.fds.close(fd)
	if path != "" {
		if found, errno := l.walk(ts, path); errno == 0 {
			if found, errno = l.checked(ts, n, found); errno == 0 {
				return found, 0
			}
		}
	}
	return l.searchKnown(ts, n)
}

// maxKnownSearched is how many directories searchKnown looks into.
const maxKnownSearched = 256

// searchKnown searches for a file in the directories that the client knows: the kernel tells no name of a file that it
// does not have in its cache, or tells one that is removed.
func (l *locator) searchKnown(ts *threadState, n *inode) (int, unix.Errno) {
	if n.isDir() { // the kernel always knows where it is
		return -1, unix.ESTALE
	}
	left := maxKnownSearched
	for d := range l.nodes.All {
		if !d.isDir() || d.Key().onMount() != n.Key().onMount() {
			continue
		}
		if left--; left < 0 {
			break
		}
		if dirfd, errno := l.fdOf(ts, d); errno == 0 {
			if fd, errno := l.search(ts, n, d, dirfd, &dotName[0]); errno == 0 {
				return fd, 0
			}
		}
	}
	return -1, unix.ESTALE
}

// checked returns fd if it is the node's file, and closes it otherwise.
func (l *locator) checked(ts *threadState, n *inode, fd int) (int, unix.Errno) {
	errno := statxFD(fd, &ts.found)
	if errno == 0 && !n.is(&ts.found) {
		errno = unix.ESTALE
	}
	if errno != 0 {
		l.fds.close(fd)
		return -1, errno
	}
	return fd, 0
}

// openHere opens the file of a node's descriptor fd, which belongs to another mount, on the node's own.
// The file may have no name; then it can be linked only if it is open for I/O.
func (l *locator) openHere(ts *threadState, n *inode, fd int) (int, unix.Errno) {
	m, mfd, errno := l.borrowMount(ts, n, 0)
	if errno != 0 {
		return -1, errno
	}
	defer m.giveBack()
	if errno := sysNameToHandleAt(fd, &emptyName[0], &ts.handle, unix.AT_EMPTY_PATH); errno != 0 {
		return -1, errno
	}
	flags := unix.O_PATH
	if n.isReg() {
		flags = unix.O_RDONLY | unix.O_NONBLOCK
	}
	here, errno := l.fds.opened(func() (int, unix.Errno) { return sysOpenByHandleAt(mfd, &ts.handle, flags) })
	if errno != 0 {
		return -1, errno
	}
	return l.checked(ts, n, here)
}

// findable reports whether a node that the evictor is at can be found again without its
// descriptor fd. It gets a handle now if it can. n.mu and evictor.mu are held.
func (l *locator) findable(n *inode, fd int) bool {
	if l.cfg.FileHandles != HandlesNever {
		_ = l.takeHandle(n, fd, &emptyName[0], &l.fds.evictor.handle)
	}
	if n.Parent() != nil || n.openFiles != nil || !l.nodes.HasNumber(n) {
		return true // or nobody but its children can ask for it
	}
	// A file of which no name is known lives as long as it has one at all: it is found
	// by its handle, or the client looks that name up.
	var st unix.Statx_t
	return statxFD(fd, &st) == 0 && st.Nlink > 0
}
