package passthrough

import (
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

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
	started time.Time // handle.noCaps counts from here, on a clock that is not set
}

// setCapState finds out whether capabilities have another name on the host.
func (fs *FS) setCapState() {
	if !fs.cfg.Xattr || fs.cfg.XattrMap == nil {
		return
	}
	prepend, _ := fs.cfg.XattrMap.ToHost(capabilityXattr)
	if prepend == "" {
		return // the same name, or none that the guest could use
	}
	fs.caps = capState{
		name:    append(fp.Name(prepend), capabilityXattr...),
		memory:  min(fs.attr.duration(), capMemory),
		started: time.Now(),
	}
}

// killCaps removes the capabilities of an open file that is about to be changed.
func (fs *FS) killCaps(h *handle) unix.Errno {
	if fs.caps.name == nil {
		return 0
	}
	now := int64(time.Since(fs.caps.started))
	known := h.noCaps.Load()
	if now < known {
		return 0
	}
	// Reading does not lock the file, which removing does.
	_, errno := sysFgetxattr(h.fd, fs.caps.name.CString(), nil)
	if errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		errno = sysFremovexattr(h.fd, fs.caps.name.CString())
	}
	if errno != 0 && errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		return errno
	}
	// Unless the guest has given it capabilities meanwhile.
	h.noCaps.CompareAndSwap(known, now+int64(fs.caps.memory))
	return 0
}

// killCapsAt is killCaps for a file that is not open; fd is the node's descriptor.
func (fs *FS) killCapsAt(ts *threadState, n *inode, fd int) unix.Errno {
	if fs.caps.name == nil || !n.isReg() {
		return 0
	}
	_, errno := sysGetxattr(ts.procPath(fd), fs.caps.name.CString(), nil)
	if errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		errno = sysRemovexattr(ts.procPath(fd), fs.caps.name.CString())
	}
	if errno == unix.ENODATA || errno == unix.EOPNOTSUPP {
		return 0
	}
	return errno
}

// xattrChanged is told that the guest has set an attribute, by its name on the host.
func (fs *FS) xattrChanged(n *inode, host fp.Name) {
	if fs.caps.name == nil || string(host) != string(fs.caps.name) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := n.handles; h != nil; h = h.next {
		// Another number each time, so that a WRITE that looked before the change does
		// not put its answer in place of this one.
		h.noCaps.Store(-fs.capChanges.Add(1))
	}
}
