package passthrough

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

const aclPrefix = "system.posix_acl_"

// hostXattr checks a name that the guest uses. ACLs exist for a guest that agreed to
// them only: another one would change them without knowing what they do to modes.
func (fs *FS) hostXattr(name fp.Name) unix.Errno {
	if !fs.cfg.Xattr {
		return unix.ENOSYS
	}
	if bytes.HasPrefix(name, []byte(aclPrefix)) && !fs.agreed(fp.InitPosixACL) {
		return unix.EOPNOTSUPP
	}
	return 0
}

// Getxattr implements server.Xattrs.
func (fs *FS) Getxattr(r *server.Request, name fp.Name, dst []byte) (int, unix.Errno) {
	if errno := fs.hostXattr(name); errno != 0 {
		return 0, errno
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return 0, errno
	}
	defer fs.release(n)
	return sysGetxattr(ts.procPath(fd), name.CString(), dst)
}

// Setxattr implements server.Xattrs.
func (fs *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	if errno := fs.hostXattr(name); errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return errno
	}
	defer fs.release(n)
	// With SETXATTR_ACL_KILL_SGID the caller is not in the file's group: setting the
	// ACL clears the set-group-ID bit, which the kernel does without CAP_FSETID for a
	// thread that is not in the group either.
	fs.setFsetid(ts, in.SetxattrFlags&fp.SetxattrACLKillSgid == 0)
	errno = sysSetxattr(ts.procPath(fd), name.CString(), value, in.Flags)
	fs.setFsetid(ts, true)
	if errno == 0 && in.SetxattrFlags&fp.SetxattrACLKillSgid != 0 {
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
	if errno := fs.hostXattr(name); errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return errno
	}
	defer fs.release(n)
	return sysRemovexattr(ts.procPath(fd), name.CString())
}

// Listxattr implements server.Xattrs.
func (fs *FS) Listxattr(r *server.Request, dst []byte) (int, unix.Errno) {
	if !fs.cfg.Xattr {
		return 0, unix.ENOSYS
	}
	ts, n, fd, errno := fs.enter(r)
	if errno != 0 {
		return 0, errno
	}
	defer fs.release(n)
	length, errno := sysListxattr(ts.procPath(fd), dst)
	if errno != 0 || dst == nil || fs.agreed(fp.InitPosixACL) {
		return length, errno
	}
	return dropACLs(dst[:length]), 0
}

// dropACLs takes names that the guest may not use out of a list.
func dropACLs(list []byte) int {
	kept := 0
	for len(list[kept:]) > 0 {
		rest := list[kept:]
		n := bytes.IndexByte(rest, 0) + 1
		if n == 0 {
			return kept
		}
		if strings.HasPrefix(string(rest[:n]), aclPrefix) {
			list = append(list[:kept], rest[n:]...)
			continue
		}
		kept += n
	}
	return kept
}
