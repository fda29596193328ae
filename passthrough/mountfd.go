package passthrough

import "golang.org/x/sys/unix"

// A file handle is opened with the help of a descriptor of its mount, which must not be an
// O_PATH one. That of the share's own mount is always open. Another mount is opened when a
// node has to be found there, and closed by the sweep some seconds after the last time:
// the host could not unmount it otherwise.

// borrow returns the mount's descriptor, if it is open. It stays open until giveBack.
func (m *mountInfo) borrow() (fd int, ok bool) {
	if m.keep {
		return int(m.fd.Load()), true
	}
	m.using.Add(1)
	if fd := m.fd.Load(); fd >= 0 {
		m.touched.Store(true)
		return int(fd), true
	}
	m.using.Add(-1)
	return -1, false
}

func (m *mountInfo) giveBack() {
	if !m.keep {
		m.using.Add(-1)
	}
}

// borrowMount returns the mount of a node and its descriptor, which is opened if it has
// to be. The caller calls giveBack. depth is as in fdAt.
func (l *locator) borrowMount(ts *threadState, n *inode, depth int) (*mountInfo, int, unix.Errno) {
	k := n.Key().onMount()
	if k.mount == l.nodes.root.Key().mount { // also for another subvolume of btrfs, which is another device
		k.dev = l.nodes.root.Key().dev
	}
	m := l.mounts.get(k)
	if m != nil {
		if fd, ok := m.borrow(); ok {
			return m, fd, 0
		}
	}
	top, depth, errno := l.mountTop(n, depth)
	if errno != 0 {
		return nil, -1, errno
	}
	defer l.nodes.release(top)
	path, errno := l.rewalk(ts, top, depth)
	if errno != 0 {
		return nil, -1, errno
	}
	defer l.fds.close(path)
	if !top.isDir() && !top.isReg() {
		return nil, -1, unix.ESTALE // to open a device may do something
	}
	fd, errno := l.fds.open(l.cfg.ProcFD, procName(&ts.num, path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errno != 0 {
		return nil, -1, errno
	}
	m = l.mounts.of(n.Key(), fd)
	return m, l.mounts.lend(m, fd), 0
}

// mountTop is the node at the root of n's mount, with a reference for the caller, and the depth
// that counts for it. ESTALE if that is n itself, or not known.
func (l *locator) mountTop(n *inode, depth int) (*inode, int, unix.Errno) {
	at := n
	for {
		parent, _ := l.nodes.Location(at)
		if parent != nil && parent.Key().mount != n.Key().mount && at != n {
			l.nodes.release(parent)
			return at, depth, 0
		}
		if at != n {
			l.nodes.release(at)
		}
		if depth++; parent == nil || depth > maxDepth {
			break
		}
		if parent.Key().mount != n.Key().mount {
			l.nodes.release(parent)
			break
		}
		at = parent
	}
	return nil, depth, unix.ESTALE
}

// lend makes fd the mount's descriptor, unless another thread was faster, and borrows it.
func (t *mountTable) lend(m *mountInfo, fd int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.using.Add(1)
	m.touched.Store(true)
	if old := m.fd.Load(); old >= 0 {
		t.fds.close(fd)
		return int(old)
	}
	m.fd.Store(int32(fd))
	t.sweeper.arm()
	return fd
}

// sweep closes descriptors of mounts that were not used since the last time, and
// reports whether some are left to check.
func (t *mountTable) sweep() (more bool) {
	known := t.known.Load()
	if known == nil {
		return false
	}
	for _, m := range *known {
		more = t.sweepOne(m) || more
	}
	return more
}

func (t *mountTable) sweepOne(m *mountInfo) (open bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fd := m.fd.Load()
	if m.keep || fd < 0 {
		return false
	}
	if m.touched.Swap(false) {
		return true
	}
	// A borrower first announces itself and then looks for the mount.
	m.fd.Store(-1)
	if m.using.Load() != 0 {
		m.fd.Store(fd)
		return true
	}
	t.fds.close(int(fd))
	return false
}
