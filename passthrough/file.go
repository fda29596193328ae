package passthrough

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Open implements server.Files.
func (fs *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	const tmpfile = unix.O_TMPFILE &^ unix.O_DIRECTORY
	if in.Flags&(unix.O_PATH|tmpfile) != 0 {
		return unix.EINVAL
	}
	if fs.openless.agreed.Load() {
		return unix.ENOSYS
	}
	ts := threadOf(r)
	n, errno := fs.enterNode(r.Header.NodeID, openIntent(in.Flags))
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	return fs.openFiles.openNode(r, ts, n, in.Flags, in.OpenFlags, out)
}

// openNode opens a regular file for I/O. It goes through the descriptor of the node,
// whose kind is known, so that no device, FIFO or socket is ever opened, even if one
// takes the file's place at this moment.
func (t *openTable) openNode(r *server.Request, ts *threadState, n *inode, guest, openFlags uint32, out *fp.OpenOut) unix.Errno {
	switch {
	case n.isDir():
		return unix.EISDIR
	case n.mode() == unix.S_IFLNK:
		return unix.ELOOP
	case !n.isReg():
		return unix.ENXIO
	}
	if errno := t.fds.keep(); errno != 0 {
		return errno
	}
	return t.fds.unkeepOn(t.openKept(r, ts, n, guest, openFlags, out))
}

// openKept is the part of openNode that opens the file.
func (t *openTable) openKept(r *server.Request, ts *threadState, n *inode, guest, openFlags uint32, out *fp.OpenOut) unix.Errno {
	fd, errno := t.find.fdOf(ts, n)
	if errno != 0 {
		return errno
	}
	flags := t.opener.hostFlags(guest)
	kill := flags&unix.O_TRUNC != 0 && t.privileges.truncatesUnprivileged(r, openFlags)
	if flags&unix.O_TRUNC != 0 {
		if errno := t.privileges.truncatesAt(ts, n, fd, kill); errno != 0 {
			return errno
		}
	}
	opened, errno := t.opener.openIO(ts, n, fd, flags, guest)
	if errno == unix.EAGAIN { // a lease, which the open has begun to break
		if !r.MayWait {
			return server.WouldBlock
		}
		opened, errno = t.opener.openAgain(ts, fd, flags&^unix.O_NONBLOCK, guest)
	}
	if errno == unix.EACCES && t.cfg.Landlocked {
		opened, errno = t.opener.openNamed(ts, n, flags, guest)
	}
	if errno != 0 {
		return errno
	}
	if kill {
		if errno := t.own.afterTruncate(ts, opened); errno != 0 {
			t.fds.close(opened)
			return errno
		}
	}
	out.OpenFlags = t.cache.openFlags(ts, n, opened) | t.opener.noFlush(t.mounts.of(n.Key(), opened), guest)
	t.opener.back(r, ts, n, opened)
	if out.Fh, errno = t.add(ts.cell, n, opened, guest); errno != 0 {
		t.fds.close(opened)
		return errno
	}
	return 0
}

// Release implements server.Files. The descriptor is closed when the last request that
// uses it is done, which may be this one or a READ on another queue.
func (fs *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	f, errno := fs.enterFile(r, in.Fh, intentClose)
	if errno != 0 {
		return releasedBefore(r, errno)
	}
	defer fs.openFiles.release(f)
	begin(r)
	if !f.mount.local && !r.MayWait {
		return server.WouldBlock // the close may talk to a server
	}
	if in.ReleaseFlags&fp.ReleaseFlush != 0 {
		fs.locks.dropOwner(f.node, in.LockOwner)
	}
	return fs.openFiles.close(f)
}

// Flush implements server.Files: a process has closed the file. Its POSIX locks end.
func (fs *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	if fs.openless.agreed.Load() {
		return unix.ENOSYS // there is nothing to do: after ENOSYS the guest does not ask again
	}
	f, errno := fs.enterFile(r, in.Fh, intentClose)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	fs.locks.dropOwner(f.node, in.LockOwner)
	if f.mount.local || f.lazy.Load() {
		return 0
	}
	if !r.MayWait {
		return server.WouldBlock
	}
	// Network file systems report at close what became of earlier writes.
	fd, errno := fs.fds.opened(func() (int, unix.Errno) { return sysDup(f.fd) })
	if errno != 0 {
		return 0
	}
	fs.fds.uncount()
	return sysClose(fd)
}

// Fsync implements server.Files. It waits for a disk: on the queue's thread only if the wait is
// known to be short and delays no other request, or takes no time at all, see disk.go.
func (fs *FS) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno {
	f, errno := fs.enterFile(r, in.Fh, intentSync)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	return f.fsync(r, f.mount, in.FsyncFlags)
}

// fsync is FSYNC and FSYNCDIR.
func (f *openFile) fsync(r *server.Request, m *mountInfo, flags uint32) unix.Errno {
	if !m.mayWait(r, &m.syncs, f.unsynced.Load()) {
		return server.WouldBlock
	}
	f.unsynced.Store(0)
	defer m.syncs.waited(time.Now())
	return sysFsync(f.fd, flags&fp.FsyncFdatasync != 0)
}

// inlineBytes is how much a call that copies or allocates may do on a queue's
// thread.
const inlineBytes = 1 << 20

// Fallocate implements server.Files. The host's file system decides which modes it has. A guest
// that may write to the file may use all of them.
func (fs *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset || in.Length == 0 {
		return unix.EINVAL
	}
	f, errno := fs.enterFile(r, in.Fh, intentWrite)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	if !r.MayWait && in.Length > inlineBytes {
		return server.WouldBlock
	}
	if errno := fs.privileges.changesData(threadOf(r), f, fs.privileges.copiesUnprivileged(r)); errno != 0 {
		return errno
	}
	if in.Mode&shifts == 0 {
		return sysFallocate(f.fd, in.Mode, int64(in.Offset), int64(in.Length))
	}
	if _, errno := fs.again.turns.take(r, turnOfEnd(r.Header.NodeID), false); errno != 0 {
		return errno
	}
	if done, errno := shiftedBefore(r, f.fd, in); done || errno != 0 {
		return errno
	}
	if errno := intendAppend(r, f.fd); errno != 0 {
		return errno
	}
	errno = sysFallocate(f.fd, in.Mode, int64(in.Offset), int64(in.Length))
	settle(r, errno)
	return errno
}

// Lseek implements server.Files. Linux asks for holes and data only; it knows the
// other positions itself.
func (fs *FS) Lseek(r *server.Request, in *fp.LseekIn, out *fp.LseekOut) unix.Errno {
	switch in.Whence {
	case unix.SEEK_SET, unix.SEEK_END, unix.SEEK_DATA, unix.SEEK_HOLE:
	default:
		return unix.EINVAL // SEEK_CUR: the position is the guest's
	}
	f, errno := fs.enterFile(r, in.Fh, intentRead)
	if errno != 0 {
		return errno
	}
	defer fs.openFiles.release(f)
	// Only SEEK_END takes an offset below 0. There is no data before the start of a file
	// (mm/filemap.c: mapping_seek_hole_data), and no position.
	if in.Offset > math.MaxInt64 {
		switch in.Whence {
		case unix.SEEK_DATA, unix.SEEK_HOLE:
			return unix.ENXIO
		case unix.SEEK_SET:
			return unix.EINVAL
		}
	}
	off, errno := sysLseek(f.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return errno
}

// CopyFileRange implements server.Files. The host's kernel decides whether it can copy between the
// two files. After EXDEV or EOPNOTSUPP the guest copies by itself.
func (fs *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (uint64, unix.Errno) {
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 || in.Flags != 0 {
		return 0, unix.EINVAL
	}
	from, errno := fs.enterFile(r, in.FhIn, intentRead)
	if errno != 0 {
		return 0, errno
	}
	defer fs.openFiles.release(from)
	to, errno := fs.enterFileOf(r, in.NodeIDOut, in.FhOut, intentWrite)
	if errno != 0 {
		return 0, errno
	}
	defer fs.openFiles.release(to)
	if !r.MayWait && in.Len > inlineBytes {
		return 0, server.WouldBlock
	}
	if errno := fs.privileges.changesData(threadOf(r), to, fs.privileges.copiesUnprivileged(r)); errno != 0 {
		return 0, errno
	}
	const most = math.MaxInt32 &^ 0xfff // MAX_RW_COUNT
	if a := past(r); a != nil && a.Step > 0 {
		// It is not copied twice: there may be something else by now.
		return min(uint64(a.Step-1), in.Len), 0
	}
	begin(r)
	n, errno := sysCopyFileRange(fs.opener.cachedFD(r, from), int64(in.OffIn), fs.opener.cachedFD(r, to), int64(in.OffOut), int(min(in.Len, most)))
	if errno == 0 {
		r.Cell.SetStep(n + 1)
	}
	return uint64(n), errno
}

// Poll implements server.Files. Files and directories are always ready. After ENOSYS Linux does not
// ask again and reports that itself (fs/fuse/file.c: fuse_file_poll). Otherwise programs that add
// every file to epoll, as Go programs do, would cost a request for each.
func (fs *FS) Poll(*server.Request, *fp.PollIn, *fp.PollOut) unix.Errno { return unix.ENOSYS }
