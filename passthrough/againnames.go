package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// linkedBefore decides on LINK. The node's file is at the new name, and was changed since the
// intent, as a new name changes it: done. EEXIST says that another file is there, or that it was
// there before.
func (d *decider) linkedBefore(r *server.Request, ts *threadState, n *inode, dirfd int, name fp.Name) (done bool, errno unix.Errno) {
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
	m := d.mounts.of(keyOf(&ts.st), dirfd)
	e := &a.Evidence
	if a.Step == 0 && e[fileKnown] != 0 && sameFile(&ts.st, e[fileIno], e[fileBirth]) {
		return false, unix.EEXIST
	}
	if n.is(&ts.st) && (a.Step > 0 || since(ts.st.Ctime, a.Stamp, !m.local)) {
		return true, 0
	}
	return false, unix.EEXIST
}

// removedBefore decides on UNLINK and RMDIR. What is at the name now decides:
//
//	nothing                            done, if there was something
//	the file of the evidence           run
//	one that is younger                done, and it stays
//	another one, which is older        run: it was there before
func (d *decider) removedBefore(r *server.Request, ts *threadState, dirfd int, name fp.Name) (done bool) {
	a := past(r)
	if a == nil {
		return false
	}
	e := a.Evidence
	switch errno := sysStatx(dirfd, name.CString(), 0, &ts.st); {
	case a.Step > 0:
		return true
	case errno == unix.ENOENT:
		return e[fileKnown] != 0
	case errno != 0 || e[fileKnown] == 0:
		return false
	}
	d.mounts.of(keyOf(&ts.st), dirfd)
	return !sameFile(&ts.st, e[fileIno], e[fileBirth]) && d.bornSince(&ts.st, a.Stamp)
}

// Words of evidence of RENAME: the files at both names, and which of them there are.
const (
	renameOldIno = iota
	renameOldBirth
	renameNewIno
	renameNewBirth
	renameKnown // bits, and above them the turns, see turnsWord

	renameOld = 1
	renameNew = 2
)

// renaming is the evidence for a RENAME, from that about the files at both names.
func renaming(old, new fuse.Evidence) fuse.Evidence {
	return fuse.Evidence{
		renameOldIno: old[fileIno], renameOldBirth: old[fileBirth],
		renameNewIno: new[fileIno], renameNewBirth: new[fileBirth],
		renameKnown: old[fileKnown]*renameOld | new[fileKnown]*renameNew,
	}
}

// renameSeen is what was found at both names of a RENAME that is served again.
type renameSeen struct {
	old, new     unix.Statx_t
	noOld, noNew bool
}

// renamedBefore decides on RENAME, in all its forms, by where the file is that was at the old name:
//
//	there                              run; also if it has both names, as nothing happens then
//	at the new name                    done
//	at neither, the old name is free   done, unless what was at the new name is still there
//	at neither, the old name is taken  run if it is by an older file, which was there before;
//	                                   else done or ENOENT as above, and that file stays
//
// If a name can't be looked at, nothing is decided, and the error is the reply.
func (d *decider) renamedBefore(r *server.Request, fromFD int, oldName fp.Name, toFD int, newName fp.Name) (seen *renameSeen, done bool, errno unix.Errno) {
	a := past(r)
	if a == nil || a.Evidence[renameKnown]&renameOld == 0 {
		return nil, false, 0
	}
	e := &a.Evidence
	seen = &renameSeen{}
	oldErrno := sysStatx(fromFD, oldName.CString(), 0, &seen.old)
	newErrno := sysStatx(toFD, newName.CString(), 0, &seen.new)
	seen.noOld, seen.noNew = oldErrno != 0, newErrno != 0
	kept := !seen.noNew && d.keptName(&seen.new, toFD, a)
	switch {
	case a.Step > 0:
		return seen, true, 0
	case seen.noOld && oldErrno != unix.ENOENT:
		return nil, false, oldErrno
	case seen.noNew && newErrno != unix.ENOENT:
		return nil, false, newErrno
	case !seen.noOld && sameFile(&seen.old, e[renameOldIno], e[renameOldBirth]):
		return nil, false, 0
	case !seen.noNew && sameFile(&seen.new, e[renameOldIno], e[renameOldBirth]):
		return seen, true, 0
	}
	if !seen.noOld {
		d.mounts.of(keyOf(&seen.old), fromFD)
		if !d.bornSince(&seen.old, a.Stamp) {
			return nil, false, 0
		}
	}
	if kept || seen.noNew {
		return seen, false, unix.ENOENT
	}
	return seen, true, 0
}

// keptName reports whether the file at the new name was there before a RENAME. If the client did
// not know what was there, it was if nothing has happened to it since: a file that came by that
// name has another ctime.
func (d *decider) keptName(st *unix.Statx_t, dirfd int, a *server.Again) bool {
	if e := &a.Evidence; e[renameKnown]&renameNew != 0 {
		return sameFile(st, e[renameNewIno], e[renameNewBirth])
	}
	return !since(st.Ctime, a.Stamp, !d.mounts.of(keyOf(st), dirfd).local)
}

// releasedBefore is the reply to a RELEASE or RELEASEDIR whose open file is not found: a
// predecessor has closed it.
func releasedBefore(r *server.Request, errno unix.Errno) unix.Errno {
	if errno == unix.EBADF && past(r) != nil {
		return 0
	}
	return errno
}
