package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/ledger"
)

// Open files of a predecessor that has died get their descriptors when they are first used. A
// file is found in the same way as its node, and opened with the same flags. If the file is not
// found, the request gets EIO. The keeper has kept the open files that have locks or rights that
// can't be obtained again.

// restore makes an open file without a descriptor; false if its number can't be one.
func (t *openTable) restore(n *inode, rec *ledger.OpenFile) bool {
	f := &openFile{fd: -1, node: n, flags: rec.Flags}
	f.lazy.Store(true)
	if n.isDir() {
		f.dir = &f.stream
		f.stream.lost = true // each request says where it continues
	} else {
		f.mount = t.mounts.get(n.Key().onMount())
		if f.mount == nil {
			f.mount = &mountInfo{}
			f.mount.fd.Store(-1)
		}
		f.direct = t.cfg.AllowDirectIO && rec.Flags&unix.O_DIRECT != 0
	}
	n.Hold()
	if !t.Restore(f, rec.ID) {
		t.nodes.Unhold(n)
		return false
	}
	n.addOpenFile(f)
	// It was counted within the limit by the predecessor, and can't be refused now.
	t.fds.kept.Add(1)
	f.counted = t.fds.part.Keep(1)
	return true
}

// reopen gives an open file of a predecessor's its descriptor. The caller has a reference.
func (t *openTable) reopen(ts *threadState, f *openFile) unix.Errno {
	if f.lost.Load() {
		return unix.EIO
	}
	fd, errno := t.findFile(ts, f)
	switch errno {
	case 0:
	case unix.ENFILE, unix.ENOMEM, unix.EINTR, unix.EAGAIN:
		return errno // the next request may have better luck
	default:
		f.lost.Store(true)
		return unix.EIO
	}
	f.node.Lock()
	defer f.node.Unlock()
	if !f.lazy.Load() { // another request was faster
		t.fds.close(fd)
		return 0
	}
	f.fd = fd
	f.lazy.Store(false)
	return 0
}

// findFile opens the file again, with the flags that it was opened with.
func (t *openTable) findFile(ts *threadState, f *openFile) (int, unix.Errno) {
	n := f.node
	path, errno := t.find.fdOf(ts, n)
	if errno != 0 {
		return -1, errno
	}
	if n.isDir() {
		return t.opener.openAgain(ts, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	flags := t.opener.hostFlags(f.flags &^ unix.O_TRUNC)
	fd, errno := t.opener.openAgain(ts, path, flags, f.flags)
	if errno == unix.EACCES && t.cfg.Landlocked {
		fd, errno = t.opener.openNamed(ts, n, flags, f.flags)
	}
	return fd, errno
}
