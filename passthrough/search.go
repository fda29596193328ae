package passthrough

import "golang.org/x/sys/unix"

// A node that the host has renamed has no descriptor and, as a rule, no file handle yet:
// the client has looked it up a moment ago. It is searched for in the directory where it
// was seen, by its inode number, before the client gets ESTALE. Linux would look up the
// old name then, and open another file that has it by now.
const (
	searchReads = 8 // of a dirBuffer each: some 8000 names
	searchTries = 4 // while renames continue
)

// search opens a node that is not called name any more in the directory behind dirfd.
func (l *locator) search(ts *threadState, n, parent *inode, dirfd int, name *byte) (int, unix.Errno) {
	dir, errno := l.fds.open(dirfd, &dotName[0], unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errno != 0 {
		return -1, unix.ESTALE
	}
	defer l.fds.close(dir)
	for range searchTries {
		fd, seen, errno := l.searchOnce(ts, n, parent, dirfd, dir)
		if errno == 0 || !seen {
			return fd, errno
		}
		// It was renamed again after it was seen, maybe back.
		if fd, errno = l.openAs(ts, n, dirfd, name); errno == 0 {
			return fd, 0
		}
		if _, errno = sysLseek(dir, 0, unix.SEEK_SET); errno != 0 {
			break
		}
	}
	return -1, unix.ESTALE
}

var dotName = [2]byte{'.', 0}

// searchOnce goes through an open directory once. seen says that an entry had the node's
// inode number.
func (l *locator) searchOnce(ts *threadState, n, parent *inode, dirfd, dir int) (fd int, seen bool, errno unix.Errno) {
	buf := l.io.getBuffer()
	defer l.io.putBuffer(buf)
	for range searchReads {
		end, errno := sysGetdents64(dir, buf[:])
		if errno != 0 || end == 0 {
			break
		}
		for at := 0; at < end; {
			e, size := parseDirent(buf[at:end])
			at += size
			if e.ino != n.Key().ino {
				continue
			}
			if l.allowName(parent, e.name, intentRebind) != 0 {
				continue
			}
			seen = true
			if fd, errno := l.openAs(ts, n, dirfd, e.name.CString()); errno == 0 {
				l.nodes.locate(n, parent, e.name)
				return fd, true, 0
			}
		}
	}
	return -1, seen, unix.ESTALE
}

// openAs opens a node's file as name in the directory behind dirfd.
func (l *locator) openAs(ts *threadState, n *inode, dirfd int, name *byte) (int, unix.Errno) {
	fd, errno := l.fds.open(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errno == unix.ENOENT || errno == unix.ENOTDIR {
		return -1, unix.ESTALE
	}
	if errno != 0 {
		return -1, errno
	}
	return l.checked(ts, n, fd)
}
