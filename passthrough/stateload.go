package passthrough

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/nodes"
	"github.com/govirtiofs/govirtiofs/server"
)

// A state comes from outside, and is as hostile as the host that sends it. Two rules hold
// whatever it says:
//
//   - A file is opened by names only, one after the other from the share's root on, as a
//     guest finds it with LOOKUP. A file handle in the state is compared with that of the
//     file, and may help to find a path (see search); it is never opened for use, because
//     the kernel opens any file of the file system by its handle. A file without a place
//     below the share, because it was deleted, is lost.
//   - A node costs memory only if its file is here. What is not found leaves a nil in
//     loader.listed, and the table has no entry: the guest gets ESTALE for a number that is
//     not in it. Numbers, records and their sum in bytes (package server) have limits.

// stateLimits limit a state. They are above what a guest has in practice; saving a state
// that would exceed them fails as well.
type stateLimits struct {
	// nodes limits the records of nodes, 8 bytes of memory each while the state is loaded,
	// and the slots of the table, which takes 256 MiB if the numbers are spread over all of
	// it. It takes as much on the host that the guest leaves.
	nodes int
	// openFiles limits the same for open files and directories. Each takes a descriptor,
	// too, of which there are 1 million by default; the table takes 16 MiB.
	openFiles int
	// locks limits locks of owners and of open files together.
	locks int
	// doubles limits nodes whose file is another node's here. Each of them costs what a
	// node costs, and takes no file. The tree here may have hard links of its own.
	doubles int
}

var defaultStateLimits = stateLimits{nodes: 1 << 24, openFiles: 1 << 20, locks: maxShareLocks, doubles: 1 << 16}

const maxFileHandle = 4 + maxHandle // the type in front

// loader reads a state.
type loader struct {
	// Parts of the share.
	cfg       *Config
	features  *features
	allower   *allower
	limits    *stateLimits
	fds       *descriptors
	mounts    *mountTable
	nodes     *nodeTable
	find      *locator
	opener    *opener
	openFiles *openTable
	locks     *shareLocks

	ts          *threadState
	r           *record.Reader
	compare     bool           // files must have the file handles of the state
	seek        bool           // file handles may help to find a path
	listed      []*inode       // nodes by their place in the state; nil: not here. The loader holds them
	unknown     map[key]*inode // those that have no number
	doubles     int            // nodes whose files have another node
	openRecords int            // records of open files
	lockRecords int            // records of locks
	lost        []lostLock     // locks that can't be taken
	lostNames   string         // of their files, for messages
	locker      savedOwner     // of the lock records that follow
	missing     missing        // nodes and open files that are not here
}

// LoadState implements server.State.
func (fs *FS) LoadState(t *server.Thread, from io.Reader) (warning string, err error) {
	l := &loader{cfg: &fs.cfg, features: &fs.features, allower: &fs.allower, limits: &fs.limits, fds: &fs.fds, mounts: &fs.mounts,
		nodes: &fs.nodes, find: &fs.find, opener: &fs.opener, openFiles: &fs.openFiles, locks: &fs.locks,
		ts: t.Local.(*threadState), r: record.NewReader(from, math.MaxInt64), listed: []*inode{fs.nodes.root}, unknown: map[key]*inode{}}
	defer l.close()
	if err := l.load(); err != nil {
		return "", fmt.Errorf("passthrough: %w", err)
	}
	return l.warning(), nil
}

func (l *loader) load() error {
	if l.features.agreed(fp.InitMapAlignment) {
		return errors.New("the guest has a DAX window, and can't be moved")
	}
	if err := l.begin(); err != nil {
		return err
	}
	for l.r.Err() == nil {
		var err error
		switch tag := l.r.Uint(); tag {
		case stateNode:
			err = l.node()
		case stateOpenFile:
			err = l.openFile()
		case stateLock:
			err = l.lock()
		case stateFlock:
			err = l.flock()
		case stateOwner:
			err = l.owner()
		case stateEnd:
			return l.end()
		default:
			err = fmt.Errorf("a record of an unknown kind, %d", tag)
		}
		if err != nil {
			return err
		}
	}
	return l.r.Err()
}

// begin settles what file handles are for: this side's options decide, and the state only
// says whether it has some.
func (l *loader) begin() error {
	mode := l.r.Max(handlesVerify)
	own := l.cfg.Migration
	if mode == handlesAbsent && own.VerifyHandles && l.r.Err() == nil {
		return errors.New("the state has no file handles, which --migration-verify-handles needs: " +
			"start the daemon that the guest leaves with the same option")
	}
	l.compare = mode != handlesAbsent
	l.seek = mode == handlesFind && own.FileHandles && l.cfg.FileHandles != HandlesNever
	return l.r.Err()
}

// end reads the last record.
func (l *loader) end() error {
	var table [4]uint32
	for i, limit := range [4]uint64{uint64(l.limits.nodes), math.MaxUint32, uint64(l.limits.openFiles), math.MaxUint32} {
		table[i] = uint32(l.r.Max(limit))
	}
	l.nodes.Settle(table[0], table[1])
	l.openFiles.Settle(table[2], table[3])
	if err := l.settleLost(); err != nil {
		return err
	}
	return l.r.Err()
}

// close drops what only the loader needs.
func (l *loader) close() {
	for _, n := range l.listed[1:] {
		if n != nil {
			l.nodes.Unhold(n)
		}
	}
}

// savedNode is a node's record.
type savedNode struct {
	number, nlookup uint64
	kind            uint16
	located         uint64
	parent          *inode // nil if it is not here
	name            []byte // with its NUL, of a node in its parent
	path            string
	fileHandle      []byte
}

func (l *loader) read() (s savedNode, err error) {
	s.number, s.nlookup, s.kind = l.r.Uint(), l.r.Max(math.MaxInt64), uint16(l.r.Max(unix.S_IFMT))
	switch s.located = l.r.Max(locatedByPath); s.located {
	case locatedInParent:
		s.parent = l.listed[l.r.Max(uint64(len(l.listed)-1))]
		var errno unix.Errno
		s.name, _, errno = fp.ParseName(append(l.r.Bytes(fp.NameMax), 0))
		if l.r.Err() == nil && errno != 0 {
			err = errors.New("a node with an impossible name")
		}
	case locatedByPath:
		s.path = string(l.r.Bytes(unix.PathMax))
	}
	s.fileHandle = l.r.Bytes(maxFileHandle)
	switch {
	case l.r.Err() != nil:
		err = l.r.Err()
	case s.number == fp.RootID, s.number != 0 && s.nlookup == 0:
		err = fmt.Errorf("%v: the number is impossible", &s)
	}
	return s, err
}

// String names the node in messages.
func (s *savedNode) String() string {
	switch s.located {
	case locatedInParent:
		return fmt.Sprintf("node %d (%q)", s.number, bytes.TrimSuffix(s.name, emptyName[:]))
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
	if len(l.listed) > l.limits.nodes {
		return fmt.Errorf("more than %d nodes", l.limits.nodes)
	}
	l.listed = append(l.listed, nil)
	fd, errno := l.findFile(&s)
	if errno == 0 {
		errno, err = l.enter(&s, fd)
	}
	// A node that was nowhere to be found there need not be found here.
	if errno == 0 || err != nil || s.located == locatedNowhere {
		return err
	}
	if !l.cfg.Migration.GuestErrors {
		return fmt.Errorf("%v is not here: %w; with --migration-on-error=guest-error the guest gets an error when it uses it", &s, errno)
	}
	l.missing.add(s.String())
	return nil
}

// findFile opens the node's file with O_PATH, by names.
func (l *loader) findFile(s *savedNode) (int, unix.Errno) {
	fd, errno := l.follow(s)
	if errno == 0 {
		fd, errno = l.checked(s, fd)
	}
	if errno != 0 && l.seek {
		if moved, e := l.search(s); e == 0 {
			s.located = locatedNowhere // it was found elsewhere
			return moved, 0
		}
	}
	return fd, errno
}

// follow opens what is where the state says.
func (l *loader) follow(s *savedNode) (int, unix.Errno) {
	switch {
	case s.located == locatedInParent && s.parent != nil:
		if errno := l.allower.allowName(s.parent, s.name, intentRebind); errno != 0 {
			return -1, errno
		}
		parent, errno := l.find.fdOf(l.ts, s.parent)
		if errno != 0 {
			return -1, errno
		}
		return l.fds.open(parent, &s.name[0], unix.O_PATH|unix.O_NOFOLLOW, 0)
	case s.located == locatedByPath:
		return l.find.walk(l.ts, s.path)
	}
	return -1, unix.ESTALE
}

// search finds a file that the host has moved within the share. Its file handle proves nothing
// about its place: the kernel opens any file of the file system by its handle. So the
// descriptor only serves to ask the kernel for a path, which is followed as any other, and
// the file there must have that handle.
func (l *loader) search(s *savedNode) (int, unix.Errno) {
	h := &l.ts.handle
	if len(s.fileHandle) <= 4 {
		return -1, unix.ESTALE
	}
	h.kind = int32(binary.LittleEndian.Uint32(s.fileHandle))
	h.size = uint32(copy(h.data[:], s.fileHandle[4:]))
	m := l.mounts.get(l.nodes.root.Key().onMount()) // whose descriptor setHandles keeps open
	fd, errno := l.fds.opened(func() (int, unix.Errno) { return sysOpenByHandleAt(int(m.fd.Load()), h, unix.O_PATH) })
	if errno != 0 {
		return -1, errno
	}
	path := l.find.pathOf(l.ts, fd)
	l.fds.close(fd)
	if path == "" {
		return -1, unix.ESTALE
	}
	if fd, errno = l.find.walk(l.ts, path); errno != 0 {
		return -1, errno
	}
	return l.checked(s, fd)
}

// checked returns fd if it can be the node's file, and closes it otherwise. The file's
// attributes are in l.ts.found.
func (l *loader) checked(s *savedNode, fd int) (int, unix.Errno) {
	errno := statxFD(fd, &l.ts.found)
	if errno == 0 && l.ts.found.Mode&unix.S_IFMT != s.kind {
		errno = unix.ESTALE
	}
	if errno == 0 && l.compare {
		if h, err := handleOfFD(fd); err != nil || !bytes.Equal(h, s.fileHandle) {
			errno = unix.ESTALE
		}
	}
	if errno != 0 {
		l.fds.close(fd)
		return -1, errno
	}
	return fd, 0
}

// enter makes the node of the file behind fd, which it takes, whose attributes are in
// l.ts.found, and puts it in the tables under the guest's number for it. errno says that
// the file can't be used, err that the state makes no sense.
func (l *loader) enter(s *savedNode, fd int) (errno unix.Errno, err error) {
	k := keyOf(&l.ts.found)
	last := &l.listed[len(l.listed)-1]
	if s.number == 0 {
		if n := l.unknown[k]; n != nil {
			l.fds.close(fd)
			n.Hold()
			*last = n
			return 0, nil
		}
	}
	l.mounts.of(k, fd)
	n := l.nodes.newInode(&l.ts.found)
	l.nodes.Prepare(n, k, s.number) // the loader holds it
	if s.located == locatedInParent {
		l.nodes.Place(n, s.parent, s.name)
	}
	errno = l.allower.allow(n, intentRebind)
	if errno == 0 {
		errno = l.find.keepHandle(l.ts, n, fd, &emptyName[0])
	}
	if errno != 0 {
		l.fds.close(fd)
		l.nodes.Unhold(n)
		return errno, nil
	}
	*last = n
	// A million nodes need no descriptors as long as their names are known.
	if s.located == locatedInParent && !n.isDir() || !l.nodes.setFD(n, fd) {
		l.fds.close(fd)
	}
	if s.number == 0 {
		l.unknown[k] = n
		return 0, nil // only its children and open files hold it
	}
	return 0, l.number(n, s)
}

// number gives the node the guest's number.
func (l *loader) number(n *inode, s *savedNode) error {
	switch l.nodes.Adopt(n, uint32(l.limits.nodes), s.nlookup) {
	case nodes.AdoptedNot:
		return fmt.Errorf("%v: the number is impossible or there twice", s)
	case nodes.AdoptedDouble:
		if l.doubles++; l.doubles > l.limits.doubles {
			return fmt.Errorf("more than %d nodes of the guest's are files that have another node here", l.limits.doubles)
		}
	}
	return nil
}

// openFile opens a file or directory that was open.
func (l *loader) openFile() error {
	number, index, flags := l.r.Uint(), l.r.Max(uint64(len(l.listed)-1)), uint32(l.r.Max(math.MaxUint32))
	if l.r.Err() != nil {
		return l.r.Err()
	}
	if l.openRecords++; l.openRecords > l.limits.openFiles {
		return fmt.Errorf("more than %d open files", l.limits.openFiles)
	}
	n := l.listed[index]
	fd, errno := l.open(n, flags)
	if errno == 0 {
		if errno = l.openFiles.addAs(n, fd, flags, number); errno != 0 {
			l.fds.close(fd)
			if errno == unix.EEXIST {
				return fmt.Errorf("open file %d: the number is impossible or there twice", number)
			}
		}
	}
	if errno == 0 {
		return nil
	}
	what := fmt.Sprintf("open file %d, which has no name any more,", number)
	if n != nil {
		what = fmt.Sprintf("open file %d of %s", number, l.find.describe(l.ts, n))
	}
	if !l.cfg.Migration.GuestErrors {
		return fmt.Errorf("%s can't be opened here: %w; "+
			"with --migration-on-error=guest-error the guest gets an error when it uses it", what, errno)
	}
	l.missing.add(what) // requests that use it get EBADF
	return nil
}

// open opens a node's file as Open and Opendir do, and Create and Tmpfile after they have
// made it. What a read-only share refuses with OPEN (package server) it refuses here.
func (l *loader) open(n *inode, flags uint32) (int, unix.Errno) {
	if n == nil {
		return -1, unix.ESTALE
	}
	fd, errno := l.find.fdOf(l.ts, n)
	switch {
	case errno != 0:
		return -1, errno
	case n.isDir():
		return l.opener.openAgain(l.ts, fd, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	case !n.isReg():
		return -1, unix.ESTALE
	case l.cfg.ReadOnly && flags&unix.O_ACCMODE != unix.O_RDONLY:
		return -1, unix.EROFS
	}
	return l.opener.openAgain(l.ts, fd, l.opener.hostFlags(flags&^unix.O_TRUNC), flags)
}

// maxNames is how many files a message names.
const maxNames = 8

// missing is a list of which only the first are kept.
type missing struct {
	names []string
	count int
}

func (m *missing) add(what string) {
	if m.count++; len(m.names) < maxNames {
		m.names = append(m.names, what)
	}
}

func (m *missing) String() string {
	list := strings.Join(m.names, ", ")
	if more := m.count - len(m.names); more > 0 {
		list += fmt.Sprintf(", %d more", more)
	}
	return list
}

// warning says what the guest has lost.
func (l *loader) warning() string {
	var list []string
	if l.missing.count > 0 {
		list = append(list, "files of the guest are not here, and it gets an error when it uses them: "+l.missing.String())
	}
	if len(l.lost) > 0 {
		list = append(list, "locks of the guest can't be taken here, and it gets an error when it uses these open files: "+l.lostNames)
	}
	return strings.Join(list, "; ")
}
