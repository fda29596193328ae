package passthrough

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// With OwnershipXattr every file of the guest belongs to the daemon's user on the host.
// What the guest sees is in an attribute of the file, in the form that containers'
// storage, fuse-overlayfs and libkrun have, so that their trees can be shared and ours
// be used by them:
//
//	UID:GID:0MODE:TYPE    0:42:0640:file  0:0:01777:dir  0:6:0660:block-8-0
//
// Devices, FIFOs and sockets are empty regular files of that type. Only regular files
// and directories can have the attribute, so a symbolic link of anybody but root:root
// is a regular file too, with the target as its content.
//
// A file without the attribute, which somebody on the host made, has its own mode
// without set-ID bits, and belongs to the guest's root if it is the daemon's user's.
var markXattr = []byte("user.containers.override_stat\x00")

// markMax is more than any attribute of this form has.
const markMax = 80

// xattrOwnership is OwnershipXattr.
type xattrOwnership struct {
	cfg      *Config
	fds      *descriptors
	nodes    *nodeTable
	find     *locator
	opener   *opener
	attrs    *attributes
	entries  *entries
	who      *credentials
	recovery *recovery
	again    *decider

	converted *convertedLinks
}

// needsFile: by name the attribute could be another file's.
func (*xattrOwnership) needsFile() bool { return true }

// direntType: a regular file of the host's may be anything there.
func (*xattrOwnership) direntType(typ uint32) uint32 {
	if typ == unix.DT_REG {
		return unix.DT_UNKNOWN
	}
	return typ
}

// guestStat is what the attribute holds. mode has the type, too.
type guestStat struct {
	uid, gid     uint32
	mode         uint16
	major, minor uint32
}

// markTypes are the words for types without a device number.
var markTypes = map[string]uint16{
	"file": unix.S_IFREG, "dir": unix.S_IFDIR, "symlink": unix.S_IFLNK, "pipe": unix.S_IFIFO, "socket": unix.S_IFSOCK,
}

// parseMark reads the attribute of a file that has the given mode on the host. Type
// and mode may be one number, as in st_mode, or the type may be left out.
func parseMark(b []byte, host uint16) (o guestStat, ok bool) {
	uid, b, ok1 := cutNumber(b, ':', 10)
	gid, b, ok2 := cutNumber(b, ':', 10)
	mode, b, ok3 := cutNumber(b, ':', 8)
	if !ok1 || !ok2 || !ok3 || uid == noID || gid == noID || mode > 0xffff {
		return o, false
	}
	o = guestStat{uid: uid, gid: gid, mode: uint16(mode)}
	if len(b) > 0 && !o.parseType(b) {
		return o, false
	}
	// A directory is one and nothing else is, whatever the attribute says.
	kind, hostKind := o.mode&unix.S_IFMT, host&unix.S_IFMT
	if kind == 0 || hostKind == unix.S_IFDIR || kind == unix.S_IFDIR {
		o.mode = o.mode&permBits | hostKind
	}
	return o, true
}

func (o *guestStat) parseType(word []byte) bool {
	o.mode &= permBits
	if kind, ok := markTypes[string(word)]; ok {
		o.mode |= kind
		return true
	}
	device, numbers, _ := bytes.Cut(word, []byte{'-'})
	major, numbers, ok1 := cutNumber(numbers, '-', 10)
	minor, rest, ok2 := cutNumber(numbers, '-', 10)
	o.major, o.minor = major, minor
	switch string(device) {
	case "block":
		o.mode |= unix.S_IFBLK
	case "char":
		o.mode |= unix.S_IFCHR
	}
	return ok1 && ok2 && len(rest) == 0 && o.mode&unix.S_IFMT != 0
}

// cutNumber reads the number at the start of b, which ends with end or with b.
func cutNumber(b []byte, end byte, base uint64) (v uint32, rest []byte, ok bool) {
	var n uint64
	for i, c := range b {
		digit := uint64(c) - '0'
		switch {
		case c == end && i > 0:
			return uint32(n), b[i+1:], true
		case c < '0' || digit >= base:
			return 0, nil, false
		}
		if n = n*base + digit; n > 1<<32-1 {
			return 0, nil, false
		}
	}
	return uint32(n), nil, len(b) > 0
}

// append writes the attribute's value to b.
func (o *guestStat) append(b []byte) []byte {
	b = append(strconv.AppendUint(b, uint64(o.uid), 10), ':')
	b = append(strconv.AppendUint(b, uint64(o.gid), 10), ':', '0')
	b = append(strconv.AppendUint(b, uint64(o.mode&permBits), 8), ':')
	switch o.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return append(b, "dir"...)
	case unix.S_IFLNK:
		return append(b, "symlink"...)
	case unix.S_IFIFO:
		return append(b, "pipe"...)
	case unix.S_IFSOCK:
		return append(b, "socket"...)
	case unix.S_IFBLK:
		b = append(b, "block-"...)
	case unix.S_IFCHR:
		b = append(b, "char-"...)
	default:
		return append(b, "file"...)
	}
	b = append(strconv.AppendUint(b, uint64(o.major), 10), '-')
	return strconv.AppendUint(b, uint64(o.minor), 10)
}

// hostMode is the mode of the file on the host: the daemon can use all of its files,
// nobody else can change them, and no set-ID bit has a meaning there.
func (o *guestStat) hostMode() uint32 {
	switch o.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return uint32(o.mode)&0o755 | 0o700
	case unix.S_IFREG:
		return uint32(o.mode)&0o755 | 0o600
	}
	return 0o600
}

// apply puts what the guest sees in st. The zero guestStat changes nothing.
func (o *guestStat) apply(st *unix.Statx_t) {
	if o.mode == 0 {
		return
	}
	st.Uid, st.Gid, st.Mode = o.uid, o.gid, o.mode
	if kind := o.mode & unix.S_IFMT; kind == unix.S_IFBLK || kind == unix.S_IFCHR {
		st.Rdev_major, st.Rdev_minor = o.major, o.minor
	}
}

// killSetID clears what a change of owner or content by an unprivileged user clears.
func (o *guestStat) killSetID() {
	o.mode &^= unix.S_ISUID
	if o.mode&0o010 != 0 {
		o.mode &^= unix.S_ISGID
	}
}

// unmarked is the owner that a file without the attribute shows.
func (x *xattrOwnership) unmarked(st *unix.Statx_t) guestStat {
	o := guestStat{uid: st.Uid, gid: st.Gid, mode: st.Mode, major: st.Rdev_major, minor: st.Rdev_minor}
	if o.uid == x.who.uid {
		o.uid = 0
	}
	if o.gid == x.who.gid {
		o.gid = 0
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		o.mode &^= unix.S_ISUID | unix.S_ISGID
	}
	return o
}

// canMark reports whether the host's kernel lets a file of this mode have attributes
// of users (fs/xattr.c: xattr_permission).
func canMark(mode uint16) bool {
	kind := mode & unix.S_IFMT
	return kind == unix.S_IFREG || kind == unix.S_IFDIR
}

// ownerOf reads the owner of the file behind fd, whose attributes on the host are in
// ts.st.
func (x *xattrOwnership) ownerOf(ts *threadState, fd int) (guestStat, unix.Errno) {
	if canMark(ts.st.Mode) {
		n, errno := sysGetxattr(ts.procPath(fd), &markXattr[0], ts.mark[:])
		switch errno {
		case 0:
			if o, ok := parseMark(ts.mark[:n], ts.st.Mode); ok {
				return o, 0
			}
		case unix.ENODATA, unix.EOPNOTSUPP, unix.ERANGE, unix.EACCES, unix.EPERM:
		default:
			return guestStat{}, errno
		}
	}
	return x.unmarked(&ts.st), 0
}

func (x *xattrOwnership) show(ts *threadState, fd int) unix.Errno {
	o, errno := x.ownerOf(ts, fd)
	if errno == 0 {
		o.apply(&ts.st)
	}
	return errno
}

// mark writes the owner of the file behind fd.
func (x *xattrOwnership) mark(ts *threadState, fd int, o *guestStat) unix.Errno {
	return sysSetxattr(ts.procPath(fd), &markXattr[0], o.append(ts.mark[:0]), 0)
}

func (x *xattrOwnership) set(ts *threadState, fd int, in *fp.SetattrIn) unix.Errno {
	const chown = fp.FattrUID | fp.FattrGID
	if in.Valid&(chown|fp.FattrMode) == 0 {
		return 0
	}
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return errno
	}
	o, errno := x.ownerOf(ts, fd)
	if errno != 0 {
		return errno
	}
	if in.Valid&fp.FattrUID != 0 && in.UID != noID {
		o.uid = in.UID
	}
	if in.Valid&fp.FattrGID != 0 && in.GID != noID {
		o.gid = in.GID
	}
	if in.Valid&chown != 0 && o.mode&unix.S_IFMT != unix.S_IFDIR {
		o.killSetID()
	}
	if in.Valid&fp.FattrMode != 0 {
		o.mode = o.mode&unix.S_IFMT | uint16(in.Mode)&permBits
	}
	if !canMark(ts.st.Mode) {
		return x.setUnmarkable(ts, fd, in)
	}
	if errno := x.mark(ts, fd, &o); errno != 0 || uint32(ts.st.Mode)&permBits == o.hostMode() {
		return errno
	}
	return sysFchmodat(x.cfg.ProcFD, procName(&ts.num, fd), o.hostMode())
}

// setUnmarkable is set for what can't have the attribute: symbolic links, and
// FIFOs, sockets and devices of the host. Giving a link away has no effect, and is no
// error: programs that unpack archives do it to every link.
func (x *xattrOwnership) setUnmarkable(ts *threadState, fd int, in *fp.SetattrIn) unix.Errno {
	link := ts.st.Mode&unix.S_IFMT == unix.S_IFLNK
	switch {
	case in.Valid&fp.FattrMode != 0 && link:
		return unix.EOPNOTSUPP
	case in.Valid&fp.FattrMode != 0:
		return sysFchmodat(x.cfg.ProcFD, procName(&ts.num, fd), in.Mode&0o777)
	case link:
		return 0
	}
	return unix.EPERM
}

func (x *xattrOwnership) beforeWrite(ts *threadState, f *openFile) unix.Errno {
	return x.afterTruncate(ts, f.fd)
}

// beforeTruncate leaves the bits to afterTruncate, which has the file open. SETATTR asks for
// nothing of the kind, as there is no KillprivV2.
func (x *xattrOwnership) beforeTruncate(ts *threadState, _ *inode, _ int) unix.Errno {
	x.who.setFsetid(ts, true)
	return 0
}

// afterTruncate clears set-ID bits. It does not remember which files have no such bits, because
// another guest may set them.
func (x *xattrOwnership) afterTruncate(ts *threadState, fd int) unix.Errno {
	n, errno := sysFgetxattr(fd, &markXattr[0], ts.mark[:])
	switch errno {
	case 0:
	case unix.ENODATA, unix.EOPNOTSUPP, unix.ERANGE, unix.EACCES:
		return 0 // the guest sees no such bits of a file without the attribute
	default:
		return errno
	}
	o, ok := parseMark(ts.mark[:n], unix.S_IFREG)
	if !ok || o.mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return 0
	}
	o.killSetID()
	return x.mark(ts, fd, &o)
}

// isMark reports whether a name of the host's, with or without its NUL, is that
// of the attribute. Some file systems do not tell upper from lower case.
func isMark(name []byte) bool {
	return bytes.EqualFold(bytes.TrimSuffix(name, []byte{0}), markXattr[:len(markXattr)-1])
}

func (*xattrOwnership) reserved(name []byte) bool { return isMark(name) }
