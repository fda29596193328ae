package passthrough

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/server"
)

// Limits of what a state may say. They are far above what a guest can have.
const (
	maxStateNodes = maxPages * slotPage
	maxFileHandle = 4 + 128 // MAX_HANDLE_SZ and the type
)

// loader reads a state.
type loader struct {
	fs      *FS
	ts      *threadState
	r       *record.Reader
	handles uint64   // how file handles are meant
	mount   int      // descriptor for open_by_handle_at, or -1
	nodes   []*inode // by their place in the state; the loader holds them
	lost    []lostLock
	locker  savedOwner // of the lock records that follow
	warning string     // what the guest has lost
}

// LoadState implements server.StateKeeper.
func (fs *FS) LoadState(t *server.Thread, r *record.Reader) (warning string, err error) {
	l := &loader{fs: fs, ts: t.Local.(*threadState), r: r, mount: -1, nodes: []*inode{fs.root}}
	defer l.close()
	if err := l.load(); err != nil {
		return "", fmt.Errorf("passthrough: %w", err)
	}
	return l.warning, nil
}

func (l *loader) load() error {
	if l.handles = l.r.Max(handlesVerify); l.handles == handlesFind {
		mount, errno := l.fs.openAgain(l.ts, l.fs.cfg.RootFD, unix.O_RDONLY, 0)
		if errno != 0 {
			return fmt.Errorf("open of the shared directory for file handles: %w", errno)
		}
		l.mount = mount
	}
	for l.r.Err() == nil {
		var err error
		switch tag := l.r.Uint(); tag {
		case stateNode:
			err = l.node()
		case stateHandle:
			err = l.handle()
		case stateLock:
			err = l.lock()
		case stateFlock:
			err = l.flock()
		case stateOwner:
			err = l.owner()
		case stateEnd:
			var table [4]uint32
			for i, limit := range [4]uint64{maxStateNodes, math.MaxUint32, maxStateNodes, math.MaxUint32} {
				table[i] = uint32(l.r.Max(limit))
			}
			l.fs.nodes.settle(table[0], table[1])
			l.fs.handles.settle(table[2], table[3])
			if err := l.settleLost(); err != nil {
				return err
			}
			return l.r.Err()
		default:
			err = fmt.Errorf("a record of an unknown kind, %d", tag)
		}
		if err != nil {
			return err
		}
	}
	return l.r.Err()
}

// close drops what only the loader needs.
func (l *loader) close() {
	if l.mount >= 0 {
		l.fs.closeFD(l.mount)
	}
	for _, n := range l.nodes[1:] {
		l.fs.unhold(n)
	}
}

// savedNode is a node's record.
type savedNode struct {
	number, nlookup uint64
	kind            uint16
	located         uint64
	parent          *inode
	name            []byte // with its NUL, of a node in its parent
	path            string
	fileHandle      []byte
}

func (l *loader) read() (s savedNode, err error) {
	s.number, s.nlookup, s.kind = l.r.Uint(), l.r.Uint(), uint16(l.r.Max(unix.S_IFMT))
	switch s.located = l.r.Max(locatedByPath); s.located {
	case locatedInParent:
		s.parent = l.nodes[l.r.Max(uint64(len(l.nodes)-1))]
		var errno unix.Errno
		s.name, _, errno = fp.ParseName(append(l.r.Bytes(fp.NameMax), 0))
		if l.r.Err() == nil && errno != 0 {
			err = errors.New("a node with an impossible name")
		}
	case locatedByPath:
		s.path = string(l.r.Bytes(unix.PathMax))
	}
	s.fileHandle = l.r.Bytes(maxFileHandle)
	if l.r.Err() != nil {
		err = l.r.Err()
	}
	return s, err
}

// String names the node in messages.
func (s *savedNode) String() string {
	switch s.located {
	case locatedInParent:
		return fmt.Sprintf("node %d (%q)", s.number, s.name[:len(s.name)-1])
	case locatedByPath:
		return fmt.Sprintf("node %d (%q)", s.number, s.path)
	}
	return fmt.Sprintf("node %d", s.number)
}

// node reads a node and finds its file.
func (l *loader) node() error {
	s, err := l.read()
	if err != nil {
		return err
	}
	if len(l.nodes) >= maxStateNodes {
		return errors.New("too many nodes")
	}
	n := &inode{id: s.number, nlookup: s.nlookup, stale: true}
	n.fd.Store(-1)
	n.birth.kind = s.kind
	n.refs.Store(refHold) // the loader's
	l.nodes = append(l.nodes, n)
	fd, errno := l.find(&s)
	if errno == 0 {
		errno = l.identify(n, &s, fd)
	}
	// A node that was nowhere to be found there need not be found here.
	if errno != 0 && s.located != locatedNowhere && !l.fs.cfg.Migration.GuestErrors {
		return fmt.Errorf("%v is not here: %w; with --migration-on-error=guest-error the guest gets an error when it uses it", &s, errno)
	}
	return l.enter(n, &s)
}

// find opens the node's file with O_PATH.
func (l *loader) find(s *savedNode) (int, unix.Errno) {
	if l.handles == handlesFind {
		if len(s.fileHandle) < 4 {
			return -1, unix.ESTALE
		}
		kind := int32(s.fileHandle[0]) | int32(s.fileHandle[1])<<8 | int32(s.fileHandle[2])<<16 | int32(s.fileHandle[3])<<24
		fd, err := unix.OpenByHandleAt(l.mount, unix.NewFileHandle(kind, s.fileHandle[4:]), unix.O_PATH|unix.O_CLOEXEC)
		if err != nil {
			return -1, errnoOf(err)
		}
		l.fs.fds.Add(1)
		return fd, 0
	}
	switch s.located {
	case locatedInParent:
		parent, errno := l.fs.fdOf(l.ts, s.parent)
		if errno != 0 {
			return -1, errno
		}
		return l.fs.open(parent, &s.name[0], unix.O_PATH|unix.O_NOFOLLOW, 0)
	case locatedByPath:
		return l.fs.walk(l.ts, s.path)
	}
	return -1, unix.ESTALE
}

// errnoOf is the errno of a call of package unix.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return unix.EIO
	}
	return errno
}

// identify gives n the identity of the file behind fd, if that can be the right one, and
// takes fd.
func (l *loader) identify(n *inode, s *savedNode, fd int) unix.Errno {
	var st unix.Statx_t
	errno := statxFD(fd, &st)
	if errno == 0 && st.Mode&unix.S_IFMT != s.kind {
		errno = unix.ESTALE
	}
	if errno == 0 && l.handles == handlesVerify {
		if h, err := handleOfFD(fd); err != nil || !bytes.Equal(h, s.fileHandle) {
			errno = unix.ESTALE
		}
	}
	if errno != 0 {
		l.fs.closeFD(fd)
		return errno
	}
	n.key, n.birth, n.stale = keyOf(&st), birthOf(&st), false
	if s.located == locatedInParent && l.stillThere(n, s) {
		s.parent.hold()
		n.parent, n.name = s.parent, &s.name[0]
	}
	if errno := l.fs.keepHandle(l.ts, n, fd, &emptyName[0]); errno != 0 {
		l.fs.closeFD(fd)
		return errno
	}
	// A million nodes need no descriptors as long as their names are known.
	if n.parent != nil && !n.isDir() || !l.fs.setFD(n, fd) {
		l.fs.closeFD(fd)
	}
	return 0
}

// stillThere reports whether the node is where its state says. It was found there, unless
// by its handle.
func (l *loader) stillThere(n *inode, s *savedNode) bool {
	return l.handles != handlesFind || l.fs.isAt(l.ts, s.parent, &s.name[0], n)
}

// enter puts the node in the tables under the guest's number for it.
func (l *loader) enter(n *inode, s *savedNode) error {
	if s.number == 0 || s.nlookup == 0 {
		n.stale = true // only its children hold it
		return nil
	}
	if s.number == fp.RootID || !l.fs.nodes.put(s.number, n) {
		return fmt.Errorf("%v: the number is impossible or there twice", s)
	}
	n.hold() // the table's
	if n.stale {
		return nil
	}
	shard := l.fs.shard(n.key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if l.fs.find(shard, n.key) != nil {
		n.stale = true // two of the guest's nodes are one file here
		return nil
	}
	l.fs.link(shard, n)
	return nil
}

// handle opens a file or directory that was open.
func (l *loader) handle() error {
	number, index, flags := l.r.Uint(), l.r.Max(uint64(len(l.nodes)-1)), uint32(l.r.Uint())
	if l.r.Err() != nil {
		return l.r.Err()
	}
	n := l.nodes[index]
	fd, errno := l.fs.fdOf(l.ts, n)
	if errno == 0 {
		fd, errno = l.open(n, fd, flags)
	}
	if errno == 0 {
		if errno = l.fs.addHandleAs(n, fd, flags, number); errno != 0 {
			l.fs.closeFD(fd)
			if errno == unix.EEXIST {
				return fmt.Errorf("handle %d: the number is impossible or there twice", number)
			}
		}
	}
	// Otherwise whoever uses it gets EBADF.
	if errno != 0 && !l.fs.cfg.Migration.GuestErrors {
		return fmt.Errorf("open file %d of node %d can't be opened here: %w; "+
			"with --migration-on-error=guest-error the guest gets an error when it uses it", number, n.id, errno)
	}
	return nil
}

// open opens the file behind an O_PATH descriptor as Open and Opendir do.
func (l *loader) open(n *inode, fd int, flags uint32) (int, unix.Errno) {
	switch {
	case n.isDir():
		return l.fs.openAgain(l.ts, fd, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	case n.isReg():
		return l.fs.openAgain(l.ts, fd, l.fs.hostFlags(flags&^unix.O_TRUNC), flags)
	}
	return -1, unix.ESTALE
}
