package passthrough

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
)

// Words of evidence of a SETATTR that puts a file in the place of a symbolic link, see replaceLink.
const (
	giveTemp  = iota // number of the temporary name
	giveIno          // the file; 0 until it has that name
	giveBirth        //
	giveDir          // the directory's node
	giveKnown        // 1
)

// tempName is a temporary name, with its NUL.
func tempName(number uint64) []byte {
	return append(strconv.AppendUint([]byte(".govirtiofs-"), number, 36), 0)
}

// givenBefore decides on a SETATTR that gives a symbolic link away. What is at the temporary name and
// at the link's now decides:
//
//	the file at the link's name   done: the old link is removed if it is still at the temporary name
//	the file at the temporary one not done: it is removed, and the request runs
//	the old link there            done, and somebody else has replaced the file: the old link is removed
//	another file there            somebody else has moved it to the link's name in that moment: it goes back
func (x *xattrOwnership) givenBefore(r *server.Request, ts *threadState) unix.Errno {
	a := past(r)
	if a == nil || a.Evidence[giveKnown] == 0 || x.cfg.ReadOnly {
		return 0
	}
	n := x.nodes.Acquire(r.Header.NodeID)
	if n == nil {
		return 0
	}
	defer x.nodes.release(n)
	if m := x.standIn(n); m != nil || !n.isLink() {
		if m != nil {
			x.nodes.release(m)
		}
		return 0 // all of it is done
	}
	parent, name := x.nodes.Location(n)
	if parent == nil {
		return 0
	}
	defer x.nodes.release(parent)
	e := &a.Evidence
	var at, left unix.Statx_t
	dirfd, errno := x.find.fdOf(ts, parent)
	if errno != 0 {
		return errno
	}
	made := func(st *unix.Statx_t) bool { return e[giveIno] != 0 && sameFile(st, e[giveIno], e[giveBirth]) }
	given := sysStatx(dirfd, name.CString(), 0, &at) == 0 && made(&at)
	temp := tempName(e[giveTemp])
	tempDir := dirfd
	if dir := x.nodes.Acquire(e[giveDir]); dir != nil {
		defer x.nodes.release(dir)
		if tempDir, errno = x.find.fdOf(ts, dir); errno != 0 {
			return errno
		}
	}
	if sysStatx(tempDir, &temp[0], 0, &left) == 0 {
		if given && !n.is(&left) {
			given = false
			_ = sysRenameat2(tempDir, &temp[0], dirfd, name.CString(), unix.RENAME_EXCHANGE)
		}
		_ = sysUnlinkat(tempDir, &temp[0], 0)
	}
	if !given {
		return 0
	}
	return x.adoptLink(ts, n, parent, dirfd, name)
}
