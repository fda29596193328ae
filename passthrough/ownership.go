package passthrough

import (
	"fmt"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Ownership says where owner, mode and device number of the guest's files are kept.
type Ownership int

// In the host's inodes, which takes the privilege to give files away, or in an
// extended attribute.
const (
	OwnershipHost Ownership = iota
	OwnershipXattr
)

// ownership is all that depends on Config.Ownership. Requests with a user make files that
// belong to that user, and what is in ts.st is made into what the guest sees.
//
// dirfd is the descriptor of the directory that a file is made in, fd that of a node or an
// open file. umask is to be applied to the mode.
type ownership interface {
	// needsFile reports whether show needs a descriptor of the very file: what statx says
	// of a name is not enough.
	needsFile() bool
	// show turns the host's attributes in ts.st, of the file behind fd, into the guest's.
	show(ts *threadState, fd int) unix.Errno
	// direntType is the type in a listing of what the host lists as typ.
	direntType(typ uint32) uint32
	// reserved reports whether an attribute, by its name on the host, is the daemon's own:
	// the guest can't see it, nor make one.
	reserved(name []byte) bool
	readlink(ts *threadState, n *inode, fd int, dst []byte) (int, unix.Errno)
	// set is the part of SETATTR about owner and mode.
	set(ts *threadState, fd int, in *fp.SetattrIn) unix.Errno

	// beforeChown prepares a SETATTR with an owner for the symbolic link n. Afterwards
	// another node may stand in for it, which is asked for at every request about a
	// link; the caller has a reference on it. nil is none. forgotten says that the
	// client has forgotten the link. restoreStandIn has m stand in for n, as it did in a predecessor.
	beforeChown(ts *threadState, n *inode, fd int, in *fp.SetattrIn) unix.Errno
	// givenBefore finishes or undoes what a predecessor has done of that for the request r.
	givenBefore(r *server.Request, ts *threadState) unix.Errno
	standIn(n *inode) *inode
	restoreStandIn(n, m *inode)
	forgotten(n *inode)

	// These make a file. If made is set it is there, made by a process that died before it
	// had made all of it.
	mknod(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno
	mkdir(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno
	symlink(r *server.Request, dirfd int, name fp.Name, want *newFile, made bool) unix.Errno
	// create makes a regular file that was not there and opens it; without a name
	// (O_TMPFILE) if name is nil. seen is applied to its attributes for the guest.
	create(r *server.Request, dirfd int, name fp.Name, flags int, want *newFile, made bool) (fd int, seen guestStat, errno unix.Errno)
	// looksMade reports whether the file of ts.st, called name, is as those make it.
	looksMade(r *server.Request, ts *threadState, dirfd int, name fp.Name, want *newFile) bool
	rename(r *server.Request, oldDir int, oldName fp.Name, newDir int, newName fp.Name, flags uint32) unix.Errno

	// These are for changes of a file's data by a user who may not keep its set-ID bits:
	// through an open file, and by truncation, for which fd is the node's descriptor
	// before, and that of the file afterwards if it is open then.
	beforeWrite(ts *threadState, f *openFile) unix.Errno
	beforeTruncate(ts *threadState, n *inode, fd int) unix.Errno
	afterTruncate(ts *threadState, fd int) unix.Errno
}

// checkOwnership finds out at the start whether the share can keep owners as the configuration says.
func (c *Config) checkOwnership() error {
	if c.Ownership != OwnershipXattr {
		return nil
	}
	if c.UIDs != nil || c.GIDs != nil || c.PosixACL != Never || c.KillprivV2 {
		return fmt.Errorf("passthrough: ownership in attributes excludes translation of ids, ACLs and KillprivV2")
	}
	ts := &threadState{}
	_, errno := sysGetxattr(ts.procPath(c.RootFD), &markXattr[0], ts.mark[:])
	if errno == unix.EOPNOTSUPP {
		return fmt.Errorf("passthrough: the shared directory's file system has no user attributes to keep owners in: %w", errno)
	}
	return nil
}

// ofFD fills ts.st with the attributes of the file behind fd, as the guest sees them.
func (at *attributes) ofFD(ts *threadState, fd int) unix.Errno {
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return errno
	}
	return at.own.show(ts, fd)
}
