package passthrough

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// A process that may not keep the set-ID bits of a file loses them by changing its data. Linux checks
// that in the guest, and leaves it to us in these cases (fs/fuse/file.c, dir.c):
//
//   - with HANDLE_KILLPRIV_V2, which says who may not: OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID
//     and FATTR_KILL_SUIDGID. Before FALLOCATE and COPY_FILE_RANGE by such a user comes a
//     SETATTR that changes nothing: see touch.
//   - WRITE past the guest's page cache, without that feature too.
//   - OPEN with O_TRUNC and without that feature, which says nothing. Here only the user can
//     tell, and with ALLOW_IDMAP the request has none: then ATOMIC_O_TRUNC is not agreed, and
//     the guest truncates with SETATTR.
//
// By the protocol a set-group-ID bit without group execute stays. For a writer without
// CAP_FSETID the host's kernel clears it all the same, unless the thread is in the file's
// group (fs/attr.c: setattr_should_drop_sgid); so in that case the daemon clears the other bits itself.

// privileges prepare changes of a file's data by somebody who may not keep its set-ID bits.
type privileges struct {
	cfg *Config
	*features
	who  *credentials
	own  ownership
	caps *capState
}

// withoutSetID is what a change of a file by a user without privilege leaves of its mode.
func withoutSetID(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// changesData prepares the thread for a call that changes the data of f; kill is for a
// user who may not keep set-ID bits.
func (p *privileges) changesData(ts *threadState, f *openFile, kill bool) unix.Errno {
	if !kill {
		p.who.setFsetid(ts, true)
	} else if errno := p.own.beforeWrite(ts, f); errno != 0 {
		return errno
	}
	return p.caps.kill(f)
}

// truncatesAt is changesData for a file that may not be open; fd is the node's descriptor.
func (p *privileges) truncatesAt(ts *threadState, n *inode, fd int, kill bool) unix.Errno {
	if !kill {
		p.who.setFsetid(ts, true)
	} else if errno := p.own.beforeTruncate(ts, n, fd); errno != 0 {
		return errno
	}
	return p.caps.killAt(ts, n, fd)
}

// modeChanged is told that the guest has set a file's mode.
func (n *inode) modeChanged() {
	n.Lock()
	defer n.Unlock()
	for f := n.openFiles; f != nil; f = f.next {
		f.kernelKills.Store(false)
	}
}

// truncatesUnprivileged reports whether an OPEN with O_TRUNC comes from a user who may not
// keep set-ID bits.
func (p *privileges) truncatesUnprivileged(r *server.Request, openFlags uint32) bool {
	if p.agreed(fp.InitHandleKillprivV2) {
		return openFlags&fp.OpenKillSuidgid != 0
	}
	return r.Header.UID != 0 // a user who is not named may not keep them either
}

// copiesUnprivileged is the same for FALLOCATE and COPY_FILE_RANGE. Linux before 6.1 sends no
// SETATTR first, but a user.
func (p *privileges) copiesUnprivileged(r *server.Request) bool {
	return p.agreed(fp.InitHandleKillprivV2) && r.Header.UID != 0 && r.Header.UID != fp.InvalidUIDGID
}

// touches reports whether a SETATTR changes nothing that is in it: with HANDLE_KILLPRIV_V2 it
// is sent for the set-ID bits. Those of directories mean something else, and stay.
func (p *privileges) touches(n *inode, in *fp.SetattrIn) bool {
	return p.agreed(fp.InitHandleKillprivV2) && !n.isDir() && n.mode() != unix.S_IFLNK &&
		in.Valid&^(fp.FattrFh|fp.FattrLockowner|fp.FattrCtime|fp.FattrKillSuidgid) == 0
}

// touch serves it. The guest's kernel sends it in two cases: before somebody changes the
// file's data, who has it open for writing then; and for chown(-1, -1), which it lets
// anybody make of any file. That is for the file's owner and root only, if the request
// says who it is: otherwise every user could take the bits off every program.
func (p *privileges) touch(r *server.Request, ts *threadState, n *inode, fd int) unix.Errno {
	if errno := statxFD(fd, &ts.st); errno != 0 {
		return errno
	}
	uid := r.Header.UID
	named := uid != fp.InvalidUIDGID && (uid == 0 || uid == p.who.users.Guest(ts.st.Uid))
	if !named && !n.isWritten() {
		return 0
	}
	mode := uint32(ts.st.Mode) & permBits
	if left := withoutSetID(mode); left != mode {
		p.who.setFsetid(ts, true)
		if errno := sysFchmodat(p.cfg.ProcFD, procName(&ts.num, fd), left); errno != 0 {
			return errno
		}
	}
	return p.caps.killAt(ts, n, fd)
}

// isWritten reports whether somebody has the file open for writing.
func (n *inode) isWritten() bool {
	n.Lock()
	defer n.Unlock()
	for f := n.openFiles; f != nil; f = f.next {
		if f.flags&unix.O_ACCMODE != unix.O_RDONLY {
			return true
		}
	}
	return false
}

// A file's capabilities end when the file is written to or changes its owner: they were
// given to what was in it. The host's kernel sees to that for the attribute
// security.capability (security/commoncap.c: cap_inode_killpriv). When the share's map
// keeps the guest's capabilities under another name the kernel does not know them, and
// it is done here, before the change, as the kernel does.
//
// To know that there is nothing to remove takes a system call for each WRITE. An open
// file remembers it instead, for as long as the guest may trust attributes, and a second
// at most: others may give the file capabilities on the host, or through another mount
// of it. A guest that sets them itself ends that time.

// capMemory is the longest that an open file is known to have no capabilities.
const capMemory = time.Second

var capabilityXattr = fp.Name("security.capability\x00")

// capState is what FS knows of capabilities under a name of its own.
type capState struct {
	name    fp.Name // on the host; nil when the kernel removes them
	memory  time.Duration
	started time.Time    // openFile.noCaps counts from here, on a clock that is not set
	changes atomic.Int64 // of capabilities by the guest
}

// set finds out whether capabilities have another name on the host. The guest may trust
// attributes for so long.
func (c *capState) set(cfg *Config, attr time.Duration) {
	if !cfg.Xattr || cfg.XattrMap == nil {
		return
	}
	prepend, _ := cfg.XattrMap.ToHost(capabilityXattr)
	if prepend == "" {
		return // the same name, or none that the guest could use
	}
	c.name = append(fp.Name(prepend), capabilityXattr...)
	c.memory = min(attr, capMemory)
	c.started = time.Now()
}

// kill removes the capabilities of an open file that is about to be changed.
func (c *capState) kill(f *openFile) unix.Errno {
	if c.name == nil {
		return 0
	}
	now := int64(time.Since(c.started))
	known := f.noCaps.Load()
	if now < known {
		return 0
	}
	// Reading does not lock the file, which removing does.
	_, errno := sysFgetxattr(f.fd, c.name.CString(), nil)
	if errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		errno = sysFremovexattr(f.fd, c.name.CString())
	}
	if errno != 0 && errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		return errno
	}
	// Unless the guest has given it capabilities meanwhile.
	f.noCaps.CompareAndSwap(known, now+int64(c.memory))
	return 0
}

// killAt is kill for a file that is not open; fd is the node's descriptor.
func (c *capState) killAt(ts *threadState, n *inode, fd int) unix.Errno {
	if c.name == nil || !n.isReg() {
		return 0
	}
	_, errno := sysGetxattr(ts.procPath(fd), c.name.CString(), nil)
	if errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		errno = sysRemovexattr(ts.procPath(fd), c.name.CString())
	}
	if errno == unix.ENODATA || errno == unix.EOPNOTSUPP {
		return 0
	}
	return errno
}

// xattrChanged is told that the guest has set an attribute, by its name on the host.
func (c *capState) xattrChanged(n *inode, host fp.Name) {
	if c.name == nil || string(host) != string(c.name) {
		return
	}
	n.Lock()
	defer n.Unlock()
	for f := n.openFiles; f != nil; f = f.next {
		// Another number each time, so that a WRITE that looked before the change does
		// not put its answer in place of this one.
		f.noCaps.Store(-c.changes.Add(1))
	}
}
