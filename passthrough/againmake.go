package passthrough

import (
	"bytes"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// newFile identifies a file that a request makes, to distinguish it from one that another
// process has made. The numbers are the host's.
type newFile struct {
	mode         uint32 // type and permissions, before the mask
	mask         uint32
	major, minor uint32
	target       fp.Name // of a symbolic link
}

// turnToMake waits until it is r's turn to make something that is called name. look says that something may be there that the
// client does not know by that name.
func (d *decider) turnToMake(r *server.Request, name fp.Name) (look bool, errno unix.Errno) {
	if r.Cell == nil {
		return false, 0
	}
	return d.turns.take(r, turnOf(r.Header.NodeID, name), false)
}

// intendNew notes that r is about to make something that is called name in dir. The evidence is the
// time, and what the client knows by that name already: it may have been made in the same tick of
// the clock. If the client may have forgotten it, look says so.
func (d *decider) intendNew(r *server.Request, ts *threadState, dir *inode, dirfd int, name fp.Name, look bool) {
	if r.Cell == nil {
		return
	}
	n := d.nodes.Placed(dir, name)
	e := evidenceOf(n)
	if n != nil {
		d.nodes.release(n)
	} else if look {
		e = whatIs(ts, dirfd, name)
	}
	e[turnWord] = uint64(turnOf(r.Header.NodeID, name))
	intend(r, e)
}

// madeBefore decides on MKNOD, MKDIR, SYMLINK and CREATE: whether the file called name was made
// for this request. EEXIST means that another process has made it.
func (d *decider) madeBefore(r *server.Request, ts *threadState, dirfd int, name fp.Name, want *newFile) (made bool, errno unix.Errno) {
	a := past(r)
	if a == nil {
		return false, 0
	}
	switch errno := sysStatx(dirfd, name.CString(), 0, &ts.st); {
	case errno == unix.ENOENT:
		return false, 0
	case errno != 0:
		return false, errno
	}
	d.mounts.of(keyOf(&ts.st), dirfd)
	st := ts.st // what follows looks at other files
	e := &a.Evidence
	if !d.bornSince(&st, a.Stamp) {
		return false, unix.EEXIST
	}
	if a.Step == 0 && (e[fileKnown] != 0 && sameFile(&st, e[fileIno], e[fileBirth]) ||
		!d.looksMade(r, ts, dirfd, name, want) && !d.changedSince(ts, &st, dirfd, name, want)) {
		return false, unix.EEXIST
	}
	return true, 0
}

// looksMade reports whether the file of ts.st, which is called name, is as this request makes it.
func (d *decider) looksMade(r *server.Request, ts *threadState, dirfd int, name fp.Name, want *newFile) bool {
	st := ts.st
	if !d.own.looksMade(r, ts, dirfd, name, want) || !sameContent(&st, dirfd, name, want) {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return d.isEmpty(ts, dirfd, name)
	case unix.S_IFREG:
		return st.Size == uint64(len(want.content())) || st.Size == 0 // which is written then
	}
	return true
}

// changedSince reports whether the file of st may be what this request has made, and the client has changed it since: another of
// its requests has found it before this one was answered.
func (d *decider) changedSince(ts *threadState, st *unix.Statx_t, dirfd int, name fp.Name, want *newFile) bool {
	n := d.nodes.seen(ts, st, 0)
	if n == nil {
		return false
	}
	d.nodes.release(n)
	return uint32(st.Mode)&unix.S_IFMT == want.mode&unix.S_IFMT && sameContent(st, dirfd, name, want)
}

// sameContent compares what can't be changed any more: the target of a symbolic link, and the number of a device.
func sameContent(st *unix.Statx_t, dirfd int, name fp.Name, want *newFile) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, len(want.target))
		n, errno := sysReadlinkat(dirfd, name.CString(), target)
		return errno == 0 && bytes.Equal(target[:n], want.target.Bytes())
	case unix.S_IFCHR, unix.S_IFBLK:
		return st.Rdev_major == want.major && st.Rdev_minor == want.minor
	}
	return true
}

// content is what a file of this kind has in it when it is made.
func (want *newFile) content() []byte {
	if want.mode&unix.S_IFMT == unix.S_IFLNK {
		return want.target.Bytes() // as the content of a regular file, see ownmake.go
	}
	return nil
}

// isEmpty reports whether the directory name has no entries. One that can't be read is.
func (d *decider) isEmpty(ts *threadState, dirfd int, name fp.Name) bool {
	dir, errno := d.fds.open(dirfd, name.CString(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return true
	}
	defer d.fds.close(dir)
	buf := d.io.getBuffer()
	defer d.io.putBuffer(buf)
	end, _ := sysGetdents64(dir, buf[:])
	for at := 0; at < end; {
		e, size := parseDirent(buf[at:end])
		at += size
		if n := e.name.String(); n != "." && n != ".." {
			return false
		}
	}
	return true
}

// looksMade: the file belongs to the request's user, and has the mode that was asked for. A
// default ACL takes more of it. What a file server or a file system of another system makes of
// owners and modes is not known.
func (o *hostOwnership) looksMade(r *server.Request, ts *threadState, dirfd int, _ fp.Name, want *newFile) bool {
	st := &ts.st
	kind := want.mode & unix.S_IFMT
	if uint32(st.Mode)&unix.S_IFMT != kind {
		return false
	}
	if m := o.mounts.get(keyOf(st).onMount()); m == nil || !m.local {
		return true
	}
	uid, gid, errno := o.who.callerIDs(r, ts)
	if !o.who.canSwitch || uid == 0 && gid == 0 {
		uid = o.who.uid
	}
	if errno != 0 || st.Uid != uid {
		return false
	}
	const perms = 0o777
	has, full := uint32(st.Mode)&perms, want.mode&perms
	if kind == unix.S_IFLNK || has == full&^want.mask || has == full&^want.mask|0o600 { // see openMade
		return true
	}
	_, errno = sysGetxattr(ts.procPath(dirfd), &defaultACL[0], nil)
	return errno == 0 && has&^full == 0
}

var defaultACL = []byte("system.posix_acl_default\x00")

// looksMade: all files are the daemon's, and have the guest's owner and mode in an attribute,
// unless the process died before it had written that.
func (x *xattrOwnership) looksMade(r *server.Request, ts *threadState, dirfd int, name fp.Name, want *newFile) bool {
	st := ts.st
	if st.Uid != x.who.uid {
		return false
	}
	o, errno := x.newStat(r, ts, dirfd, want.mode)
	if errno != 0 {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK: // one of root's
		return o.mode&unix.S_IFMT == unix.S_IFLNK && o.uid == 0 && o.gid == 0
	case unix.S_IFDIR:
		if o.mode&unix.S_IFMT != unix.S_IFDIR {
			return false
		}
	case unix.S_IFREG:
		if o.mode&unix.S_IFMT == unix.S_IFDIR {
			return false
		}
	default:
		return false
	}
	fd, errno := x.fds.open(dirfd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return false
	}
	defer x.fds.close(fd)
	n, errno := sysGetxattr(ts.procPath(fd), &markXattr[0], ts.mark[:])
	if errno == unix.ENODATA {
		return true
	}
	has, ok := parseMark(ts.mark[:max(n, 0)], st.Mode)
	o.major, o.minor = want.major, want.minor
	return errno == 0 && ok && has == o
}

// openMade opens a file that a predecessor has made for a CREATE. CREATE may write to a file
// whose mode allows no user to write (git does this). Opening it again then needs another mode
// for a moment.
func (d *decider) openMade(ts *threadState, dirfd int, name fp.Name, flags int) (int, unix.Errno) {
	fd, errno := d.fds.open(dirfd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return -1, errno
	}
	defer d.fds.close(fd)
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return -1, errno
	}
	if ts.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, unix.EEXIST // it was, a moment ago
	}
	flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_NOFOLLOW
	f, errno := d.fds.open(d.cfg.ProcFD, procName(&ts.num, fd), flags, 0)
	if errno != unix.EACCES {
		return f, errno
	}
	mode := uint32(ts.st.Mode) & permBits
	if sysFchmodat(d.cfg.ProcFD, procName(&ts.num, fd), mode|0o600) != 0 {
		return -1, unix.EACCES
	}
	f, errno = d.fds.open(d.cfg.ProcFD, procName(&ts.num, fd), flags, 0)
	if err := sysFchmodat(d.cfg.ProcFD, procName(&ts.num, fd), mode); err != 0 && errno == 0 {
		d.fds.close(f)
		return -1, err
	}
	return f, errno
}
