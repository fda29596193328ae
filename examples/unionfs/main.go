// Unionfs shows several directories of this machine as one that can be written, as mergerfs does. A name
// that is in several of them is that of the first, and directories are merged. Nothing is copied from one
// directory to another, and there are no whiteouts; these are mergerfs' policies with its names:
//
//	search  ff     a file is read and written where it is found first
//	create  epff   a new name goes to the first directory that has its parent already
//	action  epall  a directory's attributes change, and names are removed and renamed, wherever they are
//
// A rename, or a further link, for which one of the directories lacks the new parent is EXDEV, as between two
// file systems; mv(1) copies then. A rename in several directories is not atomic.
//
//	unionfs --mount=/mnt DIR1 DIR2...
//
// It has a descriptor for each file that the client knows, and for each directory one in each of the directories that
// have it: a client that knows more files than half of RLIMIT_NOFILE gets ENFILE. Like passthrough it goes by
// descriptors and single names, so that no link leads out of the directories. It has no file flags (chattr).
package main

import (
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

func newUnion(dirs []string) (server.FileSystem, error) {
	u := &union{known: make(map[fileID]weakNode), devices: make(map[uint64]uint64)}
	var found []part
	for i, d := range dirs {
		fd, err := unix.Open(d, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			closeParts(found)
			return nil, &openError{d, err}
		}
		found = append(found, part{i, fd})
	}
	root, err := u.node(found)
	if err != nil {
		return nil, err
	}
	unix.Umask(0) // the client has applied its own
	return vfs.New(root, vfs.Options{MaxNodes: maxNodes()}), nil
}

// maxNodes is half of the descriptors that the process can have. Root can have more than it was given.
func maxNodes() int {
	limit := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) != nil && unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 256
	}
	return int(min(limit.Cur, 1<<20) / 2)
}

type openError struct {
	dir string
	err error
}

func (e *openError) Error() string { return "directory " + e.dir + ": " + e.err.Error() }
func (e *openError) Unwrap() error { return e.err }

func main() {
	p := cli.Program{Args: "DIR1 DIR2...", NArgs: 1, MaxArgs: 100, New: newUnion}
	p.Main()
}
