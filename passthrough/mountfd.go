package passthrough

import "golang.org/x/sys/unix"

// A handle is opened with the help of a descriptor of its mount, which must not be an
// O_PATH one. There is one for each mount that has nodes with handles, and only as long
// as it has: it keeps the mount from being taken away.

// useMount returns what is known about the mount of a node, with a descriptor, and
// counts the node as a user of it. The node is called name in the directory dirfd, or is
// dirfd with an empty name.
func (fs *FS) useMount(n *inode, dirfd int, name *byte) (*mountInfo, unix.Errno) {
	if m := fs.mounts.get(mountKey{n.key.mount, n.key.dev}); m != nil && m.join() {
		return m, 0
	}
	fd, errno := fs.openMount(n, dirfd, name)
	if errno != 0 {
		return nil, errno
	}
	m := fs.mountOf(&n.key, fd)
	if !m.joinWith(fd) {
		_ = sysClose(fd) // another thread was faster
	}
	return m, 0
}

// openMount opens a directory or file on the node's mount: the node itself. It is looked
// at before it is opened, as opening a device may do something.
func (fs *FS) openMount(n *inode, dirfd int, name *byte) (int, unix.Errno) {
	if !n.isDir() && !n.isReg() {
		return -1, unix.EOPNOTSUPP
	}
	fd := dirfd
	if *name != 0 {
		var errno unix.Errno
		if fd, errno = sysOpenat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0); errno != 0 {
			return -1, errno
		}
		defer func() { _ = sysClose(fd) }()
	}
	var st unix.Statx_t
	if errno := statxFD(fd, &st); errno != 0 {
		return -1, errno
	}
	if !n.is(&st) {
		return -1, unix.ESTALE
	}
	var num [16]byte
	return sysOpenat(fs.cfg.ProcFD, procName(&num, fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// join counts a user of the descriptor; false when there is none.
func (m *mountInfo) join() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users == 0 {
		return false
	}
	m.users++
	return true
}

// joinWith counts a user and gives the mount the descriptor fd; false when it has one.
func (m *mountInfo) joinWith(fd int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users++; m.users > 1 {
		return false
	}
	m.fd = fd
	return true
}

// leave takes a user off. The last one closes the descriptor.
func (m *mountInfo) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users--; m.users == 0 {
		_ = sysClose(m.fd)
		m.fd = -1
	}
}
