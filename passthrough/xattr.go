package passthrough

import (
	"bytes"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Extended attributes are reached through a path of one component in the thread's
// working directory, /proc/self/fd: it leads to exactly the file of the node's
// descriptor, of whatever kind. A symbolic link's own attributes are reached so too,
// as the path ends at the link (fs/namei.c: nd_jump_link).

const xattrListMax = 65536 // XATTR_LIST_MAX

var aclPrefix = []byte("system.posix_acl_")

// hostXattrName is the host's name of an attribute that the guest names. ACLs exist
// only for a guest that agreed to them: another one would change them without knowing
// what they do to a file's mode.
func (fs *FS) hostXattrName(name fp.Name) (fp.Name, unix.Errno) {
	if !fs.cfg.Xattr {
		return nil, unix.ENOSYS
	}
	if !fs.guestSees(name) {
		return nil, unix.EOPNOTSUPP
	}
	return name, 0
}

// guestSees reports whether a name of the host's is shown to the guest.
func (fs *FS) guestSees(name []byte) bool {
	return !bytes.HasPrefix(name, aclPrefix) || fs.agreed(fp.InitPosixACL)
}

// Getxattr implements server.Xattrs.
func (fs *FS) Getxattr(r *server.Request, name fp.Name, dst []byte) (int, unix.Errno) {
	hostName, errno := fs.hostXattrName(name)
	if errno != 0 {
		return 0, errno
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return 0, errno
	}
	defer fs.release(n)
	if fs.hasIDs(name) {
		return fs.getxattrIDs(ts, ts.procPath(fd), name, hostName, dst)
	}
	return sysGetxattr(ts.procPath(fd), hostName.CString(), dst)
}

// Setxattr implements server.Xattrs.
func (fs *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	hostName, errno := fs.hostXattrName(name)
	if errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return errno
	}
	defer fs.release(n)
	if fs.hasIDs(name) {
		if value, errno = fs.xattrToHost(ts, name, value); errno != 0 {
			return errno
		}
	}
	// With SETXATTR_ACL_KILL_SGID the caller is not in the file's group: setting the
	// ACL clears the set-group-ID bit, which the kernel does without CAP_FSETID for a
	// thread that is not in the group either.
	kill := in.SetxattrFlags&fp.SetxattrACLKillSgid != 0
	fs.setFsetid(ts, !kill)
	errno = sysSetxattr(ts.procPath(fd), hostName.CString(), value, in.Flags)
	if errno == 0 && kill {
		errno = fs.clearSgid(ts, fd)
	}
	return errno
}

// clearSgid makes sure that the bit is gone: a daemon that is in the file's group
// keeps it in spite of all.
func (fs *FS) clearSgid(ts *threadState, fd int) unix.Errno {
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return errno
	}
	if ts.st.Mode&unix.S_ISGID == 0 {
		return 0
	}
	return sysFchmodat(fs.cfg.ProcFD, procName(&ts.num, fd), uint32(ts.st.Mode)&permBits&^unix.S_ISGID)
}

// Removexattr implements server.Xattrs.
func (fs *FS) Removexattr(r *server.Request, name fp.Name) unix.Errno {
	name, errno := fs.hostXattrName(name)
	if errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return errno
	}
	defer fs.release(n)
	return sysRemovexattr(ts.procPath(fd), name.CString())
}

// Listxattr implements server.Xattrs. Where names are left out, all of them are read
// first: the client's buffer may have room for those that it may see only.
func (fs *FS) Listxattr(r *server.Request, dst []byte) (int, unix.Errno) {
	if !fs.cfg.Xattr {
		return 0, unix.ENOSYS
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return 0, errno
	}
	defer fs.release(n)
	if fs.agreed(fp.InitPosixACL) {
		return sysListxattr(ts.procPath(fd), dst)
	}
	buf := dirBuffers.Get().(*dirBuffer)
	defer dirBuffers.Put(buf)
	all := buf[:]
	size, errno := sysListxattr(ts.procPath(fd), all)
	if errno == unix.ERANGE {
		all = make([]byte, xattrListMax)
		size, errno = sysListxattr(ts.procPath(fd), all)
	}
	if errno != 0 {
		return 0, errno
	}
	return fs.filterXattrs(dst, all[:size])
}

// filterXattrs copies the names that the guest sees to dst, and returns their length,
// for an empty dst too.
func (fs *FS) filterXattrs(dst, all []byte) (size int, errno unix.Errno) {
	for len(all) > 0 {
		n := bytes.IndexByte(all, 0) + 1
		if n == 0 {
			break
		}
		if fs.guestSees(all[:n]) {
			if len(dst) > 0 && copy(dst[size:], all[:n]) < n {
				return 0, unix.ERANGE
			}
			size += n
		}
		all = all[n:]
	}
	return size, 0
}
