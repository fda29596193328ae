package passthrough

import (
	"bytes"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

const permBits = 0o7777

// mask is the umask to create with: the guest has applied it already, unless
// DONT_MASK was agreed for the sake of default ACLs.
func (m *maker) mask(umask uint32) uint32 {
	if m.agreed(fp.InitDontMask) {
		return umask
	}
	return 0
}

// finder is lookupOpen, which opens the new node, or lookupLazy, which leaves that until
// somebody uses it.
type finder func(e *entries, ts *threadState, parent *inode, fd int, name fp.Name, out *fp.EntryOut) unix.Errno

// maker makes files.
type maker struct {
	*access
	*features
	cfg     *Config
	fds     *descriptors
	opener  *opener
	own     ownership
	attrs   *attributes
	entries *entries
	xattrs  *xattrs
	cache   *cacheRules
	pins    *pinner
	again   *decider
}

// node runs a call that makes name in the request's directory, as want says, and answers
// with the new node. If made is set a predecessor of this process has made it, as far as one
// system call does.
func (m *maker) node(r *server.Request, name fp.Name, out *fp.EntryOut, want *newFile, find finder, call func(dirfd int, made bool) unix.Errno) unix.Errno {
	ts, parent, fd, errno := m.enterName(r, name, intentCreate)
	if errno != 0 {
		return errno
	}
	defer m.nodes.release(parent)
	look, errno := m.again.turnToMake(r, name)
	if errno != 0 {
		return errno
	}
	made, errno := m.again.madeBefore(r, ts, fd, name, want)
	if errno != 0 {
		return errno
	}
	if !made {
		m.again.intendNew(r, ts, parent, fd, name, look)
	}
	errno = call(fd, made)
	if !made || errno == 0 { // what a predecessor has made for the request is noted as well
		settle(r, errno)
	}
	if errno != 0 {
		return errno
	}
	if errno := m.xattrs.labelName(r, ts, fd, name); errno != 0 {
		return errno
	}
	return find(m.entries, ts, parent, fd, name, out)
}

// Mknod implements server.Names.
func (fs *FS) Mknod(r *server.Request, in *fp.MknodIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK, 0:
	default:
		return unix.EINVAL
	}
	want := newFile{mode: in.Mode & (unix.S_IFMT | permBits), mask: fs.maker.mask(in.Umask),
		major: in.Rdev >> 8 & 0xfff, minor: in.Rdev&0xff | in.Rdev>>12&0xfff00}
	if want.mode&unix.S_IFMT == 0 {
		want.mode |= unix.S_IFREG
	}
	return fs.maker.node(r, name, out, &want, (*entries).lookupLazy, func(dirfd int, made bool) unix.Errno {
		return fs.own.mknod(r, dirfd, name, &want, made)
	})
}

// Mkdir implements server.Names. The directory is opened at once: what is made in it next
// needs its descriptor, and to find it again for that takes two more calls.
func (fs *FS) Mkdir(r *server.Request, in *fp.MkdirIn, name fp.Name, out *fp.EntryOut) unix.Errno {
	want := newFile{mode: unix.S_IFDIR | in.Mode&permBits, mask: fs.maker.mask(in.Umask)}
	return fs.maker.node(r, name, out, &want, (*entries).lookupOpen, func(dirfd int, made bool) unix.Errno {
		return fs.own.mkdir(r, dirfd, name, &want, made)
	})
}

// Symlink implements server.Names.
func (fs *FS) Symlink(r *server.Request, name, target fp.Name, out *fp.EntryOut) unix.Errno {
	want := newFile{mode: unix.S_IFLNK | 0o777, target: target}
	return fs.maker.node(r, name, out, &want, (*entries).lookupLazy, func(dirfd int, made bool) unix.Errno {
		return fs.own.symlink(r, dirfd, name, &want, made)
	})
}

// Create implements server.Files: it makes and opens a file in one step, so that the
// mode of the new file does not matter for the open (git creates files with mode
// 0444 to write to them).
func (fs *FS) Create(r *server.Request, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	ts, parent, dirfd, errno := fs.enterName(r, name, intentCreate)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(parent)
	look, errno := fs.again.turnToMake(r, name)
	if errno != 0 {
		return errno
	}
	if errno := fs.fds.keep(); errno != 0 {
		return errno
	}
	errno = fs.fds.unkeepOn(fs.maker.createNew(r, ts, parent, dirfd, in, name, out, look))
	if errno == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		return fs.maker.createExisting(r, ts, parent, dirfd, in, name, out)
	}
	return errno
}

// createNew is CREATE of a file that is not there yet, with EEXIST if it is. look is that of turnToMake.
func (m *maker) createNew(r *server.Request, ts *threadState, parent *inode, dirfd int, in *fp.CreateIn, name fp.Name, out *fp.CreateOut, look bool) unix.Errno {
	want := newFile{mode: unix.S_IFREG | in.Mode&permBits, mask: m.mask(in.Umask)}
	made, errno := m.again.madeBefore(r, ts, dirfd, name, &want)
	if errno != 0 {
		return errno
	}
	if !made {
		m.again.intendNew(r, ts, parent, dirfd, name, look)
	}
	fd, seen, errno := m.own.create(r, dirfd, name, m.opener.hostFlags(in.Flags), &want, made)
	if !made || errno == 0 { // what a predecessor has made for the request is noted as well
		settle(r, errno)
	}
	if errno != 0 {
		return errno
	}
	if errno = m.xattrs.label(r, ts, fd, unix.S_IFREG); errno != 0 {
		_ = sysUnlinkat(dirfd, name.CString(), 0)
	} else {
		errno = statxFD(fd, &ts.st)
	}
	if errno != 0 {
		m.fds.close(fd)
		return errno
	}
	return m.created(r, ts, parent, fd, seen, in, name, out)
}

// createExisting serves a CREATE of a file that is there already: lookup and open.
func (m *maker) createExisting(r *server.Request, ts *threadState, parent *inode, dirfd int, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	if errno := m.entries.lookupOpen(ts, parent, dirfd, name, &out.Entry); errno != 0 {
		return errno
	}
	n, errno := m.enterNode(out.Entry.NodeID, openIntent(in.Flags))
	if errno != 0 {
		m.entries.forgetID(ts.cell, out.Entry.NodeID, 1)
		return errno
	}
	defer m.nodes.release(n)
	if errno = m.openFiles.openNode(r, ts, n, in.Flags, in.OpenFlags, &out.Open); errno != 0 {
		m.entries.forget(ts.cell, n, 1)
		return errno
	}
	if in.Flags&unix.O_TRUNC != 0 {
		if errno := m.attrs.stat(ts, n); errno == 0 {
			m.attrs.fill(n.ID(), &ts.st, &out.Entry.Attr)
		}
	}
	return 0
}

// created answers with the file behind fd, whose attributes on the host are in ts.st;
// seen is what ownership.create says of it. Its node has no descriptor of its own: that of
// the open file serves until RELEASE.
func (m *maker) created(r *server.Request, ts *threadState, parent *inode, fd int, seen guestStat, in *fp.CreateIn, name fp.Name, out *fp.CreateOut) unix.Errno {
	n, errno := m.nodes.intern(ts.cell, &ts.st, -1, parent, name)
	if errno != 0 {
		m.fds.close(fd)
		return errno
	}
	fh, errno := uint64(0), m.find.keepHandle(ts, n, fd, &emptyName[0])
	if errno == 0 && parent == nil {
		errno = m.pins.nameless(n, fd)
	}
	if errno == 0 {
		m.opener.back(r, ts, n, fd)
		fh, errno = m.openFiles.add(ts.cell, n, fd, in.Flags)
	}
	if errno != 0 {
		m.fds.close(fd)
		return m.entries.unknown(ts, n, errno)
	}
	if errno := m.pins.created(ts, fh, in.Flags); errno != 0 {
		return m.entries.unknown(ts, n, errno)
	}
	seen.apply(&ts.st)
	out.Open.Fh = fh
	out.Open.OpenFlags = m.cache.openFlags(ts, n, -1)
	m.entries.fill(ts, parent, n, name, &out.Entry)
	return 0
}

// Tmpfile implements server.Files.
func (fs *FS) Tmpfile(r *server.Request, in *fp.CreateIn, out *fp.CreateOut) unix.Errno {
	ts, parent, dirfd, errno := fs.enterDir(r, intentTmpfile)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(parent)
	if errno := fs.fds.keep(); errno != 0 {
		return errno
	}
	return fs.fds.unkeepOn(fs.maker.createNameless(r, ts, dirfd, in, out))
}

// createNameless is the part of TMPFILE that makes the file.
func (m *maker) createNameless(r *server.Request, ts *threadState, dirfd int, in *fp.CreateIn, out *fp.CreateOut) unix.Errno {
	// O_EXCL keeps a file from being linked later; the guest's own flag decides.
	flags := m.opener.hostFlags(in.Flags)&^unix.O_TRUNC | int(in.Flags&unix.O_EXCL)
	want := newFile{mode: unix.S_IFREG | in.Mode&permBits, mask: m.mask(in.Umask)}
	fd, seen, errno := m.own.create(r, dirfd, nil, flags, &want, false)
	if errno == unix.EISDIR { // a file system without O_TMPFILE sees an open of "."
		errno = unix.EOPNOTSUPP
	}
	if errno != 0 {
		return errno
	}
	if errno = m.xattrs.label(r, ts, fd, unix.S_IFREG); errno == 0 {
		errno = statxFD(fd, &ts.st)
	}
	if errno != 0 {
		m.fds.close(fd)
		return errno
	}
	return m.created(r, ts, nil, fd, seen, in, nil, out)
}

// labelPrefix is what names of security labels begin with.
var labelPrefix = []byte("security.")

// labelName gives the new file at name its security contexts. If it can't, the file is
// taken away again: a file without its label may be open to more than it should.
func (x *xattrs) labelName(r *server.Request, ts *threadState, dirfd int, name fp.Name) unix.Errno {
	if x.cfg.SecurityLabel == Never || len(r.Security) == 0 {
		return 0
	}
	fd, errno := x.fds.open(dirfd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno == 0 {
		defer x.fds.close(fd)
		errno = statxFD(fd, &ts.st)
	}
	if errno == 0 {
		errno = x.label(r, ts, fd, ts.st.Mode&unix.S_IFMT)
	}
	if errno == 0 {
		return 0
	}
	if err := sysUnlinkat(dirfd, name.CString(), 0); err == unix.EISDIR {
		_ = sysUnlinkat(dirfd, name.CString(), unix.AT_REMOVEDIR)
	}
	return errno
}

// label writes the security contexts that the guest's policy gives a new file. A file
// that can't have one is left without, as the kernel does it
// (security/security.c: security_inode_init_security).
func (x *xattrs) label(r *server.Request, ts *threadState, fd int, kind uint16) unix.Errno {
	if x.cfg.SecurityLabel == Never {
		return 0
	}
	for _, c := range r.Security {
		if !bytes.HasPrefix(c.Name, labelPrefix) {
			return unix.EINVAL // a label only: for other attributes there are rules
		}
		host, errno := x.hostName(ts, c.Name)
		if errno == 0 {
			errno = sysSetxattr(ts.procPath(fd), host.CString(), c.Value, 0)
			errno = remapped(kind, c.Name, host, errno)
		}
		if errno != 0 && errno != unix.EOPNOTSUPP {
			return errno
		}
	}
	return 0
}
