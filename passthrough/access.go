package passthrough

import (
	"strings"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// Every request enters here. It says what it is about and what it wants: of a node, of an
// open file's node, or of a name in a directory. The answer comes before the first system
// call for it, so that a refusal changes nothing on the host and tells nothing about it.
//
// A new request needs one of the functions below, and a row in the table of
// access_test.go. Requests that are about no node do not enter: INIT, DESTROY, FORGET,
// INTERRUPT, REMOVEMAPPING.

// intent is what a request wants: one of the following, or more of them at once.
type intent uint32

const (
	// Of a node.
	intentStat    intent = 1 << iota // its attributes, or those of its file system
	intentRead                       // its data, entries, target or extended attributes
	intentWrite                      // to change its data
	intentSetattr                    // to change attributes, extended ones too
	intentLock                       // to lock it, or to ask about locks
	intentSync                       // to have it on the disk
	// To close an open file. The client has given it up whatever the answer is, so this
	// must not be refused.
	intentClose
	intentTmpfile // to make a file without a name in the directory
	intentRebind  // to find it again after its descriptor was closed; also of a name

	// Of a name in a directory.
	intentLookup // to know the node that it stands for; also of that node when it is found
	intentList   // to see it in a listing
	intentCreate // to make a node with that name
	intentLink   // to have it as another name of a node; also of that node
	intentRemove // to remove it
	intentFrom   // to rename what it stands for
	intentTo     // to be the new name of another node
)

var intentNames = []string{"stat", "read", "write", "setattr", "lock", "sync", "close", "tmpfile", "rebind",
	"lookup", "list", "create", "link", "remove", "rename from", "rename to"}

// String is for messages: "read, write".
func (i intent) String() string {
	var names []string
	for bit, name := range intentNames {
		if i>>bit&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// openIntent is what an OPEN with these flags wants.
func openIntent(flags uint32) intent {
	want := intentRead
	switch flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		want = intentWrite
	case unix.O_RDWR:
		want = intentRead | intentWrite
	}
	if flags&unix.O_TRUNC != 0 {
		want |= intentWrite
	}
	return want
}

// accessIntent is what ACCESS asks about.
func accessIntent(mask uint32) intent {
	want := intentStat
	if mask&unix.R_OK != 0 {
		want |= intentRead
	}
	if mask&unix.W_OK != 0 {
		want |= intentWrite
	}
	return want
}

// setattrIntent is what a SETATTR wants.
func setattrIntent(valid uint32) intent {
	if valid&fp.FattrSize != 0 {
		return intentSetattr | intentWrite
	}
	return intentSetattr
}

// policy decides what a client may do. It is asked by any number of threads at the same
// time, on the way of every request: it must neither wait nor call fs. 0 is yes, an errno
// is the client's answer.
type policy interface {
	node(n *inode, want intent) unix.Errno
	// name is asked about a name in a directory. Its bytes are valid during the call. A name that it refuses to list
	// is not shown.
	name(dir *inode, name fp.Name, want intent) unix.Errno
}

// allower asks the policy, if there is one.
type allower struct{ policy policy } // nil: the client may do what it likes

// allow asks the policy about a node.
func (r *allower) allow(n *inode, want intent) unix.Errno {
	if r.policy == nil {
		return 0
	}
	return r.policy.node(n, want)
}

// allowName asks the policy about a name in a directory.
func (r *allower) allowName(dir *inode, name fp.Name, want intent) unix.Errno {
	if r.policy == nil {
		return 0
	}
	return r.policy.name(dir, name, want)
}

// access is where requests enter. The operations of FS have it embedded.
type access struct {
	allower
	nodes     *nodeTable
	find      *locator
	openFiles *openTable
	openless  *openless
	own       ownership
}

// get finds the node of a request and takes a reference. A node that the client
// does not have, or no more, is ESTALE, as with a network file system.
func (a *access) get(id uint64) (*inode, unix.Errno) {
	n := a.nodes.Acquire(id)
	if n == nil {
		return nil, unix.ESTALE
	}
	if n.isLink() {
		if m := a.own.standIn(n); m != nil {
			a.nodes.release(n)
			return m, 0
		}
	}
	return n, 0
}

// enterNode finds a node by its number; the caller releases it.
func (a *access) enterNode(id uint64, want intent) (*inode, unix.Errno) {
	n, errno := a.get(id)
	if errno != 0 {
		return nil, errno
	}
	if errno = a.allow(n, want); errno != 0 {
		a.nodes.release(n)
		return nil, errno
	}
	return n, 0
}

// enter finds the node of a request and its descriptor; the caller releases n.
func (a *access) enter(r *server.Request, want intent) (ts *threadState, n *inode, fd int, errno unix.Errno) {
	ts = threadOf(r)
	if n, errno = a.enterNode(r.Header.NodeID, want); errno != 0 {
		return
	}
	if fd, errno = a.find.fdOf(ts, n); errno != 0 {
		a.nodes.release(n)
	}
	return
}

// enterDir is enter for requests that only make sense for a directory.
func (a *access) enterDir(r *server.Request, want intent) (ts *threadState, n *inode, fd int, errno unix.Errno) {
	if ts, n, fd, errno = a.enter(r, want); errno == 0 && !n.isDir() {
		a.nodes.release(n)
		errno = unix.ENOTDIR
	}
	return
}

// enterName finds the directory of a request about name, and its descriptor; the caller
// releases dir.
func (a *access) enterName(r *server.Request, name fp.Name, want intent) (ts *threadState, dir *inode, fd int, errno unix.Errno) {
	ts = threadOf(r)
	dir, fd, errno = a.enterNameIn(ts, r.Header.NodeID, name, want)
	return
}

// enterNameIn is enterName for the directory with a number.
func (a *access) enterNameIn(ts *threadState, id uint64, name fp.Name, want intent) (dir *inode, fd int, errno unix.Errno) {
	if dir, errno = a.get(id); errno != 0 {
		return nil, -1, errno
	}
	if !dir.isDir() {
		errno = unix.ENOTDIR
	} else if errno = a.allowName(dir, name, want); errno == 0 {
		fd, errno = a.find.fdOf(ts, dir)
	}
	if errno != 0 {
		a.nodes.release(dir)
		return nil, -1, errno
	}
	return dir, fd, 0
}

// enterOpen finds an open file or directory of the request's node; the caller releases it
// with openTable.release.
func (a *access) enterOpen(r *server.Request, fh uint64, want intent) (*openFile, unix.Errno) {
	if fh == 0 && a.openless.agreed.Load() {
		return a.enterShared(r, want)
	}
	return a.enterOpenOf(r, r.Header.NodeID, fh, want)
}

// enterOpenOf is enterOpen for the node with a number.
func (a *access) enterOpenOf(r *server.Request, nodeID, fh uint64, want intent) (*openFile, unix.Errno) {
	f, errno := a.openFiles.of(nodeID, fh)
	if errno != 0 {
		return nil, errno
	}
	if errno = a.allow(f.node, want); errno != 0 {
		a.openFiles.release(f)
		return nil, errno
	}
	if want&intentClose == 0 {
		if errno = a.openFiles.usable(r, f); errno != 0 {
			return nil, errno
		}
	}
	return f, 0
}

// enterShared is enterOpen for a client that opens nothing.
func (a *access) enterShared(r *server.Request, want intent) (*openFile, unix.Errno) {
	n, errno := a.enterNode(r.Header.NodeID, want)
	if errno != 0 {
		return nil, errno
	}
	defer a.nodes.release(n)
	return a.openless.get(threadOf(r), n)
}

// enterFile and enterListing are enterOpen for one kind only.
func (a *access) enterFile(r *server.Request, fh uint64, want intent) (*openFile, unix.Errno) {
	f, errno := a.enterOpen(r, fh, want)
	return a.onlyFile(f, errno)
}

func (a *access) enterListing(r *server.Request, fh uint64, want intent) (*openFile, unix.Errno) {
	f, errno := a.enterOpen(r, fh, want)
	if errno == 0 && f.dir == nil {
		a.openFiles.release(f)
		return nil, unix.ENOTDIR
	}
	return f, errno
}

// enterFileOf is enterFile for the node with a number.
func (a *access) enterFileOf(r *server.Request, nodeID, fh uint64, want intent) (*openFile, unix.Errno) {
	f, errno := a.enterOpenOf(r, nodeID, fh, want)
	return a.onlyFile(f, errno)
}

func (a *access) onlyFile(f *openFile, errno unix.Errno) (*openFile, unix.Errno) {
	if errno == 0 && f.dir != nil {
		a.openFiles.release(f)
		return nil, unix.EISDIR
	}
	return f, errno
}

// listIntent is what a listing wants of each name.
func listIntent(plus bool) intent {
	if plus {
		return intentList | intentLookup
	}
	return intentList
}

// renameIntents are what a RENAME with these flags wants of the old and of the new name.
func renameIntents(flags uint32) (old, new intent) {
	old, new = intentFrom, intentTo
	if flags&unix.RENAME_EXCHANGE != 0 {
		return old | intentTo, new | intentFrom
	}
	if flags&unix.RENAME_WHITEOUT != 0 {
		old |= intentCreate // the whiteout
	}
	return old, new
}
