package passthrough

import (
	"math/rand/v2"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A symbolic link of the host's can't have the attribute with its owner. When the
// guest gives one away, a regular file with the same target takes its place. The
// guest continues with the number of the old node until it looks the name up again, so
// that number leads to the new node from then on.

// convertedLinks says which node has taken the place of a link.
type convertedLinks struct {
	mu sync.Mutex
	to map[*inode]*inode // the new node is kept by a lookup count

	endMu  sync.Mutex // while a lookup count of a new node ends; before the locks of nodes
	ending *inode     // the link that was forgotten
	by     fuse.Cell  // what the change is made by, to tell it from all others
}

// follow is the node that has taken n's place, with a reference, or nil.
func (c *convertedLinks) follow(n *inode) *inode {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.to[n]; m != nil && m.Acquire() {
		return m
	}
	return nil
}

func (c *convertedLinks) add(n, m *inode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to == nil {
		c.to = make(map[*inode]*inode)
	}
	c.to[n] = m
}

func (c *convertedLinks) remove(n *inode) *inode {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.to[n]
	delete(c.to, n)
	return m
}

// beforeChown prepares a SETATTR that gives the link n, with descriptor fd, to somebody else than
// root: afterwards n's number leads to a file that can have an owner. If that is impossible (the
// link has several names, for example), nothing happens; see setUnmarkable.
func (x *xattrOwnership) beforeChown(ts *threadState, n *inode, fd int, in *fp.SetattrIn) unix.Errno {
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return errno
	}
	st := ts.st
	o := x.unmarked(&st)
	old := o
	if in.Valid&fp.FattrUID != 0 {
		o.uid = in.UID
	}
	if in.Valid&fp.FattrGID != 0 {
		o.gid = in.GID
	}
	if o == old || o.uid == noID || o.gid == noID || st.Nlink != 1 {
		return 0
	}
	parent, name := x.nodes.Location(n)
	if parent == nil {
		return 0
	}
	defer x.nodes.release(parent)
	dirfd, errno := x.find.fdOf(ts, parent)
	if errno != 0 {
		return errno
	}
	if errno = x.replaceLink(ts, n, fd, parent, dirfd, name.CString(), &o); errno != 0 {
		return errno
	}
	return x.adoptLink(ts, n, parent, dirfd, name)
}

func (x *xattrOwnership) standIn(n *inode) *inode { return x.converted.follow(n) }

func (x *xattrOwnership) restoreStandIn(n, m *inode) { x.converted.add(n, m) }

// replaceLink puts a file with the link's target, times and new owner in its place.
func (x *xattrOwnership) replaceLink(ts *threadState, n *inode, fd int, parent *inode, dirfd int, name *byte, o *guestStat) unix.Errno {
	target := make([]byte, unix.PathMax)
	size, errno := sysReadlinkat(fd, &emptyName[0], target)
	if errno != 0 {
		return errno
	}
	times := [2]unix.Timespec{
		{Sec: ts.st.Atime.Sec, Nsec: int64(ts.st.Atime.Nsec)}, {Sec: ts.st.Mtime.Sec, Nsec: int64(ts.st.Mtime.Nsec)},
	}
	number := rand.Uint64()
	temp := tempName(number)
	ts.cell.Intend(0, fuse.Evidence{giveTemp: number, giveDir: parent.ID(), giveKnown: 1})
	file, errno := x.newFile(ts, dirfd, &temp[0], o, unix.O_WRONLY, target[:size])
	if errno != 0 {
		return errno
	}
	defer x.fds.close(file)
	defer func() { _ = sysUnlinkat(dirfd, &temp[0], 0) }()
	var st unix.Statx_t
	if ts.cell != nil {
		if errno = statxFD(file, &st); errno != 0 {
			return errno
		}
		ts.cell.Amend(giveBirth, birthOf(&st).word())
		ts.cell.Amend(giveIno, st.Ino)
	}
	_ = sysUtimensat(x.cfg.ProcFD, procName(&ts.num, file), &times)
	// An exchange, so that what was in that place can be checked: it may be another
	// file by now, which then goes back.
	if errno = sysRenameat2(dirfd, &temp[0], dirfd, name, unix.RENAME_EXCHANGE); errno != 0 {
		return errno
	}
	if errno = sysStatx(dirfd, &temp[0], 0, &st); errno != 0 || keyOf(&st) != n.Key() {
		_ = sysRenameat2(dirfd, &temp[0], dirfd, name, unix.RENAME_EXCHANGE)
		return unix.ESTALE
	}
	return 0
}

// adoptLink makes n's number lead to the node of the file that is at name now.
func (x *xattrOwnership) adoptLink(ts *threadState, n, parent *inode, dirfd int, name fp.Name) unix.Errno {
	fd, errno := x.fds.open(dirfd, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno != 0 {
		return errno
	}
	if errno = statxFD(fd, &ts.st); errno != 0 {
		x.fds.close(fd)
		return errno
	}
	m, errno := x.nodes.intern(ts.cell, &ts.st, fd, parent, name)
	if errno != 0 {
		return errno
	}
	x.nodes.SetHint(parent, name, m)
	if s := x.recovery.store; s != nil {
		s.StandIn(n.ID(), m.ID())
	}
	x.converted.add(n, m)
	if x.nodes.isForgotten(n) { // meanwhile, so that nobody would take n out again
		x.forgotten(n)
	}
	x.nodes.Displace(n)
	x.nodes.release(m)
	return 0
}

// forgotten releases the node that has taken the place of n.
func (x *xattrOwnership) forgotten(n *inode) {
	m := x.converted.remove(n)
	if m == nil {
		return
	}
	c := x.converted
	c.endMu.Lock()
	defer c.endMu.Unlock()
	c.ending = n
	x.entries.forget(&c.by, m, 1)
}

// endsFor is the link whose stand-in has a lookup less by this; nil if it is something else.
func (c *convertedLinks) endsFor(by *fuse.Cell) *inode {
	if by == &c.by {
		return c.ending
	}
	return nil
}
