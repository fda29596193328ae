package passthrough

import (
	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// opener opens files of nodes for I/O: through the O_PATH descriptor of the node, whose kind is known, or
// by the file handle that this descriptor's file has. No device, FIFO or socket is opened, whatever takes
// the file's place.
type opener struct {
	cfg *Config
	*features
	fds    *descriptors
	mounts *mountTable
	nodes  *nodeTable
	find   *locator
	who    *credentials
}

// openIO opens the file behind a node's O_PATH descriptor fd. A file that is opened a second time
// gets a file handle. To open it by that is faster than through /proc/self/fd, which takes two more
// lookups. The handle is of the file behind fd, and as long as that is open nothing else can have
// it.
func (o *opener) openIO(ts *threadState, n *inode, fd, flags int, guest uint32) (int, unix.Errno) {
	if m, mfd := o.handleToOpen(ts, n, fd); m != nil {
		with := flags
		if o.cfg.ReadOnly {
			with |= unix.O_NOATIME // as openAgain
		}
		opened, errno := o.fds.opened(func() (int, unix.Errno) { return sysOpenByHandleAt(mfd, &ts.handle, with) })
		m.giveBack()
		if errno == 0 {
			return opened, 0
		}
		if errno == unix.EACCES && o.cfg.Landlocked {
			m.noOpens.Store(true) // where the file is found has no path that is allowed
		}
	}
	return o.openAgain(ts, fd, flags, guest)
}

// handleToOpen puts the node's handle in ts.handle, if it has one or is opened again and
// can have one, and returns its mount and the mount's descriptor, borrowed, if that is open
// now. Otherwise it returns nil.
func (o *opener) handleToOpen(ts *threadState, n *inode, fd int) (m *mountInfo, mfd int) {
	if o.cfg.FileHandles == HandlesNever {
		return nil, -1
	}
	n.Lock()
	defer n.Unlock()
	k := n.Key().onMount()
	m = o.mounts.get(k)
	if m == nil || m.noOpens.Load() {
		return nil, -1
	}
	// One by name may be another file's, or a device's: it is not opened for I/O.
	if n.fileHandle != handleNone && n.fileHandle < handleByFD && o.find.takeHandle(n, fd, &emptyName[0], &ts.handle) != 0 {
		return nil, -1
	}
	if !n.HasFileHandle() {
		// On another mount there is a descriptor for it only now and then.
		onRoot := k == o.nodes.root.Key().onMount()
		if n.marks&markOpened == 0 || !onRoot {
			n.marks |= markOpened
			return nil, -1
		}
		if o.find.takeHandle(n, fd, &emptyName[0], &ts.handle) != 0 {
			return nil, -1
		}
	}
	if !n.handle(&ts.handle) {
		return nil, -1
	}
	mfd, ok := m.borrow()
	if !ok {
		return nil, -1
	}
	return m, mfd
}

// hostFlags are the flags to open a file with on the host. Flags that are not named here are not
// passed on: O_CREAT, O_PATH, O_TMPFILE, O_DIRECTORY and so on.
//
// Nor are O_APPEND, O_SYNC and O_DSYNC: a process may change them while the file is open, so each
// WRITE carries them, see writeFlags. O_NONBLOCK concerns only a lease that somebody on the host
// holds.
func (o *opener) hostFlags(guest uint32) int {
	flags := int(guest)&(unix.O_ACCMODE|unix.O_TRUNC) | unix.O_NONBLOCK
	if o.cfg.AllowDirectIO {
		flags |= int(guest) & unix.O_DIRECT
	}
	if o.cfg.PreserveNoatime {
		flags |= int(guest) & unix.O_NOATIME
	}
	if o.agreed(fp.InitWritebackCache) && flags&unix.O_ACCMODE == unix.O_WRONLY {
		// The guest fills up pages that a process writes a part of.
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	return flags
}

// openAgain opens the file behind an O_PATH descriptor. If it is not allowed to use the flags as
// they are, it tries the next best ones.
func (o *opener) openAgain(ts *threadState, fd, flags int, guest uint32) (int, unix.Errno) {
	open := func(flags int) (int, unix.Errno) {
		return o.fds.open(o.cfg.ProcFD, procName(&ts.num, fd), flags, 0)
	}
	if o.cfg.ReadOnly && flags&unix.O_NOATIME == 0 {
		// Reading a share that is not to be changed should not change its times.
		if f, errno := open(flags | unix.O_NOATIME); errno != unix.EPERM {
			return f, errno
		}
	}
	f, errno := open(flags)
	if errno == unix.EPERM && guest&unix.O_APPEND != 0 {
		f, errno = open(flags | unix.O_APPEND) // a file with chattr +a can be opened for writing with it only
	}
	if errno == unix.EACCES && guest&unix.O_ACCMODE == unix.O_WRONLY && flags&unix.O_ACCMODE == unix.O_RDWR {
		// A daemon without privileges may write and not read: better without
		// the guest's read-modify-write than not at all.
		f, errno = open(flags&^unix.O_ACCMODE | unix.O_WRONLY)
	}
	return f, errno
}

// noFlush tells the guest to send no FLUSH when a process closes a file that it can only read and
// whose file system reports no errors at close. A file that can be written to keeps it: with the
// flag the guest would also leave pages of shared mappings unwritten at close (fs/fuse/file.c:
// fuse_flush). POSIX locks end with FLUSH.
func (o *opener) noFlush(mount *mountInfo, guest uint32) uint32 {
	if guest&unix.O_ACCMODE != unix.O_RDONLY || o.agreed(fp.InitPosixLocks) || !mount.local {
		return 0
	}
	return fp.FopenNoflush
}

// openNamed is openAgain for a node whose descriptor came from a file handle. Landlock refuses to
// open the file through it, so the file is found by name. If that fails, ESTALE makes the client
// look the name up.
func (o *opener) openNamed(ts *threadState, n *inode, flags int, guest uint32) (int, unix.Errno) {
	fd, errno := o.find.rewalk(ts, n, 0)
	if errno != 0 {
		return -1, unix.ESTALE
	}
	defer o.fds.close(fd)
	return o.openAgain(ts, fd, flags, guest)
}

// back gives the kernel the descriptor of a new open file, see Config.BackingFiles. The kernel uses
// it with the credentials that this thread has now. They need CAP_FSETID, so that writing clears no
// set-ID bits: for writers who may not keep them the kernel sends a SETATTR.
func (o *opener) back(r *server.Request, ts *threadState, n *inode, fd int) {
	if o.agreed(fp.InitPassthrough) {
		o.who.setFsetid(ts, true)
		r.Back(n.ID(), fd)
	}
}
