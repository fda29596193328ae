package passthrough

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// hostFlags are the flags to open a file with on the host. Everything that is not
// named here stays away from it: O_CREAT, O_PATH, O_TMPFILE, O_DIRECTORY and so on.
//
// O_APPEND, O_SYNC and O_DSYNC are not either: each WRITE says what holds for it, as
// a process may change them while the file is open, see writeFlags. O_NONBLOCK
// concerns only a lease that somebody on the host holds.
func (fs *FS) hostFlags(guest uint32) int {
	flags := int(guest)&(unix.O_ACCMODE|unix.O_TRUNC) | unix.O_NONBLOCK
	if fs.cfg.AllowDirectIO {
		flags |= int(guest) & unix.O_DIRECT
	}
	if fs.cfg.PreserveNoatime {
		flags |= int(guest) & unix.O_NOATIME
	}
	if fs.agreed(fp.InitWritebackCache) && flags&unix.O_ACCMODE == unix.O_WRONLY {
		// The guest fills up pages that a process writes a part of.
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	return flags
}

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
	defer fs.release(n)
	return fs.openNode(r, ts, n, in.Flags, in.OpenFlags, out)
}

// openNode opens a regular file for I/O. It goes through the descriptor of the node,
// whose kind is known, so that no device, FIFO or socket is ever opened, even if one
// takes the file's place at this moment.
func (fs *FS) openNode(r *server.Request, ts *threadState, n *inode, guest, openFlags uint32, out *fp.OpenOut) unix.Errno {
	switch {
	case n.isDir():
		return unix.EISDIR
	case n.mode() == unix.S_IFLNK:
		return unix.ELOOP
	case !n.isReg():
		return unix.ENXIO
	}
	if errno := fs.keepFD(); errno != 0 {
		return errno
	}
	return fs.unkeepFD(fs.openKept(r, ts, n, guest, openFlags, out))
}

// openKept is the part of openNode that opens the file.
func (fs *FS) openKept(r *server.Request, ts *threadState, n *inode, guest, openFlags uint32, out *fp.OpenOut) unix.Errno {
	fd, errno := fs.fdOf(ts, n)
	if errno != 0 {
		return errno
	}
	flags := fs.hostFlags(guest)
	kill := flags&unix.O_TRUNC != 0 && fs.truncatesUnprivileged(r, openFlags)
	if flags&unix.O_TRUNC != 0 {
		if errno := fs.truncatesAt(ts, n, fd, kill); errno != 0 {
			return errno
		}
	}
	opened, errno := fs.openIO(ts, n, fd, flags, guest)
	if errno == unix.EAGAIN { // a lease, which the open has begun to break
		if !r.MayWait {
			return server.WouldBlock
		}
		opened, errno = fs.openAgain(ts, fd, flags&^unix.O_NONBLOCK, guest)
	}
	if errno == unix.EACCES && fs.cfg.Landlocked {
		opened, errno = fs.openNamed(ts, n, flags, guest)
	}
	if errno != 0 {
		return errno
	}
	if kill {
		if errno := fs.own.afterTruncate(ts, opened); errno != 0 {
			fs.closeFD(opened)
			return errno
		}
	}
	out.OpenFlags = fs.openFlags(ts, n, opened) | fs.noFlush(fs.mountOf(n.Key(), opened), guest)
	fs.back(r, ts, n, opened)
	if out.Fh, errno = fs.addOpenFile(ts.cell, n, opened, guest); errno != 0 {
		fs.closeFD(opened)
		return errno
	}
	return 0
}

// back gives the kernel the file of an open file that is about to be, see Config.BackingFiles. The kernel
// uses it as this thread is now: it needs what keeps set-ID bits, as it clears those itself, by
// SETATTR, for writers who may not keep them.
func (fs *FS) back(r *server.Request, ts *threadState, n *inode, fd int) {
	if fs.agreed(fp.InitPassthrough) {
		fs.who.setFsetid(ts, true)
		r.Back(n.ID(), fd)
	}
}

// openAgain opens the file behind an O_PATH descriptor, and where it is not allowed
// to do that as it should, does what comes next best.
func (fs *FS) openAgain(ts *threadState, fd, flags int, guest uint32) (int, unix.Errno) {
	open := func(flags int) (int, unix.Errno) {
		return fs.open(fs.cfg.ProcFD, procName(&ts.num, fd), flags, 0)
	}
	if fs.cfg.ReadOnly && flags&unix.O_NOATIME == 0 {
		// Reading a share that is not to be changed should not change its times.
		if f, errno := open(flags | unix.O_NOATIME); errno != unix.EPERM {
			return f, errno
		}
	}
	f, errno := open(flags)
	if errno == unix.EPERM && guest&unix.O_APPEND != 0 {
		f, errno = open(flags | unix.O_APPEND) // chattr +a wants to see it
	}
	if errno == unix.EACCES && guest&unix.O_ACCMODE == unix.O_WRONLY && flags&unix.O_ACCMODE == unix.O_RDWR {
		// A daemon without privileges may write and not read: better without
		// the guest's read-modify-write than not at all.
		f, errno = open(flags&^unix.O_ACCMODE | unix.O_WRONLY)
	}
	return f, errno
}

// noFlush tells the guest to save the FLUSH when a process closes a file that it can
// only read and whose file system has nothing to report. A file that can be written
// to keeps it: with the flag the guest would also leave pages of shared mappings
// unwritten at close (fs/fuse/file.c: fuse_flush). POSIX locks end with FLUSH.
func (fs *FS) noFlush(mount *mountInfo, guest uint32) uint32 {
	if guest&unix.O_ACCMODE != unix.O_RDONLY || fs.agreed(fp.InitPosixLocks) || !mount.local {
		return 0
	}
	return fp.FopenNoflush
}

// Release implements server.Files. The descriptor is closed when the last request that
// uses it is done, which may be this one or a READ on another queue.
func (fs *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	f, errno := fs.enterFile(r, in.Fh, intentClose)
	if errno != 0 {
		return releasedBefore(r, errno)
	}
	defer fs.releaseOpenFile(f)
	begin(r)
	if !f.mount.local && !r.MayWait {
		return server.WouldBlock // the close may talk to a server
	}
	if in.ReleaseFlags&fp.ReleaseFlush != 0 {
		fs.dropOwner(f.node, in.LockOwner)
	}
	return fs.closeOpenFile(f)
}

// Flush implements server.Files: a process has closed the file. Its POSIX locks end.
func (fs *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	if fs.openless.agreed.Load() {
		return unix.ENOSYS // nothing to be told: it saves the guest the question
	}
	f, errno := fs.enterFile(r, in.Fh, intentClose)
	if errno != 0 {
		return errno
	}
	defer fs.releaseOpenFile(f)
	fs.dropOwner(f.node, in.LockOwner)
	if f.mount.local || f.lazy.Load() {
		return 0
	}
	if !r.MayWait {
		return server.WouldBlock
	}
	// Network file systems report at close what became of earlier writes.
	fd, errno := fs.opened(func() (int, unix.Errno) { return sysDup(f.fd) })
	if errno != 0 {
		return 0
	}
	fs.uncountFD()
	return sysClose(fd)
}

// Fsync implements server.Files. It waits for a disk: on the queue's thread only when
// that is known to be quick and holds up no other request, or to take no time, see disk.go.
func (fs *FS) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno {
	f, errno := fs.enterFile(r, in.Fh, intentSync)
	if errno != 0 {
		return errno
	}
	defer fs.releaseOpenFile(f)
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

// Fallocate implements server.Files. Which modes there are is the host's file system's
// to say; a guest that may write to the file may do all of them.
func (fs *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset || in.Length == 0 {
		return unix.EINVAL
	}
	f, errno := fs.enterFile(r, in.Fh, intentWrite)
	if errno != 0 {
		return errno
	}
	defer fs.releaseOpenFile(f)
	if !r.MayWait && in.Length > inlineBytes {
		return server.WouldBlock
	}
	if errno := fs.changesData(threadOf(r), f, fs.copiesUnprivileged(r)); errno != 0 {
		return errno
	}
	if in.Mode&shifts == 0 {
		return sysFallocate(f.fd, in.Mode, int64(in.Offset), int64(in.Length))
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
	defer fs.releaseOpenFile(f)
	// Backwards from the end is the only offset below 0. There is no data before a file
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

// CopyFileRange implements server.Files. Whether the two files are on one file system,
// and what that one can do, is for the host's kernel to say: with EXDEV or EOPNOTSUPP
// the guest copies by itself.
func (fs *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (uint64, unix.Errno) {
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 || in.Flags != 0 {
		return 0, unix.EINVAL
	}
	from, errno := fs.enterFile(r, in.FhIn, intentRead)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseOpenFile(from)
	to, errno := fs.enterFileOf(r, in.NodeIDOut, in.FhOut, intentWrite)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseOpenFile(to)
	if !r.MayWait && in.Len > inlineBytes {
		return 0, server.WouldBlock
	}
	if errno := fs.changesData(threadOf(r), to, fs.copiesUnprivileged(r)); errno != 0 {
		return 0, errno
	}
	const most = math.MaxInt32 &^ 0xfff // MAX_RW_COUNT
	n, errno := sysCopyFileRange(fs.cachedFD(r, from), int64(in.OffIn), fs.cachedFD(r, to), int64(in.OffOut), int(min(in.Len, most)))
	return uint64(n), errno
}

// Poll implements server.Files. Files and directories are always ready: with ENOSYS
// Linux asks once and then says so itself (fs/fuse/file.c: fuse_file_poll). Programs that
// hand every file to epoll, as Go's do, would have it ask at each open.
func (fs *FS) Poll(*server.Request, *fp.PollIn, *fp.PollOut) unix.Errno { return unix.ENOSYS }
