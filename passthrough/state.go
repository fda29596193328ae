package passthrough

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/server"
)

// A guest that moves to another host takes its nodes and open files along. The other daemon serves
// the same tree: the same file system seen from there, or a copy. Nodes are found there by their
// paths, and file handles say whether it is the right file; open files are opened anew. A file's
// inode number may differ between the two hosts. The guest's number for its node must not.
//
// The state is a sequence of records (internal/record); doc/migration.md describes it.
// Nodes come after their parents, open files after all nodes, locks after their file's first
// open file.

// Migration says how nodes move.
type Migration struct {
	// FileHandles sends file handles along, which must mean the same on both hosts. A guest
	// that comes with them finds files that were moved within the share.
	FileHandles bool
	// VerifyHandles sends file handles along, and takes no guest that comes without.
	VerifyHandles bool
	// GuestErrors lets a node that is not found answer ESTALE for good. Without it, a
	// state with such a node is not loaded.
	GuestErrors bool
}

// Tags of records.
const (
	stateEnd = iota
	stateNode
	stateOpenFile
	stateLock
	stateFlock
	stateOwner
)

// Where a node is found.
const (
	locatedNowhere = iota
	locatedInParent
	locatedByPath
)

// The first record says what file handles in the state are for.
const (
	handlesAbsent = iota
	handlesFind
	handlesVerify
)

// saver writes the state.
type saver struct {
	// Parts of the share.
	cfg       *Config
	limits    *stateLimits
	fds       *descriptors
	nodes     *nodeTable
	find      *locator
	openFiles *openTable

	ts     *threadState
	w      *record.Writer
	index  map[*inode]uint64 // of nodes that have been written
	locked int               // locks that have been written
	way    []*inode          // scratch: from a node up to one that has been written
}

// SaveState implements server.State.
func (fs *FS) SaveState(t *server.Thread, to io.Writer) error {
	if fs.agreed(fp.InitMapAlignment) {
		return errors.New("passthrough: a guest with a DAX window can't be moved: it believes that files are mapped")
	}
	w := record.NewWriter(to)
	s := &saver{cfg: &fs.cfg, limits: &fs.limits, fds: &fs.fds, nodes: &fs.nodes, find: &fs.find, openFiles: &fs.openFiles,
		ts: t.Local.(*threadState), w: w, index: make(map[*inode]uint64)}
	mode := uint64(handlesAbsent)
	switch {
	case fs.cfg.Migration.FileHandles:
		mode = handlesFind
	case fs.cfg.Migration.VerifyHandles:
		mode = handlesVerify
	}
	w.Uint(mode)
	s.index[fs.nodes.root] = 0
	for n := range fs.nodes.All {
		s.node(n)
	}
	s.writeOpenFiles()
	if err := s.fits(); err != nil {
		return err
	}
	w.Uint(stateEnd, uint64(fs.nodes.End()), uint64(fs.nodes.Generations()),
		uint64(fs.openFiles.End()), uint64(fs.openFiles.Generations()))
	return nil
}

// fits reports whether a state can be as large as this one.
func (s *saver) fits() error {
	for _, c := range []struct {
		what      string
		has, most int
	}{
		{"nodes", max(len(s.index)-1, int(s.nodes.End())), s.limits.nodes},
		{"open files", int(s.openFiles.End()), s.limits.openFiles},
		{"locks", s.locked, s.limits.locks},
	} {
		if c.has > c.most {
			return fmt.Errorf("passthrough: the guest has, or once had, %d %s, and a state can have %d: "+
				"it can move after it has mounted the share anew", c.has, c.what, c.most)
		}
	}
	return nil
}

// node writes a node and before it those of its parents that have not been written. Paths may be
// long, and even circular, see maxDepth.
func (s *saver) node(n *inode) {
	s.way = s.way[:0]
	for n != nil && len(s.way) < maxDepth {
		if _, ok := s.index[n]; ok {
			break
		}
		s.way = append(s.way, n)
		n = n.currentParent()
	}
	for i := len(s.way) - 1; i >= 0; i-- {
		if _, ok := s.index[s.way[i]]; !ok { // a circle has it twice
			s.write(s.way[i])
		}
	}
}

// currentParent is held by n, which nobody forgets while a state is saved.
func (n *inode) currentParent() *inode {
	n.Lock()
	defer n.Unlock()
	return n.Parent()
}

// write writes one node, whose parent has been written or can't be.
func (s *saver) write(n *inode) {
	s.index[n] = uint64(len(s.index))
	number := n.ID()
	if s.nodes.Get(number) != n {
		number = 0 // the guest has forgotten it, but not what is below it
	}
	s.w.Uint(stateNode, number, s.nodes.Lookups(n), uint64(n.mode()))
	s.where(n)
	s.w.Bytes(s.fileHandle(n))
}

// where writes the node's location, as it is at this moment.
func (s *saver) where(n *inode) {
	parent, name := s.nodes.Location(n)
	if parent != nil {
		defer s.nodes.release(parent)
		if index, ok := s.index[parent]; ok && s.find.isAt(s.ts, parent, name.CString(), n) {
			s.w.Uint(locatedInParent, index)
			s.w.Bytes(name.Bytes())
			return
		}
	}
	if path := s.path(n); path != nil {
		s.w.Uint(locatedByPath)
		s.w.Bytes(path)
		return
	}
	s.w.Uint(locatedNowhere)
}

// isAt reports whether the node is called name in parent.
func (l *locator) isAt(ts *threadState, parent *inode, name *byte, n *inode) bool {
	fd, errno := l.fdOf(ts, parent)
	if errno != 0 {
		return false
	}
	var st unix.Statx_t
	return sysStatx(fd, name, 0, &st) == 0 && n.is(&st)
}

// path is the node's path below the share, which the kernel knows when the node has a
// descriptor: the host may have moved it. nil if it has none in the share any more.
func (s *saver) path(n *inode) []byte {
	fd, errno := s.find.fdOf(s.ts, n)
	if errno != 0 {
		return nil
	}
	path := s.find.pathOf(s.ts, fd)
	if path == "" {
		return nil
	}
	found, errno := s.find.walk(s.ts, path)
	if errno == 0 {
		found, errno = s.find.checked(s.ts, n, found)
	}
	if errno != 0 {
		return nil
	}
	s.fds.close(found)
	return []byte(path)
}

// pathOf is the path below the share that the kernel has for a descriptor; empty if it
// has none. Nothing follows from it before it was walked and what is there was compared:
// it may end with " (deleted)", have changed since, or come from outside of the share.
func (l *locator) pathOf(ts *threadState, fd int) string {
	root, path := l.readlink(ts, l.cfg.RootFD), l.readlink(ts, fd)
	below, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")+"/")
	if root == "" || !ok {
		return ""
	}
	return below
}

// readlink is the path that the kernel has for a descriptor, or nothing.
func (l *locator) readlink(ts *threadState, fd int) string {
	var b [unix.PathMax]byte
	n, errno := sysReadlinkat(l.cfg.ProcFD, procName(&ts.num, fd), b[:])
	if errno != 0 || n == len(b) {
		return ""
	}
	return string(b[:n])
}

// fileHandle is the node's file handle, if handles are saved and it has one.
func (s *saver) fileHandle(n *inode) []byte {
	if m := s.cfg.Migration; !m.FileHandles && !m.VerifyHandles {
		return nil
	}
	fd, errno := s.find.fdOf(s.ts, n)
	if errno != 0 {
		return nil
	}
	b, err := handleOfFD(fd)
	if err != nil {
		return nil // the other side says what is missing
	}
	return b
}

// handleOfFD is the file handle of what an O_PATH descriptor stands for: its type in 4
// bytes, and its bytes.
func handleOfFD(fd int) ([]byte, error) {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	kind := uint32(h.Type())
	return append([]byte{byte(kind), byte(kind >> 8), byte(kind >> 16), byte(kind >> 24)}, h.Bytes()...), nil
}

// writeOpenFiles writes the open files and directories, and their locks.
func (s *saver) writeOpenFiles() {
	for f := range s.openFiles.All {
		if f.isShared() {
			continue // the guest has no number for a shared one, and no locks then
		}
		if _, ok := s.index[f.node]; !ok {
			s.node(f.node) // forgotten and still open
		}
		s.w.Uint(stateOpenFile, f.ID(), s.index[f.node], uint64(f.flags))
		s.locks(f)
	}
}

// walk opens a path below the share with O_PATH, one component after the other, and
// follows no link.
func (l *locator) walk(ts *threadState, path string) (int, unix.Errno) {
	at, owned := l.cfg.RootFD, false
	for component := range strings.SplitSeq(path, "/") {
		name, _, errno := fp.ParseName(append([]byte(component), 0))
		fd := -1
		if errno == 0 {
			fd, errno = l.fds.open(at, name.CString(), unix.O_PATH|unix.O_NOFOLLOW, 0)
		}
		if owned {
			l.fds.close(at)
		}
		if errno != 0 {
			return -1, errno
		}
		at, owned = fd, true
	}
	return at, 0
}
