package passthrough

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// attributes finds out what the guest sees of a file's attributes.
type attributes struct {
	*access
	cfg *Config
	fds *descriptors
	own ownership
	who *credentials
	dax *daxChoice
}

// fill puts st, of the node with number id, in the protocol's form (fs/fuse/inode.c: fuse_change_attributes).
func (at *attributes) fill(id uint64, st *unix.Statx_t, a *fp.Attr) {
	a.Ino, a.Size, a.Blocks = st.Ino, st.Size, st.Blocks
	a.Atime, a.AtimeNsec = uint64(st.Atime.Sec), st.Atime.Nsec
	a.Mtime, a.MtimeNsec = uint64(st.Mtime.Sec), st.Mtime.Nsec
	a.Ctime, a.CtimeNsec = uint64(st.Ctime.Sec), st.Ctime.Nsec
	a.Mode, a.Nlink = uint32(st.Mode), st.Nlink
	a.UID, a.GID = at.who.guestIDs(st)
	a.Rdev = encodeDev(st.Rdev_major, st.Rdev_minor)
	a.Blksize = st.Blksize
	a.Flags = at.dax.attr(id, st)
}

// encodeDev is the kernel's new_encode_dev.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// stat fills ts.st with the node's attributes: one system call, even for a node without a
// descriptor. A node that is asked about again gets one, while there are enough: with a descriptor
// the call takes half the time.
func (at *attributes) stat(ts *threadState, n *inode) unix.Errno {
	if fd := int(n.fd.Load()); fd >= 0 {
		n.touch()
		if !n.local {
			return at.ofFD(ts, fd)
		}
		if errno := statxLocal(fd, &ts.st); errno != 0 {
			return errno
		}
		return at.own.show(ts, fd)
	}
	return at.closed(ts, n)
}

// basic is stat of only those attributes that GETATTR has, which takes less time.
func (at *attributes) basic(ts *threadState, n *inode) unix.Errno {
	fd := int(n.fd.Load())
	if fd < 0 || !n.local || at.cfg.DAX != nil { // which checks more
		return at.stat(ts, n)
	}
	n.touch()
	if errno := fstatLocal(fd, &ts.basic); errno != 0 {
		return errno
	}
	ts.basic.to(&ts.st)
	return at.own.show(ts, fd)
}

// closed is stat for a node without a descriptor.
func (at *attributes) closed(ts *threadState, n *inode) unix.Errno {
	often := n.touched.Swap(true) && at.fds.used.Load() < int64(at.cfg.MaxFDs/2)
	if !often && !at.own.needsFile() && at.inPlace(ts, n) {
		return 0
	}
	fd, errno := at.find.fdOf(ts, n)
	if errno != 0 {
		return errno
	}
	return at.ofFD(ts, fd)
}

// inPlace checks the place where the node was last seen, and reports whether
// it is still there.
func (at *attributes) inPlace(ts *threadState, n *inode) bool {
	parent, name := at.nodes.Location(n)
	if parent == nil {
		return false
	}
	defer at.nodes.release(parent)
	fd := parent.fd.Load()
	parent.touch()
	return fd >= 0 && sysStatx(int(fd), name.CString(), 0, &ts.st) == 0 &&
		n.is(&ts.st)
}

// Getattr implements server.Attributes.
func (fs *FS) Getattr(r *server.Request, in *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	ts := threadOf(r)
	if errno := fs.attrs.ofNode(r, ts, in.GetattrFlags, in.Fh, (*attributes).basic); errno != 0 {
		return errno
	}
	fs.cache.setAttr(out)
	fs.attrs.fill(r.Header.NodeID, &ts.st, &out.Attr)
	return 0
}

// ofNode fills ts.st for a request: by the open file, if the request names one, else with stat.
func (at *attributes) ofNode(r *server.Request, ts *threadState, flags uint32, fh uint64, stat func(*attributes, *threadState, *inode) unix.Errno) unix.Errno {
	if flags&fp.GetattrFh != 0 {
		f, errno := at.enterOpen(r, fh, intentStat)
		if errno != 0 {
			return errno
		}
		defer at.openFiles.release(f)
		return at.ofFD(ts, f.fd)
	}
	n, errno := at.enterNode(r.Header.NodeID, intentStat)
	if errno != 0 {
		return errno
	}
	defer at.nodes.release(n)
	return stat(at, ts, n)
}

// Statx implements server.Attributes.
func (fs *FS) Statx(r *server.Request, in *fp.StatxIn, out *fp.StatxOut) unix.Errno {
	ts := threadOf(r)
	if errno := fs.attrs.ofNode(r, ts, in.GetattrFlags, in.Fh, (*attributes).stat); errno != 0 {
		return errno
	}
	st, o := &ts.st, &out.Stat
	out.AttrValid, out.AttrValidNsec = fs.cache.attr.sec, fs.cache.attr.nsec
	o.Mask = st.Mask & (unix.STATX_BASIC_STATS | unix.STATX_BTIME)
	o.Blksize, o.Nlink, o.Mode = st.Blksize, st.Nlink, st.Mode
	o.UID, o.GID = fs.who.guestIDs(st)
	o.Ino, o.Size, o.Blocks = st.Ino, st.Size, st.Blocks
	o.Attributes, o.AttributesMask = st.Attributes, st.Attributes_mask
	o.Atime, o.Btime = sxTime(st.Atime), sxTime(st.Btime)
	o.Ctime, o.Mtime = sxTime(st.Ctime), sxTime(st.Mtime)
	o.RdevMajor, o.RdevMinor = st.Rdev_major, st.Rdev_minor
	o.DevMajor, o.DevMinor = st.Dev_major, st.Dev_minor
	return 0
}

func sxTime(t unix.StatxTimestamp) fp.SxTime { return fp.SxTime{Sec: t.Sec, Nsec: t.Nsec} }

// Setattr implements server.Attributes.
func (fs *FS) Setattr(r *server.Request, in *fp.SetattrIn, out *fp.AttrOut) unix.Errno {
	if errno := fs.own.givenBefore(r, threadOf(r)); errno != 0 {
		return errno
	}
	ts, n, fd, errno := fs.enter(r, setattrIntent(in.Valid))
	if errno != 0 {
		return errno
	}
	if in.Valid&(fp.FattrUID|fp.FattrGID) != 0 && n.isLink() {
		if n, fd, errno = fs.chownLink(ts, n, fd, in); errno != 0 {
			return errno
		}
	}
	defer fs.nodes.release(n)
	if fs.privileges.touches(n, in) {
		errno = fs.privileges.touch(r, ts, n, fd)
	} else if in.Valid&(fp.FattrUID|fp.FattrGID) != 0 {
		errno = fs.caps.killAt(ts, n, fd)
	}
	if in.Valid&fp.FattrMode != 0 {
		n.modeChanged()
	}
	if errno == 0 && in.Valid&(fp.FattrMode|fp.FattrUID|fp.FattrGID) != 0 && !fs.who.caps.has(unix.CAP_DAC_OVERRIDE) {
		errno = fs.pins.files(ts, n)
	}
	if errno == 0 {
		errno = fs.own.set(ts, fd, in)
	}
	if errno == 0 && in.Valid&fp.FattrSize != 0 {
		errno = fs.truncate(r, ts, n, fd, in)
	}
	if errno == 0 && in.Valid&(fp.FattrAtime|fp.FattrMtime) != 0 {
		times := [2]unix.Timespec{
			timespec(in.Valid, fp.FattrAtime, fp.FattrAtimeNow, in.Atime, in.AtimeNsec),
			timespec(in.Valid, fp.FattrMtime, fp.FattrMtimeNow, in.Mtime, in.MtimeNsec),
		}
		errno = sysUtimensat(fs.cfg.ProcFD, procName(&ts.num, fd), &times)
	}
	if errno == 0 {
		errno = fs.attrs.ofFD(ts, fd)
	}
	if errno != 0 {
		return errno
	}
	fs.cache.setAttr(out)
	fs.attrs.fill(r.Header.NodeID, &ts.st, &out.Attr)
	return 0
}

// chownLink is the part of SETATTR that prepares a change of a symbolic link's owner. It
// returns the node that stands in for n afterwards, n as a rule, and its descriptor. On
// error it has released n.
func (fs *FS) chownLink(ts *threadState, n *inode, fd int, in *fp.SetattrIn) (*inode, int, unix.Errno) {
	errno := fs.own.beforeChown(ts, n, fd, in)
	if errno == 0 {
		if m := fs.own.standIn(n); m != nil {
			fs.nodes.release(n)
			n = m
			fd, errno = fs.find.fdOf(ts, n)
		}
	}
	if errno != 0 {
		fs.nodes.release(n)
	}
	return n, fd, errno
}

// truncate sets the size. Devices and FIFOs are not touched: truncate(2) opens
// nothing, and refuses them.
func (fs *FS) truncate(r *server.Request, ts *threadState, n *inode, fd int, in *fp.SetattrIn) unix.Errno {
	if in.Size > math.MaxInt64 {
		return unix.EINVAL
	}
	if n.isDir() {
		return unix.EISDIR
	}
	if !n.isReg() {
		return unix.EINVAL
	}
	if errno := fs.privileges.truncatesAt(ts, n, fd, in.Valid&fp.FattrKillSuidgid != 0); errno != 0 {
		return errno
	}
	if in.Valid&fp.FattrFh != 0 {
		f, errno := fs.openFiles.of(r.Header.NodeID, in.Fh) // of the node that has entered
		if errno == 0 {
			errno = fs.openFiles.usable(r, f)
		}
		if errno != 0 {
			return errno
		}
		defer fs.openFiles.release(f)
		return sysFtruncate(f.fd, int64(in.Size))
	}
	return sysTruncate(ts.procPath(fd), int64(in.Size))
}

// timespec is one time for utimensat. The kernel refuses nanoseconds out of range. The client must
// not use the special values.
func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case nsec > 999_999_999:
		return unix.Timespec{Nsec: -1}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// Access implements server.Attributes. Linux guests check permissions themselves
// and do not ask (default_permissions); others get the classic answer by mode bits.
func (fs *FS) Access(r *server.Request, in *fp.AccessIn) unix.Errno {
	ts := threadOf(r)
	n, errno := fs.enterNode(r.Header.NodeID, accessIntent(in.Mask))
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	if errno := fs.attrs.stat(ts, n); errno != 0 {
		return errno
	}
	want := uint16(in.Mask & (unix.R_OK | unix.W_OK | unix.X_OK))
	mode := ts.st.Mode
	uid, gid := fs.who.guestIDs(&ts.st)
	switch {
	case want == unix.F_OK:
		return 0
	case want&unix.W_OK != 0 && fs.cfg.ReadOnly:
		return unix.EROFS
	case r.Header.UID == fp.InvalidUIDGID:
		return 0 // ALLOW_IDMAP: the client has checked, and asks about the share only
	case r.Header.UID == 0:
		if want&unix.X_OK != 0 && !n.isDir() && mode&0o111 == 0 {
			return unix.EACCES
		}
		return 0
	case r.Header.UID == uid:
		mode >>= 6
	case r.Header.GID == gid || slices.Contains(r.Groups, gid):
		mode >>= 3
	}
	if want&^mode != 0 {
		return unix.EACCES
	}
	return 0
}

// Readlink implements server.Attributes.
func (fs *FS) Readlink(r *server.Request, dst []byte) (int, unix.Errno) {
	ts, n, fd, errno := fs.enter(r, intentRead)
	if errno != 0 {
		return 0, errno
	}
	defer fs.nodes.release(n)
	if fs.cfg.LinksFD != 0 && n.isLink() {
		if quiet, ok := fs.find.quietLink(ts, n, fd); ok {
			defer fs.fds.close(quiet)
			fd = quiet
		}
	}
	return fs.own.readlink(ts, n, fd, dst)
}

// quietLink opens the link behind fd once more, on the mount of Config.LinksFD: to read it
// there leaves its access time alone. It fails where file handles can't be opened, and for
// links on other file systems than the share's.
func (l *locator) quietLink(ts *threadState, n *inode, fd int) (quiet int, ok bool) {
	if sysNameToHandleAt(fd, &emptyName[0], &ts.handle, unix.AT_EMPTY_PATH) != 0 {
		return -1, false
	}
	const flags = unix.O_PATH | unix.O_NOFOLLOW
	quiet, errno := l.fds.opened(func() (int, unix.Errno) { return sysOpenByHandleAt(l.cfg.LinksFD, &ts.handle, flags) })
	if errno != 0 {
		return -1, false
	}
	// The handle of a file on another file system may be one of a file here, too.
	if errno = statxFD(quiet, &ts.st); errno == 0 {
		here, there := keyOf(&ts.st), n.Key()
		if here.dev == there.dev && here.ino == there.ino && birthOf(&ts.st) == n.birth() {
			return quiet, true
		}
	}
	l.fds.close(quiet)
	return -1, false
}
