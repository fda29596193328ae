package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Creation of files with OwnershipXattr. A file gets its attribute before it gets its
// name, so that no process sees it without, not even after a crash. A directory can't
// be made without a name: until it has the attribute, only the guest's root can use
// it.

// newStat is the owner and mode of what the request's user makes in the directory
// behind dirfd, whose set-group-ID bit is inherited (fs/inode.c: inode_init_owner).
func (x *xattrOwnership) newStat(r *server.Request, ts *threadState, dirfd int, mode uint32) (guestStat, unix.Errno) {
	o := guestStat{uid: r.Header.UID, gid: r.Header.GID, mode: uint16(mode)}
	if o.uid == noID || o.gid == noID {
		return o, unix.EPERM
	}
	if errno := statxFD(dirfd, &ts.st); errno != 0 {
		return o, errno
	}
	dir, errno := x.ownerOf(ts, dirfd)
	if errno != 0 {
		return o, errno
	}
	if dir.mode&unix.S_ISGID != 0 {
		o.gid = dir.gid
		if mode&unix.S_IFMT == unix.S_IFDIR {
			o.mode |= unix.S_ISGID
		}
	}
	return o, 0
}

// newFile makes a regular file with the attribute and content in the directory behind
// dirfd, and opens it with flags. With name nil it stays without a name.
func (x *xattrOwnership) newFile(ts *threadState, dirfd int, name *byte, o *guestStat, flags int, content []byte) (int, unix.Errno) {
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		flags |= unix.O_RDWR // a file that can't be written to can't be made without a name
	}
	dot := [2]byte{'.', 0}
	flags &^= unix.O_TRUNC
	fd, errno := -1, unix.EOPNOTSUPP
	if name == nil || !x.cfg.noTmpfile {
		fd, errno = x.fds.open(dirfd, &dot[0], flags|unix.O_TMPFILE, o.hostMode())
	}
	if name != nil && (errno == unix.EISDIR || errno == unix.EOPNOTSUPP || errno == unix.ENOENT) {
		return x.newNamed(ts, dirfd, name, o, flags, content)
	}
	if errno != 0 {
		return -1, errno
	}
	if errno = x.fillFile(ts, fd, o, content); errno == 0 && name != nil {
		errno = sysLinkat(x.cfg.ProcFD, procName(&ts.num, fd), dirfd, name, unix.AT_SYMLINK_FOLLOW)
	}
	if errno != 0 {
		x.fds.close(fd)
		return -1, errno
	}
	return fd, 0
}

// newNamed is newFile on a file system without O_TMPFILE. Until the file has the
// attribute, only the guest's root can use it.
func (x *xattrOwnership) newNamed(ts *threadState, dirfd int, name *byte, o *guestStat, flags int, content []byte) (int, unix.Errno) {
	fd, errno := x.fds.open(dirfd, name, flags&^unix.O_EXCL|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errno != 0 {
		return -1, errno
	}
	if errno = x.fillFile(ts, fd, o, content); errno == 0 && o.hostMode() != 0o600 {
		errno = sysFchmodat(x.cfg.ProcFD, procName(&ts.num, fd), o.hostMode())
	}
	if errno != 0 {
		_ = sysUnlinkat(dirfd, name, 0)
		x.fds.close(fd)
		return -1, errno
	}
	return fd, 0
}

func (x *xattrOwnership) fillFile(ts *threadState, fd int, o *guestStat, content []byte) unix.Errno {
	if len(content) > 0 {
		if n, errno := sysPwrite(fd, content, 0); errno != 0 {
			return errno
		} else if n != len(content) {
			return unix.ENOSPC
		}
	}
	return x.mark(ts, fd, o)
}

func (x *xattrOwnership) mknod(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	return x.makeFile(r, dirfd, name, want, made)
}

// makeFile makes a file of any type but directory.
func (x *xattrOwnership) makeFile(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	ts := threadOf(r)
	o, errno := x.newStat(r, ts, dirfd, want.mode)
	if errno != 0 {
		return errno
	}
	o.major, o.minor = want.major, want.minor
	var fd int
	if made {
		fd, errno = x.finishFile(ts, dirfd, name, &o, unix.O_WRONLY, want.content())
	} else {
		fd, errno = x.newFile(ts, dirfd, name.CString(), &o, unix.O_WRONLY, want.content())
	}
	if errno == 0 {
		x.fds.close(fd)
	}
	return errno
}

// finishFile opens a file that a predecessor has made, and sees to it that it has the attribute
// and content: a file of newNamed may be without.
func (x *xattrOwnership) finishFile(ts *threadState, dirfd int, name fp.Name, o *guestStat, flags int, content []byte) (int, unix.Errno) {
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		flags |= unix.O_RDWR
	}
	fd, errno := x.again.openMade(ts, dirfd, name, flags)
	if errno != 0 {
		return -1, errno
	}
	if errno = x.fillFile(ts, fd, o, content); errno == 0 {
		errno = sysFchmodat(x.cfg.ProcFD, procName(&ts.num, fd), o.hostMode())
	}
	if errno != 0 {
		x.fds.close(fd)
		return -1, errno
	}
	return fd, 0
}

// symlink makes one of the host's if it belongs to root: it then needs no attribute.
func (x *xattrOwnership) symlink(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	o, errno := x.newStat(r, threadOf(r), dirfd, want.mode)
	switch {
	case errno != 0:
		return errno
	case o.uid != 0 || o.gid != 0:
		return x.makeFile(r, dirfd, name, want, made)
	case made:
		return 0
	}
	return sysSymlinkat(want.target.CString(), dirfd, name.CString())
}

func (x *xattrOwnership) mkdir(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	ts := threadOf(r)
	o, errno := x.newStat(r, ts, dirfd, want.mode)
	if errno != 0 {
		return errno
	}
	if !made {
		if errno = sysMkdirat(dirfd, name.CString(), 0o700); errno != 0 {
			return errno
		}
	}
	fd, errno := x.fds.open(dirfd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if errno == 0 {
		defer x.fds.close(fd)
		if errno = x.mark(ts, fd, &o); errno == 0 && (made || o.hostMode() != 0o700) {
			errno = sysFchmodat(x.cfg.ProcFD, procName(&ts.num, fd), o.hostMode())
		}
	}
	if errno != 0 {
		_ = sysUnlinkat(dirfd, name.CString(), unix.AT_REMOVEDIR)
	}
	return errno
}

func (x *xattrOwnership) create(r *server.Request, dirfd int, name fp.Name, flags int, want *newFile, made bool) (int, guestStat, unix.Errno) {
	ts := threadOf(r)
	o, errno := x.newStat(r, ts, dirfd, want.mode)
	if errno != 0 {
		return -1, o, errno
	}
	var fd int
	if made {
		fd, errno = x.finishFile(ts, dirfd, name, &o, flags, nil)
	} else {
		fd, errno = x.newFile(ts, dirfd, name.CString(), &o, flags, nil)
	}
	return fd, o, errno
}

func (x *xattrOwnership) rename(_ *server.Request, oldDir int, oldName fp.Name, newDir int, newName fp.Name, flags uint32) unix.Errno {
	return sysRenameat2(oldDir, oldName.CString(), newDir, newName.CString(), flags)
}

// readlink reads the target of a link that is one of the host's, or a regular file.
func (x *xattrOwnership) readlink(ts *threadState, n *inode, fd int, dst []byte) (int, unix.Errno) {
	if !n.isReg() {
		return readlinkHost(n, fd, dst)
	}
	if errno := x.attrs.ofFD(ts, fd); errno != 0 {
		return 0, errno
	}
	if ts.st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return 0, unix.EINVAL
	}
	f, errno := x.opener.openAgain(ts, fd, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errno != 0 {
		return 0, errno
	}
	defer x.fds.close(f)
	return sysPread(f, dst, 0)
}
