package relay

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// IDs translates the ids of users, or those of groups, between the client and the program, which is on the host. The largest
// number stands for no id, and stays what it is. It must be safe for use by several goroutines.
type IDs interface {
	// Host is the program's id for one of the client's. false: the client may make nothing with it.
	Host(id uint32) (host uint32, may bool)
	// Guest is the client's id for one of the program's.
	Guest(id uint32) uint32
}

// noIDs translates nothing.
type noIDs struct{}

func (noIDs) Host(id uint32) (uint32, bool) { return id, true }
func (noIDs) Guest(id uint32) uint32        { return id }

// overflowID is the user of a request whose id has no translation on the host: nobody (fs/proc: overflowuid).
const overflowID = 65534

// asker puts the translated user and group into a request's header. It reports whether this user may make files.
func (fs *FS) asker(to *fp.InHeader, from *fp.InHeader) bool {
	var user, group bool
	if to.UID, user = fs.opts.Users.Host(from.UID); !user {
		to.UID = overflowID
	}
	if to.GID, group = fs.opts.Groups.Host(from.GID); !group {
		to.GID = overflowID
	}
	return user && group
}

// owner puts a file's new owner into a request.
func (fs *FS) owner(in *fp.SetattrIn) unix.Errno {
	var may bool
	if in.Valid&fp.FattrUID != 0 {
		if in.UID, may = fs.opts.Users.Host(in.UID); !may {
			return unix.EPERM
		}
	}
	if in.Valid&fp.FattrGID != 0 {
		if in.GID, may = fs.opts.Groups.Host(in.GID); !may {
			return unix.EPERM
		}
	}
	return 0
}

// owned turns the owner in attributes into the client's.
func (fs *FS) owned(uid, gid *uint32) {
	*uid, *gid = fs.opts.Users.Guest(*uid), fs.opts.Groups.Guest(*gid)
}

// makes reports whether a request makes a file, which then belongs to who has made the request.
func makes(op fp.Opcode) bool {
	switch op {
	case fp.OpCreate, fp.OpMkdir, fp.OpMknod, fp.OpSymlink, fp.OpTmpfile:
		return true
	}
	return false
}
