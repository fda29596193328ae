package passthrough

import (
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// hostFlags are the flags to open a file with on the host.
func (fs *FS) hostFlags(guest uint32) int {
	const keep = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_DSYNC | unix.O_SYNC
	flags := int(guest)&keep | unix.O_NONBLOCK
	if fs.cfg.AllowDirectIO {
		flags |= int(guest) & unix.O_DIRECT
	}
	if fs.cfg.PreserveNoatime {
		flags |= int(guest) & unix.O_NOATIME
	}
	if fs.agreed(fp.InitWritebackCache) {
		// The guest reads pages of a file that was opened for writing, and decides
		// itself where the end is.
		flags &^= unix.O_APPEND
		if flags&unix.O_ACCMODE == unix.O_WRONLY {
			flags = flags&^unix.O_ACCMODE | unix.O_RDWR
		}
	}
	return flags
}

// openOutFlags are FOPEN flags by cache policy.
func (fs *FS) openOutFlags(flags uint32) uint32 {
	switch {
	case fs.cfg.Cache == CacheNever, fs.cfg.Cache == CacheMetadata:
		return fp.FopenDirectIO
	case fs.cfg.AllowDirectIO && flags&unix.O_DIRECT != 0:
		return fp.FopenDirectIO
	case fs.cfg.Cache == CacheAlways:
		return fp.FopenKeepCache
	}
	return 0
}

// Open implements server.Files.
func (fs *FS) Open(r *server.Request, in *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	ts := threadOf(r)
	n, errno := fs.get(r.Header.NodeID)
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
	case n.birth.kind == unix.S_IFLNK:
		return unix.ELOOP
	case !n.isReg():
		return unix.EBADF
	}
	fd, errno := fs.fdOf(ts, n)
	if errno != 0 {
		return errno
	}
	flags := fs.hostFlags(guest)
	if flags&unix.O_TRUNC != 0 {
		fs.setFsetid(ts, openFlags&fp.OpenKillSuidgid == 0)
	}
	f, errno := fs.open(fs.cfg.ProcFD, procName(&ts.num, fd), flags, 0)
	if errno == unix.EACCES && guest&unix.O_ACCMODE == unix.O_WRONLY && flags&unix.O_ACCMODE == unix.O_RDWR {
		// A daemon without privileges may write and not read: better without
		// the guest's read-modify-write than not at all.
		flags = flags&^unix.O_ACCMODE | unix.O_WRONLY
		f, errno = fs.open(fs.cfg.ProcFD, procName(&ts.num, fd), flags, 0)
	}
	if errno != 0 {
		return errno
	}
	if out.Fh, errno = fs.addHandle(n, f, guest); errno != 0 {
		fs.closeFD(f)
		return errno
	}
	out.OpenFlags = fs.openOutFlags(guest)
	return 0
}

// Release implements server.Files.
func (fs *FS) Release(r *server.Request, in *fp.ReleaseIn) unix.Errno {
	h, errno := fs.fileHandle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	if in.ReleaseFlags&fp.ReleaseFlockUnlock != 0 {
		// The lock ends with the descriptor anyway; those that wait are told now.
		_ = sysFlock(h.fd, unix.LOCK_UN)
		h.node.unlocked()
	}
	return fs.closeHandle(h)
}

// Flush implements server.Files: a process has closed the file. Its POSIX locks end.
func (fs *FS) Flush(r *server.Request, in *fp.FlushIn) unix.Errno {
	h, errno := fs.fileHandle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	fs.dropOwner(h.node, in.LockOwner)
	if !fs.closeReports(h) {
		return 0
	}
	if !r.MayWait {
		return server.WouldBlock
	}
	// Network file systems report at close what became of earlier writes.
	fd, errno := syscall6(unix.SYS_FCNTL, uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0, 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return sysClose(int(fd))
}

// File systems of the host's own disks and memory (statfs(2)): closing a file there
// reports nothing.
var localFS = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true,
	unix.EROFS_SUPER_MAGIC_V1: true, unix.SQUASHFS_MAGIC: true, unix.RAMFS_MAGIC: true,
	unix.BCACHEFS_SUPER_MAGIC: true, zfsMagic: true,
}

const zfsMagic = 0x2fc12fc1

// closeReports reports whether the file's file system may answer close with an
// error of an earlier write. It is asked once a mount.
func (fs *FS) closeReports(h *handle) bool {
	if v, ok := fs.remote.Load(h.node.key.mount); ok {
		return v.(bool)
	}
	var st unix.Statfs_t
	if sysFstatfs(h.fd, &st) != 0 {
		return true
	}
	reports := !localFS[int64(st.Type)]
	fs.remote.Store(h.node.key.mount, reports)
	return reports
}

// Fsync implements server.Files.
func (fs *FS) Fsync(r *server.Request, in *fp.FsyncIn) unix.Errno {
	if !r.MayWait {
		return server.WouldBlock
	}
	h, errno := fs.handle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	return sysFsync(h.fd, in.FsyncFlags&fp.FsyncFdatasync != 0)
}

// Fsyncdir implements server.Directories.
func (fs *FS) Fsyncdir(r *server.Request, in *fp.FsyncIn) unix.Errno { return fs.Fsync(r, in) }

// Fallocate implements server.Files.
func (fs *FS) Fallocate(r *server.Request, in *fp.FallocateIn) unix.Errno {
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 || in.Length == 0 {
		return unix.EINVAL
	}
	if !r.MayWait && in.Length > inlineBytes {
		return server.WouldBlock
	}
	h, errno := fs.fileHandle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	return sysFallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
}

// inlineBytes is how much a call that copies or allocates may do on a queue's
// thread.
const inlineBytes = 1 << 20

// Lseek implements server.Files. Linux asks for holes and data only; it knows the
// other positions itself.
func (fs *FS) Lseek(r *server.Request, in *fp.LseekIn, out *fp.LseekOut) unix.Errno {
	if in.Offset > math.MaxInt64 || in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE && in.Whence != unix.SEEK_END && in.Whence != unix.SEEK_SET {
		return unix.EINVAL
	}
	h, errno := fs.fileHandle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	off, errno := sysLseek(h.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return errno
}

// CopyFileRange implements server.Files.
func (fs *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (uint64, unix.Errno) {
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 || in.Flags != 0 {
		return 0, unix.EINVAL
	}
	if !r.MayWait && in.Len > inlineBytes {
		return 0, server.WouldBlock
	}
	from, errno := fs.fileHandle(r, in.FhIn)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseHandle(from)
	to, errno := fs.handleOf(in.NodeIDOut, in.FhOut)
	if errno != 0 {
		return 0, errno
	}
	defer fs.releaseHandle(to)
	if to.dir != nil {
		return 0, unix.EISDIR
	}
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	n, errno := sysCopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, math.MaxInt32&^0xfff)))
	return uint64(n), errno
}

// Poll implements server.Files: files and directories are always ready.
func (fs *FS) Poll(r *server.Request, in *fp.PollIn, out *fp.PollOut) unix.Errno {
	h, errno := fs.handle(r, in.Fh)
	if errno != 0 {
		return errno
	}
	defer fs.releaseHandle(h)
	out.Revents = in.Events & pollAlways
	return 0
}

// SetupMapping implements server.Mappings: there is no window yet.
func (fs *FS) SetupMapping(*server.Request, *fp.SetupMappingIn) unix.Errno { return unix.ENOSYS }

// RemoveMapping implements server.Mappings.
func (fs *FS) RemoveMapping(*server.Request, []fp.RemoveMappingOne) unix.Errno { return unix.ENOSYS }

// pollAlways are the events that are always there: POLLIN, POLLOUT, POLLRDNORM and
// POLLWRNORM (include/uapi/asm-generic/poll.h).
const pollAlways = unix.POLLIN | unix.POLLOUT | 0x40 | 0x100
