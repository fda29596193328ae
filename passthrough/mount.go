package passthrough

import (
	"maps"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// mountInfo is what FS learnt about a mount by using it. It is never forgotten: there
// are few mounts.
type mountInfo struct {
	local     bool        // on the host's own disks or memory
	readOnly  bool        // when it was first used
	hashes    bool        // positions in directories may be hashes, as those of ext4 are
	noNowait  atomic.Bool // reads with RWF_NOWAIT do not work
	noHandles atomic.Bool // its files have no file handles
	noOpens   atomic.Bool // its files can't be opened for I/O by file handles
	reads     diskTime    // of waits for single reads and writes
	syncs     diskTime    // of fsync

	// For open_by_handle_at, see mountfd.go.
	mu      sync.Mutex   // one change of fd at a time
	keep    bool         // the share's own: fd is open from the start, and always
	fd      atomic.Int32 // -1 while it is not open
	using   atomic.Int32 // how many have borrowed it
	touched atomic.Bool  // it was used since the last sweep
}

// mountKey names a mount. Numbers of mounts are used again, so the device is checked
// too.
type mountKey struct{ mount, dev uint64 }

// localFS are file systems of the host's own disks and memory (statfs(2)). close(2) reports no
// error there, and reading the attributes of an open file does not wait.
var localFS = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true,
	unix.EROFS_SUPER_MAGIC_V1: true, unix.SQUASHFS_MAGIC: true, unix.RAMFS_MAGIC: true,
	unix.BCACHEFS_SUPER_MAGIC: true, zfsMagic: true,
}

const zfsMagic = 0x2fc12fc1

// mountTable is what is known about mounts. It is replaced when one is added, so that reading it
// needs no lock.
type mountTable struct {
	fds     *descriptors
	sweeper *sweeper

	mu    sync.Mutex // one addition at a time
	known atomic.Pointer[map[mountKey]*mountInfo]
}

func (t *mountTable) get(k mountKey) *mountInfo {
	if known := t.known.Load(); known != nil {
		return (*known)[k]
	}
	return nil
}

// add returns what is known by now, if another thread was faster.
func (t *mountTable) add(k mountKey, info *mountInfo) *mountInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.get(k); known != nil {
		return known
	}
	table := map[mountKey]*mountInfo{k: info}
	if known := t.known.Load(); known != nil {
		maps.Copy(table, *known)
	}
	t.known.Store(&table)
	return info
}

// of is what is known about the mount of file, which fd has open, O_PATH or not. The file system is
// asked once for each mount.
func (t *mountTable) of(file key, fd int) *mountInfo {
	k := file.onMount()
	if m := t.get(k); m != nil {
		return m
	}
	st := new(unix.Statfs_t)
	m := &mountInfo{}
	m.fd.Store(-1)
	if sysFstatfs(fd, st) == 0 {
		m.local = localFS[int64(st.Type)]
		m.readOnly = st.Flags&unix.ST_RDONLY != 0
		m.hashes = st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC
	}
	return t.add(k, m)
}
