package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// union is the whole file system.
type union struct {
	mu sync.Mutex
	// known finds the node of a file again: there is one for all its names. An entry lives as long as
	// its node, whose descriptors keep the host from giving the file's number to another one.
	known   map[fileID]weakNode
	devices map[uint64]uint64 // numbers of devices, for Ino
}

type weakNode = weak.Pointer[node]

// fileID is a file of the host.
type fileID struct{ dev, ino uint64 }

// node is a file, or a directory that is in one or more of the directories.
type node struct {
	union *union
	id    fileID // of the first part
	dir   bool

	mu    sync.RWMutex
	parts []part // one for what is no directory; in the order of the command line
}

// part is where a node is.
type part struct {
	branch int // index in the command line
	fd     int // with O_PATH
}

func closeParts(list []part) {
	for _, p := range list {
		_ = unix.Close(p.fd)
	}
}

// node is the node of what was found under a name, whose descriptors it takes.
func (u *union) node(found []part) (*node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(found[0].fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		closeParts(found)
		return nil, err
	}
	id := fileID{st.Dev, st.Ino}
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := u.known[id].Value(); n != nil {
		n.merge(found)
		return n, nil
	}
	n := &node{union: u, id: id, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, parts: found}
	self := weak.Make(n)
	u.known[id] = self
	if _, ok := u.devices[st.Dev]; !ok {
		u.devices[st.Dev] = uint64(len(u.devices))
	}
	// The garbage collector closes the descriptors: they are used as long as somebody has the node.
	for _, p := range found {
		runtime.AddCleanup(n, func(fd int) { _ = unix.Close(fd) }, p.fd)
	}
	runtime.AddCleanup(n, func(self weakNode) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.known[id] == self { // it may be another node's by now
			delete(u.known, id)
		}
	}, self)
	return n, nil
}

// merge takes the parts that a directory did not have when it was found the last time: somebody has
// made them on the host. The others are closed.
func (n *node) merge(found []part) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range found {
		if !n.dir || slices.ContainsFunc(n.parts, func(q part) bool { return q.branch == p.branch }) {
			_ = unix.Close(p.fd)
			continue
		}
		runtime.AddCleanup(n, func(fd int) { _ = unix.Close(fd) }, p.fd)
		n.parts = slices.Clone(append(n.parts, p))
		slices.SortFunc(n.parts, func(a, b part) int { return a.branch - b.branch })
	}
}

// all are the parts of a node.
func (n *node) all() []part {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.parts
}

// fd is the first part's descriptor.
func (n *node) fd() int { return n.all()[0].fd }

// in is the part in a branch.
func (n *node) in(branch int) (part, bool) {
	parts := n.all()
	i := slices.IndexFunc(parts, func(p part) bool { return p.branch == branch })
	if i < 0 {
		return part{}, false
	}
	return parts[i], true
}

// path leads to the file behind a descriptor, whatever its name is now.
func (p part) path() string { return "/proc/self/fd/" + strconv.Itoa(p.fd) }

// find opens a name in all parts of a directory: a file where it is first, a directory wherever it is one,
// down to the first thing that is none.
func (n *node) find(name string) (found []part, err error) {
	for _, p := range n.all() {
		fd, err := openPath(p.fd, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			closeParts(found)
			return nil, err
		}
		isDir := mode(fd)&unix.S_IFMT == unix.S_IFDIR
		if !isDir && len(found) > 0 {
			_ = unix.Close(fd)
			break
		}
		found = append(found, part{p.branch, fd})
		if !isDir {
			break
		}
	}
	if len(found) == 0 {
		return nil, unix.ENOENT
	}
	return found, nil
}

// openPath opens a name in a directory with O_PATH. Descriptors that the garbage collector has not
// closed yet do not count.
func openPath(dir int, name string) (fd int, err error) {
	for range 2 {
		fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EMFILE) {
			break
		}
		runtime.GC()
	}
	return fd, err
}

func mode(fd int) uint32 {
	var st unix.Stat_t
	if unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH) != nil {
		return 0
	}
	return st.Mode
}

// Attr implements vfs.Node.
func (n *node) Attr(context.Context) (vfs.Attr, error) {
	var st unix.Statx_t
	parts := n.all()
	err := unix.Statx(parts[0].fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	runtime.KeepAlive(n)
	if err != nil {
		return vfs.Attr{}, err
	}
	n.union.mu.Lock()
	device := n.union.devices[n.id.dev]
	n.union.mu.Unlock()
	at := func(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }
	a := vfs.Attr{
		Ino: st.Ino ^ device<<56, Mode: vfs.FileMode(uint32(st.Mode)), Size: int64(st.Size), Blocks: st.Blocks, Nlink: st.Nlink, UID: st.Uid, GID: st.Gid,
		Rdev:  uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor)),
		Atime: at(st.Atime), Mtime: at(st.Mtime), Ctime: at(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		a.Btime = at(st.Btime)
	}
	if a.Blocks == 0 {
		a.Blocks = vfs.NoBlocks
	}
	if a.Nlink == 0 {
		a.Nlink = vfs.NoLinks
	}
	if len(parts) > 1 {
		a.Nlink = 1 // not known, as find(1) takes it
	}
	return a, nil
}

// SetAttr implements vfs.AttrSetter.
func (n *node) SetAttr(_ context.Context, set vfs.SetAttr) error {
	defer runtime.KeepAlive(n)
	for _, p := range n.all() {
		if err := setAttr(p, set); err != nil {
			return err
		}
	}
	return nil
}

func setAttr(p part, set vfs.SetAttr) error {
	if set.Size != nil {
		var err error
		if f, ok := set.Handle.(*file); ok {
			err = f.Truncate(*set.Size)
		} else {
			err = unix.Truncate(p.path(), *set.Size)
		}
		if err != nil {
			return err
		}
	}
	if set.UID != nil || set.GID != nil {
		uid, gid := -1, -1
		if set.UID != nil {
			uid = int(*set.UID)
		}
		if set.GID != nil {
			gid = int(*set.GID)
		}
		if err := unix.Fchownat(p.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if set.Mode != nil {
		if err := unix.Chmod(p.path(), server.ModeOf(*set.Mode)&0o7777); err != nil {
			return err
		}
	}
	if set.Atime != nil || set.Mtime != nil {
		times := []unix.Timespec{timespec(set.Atime), timespec(set.Mtime)}
		return unix.UtimesNanoAt(p.fd, "", times, unix.AT_EMPTY_PATH)
	}
	return nil
}

// timespec is a time for utimensat(2); nil leaves it as it is.
func timespec(t *time.Time) unix.Timespec {
	if t == nil {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// Lookup implements vfs.Lookuper.
func (n *node) Lookup(_ context.Context, name string) (vfs.Node, error) {
	defer runtime.KeepAlive(n)
	found, err := n.find(name)
	if err != nil {
		return nil, err
	}
	return made(n.union.node(found))
}

// made keeps a nil *node from becoming a vfs.Node.
func made(n *node, err error) (vfs.Node, error) {
	if err != nil {
		return nil, err
	}
	return n, nil
}

// ReadDir implements vfs.ReadDirer.
func (n *node) ReadDir(context.Context) (list []vfs.DirEntry, err error) {
	defer runtime.KeepAlive(n)
	seen := make(map[string]bool)
	for _, p := range n.all() {
		d, err := os.Open(p.path())
		if err != nil {
			return nil, err
		}
		entries, err := d.ReadDir(-1)
		_ = d.Close()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !seen[e.Name()] {
				seen[e.Name()] = true
				list = append(list, vfs.DirEntry{Name: e.Name(), Type: e.Type()})
			}
		}
	}
	return list, nil
}

// Readlink implements vfs.Readlinker.
func (n *node) Readlink(context.Context) (string, error) {
	defer runtime.KeepAlive(n)
	b := make([]byte, unix.PathMax)
	k, err := unix.Readlinkat(n.fd(), "", b)
	return string(b[:max(k, 0)]), err
}

// StatFS implements vfs.StatFSer: the room of all file systems that have a part.
func (n *node) StatFS(context.Context) (s vfs.StatFS, _ error) {
	defer runtime.KeepAlive(n)
	seen := make(map[unix.Fsid]bool)
	s.BlockSize = 4096
	for _, p := range n.all() {
		var st unix.Statfs_t
		if err := unix.Fstatfs(p.fd, &st); err != nil {
			return s, err
		}
		if seen[st.Fsid] {
			continue
		}
		seen[st.Fsid] = true
		unit := uint64(max(st.Frsize, 1))
		s.Blocks += st.Blocks * unit / 4096
		s.BlocksFree += st.Bfree * unit / 4096
		s.BlocksUsable += st.Bavail * unit / 4096
		s.Files += st.Files
		s.FilesFree += st.Ffree
	}
	return s, nil
}

// Getxattr implements vfs.Xattrer.
func (n *node) Getxattr(_ context.Context, name string) ([]byte, error) {
	defer runtime.KeepAlive(n)
	b := make([]byte, 64<<10)
	k, err := unix.Getxattr(n.all()[0].path(), name, b)
	return b[:max(k, 0)], err
}

// Listxattr implements vfs.Xattrer.
func (n *node) Listxattr(context.Context) (names []string, _ error) {
	defer runtime.KeepAlive(n)
	b := make([]byte, 64<<10)
	k, err := unix.Listxattr(n.all()[0].path(), b)
	for b = b[:max(k, 0)]; len(b) > 0; {
		end := slices.Index(b, 0)
		if end < 0 {
			break
		}
		names = append(names, string(b[:end]))
		b = b[end+1:]
	}
	return names, err
}

// Setxattr implements vfs.XattrSetter.
func (n *node) Setxattr(_ context.Context, name string, value []byte, flags int) error {
	return n.each(func(p part) error { return unix.Setxattr(p.path(), name, value, flags) })
}

// Removexattr implements vfs.XattrSetter.
func (n *node) Removexattr(_ context.Context, name string) error {
	return n.each(func(p part) error { return unix.Removexattr(p.path(), name) })
}

// each does something in all parts, and returns the first error.
func (n *node) each(do func(p part) error) error {
	defer runtime.KeepAlive(n)
	for _, p := range n.all() {
		if err := do(p); err != nil {
			return err
		}
	}
	return nil
}

var _ interface {
	vfs.Lookuper
	vfs.ReadDirer
	vfs.Readlinker
	vfs.AttrSetter
	vfs.StatFSer
	vfs.Xattrer
	vfs.XattrSetter
	vfs.Creator
	vfs.Mkdirer
	vfs.Mknoder
	vfs.Symlinker
	vfs.Linker
	vfs.Remover
	vfs.Renamer
	vfs.Opener
	vfs.Tmpfiler
} = (*node)(nil)
