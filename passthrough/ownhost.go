package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// hostOwnership is OwnershipHost: the host's kernel keeps owners and modes, and gives files
// that are made with the user's credentials to that user.
type hostOwnership struct {
	cfg    *Config
	fds    *descriptors
	mounts *mountTable
	who    *credentials
	again  *decider
}

func (*hostOwnership) needsFile() bool { return false }

func (*hostOwnership) show(*threadState, int) unix.Errno { return 0 }

func (*hostOwnership) direntType(typ uint32) uint32 { return typ }

func (*hostOwnership) reserved([]byte) bool { return false }

func (*hostOwnership) readlink(_ *threadState, n *inode, fd int, dst []byte) (int, unix.Errno) {
	return readlinkHost(n, fd, dst)
}

// readlinkHost is the target of a symbolic link of the host's.
func readlinkHost(n *inode, fd int, dst []byte) (int, unix.Errno) {
	if n.mode() != unix.S_IFLNK {
		return 0, unix.EINVAL
	}
	return sysReadlinkat(fd, &emptyName[0], dst)
}

// set changes the owner before the mode: the kernel clears set-ID bits with a change of owner, and
// the mode in the request is what the file has to have in the end.
func (o *hostOwnership) set(ts *threadState, fd int, in *fp.SetattrIn) unix.Errno {
	if in.Valid&(fp.FattrUID|fp.FattrGID) != 0 {
		if errno := o.chown(ts, fd, in); errno != 0 {
			return errno
		}
	}
	if in.Valid&fp.FattrMode == 0 {
		return 0
	}
	o.who.setFsetid(ts, true)
	return sysFchmodat(o.cfg.ProcFD, procName(&ts.num, fd), in.Mode&permBits)
}

// chown changes owner and group. noID leaves one as it is.
func (o *hostOwnership) chown(ts *threadState, fd int, in *fp.SetattrIn) unix.Errno {
	uid, gid, mayUser, mayGroup := noID, noID, true, true
	if in.Valid&fp.FattrUID != 0 {
		uid, mayUser = o.who.users.Host(in.UID)
	}
	if in.Valid&fp.FattrGID != 0 {
		gid, mayGroup = o.who.groups.Host(in.GID)
	}
	if !mayUser || !mayGroup {
		return unix.EPERM
	}
	// Without CAP_FSETID a set-group-ID bit without group execute would go.
	o.who.setFsetid(ts, true)
	return unknownID(sysFchownFD(fd, uid, gid))
}

// beforeChown: a symbolic link has an owner as any other file.
func (*hostOwnership) beforeChown(*threadState, *inode, int, *fp.SetattrIn) unix.Errno { return 0 }

func (*hostOwnership) givenBefore(*server.Request, *threadState) unix.Errno { return 0 }

func (*hostOwnership) standIn(*inode) *inode { return nil }

func (*hostOwnership) restoreStandIn(_, _ *inode) {}

func (*hostOwnership) forgotten(*inode) {}

func (o *hostOwnership) mknod(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	if made {
		return 0
	}
	dev := unix.Mkdev(want.major, want.minor)
	return o.who.asCaller(r, want.mask, func() unix.Errno { return sysMknodat(dirfd, name.CString(), want.mode, dev) })
}

func (o *hostOwnership) mkdir(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	if made {
		return 0
	}
	return o.who.asCaller(r, want.mask, func() unix.Errno { return sysMkdirat(dirfd, name.CString(), want.mode&permBits) })
}

func (o *hostOwnership) symlink(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno {
	if made {
		return 0
	}
	return o.who.asCaller(r, 0, func() unix.Errno { return sysSymlinkat(want.target.CString(), dirfd, name.CString()) })
}

func (o *hostOwnership) create(r *server.Request, dirfd int, name fp.Name, flags int, want *newFile, made bool) (fd int, seen guestStat, errno unix.Errno) {
	if made {
		fd, errno = o.again.openMade(threadOf(r), dirfd, name, flags)
		return fd, seen, errno
	}
	path := name.CString()
	if name == nil {
		path, flags = &dotName[0], flags|unix.O_TMPFILE
	} else {
		flags |= unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	}
	fd = -1
	errno = o.who.asCaller(r, want.mask, func() (errno unix.Errno) {
		fd, errno = o.fds.open(dirfd, path, flags, want.mode&permBits)
		return errno
	})
	return fd, seen, errno
}

// rename: a whiteout is a new file, which belongs to the request's user.
func (o *hostOwnership) rename(r *server.Request, oldDir int, oldName fp.Name, newDir int, newName fp.Name, flags uint32) unix.Errno {
	rename := func() unix.Errno {
		return sysRenameat2(oldDir, oldName.CString(), newDir, newName.CString(), flags)
	}
	if flags&unix.RENAME_WHITEOUT != 0 {
		return o.who.asCaller(r, 0, rename)
	}
	return rename()
}

// beforeWrite: the open file remembers whether the host's kernel clears the right bits.
func (o *hostOwnership) beforeWrite(ts *threadState, f *openFile) unix.Errno {
	if f.kernelKills.Load() {
		o.who.setFsetid(ts, false)
		return 0
	}
	byKernel, errno := o.killSetID(ts, f.fd, f.mount.local)
	if errno == 0 {
		f.kernelKills.Store(byKernel)
	}
	return errno
}

func (o *hostOwnership) beforeTruncate(ts *threadState, n *inode, fd int) unix.Errno {
	_, errno := o.killSetID(ts, fd, o.mounts.of(n.Key(), fd).local)
	return errno
}

func (*hostOwnership) afterTruncate(*threadState, int) unix.Errno { return 0 }

// killSetID prepares the thread for a change of the data of the file behind fd by a user who may
// not keep its set-ID bits. byKernel says that the host's kernel clears the right bits. It does not
// do that on a network file system, whose server trusts its clients.
func (o *hostOwnership) killSetID(ts *threadState, fd int, local bool) (byKernel bool, errno unix.Errno) {
	if errno = statxFD(fd, &ts.st); errno != 0 {
		return false, errno
	}
	mode := uint32(ts.st.Mode) & permBits
	byKernel = local && mode&(unix.S_ISGID|unix.S_IXGRP) != unix.S_ISGID
	o.who.setFsetid(ts, !byKernel)
	if left := withoutSetID(mode); !byKernel && left != mode {
		errno = sysFchmodat(o.cfg.ProcFD, procName(&ts.num, fd), left)
	}
	return byKernel, errno
}
