package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// names links, renames and removes names.
type names struct {
	*access
	cfg      *Config
	fds      *descriptors
	own      ownership
	recovery *recovery
	pins     *pinner
	again    *decider
}

// Link implements server.Names. The file is named by its descriptor, so that it is
// the one which the guest means, and no symbolic link is followed.
func (fs *FS) Link(r *server.Request, in *fp.LinkIn, newName fp.Name, out *fp.EntryOut) unix.Errno {
	ts, parent, dirfd, errno := fs.enterName(r, newName, intentLink)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(parent)
	n, errno := fs.enterNode(in.OldNodeID, intentLink)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	look, errno := fs.again.turnToMake(r, newName)
	if errno != 0 {
		return errno
	}
	look = look || n.mayHaveNames()
	done, errno := fs.again.linkedBefore(r, ts, n, dirfd, newName)
	if errno == 0 && !done {
		fs.again.intendNew(r, ts, parent, dirfd, newName, look)
		errno = fs.names.linkNode(ts, n, dirfd, newName)
		settle(r, errno)
	}
	if errno != 0 {
		return errno
	}
	fd, errno := fs.find.fdOf(ts, n)
	if errno == 0 {
		errno = statxFD(fd, &ts.st)
	}
	if errno != 0 {
		return errno
	}
	// By its number: the descriptor may be one of another mount's, see linkHere.
	if !fs.nodes.Grant(ts.cell, n) { // forgotten meanwhile, by another queue
		return unix.ESTALE
	}
	n.Acquire() // for entryOf; there is a reference, so it does not fail
	fs.nodes.locate(n, parent, newName)
	return fs.entries.entryOf(ts, parent, n, newName, out)
}

// linkNode links n at name. A file without a name (O_TMPFILE) can be linked through
// an open descriptor only, not through an O_PATH one made from it.
func (d *names) linkNode(ts *threadState, n *inode, dirfd int, name fp.Name) unix.Errno {
	fd, errno := d.find.fdOf(ts, n)
	if errno != 0 {
		return errno
	}
	errno = sysLinkat(d.cfg.ProcFD, procName(&ts.num, fd), dirfd, name.CString(), unix.AT_SYMLINK_FOLLOW)
	if errno == unix.EXDEV && d.recovery.store != nil {
		return d.linkHere(ts, n, fd, dirfd, name)
	}
	if errno != unix.ENOENT {
		return errno
	}
	n.Lock()
	defer n.Unlock()
	f := n.anyOpen()
	if f == nil {
		return errno
	}
	return sysLinkat(d.cfg.ProcFD, procName(&ts.num, f.fd), dirfd, name.CString(), unix.AT_SYMLINK_FOLLOW)
}

// linkHere is linkNode for a node whose descriptor fd the keeper has held: it belongs to a mount of
// a predecessor's, and the kernel links only within one.
func (d *names) linkHere(ts *threadState, n *inode, fd, dirfd int, name fp.Name) unix.Errno {
	here, errno := d.find.rewalk(ts, n, 0)
	if errno != 0 {
		here, errno = d.find.openHere(ts, n, fd)
	}
	if errno != 0 {
		return unix.EXDEV
	}
	defer d.fds.close(here)
	return sysLinkat(d.cfg.ProcFD, procName(&ts.num, here), dirfd, name.CString(), unix.AT_SYMLINK_FOLLOW)
}

// Unlink implements server.Names.
func (fs *FS) Unlink(r *server.Request, name fp.Name) unix.Errno {
	return fs.names.remove(r, name, 0)
}

// Rmdir implements server.Names.
func (fs *FS) Rmdir(r *server.Request, name fp.Name) unix.Errno {
	return fs.names.remove(r, name, unix.AT_REMOVEDIR)
}

func (d *names) remove(r *server.Request, name fp.Name, flags int) unix.Errno {
	ts, parent, dirfd, errno := d.enterName(r, name, intentRemove)
	if errno != 0 {
		return errno
	}
	defer d.nodes.release(parent)
	turn := turnOf(r.Header.NodeID, name)
	if _, errno = d.again.turns.take(r, turn, true); errno != 0 {
		return errno
	}
	victim := d.holdVictim(ts, parent, dirfd, name)
	if !d.again.removedBefore(r, ts, dirfd, name) {
		var e fuse.Evidence
		if r.Cell != nil {
			victim, e = d.lookAt(ts, victim, dirfd, name)
			e[turnWord] = uint64(turn)
		}
		if errno = d.pins.unnaming(ts, victim); errno == 0 {
			intend(r, e)
			errno = sysUnlinkat(dirfd, name.CString(), flags)
			settle(r, errno)
		}
	}
	if errno == 0 {
		d.nodes.unnamed(victim, parent, name)
	}
	if victim != nil {
		d.nodes.release(victim)
	}
	return errno
}

// holdVictim makes sure that a node which is about to lose its name can be used
// afterwards, as the working directory of a process, say: without a name or an
// open file only a descriptor leads to it. It returns the node with a reference, or nil
// when the client does not know it. If the hint for the name is lost, the file that has it is
// looked at.
func (d *names) holdVictim(ts *threadState, parent *inode, dirfd int, name fp.Name) *inode {
	n := d.nodes.Placed(parent, name)
	if n == nil && !d.nodes.Unplaced(parent, name) {
		n = d.nodes.nodeAt(ts, dirfd, name)
	}
	if n == nil || n.fd.Load() >= 0 {
		return n
	}
	n.Lock()
	open := n.openFiles != nil
	n.Unlock()
	if !open {
		_, _ = d.find.fdOf(ts, n) // if it can't be had, the node is lost with its name
	}
	return n
}

// Rename implements server.Names.
func (fs *FS) Rename(r *server.Request, in *fp.Rename2In, oldName, newName fp.Name) unix.Errno {
	wantOld, wantNew := renameIntents(in.Flags)
	ts, from, fromFD, errno := fs.enterName(r, oldName, wantOld)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(from)
	to, toFD, errno := fs.enterNameIn(ts, in.NewDir, newName, wantNew)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(to)
	turns := [2]turnKey{turnOf(r.Header.NodeID, oldName), turnOf(in.NewDir, newName)}
	if errno = fs.again.turns.takeBoth(r, turns[0], turns[1]); errno != 0 {
		return errno
	}
	victim := fs.names.holdVictim(ts, to, toFD, newName)
	moved, victim, errno := fs.names.renameFile(r, &renameCall{ts, from, to, fromFD, toFD, oldName, newName, in.Flags, turns}, victim)
	if moved != nil {
		defer fs.nodes.release(moved)
	}
	if victim != nil {
		defer fs.nodes.release(victim)
	}
	switch {
	case errno != 0:
		return errno
	case moved != nil && moved == victim: // two names of one file: nothing has moved
		return 0
	case in.Flags&unix.RENAME_EXCHANGE != 0:
		fs.nodes.renamed(victim, from, oldName)
	default:
		fs.nodes.SetHint(from, oldName, nil)
		fs.nodes.unnamed(victim, to, newName)
	}
	fs.nodes.renamed(moved, to, newName)
	return 0
}

// renameCall is what a RENAME is about.
type renameCall struct {
	ts               *threadState
	from, to         *inode
	fromFD, toFD     int
	oldName, newName fp.Name
	flags            uint32
	turns            [2]turnKey // of the old and the new name
}

// renameFile renames on the host. It returns the node that has moved, and the one that was at the
// new name, with references, as far as the client knows them. victim is the latter if it is known
// before; renameFile takes the reference.
func (d *names) renameFile(r *server.Request, c *renameCall, victim *inode) (moved, _ *inode, errno unix.Errno) {
	seen, done, errno := d.again.renamedBefore(r, c.fromFD, c.oldName, c.toFD, c.newName)
	switch {
	case errno != 0:
		return nil, victim, errno
	case done:
		moved, victim = d.renamedNodes(c.ts, seen, c.flags, victim)
		return moved, victim, 0
	}
	if r.Cell != nil {
		var old, new fuse.Evidence
		moved, old = d.lookAt(c.ts, d.nodes.Placed(c.from, c.oldName), c.fromFD, c.oldName)
		if victim != nil || c.flags&unix.RENAME_EXCHANGE != 0 {
			victim, new = d.lookAt(c.ts, victim, c.toFD, c.newName)
		}
		if c.flags&unix.RENAME_EXCHANGE == 0 {
			if errno = d.pins.unnaming(c.ts, victim); errno != 0 {
				return moved, victim, errno
			}
		}
		e := renaming(old, new)
		e[renameKnown] |= turnsWord(c.turns[0], c.turns[1])
		intend(r, e)
	}
	errno = d.own.rename(r, c.fromFD, c.oldName, c.toFD, c.newName, c.flags)
	settle(r, errno)
	if errno != 0 || r.Cell != nil {
		return moved, victim, errno
	}
	if moved = d.nodes.Placed(c.from, c.oldName); moved == nil {
		moved = d.nodes.nodeAt(c.ts, c.toFD, c.newName)
	}
	return moved, victim, 0
}

// renamedNodes are the nodes of a RENAME that a predecessor has made, by what is at its names now.
// victim is the node whose place is the new name.
func (d *names) renamedNodes(ts *threadState, seen *renameSeen, flags uint32, victim *inode) (moved, _ *inode) {
	if !seen.noNew {
		moved = d.nodes.seen(ts, &seen.new, 0)
	}
	if victim != nil && (victim == moved || flags&unix.RENAME_EXCHANGE != 0) {
		d.nodes.release(victim) // its place is right already, or follows
		victim = nil
	}
	if flags&unix.RENAME_EXCHANGE != 0 && !seen.noOld {
		victim = d.nodes.seen(ts, &seen.old, 0)
	}
	return moved, victim
}

// lookAt is the evidence for what is called name in the directory behind dirfd, which is n if that
// is known, and its node with a reference: n, or, at the price of a system call, the one that
// is found.
func (d *names) lookAt(ts *threadState, n *inode, dirfd int, name fp.Name) (*inode, fuse.Evidence) {
	if n != nil {
		return n, evidenceOf(n)
	}
	e := whatIs(ts, dirfd, name)
	if e[fileKnown] == 0 {
		return nil, e
	}
	return d.nodes.seen(ts, &ts.st, 0), e
}

// whatIs is evidence of the file that is called name, by a system call. If there is one, ts.st has its attributes.
func whatIs(ts *threadState, dirfd int, name fp.Name) (e fuse.Evidence) {
	if sysStatx(dirfd, name.CString(), 0, &ts.st) == 0 {
		e = fuse.Evidence{fileIno: ts.st.Ino, fileBirth: birthOf(&ts.st).word(), fileKnown: 1}
	}
	return e
}
