package passthrough

import (
	"bytes"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/server"
)

// Extended attributes are reached through a path of one component in the thread's
// working directory, /proc/self/fd: it leads to exactly the file of the node's
// descriptor, of whatever kind. A symbolic link's own attributes are reached so too,
// as the path ends at the link (fs/namei.c: nd_jump_link).

// xattrs is how extended attributes are called on the host, and what their values are there.
type xattrs struct {
	cfg *Config
	*features
	fds *descriptors
	who *credentials
	own ownership
}

const xattrListMax = 65536 // XATTR_LIST_MAX

var aclPrefix = []byte("system.posix_acl_")

// hostName is the host's name of an attribute that the guest names, valid until
// the thread's next request. ACLs exist only for a guest that agreed to them: another
// one would change them without knowing what they do to a file's mode.
func (x *xattrs) hostName(ts *threadState, name fp.Name) (fp.Name, unix.Errno) {
	if !x.cfg.Xattr {
		return nil, unix.ENOSYS
	}
	if !x.guestMaySee(name) {
		return nil, unix.EOPNOTSUPP
	}
	if x.cfg.XattrMap == nil {
		return name, 0
	}
	prepend, verdict := x.cfg.XattrMap.ToHost(name)
	switch {
	case verdict == xattrmap.Deny:
		return nil, unix.EPERM
	case verdict == xattrmap.Unsupported:
		return nil, unix.EOPNOTSUPP
	case prepend == "":
		return name, 0
	case len(prepend)+len(name) > len(ts.xattr):
		return nil, unix.ERANGE // as the kernel says of a name that is too long
	}
	n := copy(ts.xattr[:], prepend)
	n += copy(ts.xattr[n:], name)
	host := fp.Name(ts.xattr[:n])
	if !x.guestMaySee(host) {
		return nil, unix.EOPNOTSUPP
	}
	return host, 0
}

// guestMaySee reports whether a name is one that the guest may know, its own or the
// host's.
func (x *xattrs) guestMaySee(name []byte) bool {
	return !bytes.HasPrefix(name, aclPrefix) || x.agreed(fp.InitPosixACL)
}

// guestName is the guest's name of an attribute of the host; nil is none.
func (x *xattrs) guestName(host []byte) []byte {
	if !x.guestMaySee(host) {
		return nil
	}
	if x.cfg.XattrMap == nil {
		return host
	}
	strip, visible := x.cfg.XattrMap.ToGuest(host)
	if !visible || strip > 0 && !x.guestMaySee(host[strip:]) {
		return nil
	}
	return host[strip:]
}

var userPrefix = []byte("user.")

// remapped turns a refusal that the guest could not understand into one that it can:
// attributes of the namespace user are for files and directories only (fs/xattr.c:
// xattr_permission), which the guest's own kernel does not know of those of other
// namespaces that are kept there.
func remapped(kind uint16, guest, host fp.Name, errno unix.Errno) unix.Errno {
	if errno == unix.EPERM && kind != unix.S_IFREG && kind != unix.S_IFDIR &&
		bytes.HasPrefix(host, userPrefix) && !bytes.HasPrefix(guest, userPrefix) {
		return unix.EOPNOTSUPP
	}
	return errno
}

// Getxattr implements server.Xattrs.
func (fs *FS) Getxattr(r *server.Request, name fp.Name, dst []byte) (int, unix.Errno) {
	hostName, errno := fs.xattrs.hostName(threadOf(r), name)
	if errno == unix.EPERM {
		return 0, unix.ENODATA // what can't be written is not there to be read
	}
	if errno != 0 {
		return 0, errno
	}
	ts, n, fd, errno := fs.enter(r, intentRead)
	if errno != 0 {
		return 0, errno
	}
	defer fs.nodes.release(n)
	if fs.own.reserved(hostName) {
		return 0, unix.ENODATA
	}
	if fs.xattrs.hasIDs(name) {
		return fs.xattrs.getIDs(ts, ts.procPath(fd), name, hostName, dst)
	}
	return sysGetxattr(ts.procPath(fd), hostName.CString(), dst)
}

// Setxattr implements server.Xattrs.
func (fs *FS) Setxattr(r *server.Request, in *fp.SetxattrIn, name fp.Name, value []byte) unix.Errno {
	hostName, errno := fs.xattrs.hostName(threadOf(r), name)
	if errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r, intentSetattr)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	if fs.own.reserved(hostName) {
		return unix.EPERM
	}
	if fs.xattrs.hasIDs(name) {
		if value, errno = fs.xattrs.toHost(ts, name, value); errno != 0 {
			return errno
		}
	}
	// With SETXATTR_ACL_KILL_SGID the caller is not in the file's group: setting the
	// ACL clears the set-group-ID bit, which the kernel does without CAP_FSETID for a
	// thread that is not in the group either.
	kill := in.SetxattrFlags&fp.SetxattrACLKillSgid != 0
	fs.who.setFsetid(ts, !kill)
	path, create := ts.procPath(fd), in.Flags&unix.XATTR_CREATE != 0
	turn := turnOf(r.Header.NodeID, name)
	if _, errno = fs.again.turns.take(r, turn, false); errno != 0 {
		return errno
	}
	if !fs.again.setBefore(r, path, hostName.CString(), value, create) {
		intendXattr(r, turn, path, hostName.CString(), create)
		errno = sysSetxattr(path, hostName.CString(), value, in.Flags)
		settle(r, errno)
	}
	if errno == unix.EINVAL && namesIDs(name, value) {
		errno = unix.EPERM // the value is right, its ids are not known here: see unknownID
	}
	if errno != 0 {
		return remapped(n.mode(), name, hostName, errno)
	}
	fs.caps.xattrChanged(n, hostName)
	if kill {
		return fs.xattrs.clearSgid(ts, fd)
	}
	return 0
}

// clearSgid makes sure that the bit is gone: the kernel leaves it if the daemon is in the file's
// group.
func (x *xattrs) clearSgid(ts *threadState, fd int) unix.Errno {
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return errno
	}
	if ts.st.Mode&unix.S_ISGID == 0 {
		return 0
	}
	return sysFchmodat(x.cfg.ProcFD, procName(&ts.num, fd), uint32(ts.st.Mode)&permBits&^unix.S_ISGID)
}

// Removexattr implements server.Xattrs.
func (fs *FS) Removexattr(r *server.Request, name fp.Name) unix.Errno {
	hostName, errno := fs.xattrs.hostName(threadOf(r), name)
	if errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r, intentSetattr)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	if fs.own.reserved(hostName) {
		return unix.EPERM
	}
	turn := turnOf(r.Header.NodeID, name)
	if _, errno = fs.again.turns.take(r, turn, true); errno != 0 {
		return errno
	}
	if path := ts.procPath(fd); !fs.again.unsetBefore(r, path, hostName.CString()) {
		intendXattr(r, turn, path, hostName.CString(), true)
		errno = sysRemovexattr(path, hostName.CString())
		settle(r, errno)
	}
	return remapped(n.mode(), name, hostName, errno)
}

// Listxattr implements server.Xattrs. Where names are left out, all of them are read
// first: the client's buffer may have room only for those that it may see.
func (fs *FS) Listxattr(r *server.Request, dst []byte) (int, unix.Errno) {
	if !fs.cfg.Xattr {
		return 0, unix.ENOSYS
	}
	ts, n, fd, errno := fs.enter(r, intentRead)
	if errno != 0 {
		return 0, errno
	}
	defer fs.nodes.release(n)
	if fs.cfg.XattrMap == nil && fs.agreed(fp.InitPosixACL) {
		return sysListxattr(ts.procPath(fd), dst)
	}
	buf := fs.io.getBuffer()
	defer fs.io.putBuffer(buf)
	all := buf[:]
	size, errno := sysListxattr(ts.procPath(fd), all)
	if errno == unix.ERANGE {
		all = make([]byte, xattrListMax)
		size, errno = sysListxattr(ts.procPath(fd), all)
	}
	if errno != 0 {
		return 0, errno
	}
	return fs.xattrs.filter(dst, all[:size])
}

// filter copies the names that the guest sees to dst, and returns their length,
// for an empty dst too.
func (x *xattrs) filter(dst, all []byte) (size int, errno unix.Errno) {
	for len(all) > 0 {
		n := bytes.IndexByte(all, 0) + 1
		if n == 0 {
			break
		}
		if name := x.guestName(all[:n]); name != nil && !x.own.reserved(all[:n]) {
			if len(dst) > 0 && copy(dst[size:], name) < len(name) {
				return 0, unix.ERANGE
			}
			size += len(name)
		}
		all = all[n:]
	}
	return size, 0
}
