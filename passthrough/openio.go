package passthrough

import "golang.org/x/sys/unix"

// openIO opens the file behind a node's O_PATH descriptor fd. One that is opened again
// gets a file handle: to open by that is quicker than by way of /proc/self/fd, which is
// two more lookups. The handle is of the file behind fd, and as long as that is open
// nothing else can have it.
func (fs *FS) openIO(ts *threadState, n *inode, fd, flags int, guest uint32) (int, unix.Errno) {
	if m, mfd := fs.handleToOpen(ts, n, fd); m != nil {
		with := flags
		if fs.cfg.ReadOnly {
			with |= unix.O_NOATIME // as openAgain
		}
		opened, errno := fs.opened(func() (int, unix.Errno) { return sysOpenByHandleAt(mfd, &ts.handle, with) })
		m.giveBack()
		if errno == 0 {
			return opened, 0
		}
		if errno == unix.EACCES && fs.cfg.Landlocked {
			m.noOpens.Store(true) // where the file is found has no path that is allowed
		}
	}
	return fs.openAgain(ts, fd, flags, guest)
}

// handleToOpen puts the node's handle in ts.handle, if it has one or is opened again and
// can have one, and returns its mount and the mount's descriptor, borrowed, if that is open
// now. Otherwise it returns nil.
func (fs *FS) handleToOpen(ts *threadState, n *inode, fd int) (m *mountInfo, mfd int) {
	if fs.cfg.FileHandles == HandlesNever {
		return nil, -1
	}
	n.Lock()
	defer n.Unlock()
	k := n.Key().onMount()
	m = fs.mounts.get(k)
	if m == nil || m.noOpens.Load() {
		return nil, -1
	}
	// One by name may be another file's, or a device's: it is not opened for I/O.
	if n.fileHandle != handleNone && n.fileHandle < handleByFD && fs.takeHandle(n, fd, &emptyName[0], &ts.handle) != 0 {
		return nil, -1
	}
	if !n.HasFileHandle() {
		// On another mount there is a descriptor for it only now and then.
		onRoot := k == fs.root.Key().onMount()
		if n.marks&markOpened == 0 || !onRoot {
			n.marks |= markOpened
			return nil, -1
		}
		if fs.takeHandle(n, fd, &emptyName[0], &ts.handle) != 0 {
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
